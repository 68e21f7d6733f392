//! What the raw JSON text of each field means. Every text here was parsed once: it is valid JSON but for lone surrogates in strings.

use std::{borrow::Cow, num::IntErrorKind};

use statehouse_dataflows::vocabulary::Millis;

use super::{DURATION_MS_MAX, Reason, Reject, STATE_BYTES_MAX, too_long};

/// Whether the record's type says that it is an override; else it is a report.
pub(super) fn is_override(raw: Option<&str>) -> Result<bool, Reject> {
    match raw {
        None | Some("null" | "\"report\"") => Ok(false),
        Some("\"override\"") => Ok(true),
        Some(raw) => match string(raw, Reason::BadType)?.as_ref() {
            "report" => Ok(false),
            "override" => Ok(true),
            _ => Err(Reject::new(Reason::BadType, "the type is neither \"report\" nor \"override\"")),
        },
    }
}

/// The state: a string's content, or the JSON text of anything else, without whitespace.
pub(super) fn state<'a>(raw: &'a str, buffer: &'a mut String) -> Result<&'a str, Reject> {
    let state = match plain(raw) {
        Some(plain) => plain,
        None => {
            *buffer = if raw.starts_with('"') { string(raw, Reason::NotJson)?.into_owned() } else { compact(raw) };
            buffer
        }
    };
    match state.len() {
        0 => Err(Reject::new(Reason::NoState, "the state is empty (write null to withdraw a report or lift an override)")),
        bytes if bytes > STATE_BYTES_MAX => Err(too_long(Reason::StateTooLarge, "the state", bytes, STATE_BYTES_MAX)),
        _ => Ok(state),
    }
}

/// The agent: a string, or a number as written. May be empty or too long.
pub(super) fn agent<'a>(raw: Option<&'a str>, buffer: &'a mut String) -> Result<&'a str, Reject> {
    match raw {
        None | Some("null") => Err(Reject::new(Reason::NoAgent, "there is no agent: name who reports")),
        Some(raw) if raw.starts_with(['{', '[', 't', 'f']) => {
            Err(Reject::new(Reason::BadAgent, "the agent is neither a string nor a number"))
        }
        Some(raw) => match plain(raw) {
            Some(plain) => Ok(plain),
            None => {
                *buffer = string(raw, Reason::BadAgent)?.into_owned();
                Ok(buffer)
            }
        },
    }
}

/// The report's own time. Fractions of milliseconds are cut off; what is beyond any clock is [`Millis::MAX`].
pub(super) fn ts_ms(raw: Option<&str>) -> Result<Option<Millis>, Reject> {
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(None) };
    match millis(raw) {
        Some(ms) if ms >= 0 => Ok(Some(ms)),
        Some(_) => Err(Reject::new(Reason::BadTs, "the time is negative")),
        None => Err(Reject::new(Reason::BadTs, "the time is not a number of milliseconds")),
    }
}

/// A duration such as `"30s"`, or milliseconds, at least 1 and at most [`DURATION_MS_MAX`].
pub(super) fn duration_ms(raw: Option<&str>, reason: Reason) -> Result<Option<Millis>, Reject> {
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(None) };
    let ms = if raw.starts_with('"') {
        let text = string(raw, reason)?;
        // The text last: where it is long, it is what the detail's bound cuts off.
        let unread = |error| Reject::new(reason, format!("not a duration ({error}): {text:?}"));
        let duration = humantime::parse_duration(&text).map_err(unread)?;
        Some(Millis::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(DURATION_MS_MAX))
    } else {
        millis(raw)
    };
    match ms {
        Some(ms) if ms > 0 => Ok(Some(ms.min(DURATION_MS_MAX))),
        Some(_) => Err(Reject::new(reason, "the duration is not positive")),
        None => Err(Reject::new(reason, "neither a duration such as \"30s\" nor a number of milliseconds")),
    }
}

/// A JSON number as whole milliseconds, held within what a [`Millis`] holds; none for what is no number.
fn millis(raw: &str) -> Option<Millis> {
    match raw.parse::<Millis>() {
        Ok(ms) => Some(ms),
        Err(e) if *e.kind() == IntErrorKind::PosOverflow => Some(Millis::MAX),
        Err(e) if *e.kind() == IntErrorKind::NegOverflow => Some(Millis::MIN),
        // Rust would take "inf" and "nan" for numbers, but neither is JSON. The cast saturates.
        Err(_) => raw.parse::<f64>().ok().filter(|_| !raw.starts_with('"')).map(|ms| ms.floor() as Millis),
    }
}

/// What can be borrowed as it stands: a string without escapes, or a text that has no whitespace in it and is no string.
fn plain(raw: &str) -> Option<&str> {
    match raw.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.as_bytes().contains(&b'\\')),
        None => Some(raw).filter(|raw| !raw.bytes().any(|b| b.is_ascii_whitespace())),
    }
}

fn string(raw: &str, reason: Reason) -> Result<Cow<'_, str>, Reject> {
    if let Some(plain) = plain(raw).filter(|_| raw.starts_with('"')) {
        return Ok(Cow::Borrowed(plain));
    }
    serde_json::from_str(raw).map(Cow::Owned).map_err(|e| Reject::new(reason, format!("not a string: {e}")))
}

/// JSON without the whitespace between its tokens.
fn compact(raw: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let keeps = in_string || !c.is_ascii_whitespace();
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        keeps
    };
    raw.chars().filter(keep).collect()
}
