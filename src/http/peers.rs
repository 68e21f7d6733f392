//! The client side: one instance asks another, with `GET` and nothing else.
//!
//! Nothing of the caller's is passed on but the question itself: no credentials, no cookies, no other header. The other instance is told who
//! asks (so that it asks nobody further) and how long the asker waits. Redirects are not followed. What is bounded: how many questions are
//! on their way, how long connecting and answering may take, how large an answer is, how many connections rest in the pool.
//!
//! Where instances are is told by a topic that others may be able to write to: names are judged after their look-up ([`Lookup`]), and this
//! machine itself is asked only by an instance that is to be found there, too.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{net::lookup_host, sync::Semaphore, sync::watch, time::timeout};
use tower_service::Service;

use super::{
    access::PeerTrust,
    problem::{self, Problem},
};
use crate::{
    config::{HttpConfig, PeerUrl, RouteConfig, is_asked},
    log::directory::{Instance, Instances, PeerSecret},
    metrics::Metrics,
};

/// Who asks on a client's behalf. Whoever is asked so answers by itself or not at all.
pub(super) const HOP: HeaderName = HeaderName::from_static("statehouse-hop");
/// How long whoever asks waits for the answer.
pub(super) const DEADLINE: HeaderName = HeaderName::from_static("statehouse-deadline-ms");

/// Questions to other instances at a time.
const QUESTIONS_MAX: usize = 64;
/// The largest answer that is passed on.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How long connecting may take: instances are near each other.
const CONNECT: Duration = Duration::from_secs(1);
/// Connections that rest, per instance, and for how long: less than servers let them.
const IDLE_MAX: usize = 8;
const IDLE: Duration = Duration::from_secs(5);
/// What of an answer's head is passed on.
const PASSED_ON: [HeaderName; 4] = [header::CONTENT_TYPE, header::RETRY_AFTER, super::reads::POSITION, super::reads::LAG];

/// The other instances, and how they are asked.
#[derive(Debug)]
pub(super) struct Peers {
    directory: watch::Receiver<Instances>,
    client: Client<HttpsConnector<HttpConnector<Lookup>>, Empty<Bytes>>,
    slots: Semaphore,
    metrics: Arc<Metrics>,
    secret: PeerSecret,
    /// Whether this instance itself is asked at an address of the machine itself.
    on_loopback: bool,
    pub(super) route: RouteConfig,
    /// How long an answer may take.
    pub(super) patience: Duration,
}

/// Another instance's answer.
#[derive(Debug)]
pub(super) struct Said {
    /// Whose.
    pub(super) instance: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Peers {
    /// `here` is where this instance is asked. By the secret and the trust instances know each other.
    pub(super) fn new(
        directory: watch::Receiver<Instances>,
        here: Option<&PeerUrl>,
        (secret, trust): (PeerSecret, PeerTrust),
        (http, metrics): (&HttpConfig, &Arc<Metrics>),
    ) -> Self {
        let on_loopback = here.is_some_and(PeerUrl::is_loopback);
        let mut connector = HttpConnector::new_with_resolver(Lookup { on_loopback });
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(trust.config()).https_or_http().enable_http1().wrap_connector(connector);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_MAX);
        Self {
            directory,
            client: builder.build(connector),
            slots: Semaphore::new(QUESTIONS_MAX),
            metrics: Arc::clone(metrics),
            on_loopback,
            // Whom nothing proves to be an instance neither gets questions nor clients.
            route: if http.tokens.is_some() && secret.bearer().is_none() { RouteConfig::Local } else { http.route },
            patience: Duration::from_millis(http.peer_timeout_ms),
            secret,
        }
    }

    /// Who is known now. Not to be held for long.
    pub(super) fn instances(&self) -> watch::Ref<'_, Instances> {
        self.directory.borrow()
    }

    /// Where an instance may be asked.
    ///
    /// # Errors
    /// When nobody may, or can: says why.
    pub(super) fn url<'a>(&self, instance: &'a Instance) -> Result<&'a PeerUrl, Problem> {
        let refused = |why: &str| {
            let detail = format!("instance {} can't be asked: {why}; see http.advertise of that instance", instance.id);
            Problem::new(problem::PEER, detail).with("instance", instance.id.as_str())
        };
        match &instance.url {
            None => Err(refused("it has told no address")),
            Some(url) if url.is_loopback() && !self.on_loopback => Err(refused("its address is one of its own machine only")),
            Some(url) => Ok(url),
        }
    }

    /// Asks an instance; `target` is the path with its query. Any answer of an instance that is one is [`Said`], also a refusal.
    ///
    /// # Errors
    /// When it may not be asked, or did not answer in time as an instance does.
    pub(super) async fn ask(&self, instance: &Instance, target: &str, patience: Duration) -> Result<Said, Problem> {
        let url = self.url(instance)?;
        let uri = format!("{url}{target}");
        let _slot = self
            .slots
            .try_acquire()
            .map_err(|_| Problem::new(problem::OVERLOADED, "too many questions to other instances are on their way"))?;
        let silent = |why: &str| {
            let detail = format!("instance {} does not answer: {why}", instance.id);
            Problem::new(problem::PEER, detail).with("instance", instance.id.as_str()).with("url", url.to_string())
        };
        let said = timeout(patience, self.answer(&instance.id, (&uri, patience))).await;
        self.metrics.peer_asked(matches!(said, Ok(Ok(_))));
        let said = said.map_err(|_| silent(&format!("nothing within {}", humantime::format_duration(patience))))?;
        let said = said.map_err(|why| silent(&if why.contains("certificate") { why + "; see http.peer_ca" } else { why }))?;
        match said.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(silent("it does not know this instance; see http.peer_secret of both")),
            status if status.is_redirection() || status.is_informational() => Err(silent("it answers as no instance does")),
            _ => Ok(said),
        }
    }

    async fn answer(&self, instance: &str, (uri, patience): (&str, Duration)) -> Result<Said, String> {
        let hop = self.directory.borrow().here().to_owned();
        let mut request = Request::get(uri).header(HOP, hop).header(DEADLINE, patience.as_millis().to_string());
        if let Some(bearer) = self.secret.bearer() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| whole(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok(Said { instance: instance.to_owned(), status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// An error with what is behind it: its own text says only that connecting failed.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Said {
    /// An answer that is none, as the refusal of whoever asked for it.
    pub(super) fn refusal(&self) -> Problem {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("it says no more");
        let problem = Problem::new(problem::PEER, format!("instance {} answers {}: {detail}", self.instance, self.status.as_u16()));
        problem.with("instance", self.instance.as_str())
    }
}

/// Passed on: status, body, and of the head what is an answer's own.
impl IntoResponse for Said {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        for name in PASSED_ON {
            if let Some(value) = self.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }
}

/// Looks names up, and leaves out addresses at which no instance is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    on_loopback: bool,
}

impl Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let on_loopback = self.on_loopback;
        Box::pin(async move {
            let found = lookup_host((name.as_str(), 0)).await?;
            let asked =
                |address: &SocketAddr| is_asked(address.ip()).is_ok() && (on_loopback || !address.ip().to_canonical().is_loopback());
            let asked: Vec<_> = found.filter(asked).collect();
            if asked.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the name has no address that an instance of another machine can have",
                ));
            }
            Ok(asked.into_iter())
        })
    }
}
