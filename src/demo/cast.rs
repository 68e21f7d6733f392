//! The cast: plays the story's agents and its operator against the house's HTTP API, at the pace of the clock.
//!
//! Takes [`Step`]s from the story; sends what the narrator says, and what the house answers when it is asked why, to the view. It is the
//! only one that writes, and one request follows the other, so a seed makes the same changes in the same order every time.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use serde_json::{Value, json};

use super::{
    story::{Act, Claim, STEP_MS, Step, Story},
    world::{AGENTS, SITES, Site},
};

/// How long a request may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How fast the story goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Reports per second.
    pub(crate) rate: u32,
    /// How many times faster than told.
    pub(crate) speed: u32,
}

/// What the view hears from the cast.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The narrator's words.
    Told(String),
    /// The house's words about a site.
    Why {
        /// The site.
        site: &'static str,
        /// What the API says: the tally in words.
        tally: String,
        /// What the API says: the sentence.
        why: String,
    },
    /// So many reports were acknowledged.
    Sent(u64),
}

/// Why the show can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CastError {
    /// The house did not answer.
    #[error("{0}: {1}")]
    Unanswered(String, ureq::Error),
    /// The house answered with an error.
    #[error("{0}: answered {1}: {2}")]
    Refused(String, u16, String),
}

/// A client of the house.
#[derive(Debug)]
pub(crate) struct Cast {
    http: ureq::Agent,
    house: String,
    pace: Pace,
    heard: Sender<Heard>,
}

impl Cast {
    /// A cast for the house at this URL.
    pub(crate) fn new(house: String, pace: Pace, heard: Sender<Heard>) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        Self { http: config.into(), house, pace, heard }
    }

    /// Acts the story until `stop` closes.
    ///
    /// # Errors
    /// When, and only when, the house does not take what it must take.
    pub(crate) fn play(&self, mut story: Story, stop: &Receiver<()>) -> Result<(), CastError> {
        self.act(story.opening())?;
        let pause = Duration::from_millis(STEP_MS) / self.pace.speed;
        let mut due = Instant::now();
        let mut owed = 0; // renewals, in thousandths
        loop {
            due = (due + pause).max(Instant::now()); // a slow house makes a slow story, never a rush
            match stop.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            owed += u64::from(self.pace.rate) * pause.as_millis() as u64;
            self.act(story.step((owed / 1_000) as usize))?;
            owed %= 1_000;
        }
    }

    fn act(&self, step: Step) -> Result<(), CastError> {
        for act in step.acts {
            match act {
                Act::Tell(text) => self.tell(Heard::Told(text)),
                Act::Report(claim) => self.report(claim)?,
                Act::Pin(site, state, for_ms) => self.pin(site, state, for_ms / u64::from(self.pace.speed))?,
                Act::Ask(site) => self.ask(site)?,
            }
        }
        self.renew(&step.renewals)
    }

    /// The view may have ended first; then nobody listens any more.
    fn tell(&self, heard: Heard) {
        let _ = self.heard.send(heard);
    }

    /// Waits until it is applied, so that asking right after sees it.
    fn report(&self, claim: Claim) -> Result<(), CastError> {
        let target = format!("/v1/objects/{}/reports/{}?wait=5s", SITES[claim.site], AGENTS[claim.agent]);
        self.put(&target, &json!({ "state": claim.state }))?;
        self.tell(Heard::Sent(1));
        Ok(())
    }

    fn pin(&self, site: Site, state: &str, for_ms: u64) -> Result<(), CastError> {
        let target = format!("/v1/objects/{}/override?wait=5s", SITES[site]);
        self.put(&target, &json!({ "state": state, "for": format!("{for_ms}ms") }))
    }

    fn renew(&self, claims: &[Claim]) -> Result<(), CastError> {
        if claims.is_empty() {
            return Ok(());
        }
        let line = |claim: &Claim| json!({ "object": SITES[claim.site], "agent": AGENTS[claim.agent], "state": claim.state });
        let lines: String = claims.iter().map(|claim| format!("{}\n", line(claim))).collect();
        let what = "POST /v1/reports".to_owned();
        let answer = self.http.post(format!("{}/v1/reports", self.house)).header("content-type", "application/x-ndjson").send(lines);
        read(what, answer)?;
        self.tell(Heard::Sent(claims.len() as u64));
        Ok(())
    }

    fn ask(&self, site: Site) -> Result<(), CastError> {
        let target = format!("/v1/objects/{}/explain", SITES[site]);
        let answer = read(format!("GET {target}"), self.http.get(format!("{}{target}", self.house)).call())?;
        let explained: Value = serde_json::from_str(&answer).unwrap_or_default();
        let why = explained["why"].as_str().unwrap_or_default().to_owned();
        self.tell(Heard::Why { site: SITES[site], tally: tally_text(&explained["tally"]), why });
        Ok(())
    }

    fn put(&self, target: &str, body: &Value) -> Result<(), CastError> {
        read(format!("PUT {target}"), self.http.put(format!("{}{target}", self.house)).send_json(body)).map(drop)
    }
}

/// "3 of 5 say under_attack, 2 say normal", as the sink and the API write tallies.
pub(crate) fn tally_text(tally: &Value) -> String {
    let mut votes: Vec<_> = tally["votes"].as_object().into_iter().flatten().map(|(state, weight)| (weight.as_i64(), state)).collect();
    votes.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut text = String::new();
    for (weight, state) in votes {
        let weight = weight.unwrap_or_default();
        match text.is_empty() {
            true => text = format!("{weight} of {} say {state}", tally["live"]),
            false => text.push_str(&format!(", {weight} {state}")),
        }
    }
    text
}

fn read(what: String, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, CastError> {
    let unanswered = |error| CastError::Unanswered(what.clone(), error);
    let mut answer = answer.map_err(unanswered)?;
    let body = answer.body_mut().read_to_string().map_err(unanswered)?;
    if answer.status().is_success() && answer.status() != ureq::http::StatusCode::MULTI_STATUS {
        return Ok(body);
    }
    Err(CastError::Refused(what, answer.status().as_u16(), body))
}
