//! Answers as text for people. Names come from agents and may hold anything, so what a terminal would obey is escaped.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::house::{Answer, Failure};

/// Columns of a list are at most so wide, unless a name is longer.
const COLUMN_MAX: usize = 48;

/// A page of a list; its items as they came.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) items: Vec<Box<RawValue>>,
    pub(super) cursor: Option<String>,
}

/// Where a write stands.
#[derive(Deserialize)]
pub(super) struct Place {
    partition: i32,
    offset: i64,
    pub(super) applied: Option<bool>,
    pub(super) detail: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    object: String,
    state: Option<String>,
    since: Option<i64>,
    cause: Option<String>,
    revision: u64,
    rule: String,
    partition: i32,
    tally: Tally,
    r#override: Option<Mask>,
    behind: Option<String>,
}

#[derive(Deserialize)]
struct Tally {
    votes: BTreeMap<String, i64>,
    live: i64,
}

#[derive(Deserialize)]
struct Mask {
    state: String,
    since: i64,
    until: Option<i64>,
}

#[derive(Deserialize)]
struct Explanation {
    #[serde(flatten)]
    object: Object,
    reports: Vec<Report>,
    verdict: Option<String>,
    rule_set: RuleSet,
    why: String,
}

#[derive(Deserialize)]
struct RuleSet {
    text: String,
}

#[derive(Deserialize)]
struct Report {
    agent: String,
    state: String,
    ts: i64,
    weight: u32,
    expires: Option<i64>,
}

impl Page {
    /// One object per line.
    pub(super) fn as_json_lines(&self) -> String {
        self.items.iter().fold(String::new(), |lines, item| lines + item.get() + "\n")
    }
}

/// One object.
pub(super) fn object(answer: &Answer) -> Result<String, Failure> {
    answer.parsed().map(|object| described(&object))
}

/// Objects, one per line: name, state, since when, votes.
pub(super) fn objects(page: &Page) -> Result<String, Failure> {
    let objects: Result<Vec<Object>, _> = page.items.iter().map(|item| serde_json::from_str(item.get())).collect();
    let objects = objects.map_err(|error| Failure::Foreign { url: "the house".to_owned(), why: error.to_string() })?;
    let rows = objects.iter().map(|object| {
        let mark = if object.r#override.is_some() { " (override)" } else { "" };
        let since = object.since.map_or_else(String::new, time);
        [safe(&object.object).into_owned(), format!("{}{mark}", state(object.state.as_deref())), since, votes(&object.tally)]
    });
    Ok(table("", &rows.collect::<Vec<_>>()))
}

/// One object, and what led to its state.
pub(super) fn explanation(answer: &Answer) -> Result<String, Failure> {
    let explanation: Explanation = answer.parsed()?;
    let mut text = described(&explanation.object);
    line(&mut text, "in words", &safe(&explanation.rule_set.text));
    line(&mut text, "verdict", &explanation.verdict.as_deref().map_or(Cow::Borrowed("none"), safe));
    line(&mut text, "why", &safe(&explanation.why));
    line(&mut text, "reports", if explanation.reports.is_empty() { "none" } else { "" });
    let rows = explanation.reports.iter().map(|report| {
        let weight = if report.weight == 1 { String::new() } else { format!("weight {}", report.weight) };
        let good = report.expires.map_or_else(String::new, |ms| good_until(ms, now_ms()));
        [safe(&report.agent).into_owned(), safe(&report.state).into_owned(), time(report.ts), format!("{weight} {good}").trim().to_owned()]
    });
    text += &table("    ", &rows.collect::<Vec<_>>());
    Ok(text)
}

/// What became of a write.
pub(super) fn place(place: &Place) -> String {
    let Place { partition, offset, applied, .. } = place;
    let how = if *applied == Some(true) { "applied" } else { "written" };
    format!("{how}, at offset {offset} of partition {partition}\n")
}

fn described(object: &Object) -> String {
    let mut text = format!("{}: {}\n", safe(&object.object), state(object.state.as_deref()));
    if let (Some(since_ms), Some(cause)) = (object.since, &object.cause) {
        line(&mut text, "since", &format!("{} ({}, revision {})", time(since_ms), safe(cause), object.revision));
    }
    line(&mut text, "tally", &votes(&object.tally));
    line(&mut text, "rule", &safe(&object.rule));
    line(&mut text, "partition", &object.partition.to_string());
    if let Some(mask) = &object.r#override {
        let until = mask.until.map_or_else(|| "until lifted".to_owned(), |until_ms| format!("until {}", time(until_ms)));
        let behind = state(object.behind.as_deref());
        line(&mut text, "override", &format!("{} since {}, {until}; behind it: {behind}", safe(&mask.state), time(mask.since)));
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{}", format!("  {name:<10} {value}").trim_end()); // a String takes all
}

fn state(state: Option<&str>) -> Cow<'_, str> {
    state.map_or(Cow::Borrowed("(no state)"), safe)
}

/// By falling weight.
fn votes(tally: &Tally) -> String {
    let mut votes: Vec<_> = tally.votes.iter().collect();
    votes.sort_by_key(|(_, weight)| -**weight);
    let votes: Vec<_> = votes.iter().map(|(state, weight)| format!("{} {weight}", safe(state))).collect();
    let live = if tally.live == 1 { "1 live report".to_owned() } else { format!("{} live reports", tally.live) };
    if votes.is_empty() { live } else { format!("{} of {live}", votes.join(", ")) }
}

/// Until when a report is good; the house does not end it then, so it may be past.
fn good_until(expires_ms: i64, now_ms: i64) -> String {
    let mark = if expires_ms <= now_ms { " (past; not obeyed yet)" } else { "" };
    format!("good until {}{mark}", time(expires_ms))
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn time(ms: i64) -> String {
    let after = u64::try_from(ms).ok().and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    // The formatter ends with the year 9999; any agent may say it reports from later.
    let shown = after.filter(|_| ms < 253_402_300_800_000).map(|at| humantime::format_rfc3339_millis(at).to_string());
    shown.unwrap_or_else(|| format!("{ms} ms"))
}

/// Rows in columns.
fn table(indent: &str, rows: &[[String; 4]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(COLUMN_MAX);
    let [first, second, third] = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [a, b, c, d] in rows {
        let row = format!("{indent}{a:<first$}  {b:<second$}  {c:<third$}  {d}");
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The text with what a terminal would obey (control characters, changes of the writing direction) escaped.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_command_the_terminal() {
        assert_eq!(safe("plain ü ☃ \\n"), "plain ü ☃ \\n");
        assert_eq!(safe("a\n\u{1b}[31m\u{202e}b\u{9b}"), "a\\n\\u{1b}[31m\\u{202e}b\\u{9b}");
    }

    #[test]
    fn times_are_shown_whatever_they_are() {
        assert_eq!(time(1_500), "1970-01-01T00:00:01.500Z");
        assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        for ms in [253_402_300_800_000, i64::MAX, -1] {
            assert_eq!(time(ms), format!("{ms} ms"));
        }
    }

    #[test]
    fn a_ttl_that_is_past_is_marked() {
        assert_eq!(good_until(2_000, 1_999), "good until 1970-01-01T00:00:02.000Z");
        assert_eq!(good_until(2_000, 2_000), "good until 1970-01-01T00:00:02.000Z (past; not obeyed yet)");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "b", "c", "d"], ["long", "", "cc", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table("  ", &rows), "  a     b  c   d\n  long     cc\n");
    }
}
