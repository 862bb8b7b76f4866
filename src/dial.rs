//! TLS of the connections that this program makes itself: checked against the system's authorities or given ones.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{
            CertificateDer, ServerName,
            pem::{self, PemObject},
        },
    },
};

/// Where systems keep the authorities that they trust (Debian, Fedora, SUSE, Alpine, BSD).
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why nobody can be believed. The caller knows where a file is named.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("this system has no list of authorities")]
    None,
    #[error("cannot read certificates from {}: {why}; it must be a PEM file that this user may read", .path.display())]
    Unreadable { path: PathBuf, why: String },
}

/// The authorities in a PEM file, or those that the system trusts.
pub fn authorities(file: Option<&Path>) -> Result<RootCertStore, AuthoritiesError> {
    let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let path = file.or_else(system).ok_or(AuthoritiesError::None)?;
    let unreadable = |why| AuthoritiesError::Unreadable { path: path.to_owned(), why };
    let pem = |error| match error {
        pem::Error::Io(error) => unreadable(error.to_string()),
        error => unreadable(error.to_string()),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(pem)? {
        let added = roots.add(certificate.map_err(pem)?);
        // Of the system's many some may be of a kind that is not known here.
        if file.is_some() {
            added.map_err(|error| unreadable(error.to_string()))?;
        }
    }
    if roots.is_empty() { Err(unreadable("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Connects to whom these authorities vouch for, to speak HTTP/2.
pub fn connector(authorities: RootCertStore) -> Result<TlsConnector, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(authorities).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// Connects to `HOST:PORT` and shakes hands.
pub async fn connect(connector: TlsConnector, at: http::Uri) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = at.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, at.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    connector.connect(name, tcp).await.map(TokioIo::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_had_are_told_with_their_file_and_the_cause() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        let told = || authorities(Some(&path)).expect_err("refused").to_string();
        assert!(told().contains("ca.pem: No such file"), "{}", told());
        for (text, why) in [
            ("", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "missing"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "invalid"),
        ] {
            std::fs::write(&path, text).expect("written");
            assert!(told().contains(why), "{text:?}: {}", told());
        }
    }
}
