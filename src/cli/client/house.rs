//! One house's HTTP API, as its verbs ask it: over http or https, with a token if there is one.
//!
//! A token is read from a file, never from the command line or a variable's value: both can be seen by others. It is sent to nobody else: not
//! where an answer redirects to, and not over plain http to another machine unless told so.

use std::{fs, io::ErrorKind, net::IpAddr, path::PathBuf, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{
    Agent, Body, RequestBuilder,
    config::Config,
    http::{HeaderValue, Response, Uri},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem},
};
use zeroize::Zeroizing;

use super::{Ask, Patience, show};
use crate::http;

/// How long the house may take to answer a question: more than it allows itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// What a write may take beyond what the house was asked to wait: for the log to take it, and for the way there and back.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a write may take that nobody waits for.
const UNAWAITED: Duration = Duration::from_secs(5);
/// The largest answer: a page of the longest names there may be.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A house to ask.
pub(super) struct House {
    agent: Agent,
    url: String,
    authorization: Option<HeaderValue>,
    patience: Duration,
}

/// What it said.
pub(super) struct Answer {
    pub(super) body: String,
    stale_ms: Option<u64>,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The house refused.
    #[error("{title}: {detail} ({status})")]
    Refused { title: String, detail: String, status: u16 },
    /// The write is in the log, but was not applied in time.
    #[error("it is written and will be applied, but was not within {}", humantime::format_duration(*.0))]
    NotApplied(Duration),
    /// The write is in the log, but whether it is applied only another instance knows.
    #[error("it is written, but {0}; ask the instance that owns it, or don't wait (--wait 0s)")]
    NotTold(String),
    /// Whether the write is in the log is not known.
    #[error("no answer within {}: it may be written, and applied later, or not ({why})", humantime::format_duration(*.patience))]
    NotKnown { patience: Duration, why: ureq::Error },
    /// The URL is not one of a house.
    #[error("--url {0:?} is not an http:// or https:// address: name where the house listens, such as http://127.0.0.1:7717")]
    Url(String),
    /// The token would go in the clear.
    #[error("--url {0:?}: the token could be read on the way: use https://, or --insecure if something else keeps it secret")]
    Clear(String),
    /// A file can't be used.
    #[error("{option} {path:?}: {why}")]
    File { option: &'static str, path: PathBuf, why: String },
    /// No answer.
    #[error("no answer from {url}: {error}; {}", hint(.error))]
    Silent { url: String, error: ureq::Error },
    /// Something answered, but not a house.
    #[error("{url} does not answer as a house does: {why}")]
    Foreign { url: String, why: String },
    /// The answer could not be written out.
    #[error("stdout: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// The process's exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::NotApplied(_) | Self::NotTold(_) | Self::NotKnown { .. } => 1,
            Self::Url(_) | Self::Clear(_) | Self::File { .. } | Self::Silent { .. } | Self::Foreign { .. } | Self::Output(_) => 2,
        }
    }
}

fn hint(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => "name the certificate that vouches for it in --ca",
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            "does it speak what --url says (http or https), and is the certificate that vouches for it in --ca?"
        }
        _ => "is it running (statehouse serve), and is --url or STATEHOUSE_URL right?",
    }
}

