//! HTTP: questions about live state, writes into the source, health, metrics. The only place, with the files below it, that names axum
//! and hyper.
//!
//! Beside the flow: a request becomes a question at the [desk](crate::desk) or a record for the log, and the answer becomes JSON. Reads
//! show committed state only and say as of which position (`Statehouse-Position`) and, while commits fail, how stale they are
//! (`Statehouse-Lag-Ms`). Errors are problem details (RFC 9457, [`problem`]). What bounds clients stands in [`serve`](mod@serve) (connections,
//! heads, slow readers), [`body`] and [`layers`] (bodies, whole requests).
//!
//! It assumes clients that may do all or nothing: there is no authentication and no TLS yet, so it listens on loopback unless told
//! otherwise, and warns where it does not.
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
//! | `GET /livez`, `/readyz?verbose&exclude=`, `/metrics`, `/version` | for operators |
//!
//! Writes answer 202 with the record's place as soon as it is durable; with `?wait=2s` they answer 200 once it is applied and committed,
//! 202 with `"applied": false` when the time is over first, and at once 202 with `"applied": null` where another instance owns the
//! partition: it will be applied there, and this one can't tell when. Names in paths are percent-encoded UTF-8, split at `/` before decoding and
//! decoded once, so any name works (`%2F`, `%00`, `..`).

mod body;
mod bulk;
mod cursor;
mod health;
mod json;
mod layers;
mod params;
mod problem;
mod reads;
mod record;
mod serve;
mod stall;
mod view;
mod writes;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use tokio::sync::Semaphore;

pub use self::serve::serve;
use crate::{config::HttpConfig, decode::Decoder, desk::Desk, metrics::Metrics};

/// What every handler has at hand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    desk: Desk,
    metrics: Arc<Metrics>,
    decoder: Arc<Decoder>,
    limits: Arc<HttpConfig>,
    /// What all bodies together may take, in KiB.
    bodies: Arc<Semaphore>,
}

impl Front {
    /// A front to this desk, within these limits. The decoder is the source's: it judges what clients want written.
    #[must_use]
    pub fn new(desk: Desk, metrics: Arc<Metrics>, decoder: Arc<Decoder>, limits: HttpConfig) -> Self {
        let bodies = Arc::new(Semaphore::new(body::budget_kib(limits.max_body_bytes)));
        Self { desk, metrics, decoder, limits: Arc::new(limits), bodies }
    }
}

/// All routes, with the bounds on bodies and whole requests, but not those on connections, which [`serve()`] sets.
pub fn router(front: Front) -> Router {
    let object = get(reads::object).delete(writes::purge);
    let masks = put(writes::pin).delete(writes::lift);
    let report = put(writes::report).delete(writes::withdraw);
    Router::new()
        .route("/v1/objects", get(reads::list))
        .route("/v1/objects/{object}", object)
        .route("/v1/objects/{object}/reports", get(reads::reports))
        .route("/v1/objects/{object}/reports/{agent}", report)
        .route("/v1/objects/{object}/reports/", put(writes::of_no_agent).delete(writes::of_no_agent))
        .route("/v1/objects/{object}/explain", get(reads::explain))
        .route("/v1/objects/{object}/override", masks)
        .route("/v1/reports", post(bulk::reports))
        .route("/v1/summary", get(reads::summary))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/version", get(health::version))
        .fallback(layers::no_such_path)
        .method_not_allowed_fallback(layers::no_such_method)
        .layer(middleware::from_fn_with_state(front.clone(), layers::observe))
        .with_state(front)
}
