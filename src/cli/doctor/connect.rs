//! The way to the server: name, connection, what is spoken there, and where clients are sent on to.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Broken, Outcome, PATIENCE, Said, client::EndpointArgs};
use crate::{
    cli::{
        remote,
        tls::{self, TlsArgs},
    },
    proto::v2,
    proxy::HostPort,
};

/// How HTTP/2 begins: the preface and empty SETTINGS (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of the frame that the other side begins with.
const SETTINGS: u8 = 4;

/// The addresses that a name stands for.
pub async fn resolve(at: &HostPort) -> Outcome<Vec<SocketAddr>> {
    let host = at.host();
    let found: Vec<_> = match timeout(PATIENCE, lookup_host((host, at.port()))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            return Err(Broken::new(
                format!("{host} has no address: {error}"),
                "correct the name, or see to this machine's DNS (`getent hosts NAME`)",
            ));
        }
        Err(_) => return Err(Broken::new(format!("{host}: no answer from DNS"), "see to this machine's DNS")),
    };
    let Some(first) = found.first() else {
        return Err(Broken::new(format!("{host} has no address"), "give the name an address record"));
    };
    let said = match host.parse::<IpAddr>() {
        Ok(_) => format!("{host} is an address"),
        Err(_) => format!("{host} is {} ({} in all)", first.ip(), found.len()),
    };
    Ok((found, Said::Fine(said)))
}

async fn dial(at: SocketAddr) -> io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(at)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn why(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: start the server, or correct the port; in Kubernetes see the Service's endpoints"
        }
        io::ErrorKind::TimedOut => "a firewall or a wrong address swallows the packets: open the port on the way",
        _ => "see to the network between this machine and the server",
    }
}

/// The first address that can be connected to.
pub async fn dial_one_of(addresses: &[SocketAddr], at: &HostPort) -> Outcome<SocketAddr> {
    let mut failed: Option<(SocketAddr, io::Error)> = None;
    for &address in addresses {
        match dial(address).await {
            Ok(_) => {
                let said = format!("connected to {address}");
                return Ok((
                    address,
                    match failed {
                        None => Said::Fine(said),
                        Some((other, error)) => Said::Careful(
                            format!("{said}, but not to {other}: {error}"),
                            format!(
                                "clients that try {other} first wait for it: take it out of the name {}",
                                at.host()
                            ),
                        ),
                    },
                ));
            }
            Err(error) => failed = Some((address, error)),
        }
    }
    let (address, error) = failed.unwrap_or_else(|| (([0, 0, 0, 0], 0).into(), io::ErrorKind::NotFound.into()));
    Err(Broken::new(format!("cannot connect to {address}: {error}"), why(&error)))
}

/// Whether HTTP/2 is answered in plaintext.
async fn speaks_plaintext(at: SocketAddr) -> bool {
    let spoken = async {
        let mut tcp = dial(at).await?;
        tcp.write_all(PREFACE).await?;
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        Ok::<_, io::Error>(head[3] == SETTINGS)
    };
    matches!(timeout(PATIENCE, spoken).await, Ok(Ok(true)))
}

/// Whether a TLS handshake succeeds, as these arguments want it; why not.
async fn shakes_hands(at: &HostPort, by: &TlsArgs) -> Result<(), String> {
    let connector = by.connector().map_err(|error| error.to_string())?.ok_or_else(String::new)?;
    let uri = format!("https://{at}").parse().map_err(|_| format!("{at} is no address"))?;
    let shaken = timeout(PATIENCE, tls::connect(connector, uri)).await.map_err(|_| "no answer".to_owned())?;
    shaken.map(drop).map_err(|error| error.to_string())
}

/// What is spoken there, and whether it is what these arguments (and so the clients) want to speak.
pub async fn protocol(address: SocketAddr, at: &HostPort, by: &TlsArgs) -> Outcome<()> {
    let anyone = TlsArgs::anyone();
    let (plaintext, tls) = tokio::join!(speaks_plaintext(address), shakes_hands(at, &anyone));
    let spoken = match (plaintext, tls.is_ok()) {
        (true, true) => "plaintext and TLS",
        (true, false) => "plaintext only",
        (false, true) => "TLS only",
        (false, false) => {
            return Err(Broken::new(
                "what listens there speaks neither HTTP/2 nor TLS",
                "RocketMQ 5 clients want the port of the gRPC front, 8081, not the NameServer's (9876) or the broker's (10911)",
            ));
        }
    };
    if !by.is_wanted() {
        return match plaintext {
            true => Ok(((), Said::Fine(format!("the server speaks {spoken}")))),
            false => Err(Broken::new(
                format!("the server speaks {spoken}, and plaintext was asked for"),
                "give --tls, --ca FILE or --insecure here, and switch TLS on in the client (Java: enableSsl(true)); or set \
                 tlsServerMode=permissive on the server",
            )),
        };
    }
    if tls.is_err() {
        return Err(Broken::new(
            format!("the server speaks {spoken}, and TLS was asked for"),
            "leave out --tls here, and switch it off in the client (Java: enableSsl(false)); or set \
             tlsServerMode=permissive on the server",
        ));
    }
    match shakes_hands(at, by).await {
        Ok(()) => Ok(((), Said::Fine(format!("the server speaks {spoken}; its certificate is accepted")))),
        Err(error) => Err(Broken::new(
            format!("the server's certificate is not accepted: {error}"),
            "give its authority with --ca FILE, or give the server one that names this host (tlsCertPath, tlsKeyPath)",
        )),
    }
}

/// Whether the server takes work, as it says itself.
pub async fn ready(at: &EndpointArgs) -> Outcome<()> {
    let broken = |said: String| Broken::new(said, "ask again soon; the server's log and /readyz say what it waits for");
    let channel = at.connect(Some(PATIENCE)).await.map_err(|error| broken(error.to_string()))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    match answer {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            Ok(((), Said::Fine("the server says that it is serving".into())))
        }
        Ok(answer) => Err(broken(format!("the server says {}", answer.get_ref().status().as_str_name()))),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Ok(((), Said::Fine("the server has no grpc.health.v1, so this is passed over".into())))
        }
        Err(status) => Err(broken(remote::refused(status).to_string())),
    }
}

/// Whether what clients are told to dial can be dialled from here.
pub async fn advertised(queues: &[v2::MessageQueue], dialled: &HostPort) -> Outcome<()> {
    let mut told = BTreeSet::new();
    for queue in queues {
        let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.as_ref());
        for address in endpoints.iter().flat_map(|endpoints| &endpoints.addresses) {
            told.insert((address.host.clone(), address.port));
        }
    }
    let cure = "set grpcAdvertisedAddress to the address that clients can dial, or take it out: then each client is told \
                the one that it dialled";
    if told.is_empty() {
        return Err(Broken::new("the route names no address", cure));
    }
    for (host, port) in &told {
        let reached = async {
            let port = u16::try_from(*port).map_err(io::Error::other)?;
            TcpStream::connect((host.as_str(), port)).await
        };
        let failed = match timeout(PATIENCE, reached).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", Duration::as_secs(&PATIENCE)),
        };
        return Err(Broken::new(
            format!("clients are told to dial {host}:{port}, which cannot be dialled from here: {failed}"),
            cure,
        ));
    }
    let same = told.iter().all(|(host, port)| host == dialled.host() && *port == i32::from(dialled.port()));
    let all = told.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ");
    let said =
        if same { "clients are told the address that they dialled".into() } else { format!("clients are told {all}") };
    Ok(((), Said::Fine(said)))
}
