//! What a record of the source says, read once more: a second, plain reading of the few forms that the workload writes.

use serde_json::Value;
use statehouse_dataflows::vocabulary::Millis;

/// What one record asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Report { agent: String, state: String, ts_ms: Millis },
    Withdraw { agent: String, ts_ms: Millis },
    Override { state: String, for_ms: Option<Millis> },
    Lift,
    Purge,
}

/// None: a reject.
pub(crate) fn told(value: Option<&[u8]>, timestamp_ms: Millis) -> Option<Told> {
    const SKEW_MS: Millis = 300_000;
    let Some(value) = value else { return Some(Told::Purge) };
    let value: Value = serde_json::from_slice(value).ok()?;
    let fields = value.as_object()?;
    let state = match fields.get("state")? {
        Value::Null => None,
        Value::String(state) if !state.is_empty() => Some(state.clone()),
        _ => return None,
    };
    if fields.get("type").is_some_and(|kind| kind == "override") {
        let for_ms = fields.get("for").and_then(Value::as_i64);
        return Some(state.map_or(Told::Lift, |state| Told::Override { state, for_ms }));
    }
    let agent = fields.get("agent")?.as_str().filter(|agent| !agent.is_empty())?.to_owned();
    let ts_ms = fields.get("ts").map_or(Some(timestamp_ms), Value::as_i64)?.min(timestamp_ms + SKEW_MS);
    Some(match state {
        Some(state) => Told::Report { agent, state, ts_ms },
        None => Told::Withdraw { agent, ts_ms },
    })
}
