//! What clients meet, from the first moment on: the house's front once it is open, and until then a lobby that says what is waited for.

use std::{
    convert::Infallible,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;

use super::{
    Front,
    access::{self, Access, Caller, Peer, Scope},
    health,
    layers::{self, Bounds},
    params::Params,
    problem::{self, Problem},
    routes,
};
use crate::{
    config::HttpConfig,
    metrics::{Metrics, Staleness},
};

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    bounds: Bounds,
    lobby: Lobby,
    waiting: TowerToHyperService<Router>,
    open: OnceLock<TowerToHyperService<Router>>,
}

/// Where clients are told to wait.
#[derive(Clone)]
struct Lobby {
    metrics: Arc<Metrics>,
    why: Arc<Mutex<String>>,
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entrance").field("access", &self.shared.access).field("open", &self.shared.open.get().is_some()).finish()
    }
}

impl Entrance {
    /// A way in for those who have access, within these limits. There is no house behind it yet.
    #[must_use]
    pub fn new(access: Access, metrics: &Arc<Metrics>, limits: &HttpConfig) -> Self {
        let bounds = Bounds { metrics: Arc::clone(metrics), limits: Arc::new(limits.clone()) };
        let lobby = Lobby { metrics: Arc::clone(metrics), why: Arc::new(Mutex::new("the house is being opened".to_owned())) };
        let waiting = Router::new()
            .route("/livez", get(health::livez))
            .route("/readyz", get(not_ready))
            .route("/metrics", get(metrics_alone))
            .route("/version", get(health::version))
            .fallback(starting)
            .with_state(lobby.clone());
        let waiting = guarded(waiting, &access, &bounds);
        Self { shared: Arc::new(Shared { access, bounds, lobby, waiting, open: OnceLock::new() }) }
    }

    /// Tells what the house waits for, while it is not open.
    pub fn wait_for(&self, why: &str) {
        why.clone_into(&mut self.shared.lobby.why.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets everyone who may through to the house. Done once; a second front is not looked at.
    pub fn open(&self, front: Front) {
        let Shared { access, bounds, open, .. } = &*self.shared;
        open.get_or_init(|| guarded(routes(front), access, bounds));
    }

    /// Who may ask what.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.shared.access
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.shared.bounds
    }

    /// Answers a request that came from there.
    pub(super) fn answer(
        &self,
        from: IpAddr,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        request.extensions_mut().insert(Peer(from));
        self.shared.open.get().unwrap_or(&self.shared.waiting).call(request)
    }
}

/// With what every request passes, whatever it asks: bounds outside, so that refusals are counted, too.
fn guarded(router: Router, access: &Access, bounds: &Bounds) -> TowerToHyperService<Router> {
    let guard = middleware::from_fn_with_state(access.clone(), access::guard);
    TowerToHyperService::new(router.layer(guard).layer(middleware::from_fn_with_state(bounds.clone(), layers::observe)))
}

impl Lobby {
    fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whatever is left out of the checks: there is nobody to ask yet.
async fn not_ready(State(lobby): State<Lobby>, caller: axum::Extension<Caller>, params: Params) -> Result<Response, Problem> {
    params.only(&["verbose", "exclude"])?;
    let text = match (caller.may(Scope::Read), params.get("verbose")) {
        (true, _) => format!("[-]start failed: {}\nnot ready\n", lobby.why()),
        (false, None) => "not ready\n".to_owned(),
        (false, Some(_)) => return Err(access::unauthorized()),
    };
    Ok((StatusCode::SERVICE_UNAVAILABLE, text).into_response())
}

async fn metrics_alone(State(lobby): State<Lobby>) -> Response {
    health::exposition(lobby.metrics.scrape(None, Staleness::default()))
}

async fn starting(State(lobby): State<Lobby>) -> Problem {
    Problem::new(problem::STARTING, lobby.why())
}
