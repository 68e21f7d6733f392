//! What every request passes: the bound on its whole time, the headers of every answer, the counting.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{
    Front,
    problem::{self, Problem},
};

/// Under which route requests are counted that match none.
const NO_ROUTE: &str = "(none)";

/// Bounds, completes and counts a request.
pub(super) async fn observe(State(front): State<Front>, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let time = Duration::from_millis(front.limits.request_timeout_ms);
    let mut response = timeout(time, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {}; a write may have been made all the same", humantime::format_duration(time));
        Problem::new(problem::REQUEST_TIMEOUT, detail).into_response()
    });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    front.metrics.http_request(route, response.status().as_u16(), began.elapsed());
    response
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(problem::NO_SUCH_PATH, format!("there is nothing at {}", uri.path()))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(problem::NO_SUCH_METHOD, format!("{method} does nothing at {}; see the Allow header", uri.path()))
}
