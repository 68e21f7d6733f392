//! The view: one line for each change that the house publishes, with its cause; the narrator's lines between them; and, on a terminal, a
//! status line below that is always up to date. Elsewhere (a pipe, a file) the status is a plain line now and then.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant},
};

use serde_json::Value;
use statehouse_dataflows::vocabulary::Cause;

use super::{
    cast::{Heard, tally_text},
    world::{MAINTENANCE, NORMAL, SITES, UNDER_ATTACK},
};
use crate::{encode, log::SinkRecord};

/// Changes of one kind that come together and are shown one by one; the others of them are counted.
const ALIKE_SHOWN: usize = 4;
/// How often the status is written where there is no terminal.
const PLAIN_STATUS_EVERY: Duration = Duration::from_secs(10);
/// How often the rate is measured.
const RATE_EVERY: Duration = Duration::from_secs(2);

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Writes the demo's lines.
#[derive(Debug)]
pub(super) struct View<W: Write> {
    out: W,
    /// Colours and a status line that stays; else plain lines.
    live: bool,
    start: Instant,
    sent: u64,
    published: u64,
    rate: Rate,
    by_state: BTreeMap<String, u64>,
    plain_status: Instant,
}

/// A change, as read back from the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    object: String,
    previous: Option<String>,
    state: Option<String>,
    why: String,
    /// Whether an override's end caused it.
    unmasks: bool,
}

#[derive(Debug)]
struct Rate {
    since: Instant,
    sent: u64,
    per_second: u64,
}

impl<W: Write> View<W> {
    /// A view on this output.
    pub(super) fn new(out: W, live: bool) -> Self {
        let start = Instant::now();
        let rate = Rate { since: start, sent: 0, per_second: 0 };
        Self { out, live, start, sent: 0, published: 0, rate, by_state: BTreeMap::new(), plain_status: start }
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        let wipe = if self.live { "\r\x1b[2K" } else { "" };
        writeln!(self.out, "{wipe}{text}")
    }

    /// What the cast has to say.
    pub(super) fn heard(&mut self, heard: Heard) -> io::Result<()> {
        match heard {
            Heard::Sent(reports) => {
                self.sent += reports;
                Ok(())
            }
            Heard::Told(text) => self.told(&text),
            Heard::Why { site, tally, why } => {
                let text = format!("{}{site:<18} {tally}: {why}", self.time());
                self.line(&self.painted(DIM, &text))
            }
        }
    }

    /// A line of the narrator's.
    fn told(&mut self, text: &str) -> io::Result<()> {
        let text = format!("{}── {text}", self.time());
        self.line(&self.painted(BOLD, &text))
    }

    /// Changes read from the sink, in order. Many of one kind are folded.
    pub(super) fn changes<'a>(&mut self, records: impl Iterator<Item = &'a SinkRecord>) -> io::Result<()> {
        let seen: Vec<Seen> = records.map(Seen::of).collect();
        self.published += seen.len() as u64;
        for alike in seen.chunk_by(|a, b| (&a.previous, &a.state) == (&b.previous, &b.state)) {
            let shown = if alike.len() > ALIKE_SHOWN + 1 { ALIKE_SHOWN } else { alike.len() };
            for change in &alike[..shown] {
                self.change(change)?;
            }
            if let [change, ..] = &alike[shown..] {
                let text = format!("{}and {} more, likewise {}", self.time(), alike.len() - shown, self.arrow(change));
                self.line(&text)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, change: &Seen) -> io::Result<()> {
        if change.unmasks {
            // The house ends it by its own clock, so it is told when it shows, and not by the story.
            self.told(&format!("The override of {} has ended: what stands behind it shows again", change.object))?;
        }
        // Padded before it is painted: colours have no width.
        let width = "under_attack → maintenance".chars().count();
        let plain = format!("{} → {}", shown(change.previous.as_deref()), shown(change.state.as_deref()));
        let pad = " ".repeat(width.saturating_sub(plain.chars().count()));
        let text = format!("{}{:<18} {}{pad}  {}", self.time(), change.object, self.arrow(change), change.why);
        self.line(&text)
    }

    /// Objects by state, as the API counts them.
    pub(super) fn summary(&mut self, by_state: BTreeMap<String, u64>) {
        self.by_state = by_state;
    }

    /// Brings the status up to date.
    pub(super) fn status(&mut self) -> io::Result<()> {
        self.rate.measure(self.sent);
        let states: Vec<_> = self.by_state.iter().map(|(state, count)| format!("{count} {}", self.coloured(state))).collect();
        let states = if states.is_empty() { "starting".to_owned() } else { states.join(", ") };
        let (rate, sent, published) = (self.rate.per_second, self.sent, self.published);
        let text = format!("{} sites: {states} · {rate} reports/s · {sent} reports, {published} changes", SITES.len());
        if self.live {
            // Without wrapping, or a narrow window would keep every line's tail.
            write!(self.out, "\r\x1b[2K\x1b[?7l{text}\x1b[?7h")?;
        } else if self.plain_status.elapsed() >= PLAIN_STATUS_EVERY {
            self.plain_status = Instant::now();
            self.line(&text)?;
        }
        self.out.flush()
    }

    /// The last line.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let text = format!("Ended: {} reports sent, {} changes published, each exactly once.", self.sent, self.published);
        self.line(&text)?;
        self.out.flush()
    }

    fn time(&self) -> String {
        format!("{:6.1} s  ", self.start.elapsed().as_secs_f32())
    }

    fn arrow(&self, change: &Seen) -> String {
        let coloured = |state: &Option<String>| self.coloured(shown(state.as_deref()));
        format!("{} → {}", coloured(&change.previous), coloured(&change.state))
    }

    fn coloured(&self, state: &str) -> String {
        let colour = match state {
            NORMAL => "\x1b[32m",
            UNDER_ATTACK => "\x1b[31m",
            MAINTENANCE => "\x1b[33m",
            _ => DIM,
        };
        self.painted(colour, state)
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.live { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}

impl Seen {
    /// A tombstone says what it must in headers, any other change in its value.
    fn of(record: &SinkRecord) -> Self {
        let value: Value = record.value.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
        let header = |name| record.headers.iter().find(|(have, _)| *have == name).map(|(_, text)| text.clone());
        let text = |field: &str| value[field].as_str().map(str::to_owned);
        let cause = text("cause").or_else(|| header(encode::CAUSE_HEADER)).unwrap_or_default();
        let previous = text("previous").or_else(|| header(encode::PREVIOUS_HEADER));
        let state = text("state");
        // Nothing but overrides says that a site is under maintenance.
        let unmasks =
            cause == Cause::Override.as_str() && previous.as_deref() == Some(MAINTENANCE) && state.as_deref() != Some(MAINTENANCE);
        let why = match tally_text(&value["tally"]) {
            tally if tally.is_empty() => cause,
            tally => format!("{cause}: {tally} ({})", value["rule"].as_str().unwrap_or_default()),
        };
        Self { object: record.key.to_string(), previous, state, why, unmasks }
    }
}

impl Rate {
    fn measure(&mut self, sent: u64) {
        let elapsed = self.since.elapsed();
        if elapsed >= RATE_EVERY {
            self.per_second = ((sent - self.sent) as f64 / elapsed.as_secs_f64()).round() as u64;
            (self.since, self.sent) = (Instant::now(), sent);
        }
    }
}

/// A state in words; none is "not published".
fn shown(state: Option<&str>) -> &str {
    state.unwrap_or("—")
}
