//! The demo's HTTP client: what the agents, the operator and the view ask of the house, over its public API.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use ureq::{
    Body,
    http::{Response, StatusCode},
};

/// How long a request may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one house. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: ureq::Agent,
    house: String,
}

/// Why the show can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The house did not answer.
    #[error("{0}: no answer: {1}")]
    Unanswered(String, ureq::Error),
    /// The house answered with an error.
    #[error("{0}: answered {1}: {2}")]
    Refused(String, u16, String),
    /// The house answered something else than expected.
    #[error("{0}: {1}")]
    Unreadable(String, serde_json::Error),
}

impl Client {
    /// A client of the house at this URL.
    pub(super) fn new(house: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).proxy(None).build();
        Self { http: config.into(), house: house.to_owned() }
    }

    /// Whether the house answers in full.
    pub(super) fn is_ready(&self) -> bool {
        self.http.get(format!("{}/readyz", self.house)).call().is_ok_and(|answer| answer.status().is_success())
    }

    /// Objects by published state.
    pub(super) fn summary(&self) -> Result<BTreeMap<String, u64>, ClientError> {
        #[derive(Deserialize)]
        struct Summary {
            by_state: BTreeMap<String, u64>,
        }
        let summary: Summary = typed("GET /v1/summary", self.get("/v1/summary")?)?;
        Ok(summary.by_state)
    }

    pub(super) fn get(&self, target: &str) -> Result<Value, ClientError> {
        let what = format!("GET {target}");
        let answer = body_of(&what, self.http.get(format!("{}{target}", self.house)).call())?;
        serde_json::from_str(&answer).map_err(|error| ClientError::Unreadable(what, error))
    }

    pub(super) fn put(&self, target: &str, body: &Value) -> Result<(), ClientError> {
        body_of(&format!("PUT {target}"), self.http.put(format!("{}{target}", self.house)).send_json(body)).map(drop)
    }

    pub(super) fn post_lines(&self, target: &str, lines: String) -> Result<(), ClientError> {
        let request = self.http.post(format!("{}{target}", self.house)).header("content-type", "application/x-ndjson");
        body_of(&format!("POST {target}"), request.send(lines)).map(drop)
    }
}

fn typed<T: for<'de> Deserialize<'de>>(what: &str, value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|error| ClientError::Unreadable(what.to_owned(), error))
}

/// Some lines of many refused count as refused: the cast sends none that should be.
fn body_of(what: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<String, ClientError> {
    let unanswered = |error| ClientError::Unanswered(what.to_owned(), error);
    let mut answer = answer.map_err(unanswered)?;
    let body = answer.body_mut().read_to_string().map_err(unanswered)?;
    let status = answer.status();
    if status.is_success() && status != StatusCode::MULTI_STATUS {
        return Ok(body);
    }
    Err(ClientError::Refused(what.to_owned(), status.as_u16(), body))
}
