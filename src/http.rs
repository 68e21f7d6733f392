//! HTTP: questions about live state, writes into the source, health, metrics. The only place, with the files below it, that names axum
//! and hyper.
//!
//! Beside the flow: a request becomes a question at the [desk](crate::desk) or a record for the log, and the answer becomes JSON. Reads
//! show committed state only and say as of which position (`Statehouse-Position`) and, while commits fail, how stale they are
//! (`Statehouse-Lag-Ms`). Errors are problem details (RFC 9457, [`problem`]). What bounds clients stands in [`serve`](mod@serve) (connections,
//! heads, slow readers), [`body`] and [`layers`] (bodies, whole requests); who may ask what, and TLS, in [`access`]. It answers from the
//! first moment on, also while there is no house yet ([`entrance`]).
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/objects?prefix=&state=&limit=&cursor=` | objects by name; `state=` with an empty value: those without a state |
//! | `GET /v1/objects/{object}` | one object |
//! | `GET /v1/objects/{object}/reports` | its reports, by agent |
//! | `GET /v1/objects/{object}/explain` | why it is what it is |
//! | `PUT /v1/objects/{object}/reports/{agent}` | a report: `{"state", "ts"?, "ttl"?}` |
//! | `DELETE /v1/objects/{object}/reports/{agent}?ts=` | a withdrawal |
//! | `PUT /v1/objects/{object}/override` | an override: `{"state", "for"?}` |
//! | `DELETE /v1/objects/{object}/override` | lifts it |
//! | `DELETE /v1/objects/{object}` | a purge |
//! | `POST /v1/reports` | many at once, one JSON object per line |
//! | `GET /v1/summary` | objects by state |
//! | `GET /v1/applied?position=&wait=` | whether all before a position is applied and committed |
//! | `GET /v1/instances` | who runs the house |
//! | `GET /livez`, `/readyz?verbose&exclude=`, `/metrics`, `/version` | for operators |
//!
//! Writes answer 202 with the record's place as soon as it is durable; with `?wait=2s` they answer 200 once it is applied and committed,
//! 202 with `"applied": false` when the time is over first, and at once 202 with `"applied": null` where another instance owns the
//! partition: it will be applied there, and this one can't tell when. Names in paths are percent-encoded UTF-8, split at `/` before decoding and
//! decoded once, so any name works (`%2F`, `%00`, `..`).

mod access;
mod applied;
mod body;
mod bulk;
mod cursor;
mod elsewhere;
mod entrance;
mod gather;
mod health;
mod instances;
mod json;
mod layers;
mod params;
mod peers;
mod problem;
mod reads;
mod record;
mod serve;
mod slots;
mod stall;
mod view;
mod writes;

use std::sync::Arc;

use axum::{
    Router,
    routing::{MethodRouter, get, post, put},
};
use tokio::sync::{Semaphore, watch};

use self::peers::Peers;
pub use self::{
    access::{Access, AccessError, FreshToken, NoRandomness, PeerTrust, Scope, cryptography},
    entrance::Entrance,
    serve::serve,
};
use crate::{
    config::{HttpConfig, PeerUrl},
    decode::Decoder,
    desk::Desk,
    log::directory::{Instances, PeerSecret},
    metrics::Metrics,
};

/// What every handler has at hand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    desk: Desk,
    metrics: Arc<Metrics>,
    decoder: Arc<Decoder>,
    limits: Arc<HttpConfig>,
    peers: Arc<Peers>,
    /// What all bodies together may take, in KiB.
    bodies: Arc<Semaphore>,
}

impl Front {
    /// A front to this desk, within these limits. The decoder is the source's: it judges what clients want written.
    #[must_use]
    pub fn new(desk: Desk, metrics: Arc<Metrics>, decoder: Arc<Decoder>, limits: HttpConfig) -> Self {
        let bodies = Arc::new(Semaphore::new(body::budget_kib(limits.max_body_bytes)));
        let nobody = watch::channel(Instances::default()).1;
        let peers = Arc::new(Peers::new(nobody, None, Default::default(), (&limits, &metrics)));
        Self { desk, metrics, decoder, limits: Arc::new(limits), peers, bodies }
    }

    /// The same among the instances of this directory. `here` is where this one is asked; by the secret and the trust instances know each
    /// other.
    #[must_use]
    pub fn among(mut self, directory: watch::Receiver<Instances>, here: Option<&PeerUrl>, known_by: (PeerSecret, PeerTrust)) -> Self {
        self.peers = Arc::new(Peers::new(directory, here, known_by, (&self.limits, &self.metrics)));
        self
    }
}

/// All routes. What every request passes before, whichever it asks for, [`entrance`] adds.
fn routes(front: Front) -> Router {
    let routed = table().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routed.fallback(layers::no_such_path).method_not_allowed_fallback(layers::no_such_method).with_state(front)
}

fn table() -> [(&'static str, MethodRouter<Front>); 15] {
    [
        ("/v1/objects", get(reads::list)),
        ("/v1/objects/{object}", get(reads::object).delete(writes::purge)),
        ("/v1/objects/{object}/reports", get(reads::reports)),
        ("/v1/objects/{object}/reports/{agent}", put(writes::report).delete(writes::withdraw)),
        ("/v1/objects/{object}/reports/", put(writes::of_no_agent).delete(writes::of_no_agent)),
        ("/v1/objects/{object}/explain", get(reads::explain)),
        ("/v1/objects/{object}/override", put(writes::pin).delete(writes::lift)),
        ("/v1/reports", post(bulk::reports)),
        ("/v1/summary", get(reads::summary)),
        ("/v1/applied", get(applied::applied)),
        ("/v1/instances", get(instances::instances)),
        ("/livez", get(health::livez)),
        ("/readyz", get(health::readyz)),
        ("/metrics", get(health::metrics)),
        ("/version", get(health::version)),
    ]
}

/// Every path there is, with its parameters in braces; so that no test of all of them can forget one.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    table().into_iter().map(|(path, _)| path).collect()
}
