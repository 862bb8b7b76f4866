//! Sockets: bound before anything else, listening once everything else is there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::config::Config;

/// Connections that wait to be accepted at most; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 1024;
const OPS_KEY: &str = "metricsPromExporterPort";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot listen on {address}: {source}; stop what uses it (`ss -ltnp` shows it), or choose another with \
         --set {key}=PORT (0 takes a free one)"
    )]
    InUse { address: SocketAddr, key: &'static str, source: io::Error },
    #[error("cannot listen on {address}: {source}; choose another address or port with --set {key}=...")]
    Other { address: SocketAddr, key: &'static str, source: io::Error },
}

/// Sockets that have their ports, and on which nobody can connect yet.
pub struct Sockets {
    grpc: Vec<(SocketAddr, Socket)>,
    admin: (SocketAddr, Socket),
    /// Absent where operations are switched off, and once they are listened for.
    ops: Option<(SocketAddr, Socket)>,
    ops_port: Option<u16>,
}

/// Sockets on which clients can connect.
pub struct Listening {
    /// In the order of the configured listeners.
    pub grpc: Vec<TcpListener>,
    pub admin: TcpListener,
}

/// Ports as they were taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ports {
    /// Of the first listener.
    pub grpc: u16,
    pub admin: u16,
    /// Metrics and probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<u16>,
}

/// Takes every port that the configuration names, and writes the free ones that were found into it.
pub fn bind(config: &mut Config) -> Result<Sockets, Error> {
    let mut grpc = Vec::new();
    for (number, listener) in config.proxy.listeners.iter_mut().enumerate() {
        let key = if number == 0 { "grpcServerPort" } else { "grpcExtraListeners" };
        let bound = bind_one(listener.listen, key)?;
        listener.listen = bound.0;
        grpc.push(bound);
    }
    let admin = bind_one(config.server.admin_listen, "adminServerPort")?;
    config.server.admin_listen = admin.0;
    let ops = config.ops.enabled.then(|| bind_one(config.ops.listen, OPS_KEY)).transpose()?;
    if let Some((at, _)) = &ops {
        config.ops.listen = *at;
    }
    config.settle_store_host();
    let ops_port = ops.as_ref().map(|(at, _)| at.port());
    Ok(Sockets { grpc, admin, ops, ops_port })
}

fn bind_one(address: SocketAddr, key: &'static str) -> Result<(SocketAddr, Socket), Error> {
    let bound = match try_bind(address) {
        // A machine without IPv6 has no `::`; all its addresses are then the IPv4 ones.
        Err(e) if address.ip().is_ipv6() && address.ip().is_unspecified() && !in_use(&e) => {
            try_bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    };
    bound.map_err(|source| failed(address, key, source))
}

fn try_bind(address: SocketAddr) -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart may take the port while connections of the last run linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let taken = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((taken, socket))
}

fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn failed(address: SocketAddr, key: &'static str, source: io::Error) -> Error {
    if in_use(&source) { Error::InUse { address, key, source } } else { Error::Other { address, key, source } }
}

impl Sockets {
    pub fn ports(&self) -> Ports {
        let grpc = self.grpc.first().map_or(0, |(at, _)| at.port());
        Ports { grpc, admin: self.admin.0.port(), ops: self.ops_port }
    }

    /// Lets operators connect, to whom a server that is starting has something to say. Once.
    pub fn listen_for_operators(&mut self) -> Result<Option<std::net::TcpListener>, Error> {
        let Some((address, socket)) = self.ops.take() else { return Ok(None) };
        socket.listen(BACKLOG).map_err(|source| failed(address, OPS_KEY, source))?;
        Ok(Some(socket.into()))
    }

    /// Lets clients connect. Call it on a runtime.
    pub fn listen(self) -> Result<Listening, Error> {
        let grpc = self.grpc.into_iter().map(|bound| listen_one(bound, "grpcServerPort")).collect::<Result<_, _>>()?;
        Ok(Listening { grpc, admin: listen_one(self.admin, "adminServerPort")? })
    }
}

fn listen_one((address, socket): (SocketAddr, Socket), key: &'static str) -> Result<TcpListener, Error> {
    let listening = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
    listening.map_err(|source| failed(address, key, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(grpc: SocketAddr) -> Config {
        let mut config = Config::default();
        config.proxy.listeners[0].listen = grpc;
        config.server.admin_listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.ops.listen.set_port(0);
        config
    }

    #[test]
    fn port_0_takes_a_free_one_and_tells_the_configuration() {
        let mut config = config((Ipv4Addr::LOCALHOST, 0).into());
        let sockets = bind(&mut config).expect("free ports");
        let Ports { grpc, admin, ops } = sockets.ports();
        assert!(grpc != 0 && admin != 0 && grpc != admin);
        assert_eq!(ops, Some(config.ops.listen.port()));
        assert_eq!(config.proxy.listeners[0].listen.port(), grpc);
        assert_eq!((config.broker.store_host.port(), config.store.store_host.port()), (grpc, grpc));
        assert_eq!(config.server.admin_listen.port(), admin);
    }

    #[test]
    fn a_port_that_is_taken_is_refused_with_the_setting_that_moves_it() {
        let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let taken = other.local_addr().expect("bound");
        let Err(error) = bind(&mut config(taken)) else { panic!("the port was taken twice") };
        let said = error.to_string();
        assert!(said.contains(&taken.to_string()) && said.contains("grpcServerPort"), "{said}");
    }

    #[tokio::test]
    async fn nobody_connects_before_the_server_listens() {
        let mut config = config((Ipv4Addr::LOCALHOST, 0).into());
        let sockets = bind(&mut config).expect("free ports");
        let at = config.proxy.listeners[0].listen;
        assert!(tokio::net::TcpStream::connect(at).await.is_err());
        let listening = sockets.listen().expect("listens");
        assert_eq!(listening.grpc.len(), 1);
        assert!(tokio::net::TcpStream::connect(at).await.is_ok());
    }
}
