//! TLS: which certificate, and when it changes.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};

use super::config::TlsFiles;

/// Bytes of a PEM file at most.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where Linux tells the host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// What this host (or container) is called, where the system tells.
pub fn host_name() -> Option<String> {
    let name = fs::read_to_string(HOST_NAME).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading {path}: {source}; check tlsCertPath and tlsKeyPath")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {why}; it must be a PEM file")]
    Pem { path: PathBuf, why: String },
    #[error("the certificate in {certificate} and the key in {key} do not go together: {why}")]
    Pair { certificate: PathBuf, key: PathBuf, why: String },
    #[error("making a self-signed certificate: {0}")]
    SelfSigned(String),
    #[error("setting TLS up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The server's side of TLS; connections are accepted with the certificate of the moment.
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    files: Option<Watched>,
}

/// The certificate that handshakes get.
#[derive(Debug)]
struct Certificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

struct Watched {
    files: TlsFiles,
    /// What was read last, whether it was any good or not, and `None` when it could not be read: what is broken is
    /// told once.
    seen: Mutex<Option<Pem>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Reload {
    Same,
    Changed,
    /// The certificate in use stays.
    Broken(TlsError),
}

impl Tls {
    /// Reads the configured certificate, or makes one.
    pub fn open(files: Option<&TlsFiles>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (certified, files) = match files {
            Some(files) => {
                let pem = Pem::read(files)?;
                (pem.certified(files, &provider)?, Some(Watched { files: files.clone(), seen: Mutex::new(Some(pem)) }))
            }
            None => (self_signed(&provider)?, None),
        };
        let certificate = Arc::new(Certificate(RwLock::new(Arc::new(certified))));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), certificate, files })
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }

    /// Looks whether the files have changed, and takes a good new certificate into use. Reads files: not for a
    /// connection's thread.
    pub fn reload(&self) -> Reload {
        let Some(watched) = &self.files else { return Reload::Same };
        let mut seen = watched.seen.lock();
        let pem = match Pem::read(&watched.files) {
            Ok(pem) => pem,
            Err(error) => return if seen.take().is_some() { Reload::Broken(error) } else { Reload::Same },
        };
        if seen.as_ref() == Some(&pem) {
            return Reload::Same;
        }
        let certified = pem.certified(&watched.files, self.config.crypto_provider());
        *seen = Some(pem);
        match certified {
            Ok(certified) => {
                *self.certificate.0.write() = Arc::new(certified);
                Reload::Changed
            }
            Err(error) => Reload::Broken(error),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files.as_ref().map(|w| &w.files)).finish_non_exhaustive()
    }
}

impl Pem {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn certified(&self, files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let broken = |path: &Path, why: String| TlsError::Pem { path: path.into(), why };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|e| broken(&files.certificate, e.to_string()))?;
        if chain.is_empty() {
            return Err(broken(&files.certificate, "no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|e| broken(&files.key, e.to_string()))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|e| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            why: e.to_string(),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.into(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > PEM_BYTES_MAX {
        return Err(TlsError::Pem { path: path.into(), why: format!("{size} bytes, the most is {PEM_BYTES_MAX}") });
    }
    fs::read(path).map_err(failed)
}

/// A certificate for this host that nobody vouches for: what clients that take any certificate need.
fn self_signed(provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let failed = |e: &dyn fmt::Display| TlsError::SelfSigned(e.to_string());
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    names.extend(host_name().filter(|n| is_dns_name(n)));
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| failed(&e))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    CertifiedKey::from_der(vec![made.cert.der().clone()], key, provider).map_err(|e| failed(&e))
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
