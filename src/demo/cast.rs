//! The cast: plays the story's agents and its operator against the house's HTTP API, at the pace of the clock.
//!
//! Takes [`Step`]s from the story; sends what the narrator says, and what the house answers when it is asked why, to the view. It is the
//! only one that writes, and one request follows the other, so a seed makes the same changes in the same order every time.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use serde_json::{Value, json};

use super::{
    client::{Client, ClientError},
    story::{Act, Claim, STEP_MS, Step, Story},
    world::{AGENTS, SITES, Site},
};

/// How fast the story goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Reports per second.
    pub(super) rate: u32,
    /// How many times faster than told.
    pub(super) speed: u32,
}

/// What the view hears from the cast.
#[derive(Debug)]
pub(super) enum Heard {
    /// The narrator's words.
    Told(String),
    /// The house's words about a site.
    Why {
        /// The site.
        site: &'static str,
        /// Its tally, in words.
        tally: String,
        /// Why it is what it is.
        why: String,
    },
    /// So many reports were acknowledged.
    Sent(u64),
}

/// Everybody on stage.
#[derive(Debug)]
pub(super) struct Cast {
    house: Client,
    pace: Pace,
    heard: Sender<Heard>,
}

impl Cast {
    /// A cast for this house.
    pub(super) fn new(house: Client, pace: Pace, heard: Sender<Heard>) -> Self {
        Self { house, pace, heard }
    }

    /// Acts the story until `stop` closes.
    ///
    /// # Errors
    /// When, and only when, the house does not take what it must take.
    pub(super) fn play(&self, mut story: Story, stop: &Receiver<()>) -> Result<(), ClientError> {
        self.act(story.opening())?;
        let pause = Duration::from_millis(STEP_MS) / self.pace.speed;
        let mut due = Instant::now();
        let mut owed = 0; // renewals, in millionths
        loop {
            due = (due + pause).max(Instant::now()); // a slow house makes a slow story, never a rush
            match stop.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            owed += u64::from(self.pace.rate) * pause.as_micros() as u64;
            self.act(story.step((owed / 1_000_000) as usize))?;
            owed %= 1_000_000;
        }
    }

    fn act(&self, step: Step) -> Result<(), ClientError> {
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
    fn report(&self, claim: Claim) -> Result<(), ClientError> {
        let target = format!("/v1/objects/{}/reports/{}?wait=5s", SITES[claim.site], AGENTS[claim.agent]);
        self.house.put(&target, &json!({ "state": claim.state }))?;
        self.tell(Heard::Sent(1));
        Ok(())
    }

    fn pin(&self, site: Site, state: &str, for_ms: u64) -> Result<(), ClientError> {
        let target = format!("/v1/objects/{}/override?wait=5s", SITES[site]);
        self.house.put(&target, &json!({ "state": state, "for": format!("{for_ms}ms") }))
    }

    fn renew(&self, claims: &[Claim]) -> Result<(), ClientError> {
        if claims.is_empty() {
            return Ok(());
        }
        let line = |claim: &Claim| json!({ "object": SITES[claim.site], "agent": AGENTS[claim.agent], "state": claim.state });
        let lines = claims.iter().map(|claim| line(claim).to_string() + "\n").collect();
        self.house.post_lines("/v1/reports", lines)?;
        self.tell(Heard::Sent(claims.len() as u64));
        Ok(())
    }

    fn ask(&self, site: Site) -> Result<(), ClientError> {
        let explained = self.house.get(&format!("/v1/objects/{}/explain", SITES[site]))?;
        let why = explained["why"].as_str().unwrap_or_default().to_owned();
        self.tell(Heard::Why { site: SITES[site], tally: tally_text(&explained["tally"]), why });
        Ok(())
    }
}

/// "3 of 5 say under_attack, 2 normal", of a tally as the sink and the API write it. Empty where there is none.
pub(super) fn tally_text(tally: &Value) -> String {
    let mut votes: Vec<_> = tally["votes"].as_object().into_iter().flatten().map(|(state, weight)| (weight.as_i64(), state)).collect();
    votes.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut text = String::new();
    for (weight, state) in votes {
        let weight = weight.unwrap_or_default();
        if text.is_empty() {
            text = format!("{weight} of {} say {state}", tally["live"]);
        } else {
            text += &format!(", {weight} {state}");
        }
    }
    text
}
