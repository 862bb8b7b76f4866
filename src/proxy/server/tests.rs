use std::{net::Ipv4Addr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::proxy::{
    config::TlsFiles,
    testing::{Client, Rig, config},
};

/// A server certificate on disk, and a client that trusts it alone.
struct Trust {
    _dir: tempfile::TempDir,
    files: TlsFiles,
    client: Arc<ClientConfig>,
}

impl Trust {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem") };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session is not shown a certificate.
        client.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        Self { _dir: dir, files, client: Arc::new(client) }
    }

    async fn handshake(&self, tcp: TcpStream) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.client.clone()).connect(name, tcp).await
    }

    async fn channel(&self, port: u16) -> Result<Channel, tonic::transport::Error> {
        let client = self.client.clone();
        let connect = tower::service_fn(move |_: http::Uri| {
            let client = client.clone();
            async move {
                let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                let name = ServerName::try_from("localhost").unwrap();
                Ok::<_, io::Error>(TokioIo::new(TlsConnector::from(client).connect(name, tcp).await?))
            }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }
}

async fn rig(mode: TlsMode, trust: &Trust) -> Rig {
    let mut config = config();
    config.tls.mode = mode;
    config.tls.files = Some(trust.files.clone());
    Rig::start_with(config).await
}

async fn sends(channel: Channel) {
    let api = crate::proto::v2::messaging_service_client::MessagingServiceClient::new(channel);
    let mut client = Client { api, id: "c", language: "JAVA", timeout: Duration::from_secs(5) };
    client.send("T", "a").await;
}

#[tokio::test]
async fn one_port_serves_tls_and_plaintext() {
    let trust = Trust::new();
    let rig = rig(TlsMode::Permissive, &trust).await;
    sends(trust.channel(rig.port).await.unwrap()).await;
    sends(rig.channel().await).await;
    let tls = trust.handshake(rig.tcp().await).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_mode_that_takes_one_of_them_refuses_the_other() {
    let trust = Trust::new();
    let enforcing = rig(TlsMode::Enforcing, &trust).await;
    sends(trust.channel(enforcing.port).await.unwrap()).await;
    let mut plain = enforcing.tcp().await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(&[0, 0]), "no settings frame: {answer:?}");

    let disabled = rig(TlsMode::Disabled, &trust).await;
    sends(disabled.channel().await).await;
    assert!(trust.handshake(disabled.tcp().await).await.is_err());
}

#[tokio::test]
async fn the_first_bytes_decide() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for (first, tls) in [
        (&[0x16, 0x03, 0x01, 0x00][..], true),
        (&[0x16, 0x03][..], true),
        (&[0x16][..], true),
        (&[0x16, 0x02][..], false),
        (b"PRI * HTTP/2.0", false),
        (b"P", false),
    ] {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(first).await.unwrap();
        assert_eq!(begins_tls(&server).await.unwrap(), tls, "{first:?}");
        let mut kept = vec![0; first.len()];
        let mut server = server;
        server.read_exact(&mut kept).await.unwrap();
        assert_eq!(kept, first, "looking takes nothing away");
    }
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    drop(client);
    assert!(begins_tls(&server).await.is_err());
}

#[tokio::test]
async fn a_reloaded_certificate_is_that_of_new_connections() {
    let (old, new) = (Trust::new(), Trust::new());
    let rig = rig(TlsMode::Permissive, &old).await;
    let kept = old.channel(rig.port).await.unwrap();
    std::fs::copy(&new.files.certificate, &old.files.certificate).unwrap();
    std::fs::copy(&new.files.key, &old.files.key).unwrap();
    rig.proxy.reload_certificate().await;
    assert!(old.channel(rig.port).await.is_err());
    sends(new.channel(rig.port).await.unwrap()).await;
    sends(kept).await;
}

#[tokio::test]
async fn a_certificate_that_changes_on_the_disk_is_taken_into_use_by_itself() {
    let (old, new) = (Trust::new(), Trust::new());
    let mut config = config();
    config.tls.mode = TlsMode::Enforcing;
    config.tls.files = Some(old.files.clone());
    config.tls.watch_interval = Duration::from_millis(5);
    let rig = Rig::start_with(config).await;
    let watching = tokio::spawn({
        let (proxy, stop) = (rig.proxy.clone(), rig.shutdown.clone());
        async move { proxy.background(stop).await }
    });
    sends(old.channel(rig.port).await.unwrap()).await;
    std::fs::copy(&new.files.certificate, &old.files.certificate).unwrap();
    std::fs::copy(&new.files.key, &old.files.key).unwrap();
    let mut looks = 0;
    let channel = loop {
        match new.channel(rig.port).await {
            Ok(channel) => break channel,
            Err(error) => assert!(looks < 2000, "the new certificate was never served: {error}"),
        }
        looks += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    sends(channel).await;
    assert!(old.channel(rig.port).await.is_err());
    rig.shutdown.cancel();
    watching.await.unwrap();
}

/// C++ clients ping every minute though they call nothing.
#[tokio::test]
async fn pings_without_calls_are_answered_and_not_held_against_the_client() {
    let rig = Rig::start().await;
    let mut tcp = rig.tcp().await;
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    for n in 0..100u64 {
        let mut ping = vec![0, 0, 8, 6, 0, 0, 0, 0, 0];
        ping.extend(n.to_be_bytes());
        tcp.write_all(&ping).await.unwrap();
        loop {
            let mut head = [0; 9];
            tcp.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; len];
            tcp.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], 7, "told to go away");
            if head[3] == 6 && head[4] & 1 == 1 {
                assert_eq!(payload, n.to_be_bytes());
                break;
            }
        }
    }
}

#[test]
fn two_listeners_on_one_port_are_told_apart_by_their_address() {
    let listener = |listen: &str| Listener { listen: listen.parse().expect("an address"), advertised: None };
    let listeners = [listener("[::]:9"), listener("127.0.0.2:8081"), listener("127.0.0.1:8081"), listener("[::]:0")];
    for (local, expected) in [("127.0.0.1:8081", 2), ("127.0.0.2:8081", 1), ("127.0.0.3:9", 0), ("127.0.0.3:77", 3)] {
        let found = listener_of(&listeners, local.parse().expect("an address")).expect("a listener");
        assert_eq!(found.listen, listeners[expected].listen, "{local}");
    }
}
