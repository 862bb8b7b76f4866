//! TLS of the shell's client: checked against the system's authorities or a given one, or not at all.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

/// Where systems keep the authorities that they trust (Debian, Fedora, SUSE, Alpine, BSD).
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How the connection is protected.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// Speak TLS, and check the server's certificate against the authorities that this system trusts.
    #[arg(long)]
    tls: bool,
    /// Speak TLS, and check against the certificates in this PEM file instead.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Speak TLS, and take any certificate: whoever is in between can read and change everything.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

impl TlsArgs {
    /// TLS with whoever is there, to see whether somebody is.
    pub fn anyone() -> Self {
        Self { insecure: true, ..Self::default() }
    }

    /// Whether the connection is to be protected.
    pub fn is_wanted(&self) -> bool {
        self.tls || self.insecure || self.ca.is_some()
    }

    /// What makes connections, where they are to be protected.
    pub fn connector(&self) -> anyhow::Result<Option<TlsConnector>> {
        if !self.is_wanted() {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut config = if self.insecure {
            config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth()
        } else {
            config.with_root_certificates(self.authorities()?).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Arc::new(config).into()))
    }

    fn authorities(&self) -> anyhow::Result<RootCertStore> {
        let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
        let path = self.ca.as_deref().or_else(system);
        let path = path.ok_or_else(|| anyhow!("this system has no list of authorities; give one with --ca FILE"))?;
        let mut roots = RootCertStore::empty();
        let read = || format!("cannot read certificates from {}; it must be a PEM file", path.display());
        for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
            let added = roots.add(certificate.with_context(read)?);
            // Of the system's many some may be of a kind that is not known here.
            if self.ca.is_some() {
                added.with_context(read)?;
            }
        }
        if roots.is_empty() {
            return Err(anyhow!("{}", read()));
        }
        Ok(roots)
    }
}

/// Connects to `HOST:PORT` and shakes hands.
pub async fn connect(
    connector: TlsConnector,
    at: http::Uri,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = at.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, at.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    connector.connect(name, tcp).await.map(TokioIo::new)
}

/// Believes everybody.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
