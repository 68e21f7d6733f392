//! One house's HTTP API, as its verbs ask it.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{Agent, Body, http::Response};

use super::show;

/// How long the house may take to answer: more than it allows itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer: a page of the longest names there may be.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A house to ask.
pub(super) struct House {
    agent: Agent,
    url: String,
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
    /// The URL is not one of a house.
    #[error("--url {0:?} does not begin with http://: name where the house listens, such as http://127.0.0.1:7717")]
    Url(String),
    /// No answer.
    #[error("no answer from {url}: {error}; is it running (statehouse serve), and is --url or STATEHOUSE_URL right?")]
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
            Self::Refused { .. } | Self::NotApplied(_) | Self::NotTold(_) => 1,
            Self::Url(_) | Self::Silent { .. } | Self::Foreign { .. } | Self::Output(_) => 2,
        }
    }
}

/// A name as one segment of a path or one value of a query.
pub(super) fn segment(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

impl House {
    pub(super) fn at(url: &str) -> Result<Self, Failure> {
        if !url.starts_with("http://") {
            return Err(Failure::Url(url.to_owned()));
        }
        // Without a proxy: a house is usually near, often on this machine.
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).proxy(None).build();
        Ok(Self { agent: config.into(), url: url.trim_end_matches('/').to_owned() })
    }

    pub(super) fn get(&self, target: &str) -> Result<Answer, Failure> {
        self.read(self.agent.get(format!("{}{target}", self.url)).call())
    }

    pub(super) fn put(&self, target: &str, body: &Value) -> Result<Answer, Failure> {
        self.read(self.agent.put(format!("{}{target}", self.url)).send_json(body))
    }

    pub(super) fn delete(&self, target: &str) -> Result<Answer, Failure> {
        self.read(self.agent.delete(format!("{}{target}", self.url)).call())
    }

    fn read(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Answer, Failure> {
        let silent = |error| Failure::Silent { url: self.url.clone(), error };
        let mut response = response.map_err(silent)?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(silent)?;
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
        match (text("title"), text("detail")) {
            (Some(title), Some(detail)) => Failure::Refused { title, detail: field + &detail, status },
            _ => Failure::Foreign { url: self.url.clone(), why: format!("status {status} without a problem's description") },
        }
    }
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
