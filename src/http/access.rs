//! Who may ask what, over which connection: bearer tokens, TLS, names of the host. Every request passes [`guard`] before it reaches a
//! handler, whether its route is known or not.
//!
//! Without tokens everyone who reaches the server may read and write; the configuration refuses that beyond loopback. With tokens
//! everything but `/livez` and the bare answer of `/readyz` needs one: `GET` and `HEAD` the scope `read`, all else `write`, so that a new
//! route is closed until somebody opens it. `/metrics` needs `read`, too: its labels name states and say how many objects are in each.
//! A handler never sees the token, so that none can log it or pass it on.
//!
//! What was read from files is read anew when they change ([`kept`]). What can't be used then is warned about and the last good one stays.

mod failures;
mod hosts;
mod kept;
mod tls;
mod tokens;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio_rustls::TlsAcceptor;

use self::{failures::Failures, hosts::Hosts, kept::Kept, tls::Identity, tokens::TokenSet};
pub use self::{
    tls::{PeerTrust, cryptography},
    tokens::{FreshToken, NoRandomness, Scope},
};
use super::problem::{self, Problem};
use crate::{config::HttpConfig, log::directory::PeerSecret};

/// Who may ask what. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    shared: Arc<Shared>,
}

struct Shared {
    /// None: nobody needs a token.
    tokens: Option<Kept<TokenSet>>,
    /// None: plain HTTP.
    identity: Option<Kept<Identity>>,
    /// What other instances of the house show instead of a token.
    peers: PeerSecret,
    trust: PeerTrust,
    hosts: Hosts,
    failures: Failures,
}

/// A file that access hangs on can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {path:?}: {problem}")]
pub struct AccessError {
    setting: &'static str,
    path: PathBuf,
    problem: String,
}

impl AccessError {
    fn new(setting: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self { setting, path: path.to_owned(), problem: problem.into() }
    }
}

/// From where a connection came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// What the caller may do; with every request that reaches a handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    scope: Option<Scope>,
}

impl Caller {
    pub(super) fn may(self, needed: Scope) -> bool {
        self.scope >= Some(needed)
    }
}

/// Says nothing of what is in the files.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { tokens, identity, hosts, .. } = &*self.shared;
        f.debug_struct("Access").field("tokens", &tokens.is_some()).field("tls", &identity.is_some()).field("hosts", hosts).finish()
    }
}

impl Access {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// When, and only when, one can't be read or used.
    pub fn load(http: &HttpConfig) -> Result<Self, AccessError> {
        let tokens = http.tokens.clone().map(|path| Kept::read(move || tokens::read(&path))).transpose()?;
        let files = http.tls.certificate.clone().zip(http.tls.key.clone());
        let identity = files.map(|(certificate, key)| Kept::read(move || tls::read(&certificate, &key))).transpose()?;
        let peers = PeerSecret::of(http).map_err(|problem| AccessError {
            setting: "http.peer_secret",
            path: http.peer_secret.clone().unwrap_or_default(),
            problem,
        })?;
        let trust = PeerTrust::of(http)?;
        let shared = Shared { tokens, identity, peers, trust, hosts: Hosts::of(http), failures: Failures::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whom this instance believes as it asks others.
    #[must_use]
    pub fn trust(&self) -> &PeerTrust {
        &self.shared.trust
    }

    /// Whether anything of it is read from files again.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.shared.tokens.is_some() || self.shared.identity.is_some()
    }

    /// Reads the files again. What can't be used is warned about, and what was read before stays.
    pub fn renew(&self) {
        if let Some(tokens) = &self.shared.tokens {
            tokens.renew();
        }
        if let Some(identity) = &self.shared.identity {
            identity.renew();
        }
    }

    /// How a new connection becomes a secret one; none: it stays plain.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.shared.identity.as_ref().map(|identity| identity.current().acceptor())
    }

    /// Whether the caller may ask this; takes the token out of the request.
    fn admit(&self, request: &mut Request) -> Result<Caller, Problem> {
        if request.uri().authority().is_some() {
            return Err(Problem::invalid("the target is not a path: this is no proxy"));
        }
        self.shared.hosts.check(request.version(), request.headers())?;
        let is_one = request.headers().get_all(header::AUTHORIZATION).iter().count() == 1;
        let presented = request.headers_mut().remove(header::AUTHORIZATION); // all of them
        let Some(tokens) = &self.shared.tokens else { return Ok(Caller { scope: Some(Scope::Peer) }) };
        let needed = needed(request.method(), request.uri().path());
        let token = presented.as_ref().filter(|_| is_one).and_then(bearer);
        let is_peer = token.is_some_and(|token| self.shared.peers.is_bearer(token));
        let scope = token.and_then(|token| tokens.current().scope_of(token, SystemTime::now()));
        let scope = if is_peer { Some(Scope::Peer) } else { scope };
        match (scope, needed) {
            (scope, Some(needed)) if scope >= Some(needed) => Ok(Caller { scope }),
            (scope, None) => Ok(Caller { scope }),
            (Some(_), Some(needed)) => Err(missing_scope(needed)),
            (None, Some(_)) => Err(self.refusal(presented.is_some(), request)),
        }
    }

    /// Whoever has a good token is never held up by others' bad ones, also where all come from one address; so the bound is on answers and
    /// lines of the log. Guessing 256 bits needs none.
    fn refusal(&self, guessed: bool, request: &Request) -> Problem {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        match peer.filter(|_| guessed) {
            Some(peer) if self.shared.failures.are_too_many(peer, Instant::now()) => {
                Problem::new(problem::TOO_MANY_FAILURES, "too many requests without a valid token came from there")
            }
            _ => unauthorized(),
        }
    }
}

/// The same for a missing, a wrong and an expired token: which it was is nobody's business.
pub(super) fn unauthorized() -> Problem {
    Problem::new(problem::UNAUTHORIZED, "a valid bearer token is needed").challenging("Bearer")
}

fn missing_scope(needed: Scope) -> Problem {
    let challenge = match needed {
        Scope::Read => "Bearer error=\"insufficient_scope\", scope=\"read\"",
        Scope::Write => "Bearer error=\"insufficient_scope\", scope=\"write\"",
        Scope::Peer => "Bearer error=\"insufficient_scope\", scope=\"peer\"",
    };
    Problem::new(problem::FORBIDDEN, format!("the token has not the scope {needed}")).challenging(challenge)
}

/// Lets only those pass who may.
pub(super) async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    match access.admit(&mut request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The scope that a request needs; none: it is open to all.
fn needed(method: &Method, path: &str) -> Option<Scope> {
    match path {
        "/livez" | "/readyz" => None,
        _ if matches!(*method, Method::GET | Method::HEAD) => Some(Scope::Read),
        _ => Some(Scope::Write),
    }
}

/// The token in an `Authorization` header.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
