//! TLS: who the server says it is. Version 1.2 or newer, HTTP/1.1.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::{AccessError, kept::Content};

const CERTIFICATE: &str = "http.tls.certificate";
const KEY: &str = "http.tls.key";

/// A certificate with its chain and key.
pub(super) struct Identity {
    config: Arc<ServerConfig>,
}

/// The cryptography under all TLS of HTTP.
#[must_use]
pub fn cryptography() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Reads both files.
///
/// # Errors
/// When, and only when, one can't be read, or they do not go together.
pub(super) fn read(certificate: &Path, key: &Path) -> Result<Content<Identity>, AccessError> {
    let chain_pem = fs::read(certificate).map_err(|error| AccessError::new(CERTIFICATE, certificate, format!("can't read it: {error}")))?;
    let key_pem = fs::read(key).map_err(|error| AccessError::new(KEY, key, format!("can't read it: {error}")))?;
    let key_pem = Zeroizing::new(key_pem);
    let chain = CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| AccessError::new(CERTIFICATE, certificate, format!("not PEM: {error}")))?;
    if chain.is_empty() {
        let problem =
            "there is no certificate in it: name a PEM file that begins with the server's own, followed by those that vouch for it";
        return Err(AccessError::new(CERTIFICATE, certificate, problem));
    }
    let private = PrivateKeyDer::from_pem_slice(&key_pem);
    // The error's own text is of the file's form, not of its content.
    let private =
        private.map_err(|error| AccessError::new(KEY, key, format!("there is no private key in it ({error}): name a PEM file")))?;
    let builder = ServerConfig::builder_with_provider(cryptography()).with_safe_default_protocol_versions();
    let config = builder.map(|builder| builder.with_no_client_auth().with_single_cert(chain, private)).and_then(|built| built);
    let mut config = config.map_err(|error| AccessError::new(KEY, key, format!("does not go with {CERTIFICATE}: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Content::new(Identity { config: Arc::new(config) }, &[&chain_pem, &key_pem]))
}

impl Identity {
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}
