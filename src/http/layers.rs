//! What every request passes: the bound on its whole time, the headers of every answer, the counting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{
    peers::DEADLINE,
    problem::{self, Problem},
};
use crate::{config::HttpConfig, metrics::Metrics};

/// Under which route requests are counted that match none.
const NO_ROUTE: &str = "(none)";

/// What bounds clients, and where they are counted.
#[derive(Clone)]
pub(super) struct Bounds {
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Arc<HttpConfig>,
}

/// Bounds, completes and counts a request.
pub(super) async fn observe(State(bounds): State<Bounds>, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let time = Duration::from_millis(bounds.limits.request_timeout_ms);
    // Another instance that asks waits no longer than it says.
    let deadline = request.headers().get(DEADLINE).and_then(|ms| ms.to_str().ok()?.parse().ok());
    let time = deadline.map_or(time, |ms| time.min(Duration::from_millis(ms)));
    let mut response = timeout(time, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {}; a write may have been made all the same", humantime::format_duration(time));
        Problem::new(problem::REQUEST_TIMEOUT, detail).into_response()
    });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    bounds.metrics.http_request(route, response.status().as_u16(), began.elapsed());
    response
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(problem::NO_SUCH_PATH, format!("there is nothing at {}", uri.path()))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(problem::NO_SUCH_METHOD, format!("{method} does nothing at {}; see the Allow header", uri.path()))
}
