//! Answers as JSON: field names and order. Times are milliseconds since the epoch, as on the sink.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;
use statehouse_dataflows::{
    plan::OnEmpty,
    query::{Explanation, ObjectView, ReportView, Summary},
    vocabulary::{Mask, Votes},
};

/// One object.
#[derive(Serialize)]
pub(super) struct ObjectJson<'a> {
    object: &'a str,
    /// Null: not published.
    state: Option<&'a str>,
    /// Null, as `cause`, where nothing was ever published.
    since: Option<i64>,
    cause: Option<&'static str>,
    revision: u64,
    rule: &'a str,
    partition: i32,
    tally: TallyJson<'a>,
    r#override: Option<OverrideJson<'a>>,
    /// What stands behind the override; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<Option<&'a str>>,
}

impl<'a> From<&'a ObjectView> for ObjectJson<'a> {
    fn from(view: &'a ObjectView) -> Self {
        let published = &*view.published;
        let changed = published.revision > 0;
        Self {
            object: &view.object,
            partition: view.partition,
            state: published.state.as_deref(),
            since: changed.then_some(published.since_ms),
            cause: changed.then(|| published.cause.as_str()),
            revision: published.revision,
            rule: &view.rule,
            tally: TallyJson { votes: VotesJson(&view.votes), live: view.votes.live },
            r#override: published.mask.as_ref().map(OverrideJson::from),
            behind: published.mask.as_ref().map(|_| published.behind.as_deref()),
        }
    }
}

#[derive(Serialize)]
struct TallyJson<'a> {
    votes: VotesJson<'a>,
    live: i64,
}

/// By falling weight, as they come.
struct VotesJson<'a>(&'a Votes);

impl Serialize for VotesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.weights.len()))?;
        for (state, weight) in &self.0.weights {
            map.serialize_entry(&**state, weight)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct OverrideJson<'a> {
    state: &'a str,
    since: i64,
    /// Null: until lifted.
    until: Option<i64>,
}

impl<'a> From<&'a Mask> for OverrideJson<'a> {
    fn from(mask: &'a Mask) -> Self {
        Self { state: &mask.state, since: mask.since_ms, until: mask.until_ms }
    }
}

/// A page of objects.
#[derive(Serialize)]
pub(super) struct ListJson<'a> {
    /// Each an [`ObjectJson`], written here or by another instance.
    pub(super) items: Vec<&'a RawValue>,
    /// Null: this is the last page.
    pub(super) cursor: Option<String>,
}

/// An object's reports.
#[derive(Serialize)]
pub(super) struct ReportsJson<'a> {
    pub(super) object: &'a str,
    pub(super) reports: Vec<ReportJson<'a>>,
}

/// One agent's report.
#[derive(Serialize)]
pub(super) struct ReportJson<'a> {
    agent: &'a str,
    state: &'a str,
    ts: i64,
    offset: i64,
    weight: u32,
    /// Null: it does not expire.
    expires: Option<i64>,
}

impl<'a> From<&'a ReportView> for ReportJson<'a> {
    fn from(view: &'a ReportView) -> Self {
        let report = &view.report;
        let (ts, offset, expires) = (report.ts_ms, report.offset, report.due_ms);
        Self { agent: &view.agent, state: &report.state, ts, offset, weight: view.weight, expires }
    }
}

/// Why an object is what it is: the object's own fields, then what led to them.
#[derive(Serialize)]
pub(super) struct ExplanationJson<'a> {
    #[serde(flatten)]
    object: ObjectJson<'a>,
    /// Null: none.
    verdict: Option<&'a str>,
    reports: Vec<ReportJson<'a>>,
    rule_set: RuleSetJson<'a>,
    why: &'a str,
}

#[derive(Serialize)]
struct RuleSetJson<'a> {
    prefix: &'a str,
    text: &'a str,
    min_reports: u32,
    on_empty: &'static str,
}

impl<'a> From<&'a Explanation> for ExplanationJson<'a> {
    fn from(explanation: &'a Explanation) -> Self {
        let on_empty = match explanation.on_empty {
            OnEmpty::Remove => "remove",
            OnEmpty::Keep => "keep",
        };
        Self {
            object: (&explanation.object).into(),
            verdict: explanation.verdict.as_deref(),
            reports: explanation.reports.iter().map(ReportJson::from).collect(),
            rule_set: RuleSetJson {
                prefix: &explanation.prefix,
                text: &explanation.rule_text,
                min_reports: explanation.min_reports,
                on_empty,
            },
            why: &explanation.why,
        }
    }
}

/// Objects by state.
pub(super) struct SummaryJson<'a>(pub(super) &'a Summary);

impl Serialize for SummaryJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Counts<'a> {
            objects: i64,
            by_state: std::collections::BTreeMap<&'a str, i64>,
            without_state: i64,
        }
        let objects = self.0.iter().map(|(_, count)| count).sum();
        let by_state = self.0.iter().filter_map(|(state, count)| Some((state.as_deref()?, *count))).collect();
        let without_state = self.0.iter().filter(|(state, _)| state.is_none()).map(|(_, count)| count).sum();
        Counts { objects, by_state, without_state }.serialize(serializer)
    }
}
