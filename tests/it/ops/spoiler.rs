//! Something on the way to a server that passes every call on but those of one kind, which it refuses.

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt as _;

use crate::harness::Server;

pub struct Spoiler {
    /// `127.0.0.1:port` where it listens.
    pub at: String,
    _runtime: Runtime,
}

impl Spoiler {
    /// Before a server; refuses the calls of an RPC.
    pub fn start(server: &Server, refused: &'static str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let at = listener.local_addr().expect("bound").to_string();
        // The server tells clients the address that they dialled, which is this one's.
        let origin = format!("http://{at}").parse().expect("an address");
        let endpoint =
            Endpoint::from_shared(format!("http://{}", server.endpoint())).expect("an address").origin(origin);
        runtime.spawn(async move {
            let channel = endpoint.connect_lazy();
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, channel.clone(), refused));
            }
        });
        Self { at, _runtime: runtime }
    }
}

async fn serve(tcp: TcpStream, channel: Channel, refused: &'static str) {
    let pass = service_fn(move |request: Request<Incoming>| {
        let channel = channel.clone();
        async move {
            if request.uri().path().ends_with(&format!("/{refused}")) {
                let answer = Response::builder().header("content-type", "application/grpc");
                let answer = answer.header("grpc-status", "13").header("grpc-message", "spoiled");
                return Ok(answer.body(Body::empty()).expect("an answer"));
            }
            channel.oneshot(request.map(Body::new)).await
        }
    });
    // A client that hangs up ends it.
    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), pass).await);
}
