//! Doors: connections are accepted on the control thread and dealt to the workers; administration stays here.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    admin::Admin, drain::Drain, proto::admin::admin_service_server::AdminServiceServer, proxy::Proxy, runtime::Deal,
};

/// Pause after a connection could not be accepted, as when this process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Calls of one administration connection that are served side by side.
const ADMIN_CALLS_MAX: usize = 32;
/// How long an administration call may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What an accepted connection is handed to.
#[derive(Clone)]
pub struct Door {
    pub proxy: Proxy,
    pub drain: Drain,
}

/// Accepts until the drain begins.
pub async fn run(listener: TcpListener, door: Door, workers: Deal) {
    let stop = door.drain.token();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(tcp, peer)| deal(tcp, peer, &door, &workers)) {
            Ok(()) => {}
            Err(error) if is_the_clients(&error) => tracing::debug!(%error, "a connection was gone before it began"),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; raise the limit of open files if this stays");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}

/// Moves a connection to the runtime whose turn it is, where it stays.
fn deal(tcp: TcpStream, peer: SocketAddr, door: &Door, workers: &Deal) -> io::Result<()> {
    let local = tcp.local_addr()?;
    // Off this thread's poll; on again on the worker's.
    let tcp = tcp.into_std()?;
    let (door, worker) = (door.clone(), workers.next());
    let drain = door.drain.clone();
    drain.spawn(worker, async move {
        match TcpStream::from_std(tcp) {
            Ok(tcp) => door.proxy.serve_connection(tcp, peer, local, door.drain.token()).await,
            Err(error) => tracing::warn!(%error, "a connection could not be served"),
        }
    });
    Ok(())
}

/// Serves administration, FerroMQ's own and RocketMQ's, until the signal.
pub async fn administration(
    listener: TcpListener,
    service: AdminServiceServer<Admin>,
    official: Routes,
    stop: CancellationToken,
) {
    let served = Server::builder()
        .concurrency_limit_per_connection(ADMIN_CALLS_MAX)
        .timeout(ADMIN_TIMEOUT)
        .add_routes(official)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "administration has ended; restart the server to have it again");
    }
}
