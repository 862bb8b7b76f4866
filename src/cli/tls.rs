//! TLS of the shell's client: checked against the system's authorities or a given one, or not at all.

use std::{path::PathBuf, sync::Arc};

use anyhow::anyhow;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use crate::dial::{self, AuthoritiesError};

pub use crate::dial::connect;

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
        if !self.insecure {
            let authorities = dial::authorities(self.ca.as_deref()).map_err(|error| match error {
                AuthoritiesError::None => anyhow!("{error}; give one with --ca FILE"),
                AuthoritiesError::Unreadable { .. } => anyhow!("{error}"),
            });
            return Ok(Some(dial::connector(authorities?)?));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier = Arc::new(Anyone(provider));
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Arc::new(config).into()))
    }
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
