//! TLS: who the server says it is, and whom it believes that they are other instances. Version 1.2 or newer, HTTP/1.1.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::{AccessError, kept::Content};
use crate::config::HttpConfig;

const CERTIFICATE: &str = "http.tls.certificate";
const KEY: &str = "http.tls.key";
const PEER_CA: &str = "http.peer_ca";

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
    let (chain_pem, chain) = certificates((CERTIFICATE, "begins with the server's own, followed by those that vouch for it"), certificate)?;
    let key_pem = fs::read(key).map_err(|error| AccessError::new(KEY, key, format!("can't read it: {error}")))?;
    let key_pem = Zeroizing::new(key_pem);
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

/// The bytes of a PEM file and the certificates in it: at least one. A setting comes with what its file should have.
fn certificates((setting, content): (&'static str, &str), file: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), AccessError> {
    let pem = fs::read(file).map_err(|error| AccessError::new(setting, file, format!("can't read it: {error}")))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| AccessError::new(setting, file, format!("not PEM: {error}")))?;
    if found.is_empty() {
        let fix = format!("there is no certificate in it: name a PEM file that {content}");
        return Err(AccessError::new(setting, file, fix));
    }
    Ok((pem, found))
}

/// Whom this instance believes as it asks others over TLS. By default nobody.
#[derive(Clone, Debug)]
pub struct PeerTrust {
    config: ClientConfig,
}

impl PeerTrust {
    /// Those in the file of `http.peer_ca`; without it those whom the machine trusts.
    ///
    /// # Errors
    /// When, and only when, the file can't be read, or has none that can vouch for others.
    pub fn of(http: &HttpConfig) -> Result<Self, AccessError> {
        let mut roots = RootCertStore::empty();
        let Some(file) = &http.peer_ca else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(Self::in_those(roots));
        };
        for root in certificates((PEER_CA, "has those that vouch for the other instances"), file)?.1 {
            roots
                .add(root)
                .map_err(|error| AccessError::new(PEER_CA, file, format!("a certificate in it can't vouch for others: {error}")))?;
        }
        Ok(Self::in_those(roots))
    }

    fn in_those(roots: RootCertStore) -> Self {
        let builder = ClientConfig::builder_with_provider(cryptography()).with_safe_default_protocol_versions();
        let builder = builder.expect("the cryptography has what the default versions need");
        Self { config: builder.with_root_certificates(roots).with_no_client_auth() }
    }

    pub(in crate::http) fn config(&self) -> ClientConfig {
        self.config.clone()
    }
}

impl Default for PeerTrust {
    fn default() -> Self {
        Self::in_those(RootCertStore::empty())
    }
}

impl Identity {
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}
