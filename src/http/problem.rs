//! Errors as problem details (RFC 9457): every refusal of the API, with its type, status and title, in one place.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::json;
use crate::{desk::Unavailable, log::AppendError};

/// What clients are asked to wait before they try again, where trying again helps and nobody knows better.
const RETRY_AFTER_MS: u64 = 1_000;
/// However long it may take: they are not to stay away for good because of an estimate.
const RETRY_AFTER_MAX_MS: u64 = 60_000;

/// A refusal.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    more: Map<String, Value>,
    /// What the client is to prove, as `WWW-Authenticate` says it.
    challenge: Option<&'static str>,
    retry_after_ms: u64,
}

/// The kinds of refusals: last part of the type, status, title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(&'static str, StatusCode, &'static str);

pub(super) const INVALID: Kind = Kind("validation-failed", StatusCode::BAD_REQUEST, "The request is not valid");
pub(super) const UNAUTHORIZED: Kind = Kind("unauthorized", StatusCode::UNAUTHORIZED, "Who asks is not known");
pub(super) const FORBIDDEN: Kind = Kind("forbidden", StatusCode::FORBIDDEN, "Not with this token");
pub(super) const OBJECT_NOT_FOUND: Kind = Kind("object-not-found", StatusCode::NOT_FOUND, "No such object");
pub(super) const NO_SUCH_PATH: Kind = Kind("path-not-found", StatusCode::NOT_FOUND, "No such path");
pub(super) const NO_SUCH_METHOD: Kind = Kind("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Not a method of this path");
pub(super) const BODY_TIMEOUT: Kind = Kind("body-timeout", StatusCode::REQUEST_TIMEOUT, "The body did not come in time");
pub(super) const TOO_LARGE: Kind = Kind("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Too large");
pub(super) const MEDIA_TYPE: Kind = Kind("media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not a media type of this path");
pub(super) const HOST_NOT_SERVED: Kind = Kind("host-not-served", StatusCode::MISDIRECTED_REQUEST, "Not a name of this server");
pub(super) const TOO_MANY_FAILURES: Kind = Kind("too-many-failures", StatusCode::TOO_MANY_REQUESTS, "Too many failures");
pub(super) const STARTING: Kind = Kind("starting", StatusCode::SERVICE_UNAVAILABLE, "The house is not open yet");
/// Asking this instance again would not help, so it is no 503.
pub(super) const NOT_OWNER: Kind = Kind("not-owner", StatusCode::MISDIRECTED_REQUEST, "Another instance owns it");
pub(super) const NO_OWNER: Kind = Kind("no-owner", StatusCode::SERVICE_UNAVAILABLE, "Nobody owns it now");
pub(super) const PEER: Kind = Kind("instance-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Another instance does not answer");
const JOINING: Kind = Kind("joining", StatusCode::SERVICE_UNAVAILABLE, "This instance owns nothing yet");
const RESTORING: Kind = Kind("partition-restoring", StatusCode::SERVICE_UNAVAILABLE, "The state is being restored");
pub(super) const OVERLOADED: Kind = Kind("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too much at once");
const STOPPING: Kind = Kind("stopping", StatusCode::SERVICE_UNAVAILABLE, "Shutting down");
pub(super) const REQUEST_TIMEOUT: Kind = Kind("request-timeout", StatusCode::SERVICE_UNAVAILABLE, "No answer in time");
const LOG_UNAVAILABLE: Kind = Kind("log-unavailable", StatusCode::SERVICE_UNAVAILABLE, "The log takes no writes now");
const OUTCOME_UNKNOWN: Kind = Kind("write-outcome-unknown", StatusCode::GATEWAY_TIMEOUT, "Perhaps written, perhaps not");

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), more: Map::new(), challenge: None, retry_after_ms: RETRY_AFTER_MS }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(INVALID, detail)
    }

    /// Adds a member to the problem.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Tells what the client is to prove.
    pub(super) fn challenging(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The same with more said before its detail.
    pub(super) fn again(mut self, before: &str) -> Self {
        self.detail.insert_str(0, before);
        self
    }

    /// What is wrong, in words.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn status(&self) -> StatusCode {
        self.kind.1
    }

    pub(super) fn json(&self) -> Value {
        let Kind(name, status, title) = self.kind;
        let mut problem = json!({
            "type": format!("/problems/{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let members = problem.as_object_mut().expect("it was made as an object");
        members.extend(self.more.clone());
        if is_for_now(status) {
            members.insert("retry_after_ms".to_owned(), self.retry_after_ms.into());
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), json::line(&self.json())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if is_for_now(self.status()) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_ms.div_ceil(1_000)));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Whether the same may be answered in a while.
fn is_for_now(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
}

impl From<Unavailable> for Problem {
    fn from(why: Unavailable) -> Self {
        let kind = match why {
            Unavailable::Joining => JOINING,
            Unavailable::Restoring { .. } | Unavailable::Unanswered => RESTORING,
            Unavailable::NotOwner(_) => NOT_OWNER,
            Unavailable::Overloaded => OVERLOADED,
            Unavailable::Stopping => STOPPING,
        };
        let problem = Self::new(kind, why.to_string());
        match why {
            Unavailable::NotOwner(partition) => problem.with("partition", partition),
            Unavailable::Restoring { partition, seconds_left } => {
                let retry_after_ms = seconds_left.map_or(RETRY_AFTER_MS, |seconds| seconds.saturating_mul(1_000));
                let retry_after_ms = retry_after_ms.clamp(RETRY_AFTER_MS, RETRY_AFTER_MAX_MS);
                Self { retry_after_ms, ..problem }.with("partition", partition)
            }
            _ => problem,
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let kind = match error {
            AppendError::Full => OVERLOADED,
            AppendError::TooLarge { .. } => TOO_LARGE,
            AppendError::Failed(_) => LOG_UNAVAILABLE,
            AppendError::Maybe(_) => OUTCOME_UNKNOWN,
        };
        Self::new(kind, error.to_string())
    }
}
