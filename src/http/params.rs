//! What stands in the request's target: names in the path, parameters in the query. Strict: what is not understood is refused, so that a
//! misspelt parameter never answers a different question.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::problem::Problem;

/// The parameter that an instance adds when it sends a client to another: understood everywhere.
pub(super) const VIA: &str = "via";

/// The object of the path. The router splits the raw path at `/` and decodes each part once.
pub(super) struct ObjectPath(pub(super) String);

/// The object and the agent of the path.
pub(super) struct ReportPath {
    pub(super) object: String,
    pub(super) agent: String,
}

/// The query's parameters, each at most once.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for ObjectPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(object) = Path::from_request_parts(parts, state).await.map_err(|_| not_utf8())?;
        Ok(Self(object))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ReportPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((object, agent)) = Path::from_request_parts(parts, state).await.map_err(|_| not_utf8())?;
        Ok(Self { object, agent })
    }
}

/// The one way in which a path that matched a route can be refused.
fn not_utf8() -> Problem {
    Problem::invalid("a name in the path is not UTF-8 after percent-decoding")
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Params {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut params = Vec::<(String, String)>::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if params.iter().any(|(have, _)| *have == name) {
                return Err(Problem::invalid(format!("parameter {name:?} stands twice: give it once")).with("parameter", name));
            }
            params.push((name, value));
        }
        Ok(Self(params))
    }

    /// Refuses every parameter but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| name != VIA && !known.contains(&name.as_str())) else { return Ok(()) };
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Problem::invalid(format!("parameter {name:?} is not known here; known: {known}")).with("parameter", name.as_str()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// A whole number within a range.
    pub(super) fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Problem::invalid(format!("{name}={text:?}: give a whole number from {least} to {most}")).with("parameter", name)
        })
    }

    /// A duration with a unit, at most so long.
    pub(super) fn duration(&self, name: &str, most: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let refused = |why: &str| {
            let most = humantime::format_duration(most);
            Problem::invalid(format!("{name}={text:?} {why} of at most {most}")).with("parameter", name)
        };
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= most => Ok(Some(duration)),
            Ok(_) => Err(refused("is too long: give a duration")),
            Err(_) => Err(refused("is not understood: give a duration with a unit, such as 2s,")),
        }
    }
}

impl Params {
    /// A flag: `true`, or nothing, says yes.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(text) => Err(Problem::invalid(format!("{name}={text:?}: give true or false")).with("parameter", name)),
        }
    }

    /// A position, as in the header `Statehouse-Position`.
    pub(super) fn position(&self, name: &str) -> Result<BTreeMap<Partition, Offset>, Problem> {
        let text = self.get(name).unwrap_or_default();
        position_of(text).filter(|position| !position.is_empty()).ok_or_else(|| {
            let fix = "give partition:offset, several by comma, as an answer's Statehouse-Position does";
            Problem::invalid(format!("{name}={text:?}: {fix}")).with("parameter", name)
        })
    }
}

/// Reads `partition:offset`, several by comma.
pub(super) fn position_of(text: &str) -> Option<BTreeMap<Partition, Offset>> {
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        Some((partition.parse().ok().filter(|partition| *partition >= 0)?, offset.parse().ok().filter(|offset| *offset >= 0)?))
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// Decodes as browsers encode forms: `+` is a space.
fn decoded(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| Problem::invalid("the query is not UTF-8 after percent-decoding"))
}