/// A name as one segment of a path or one value of a query.
pub(super) fn segment(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

impl House {
    /// For questions.
    pub(super) fn at(ask: &Ask) -> Result<Self, Failure> {
        Self::within(ask, PATIENCE)
    }

    /// For a write, all of which takes no longer than it may.
    pub(super) fn for_write(ask: &Ask, patience: &Patience) -> Result<Self, Failure> {
        let wait = if patience.wait.is_zero() { UNAWAITED } else { patience.wait };
        Self::within(ask, wait + WRITE_PATIENCE)
    }

    fn within(ask: &Ask, patience: Duration) -> Result<Self, Failure> {
        let uri: Uri = ask.url.parse().map_err(|_| Failure::Url(ask.url.clone()))?;
        let is_secret = uri.scheme_str() == Some("https");
        if !is_secret && uri.scheme_str() != Some("http") {
            return Err(Failure::Url(ask.url.clone()));
        }
        let authorization = ask.token_file.as_ref().map(authorization).transpose()?;
        if authorization.is_some() && !is_secret && !ask.insecure && !is_near(&uri) {
            return Err(Failure::Clear(ask.url.clone()));
        }
        // Without a proxy: a house is usually near, often on this machine.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let config = config.timeout_global(Some(patience)).timeout_connect(Some(CONNECT.min(patience)));
        let config: Config = if is_secret { config.tls_config(tls(ask)?).build() } else { config.build() };
        Ok(Self { agent: config.into(), url: ask.url.trim_end_matches('/').to_owned(), authorization, patience })
    }

    pub(super) fn get(&self, target: &str) -> Result<Answer, Failure> {
        self.read(self.with_token(self.agent.get(format!("{}{target}", self.url))).call().map_err(|error| self.silent(error))?)
    }

    pub(super) fn put(&self, target: &str, body: &Value) -> Result<Answer, Failure> {
        let put = self.with_token(self.agent.put(format!("{}{target}", self.url)));
        self.read(put.send_json(body).map_err(|error| self.not_known(error))?)
    }

    pub(super) fn delete(&self, target: &str) -> Result<Answer, Failure> {
        let delete = self.with_token(self.agent.delete(format!("{}{target}", self.url)));
        self.read(delete.call().map_err(|error| self.not_known(error))?)
    }

    fn with_token<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    fn silent(&self, error: ureq::Error) -> Failure {
        Failure::Silent { url: self.url.clone(), error }
    }

    /// A write that was on its way may have arrived.
    fn not_known(&self, error: ureq::Error) -> Failure {
        let lost = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
        match &error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => self.silent(error),
            ureq::Error::Timeout(_) => Failure::NotKnown { patience: self.patience, why: error },
            ureq::Error::Io(io) if lost.contains(&io.kind()) => Failure::NotKnown { patience: self.patience, why: error },
            _ => self.silent(error),
        }
    }

    fn read(&self, mut response: Response<Body>) -> Result<Answer, Failure> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| self.silent(error))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            return Err(self.refusal(status, &body));
        }
        let stale_ms = response.headers().get("statehouse-lag-ms").and_then(|lag| lag.to_str().ok()?.parse().ok());
        if serde_json::from_str::<Value>(&body).is_err() {
            return Err(Failure::Foreign { url: self.url.clone(), why: "its answer is not JSON".to_owned() });
        }
        Ok(Answer { body, stale_ms })
    }

    fn refusal(&self, status: u16, body: &str) -> Failure {
        let problem: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |name: &str| problem[name].as_str().map(|text| show::safe(text).into_owned());
        // Where a parameter is to blame, the detail names it.
        let field = text("field").map_or_else(String::new, |field| format!("{field}: "));
        let more = if status == 401 { "; name the file with yours in --token-file or STATEHOUSE_TOKEN_FILE" } else { "" };
        match (text("title"), text("detail")) {
            (Some(title), Some(detail)) => Failure::Refused { title, detail: field + &detail + more, status },
            _ => Failure::Foreign { url: self.url.clone(), why: format!("status {status} without a problem's description") },
        }
    }
}

/// Whether it is on this machine.
fn is_near(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn authorization(path: &PathBuf) -> Result<HeaderValue, Failure> {
    let refused = |why: String| Failure::File { option: "--token-file", path: path.clone(), why };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| refused(format!("can't read it: {error}")))?);
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("there is not just a token in it: name the file that `statehouse token --save` made".to_owned()));
    }
    let header = Zeroizing::new(format!("Bearer {token}"));
    let mut header = HeaderValue::from_str(&header).map_err(|_| refused("there is no token in it".to_owned()))?;
    header.set_sensitive(true); // not shown by Debug
    Ok(header)
}

/// Trusts those of --ca, else whom the machine trusts.
fn tls(ask: &Ask) -> Result<TlsConfig, Failure> {
    let roots: Vec<Certificate<'static>> = match &ask.ca {
        Some(path) => {
            let refused = |why: String| Failure::File { option: "--ca", path: path.clone(), why };
            let pem = fs::read(path).map_err(|error| refused(format!("can't read it: {error}")))?;
            let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| refused(error.to_string()))?;
            let roots = items.into_iter().filter_map(|item| if let PemItem::Certificate(root) = item { Some(root) } else { None });
            let roots: Vec<_> = roots.collect();
            if roots.is_empty() {
                return Err(refused("there is no certificate in it: name a PEM file".to_owned()));
            }
            roots
        }
        None => rustls_native_certs::load_native_certs().certs.iter().map(|root| Certificate::from_der(root).to_owned()).collect(),
    };
    let config = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::from(roots));
    Ok(config.unversioned_rustls_crypto_provider(http::cryptography()).build())
}

impl Answer {
    pub(super) fn parsed<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.body).map_err(|error| Failure::Foreign { url: "the house".to_owned(), why: error.to_string() })
    }

    /// The house's JSON, as it came.
    pub(super) fn line(&self) -> String {
        format!("{}\n", self.body.trim_end())
    }

    /// Says on stderr if this is not how things stand now.
    pub(super) fn warn_if_stale(&self) {
        if let Some(stale_ms) = self.stale_ms {
            let age = humantime::format_duration(Duration::from_millis(stale_ms));
            eprintln!("note: the house could not commit for {age}; this is how things stood then");
        }
    }
}
