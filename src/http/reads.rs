//! Questions: from a path and parameters to a question at the desk, and from its answer to JSON with its position.

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use statehouse_dataflows::{
    query::ListQuery,
    vocabulary::{Offset, Partition},
};

use super::{
    Front, cursor,
    json::Json,
    params::{ObjectPath, Params},
    problem::{self, Problem},
    view::{ExplanationJson, ListJson, ObjectJson, ReportJson, ReportsJson, SummaryJson},
};
use crate::desk::Answered;

/// As of which position an answer is: `partition:offset` by comma; every record before the offset is in it.
pub(super) const POSITION: HeaderName = HeaderName::from_static("statehouse-position");
/// For how many milliseconds the answer has been stale (of a copy: was not known to be all that is committed; of one who was asleep: another may
/// have owned the partition); absent if it is not.
const LAG: HeaderName = HeaderName::from_static("statehouse-lag-ms");

/// How many objects a list shows unless told.
const LIST_DEFAULT: usize = 100;

pub(super) async fn object(State(front): State<Front>, ObjectPath(name): ObjectPath, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = front.desk.with_copies().object(&name).await?;
    Ok(about(&name, &answered, ObjectJson::from))
}

pub(super) async fn reports(State(front): State<Front>, ObjectPath(name): ObjectPath, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = front.desk.with_copies().reports(&name).await?;
    Ok(about(&name, &answered, |reports| ReportsJson { object: &name, reports: reports.iter().map(ReportJson::from).collect() }))
}

pub(super) async fn explain(State(front): State<Front>, ObjectPath(name): ObjectPath, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = front.desk.with_copies().explain(&name).await?;
    Ok(about(&name, &answered, |why| ExplanationJson::from(&**why)))
}

pub(super) async fn list(State(front): State<Front>, params: Params) -> Result<Response, Problem> {
    params.only(&["prefix", "state", "limit", "cursor"])?;
    let max = front.limits.max_list;
    let limit = params.number("limit", 1..=max)?.unwrap_or(LIST_DEFAULT.min(max));
    let state = params.get("state").map(|state| (!state.is_empty()).then(|| state.to_owned()));
    let mut query = ListQuery { prefix: params.get("prefix").unwrap_or_default().to_owned(), state, after: None, limit: limit + 1 };
    query.after = params.get("cursor").map(|text| cursor::decode(&query, text)).transpose()?;
    let mut answered = front.desk.with_copies().list(query.clone()).await?;
    let more = answered.value.len() > limit; // one was asked for beyond the page, just to know
    answered.value.truncate(limit);
    let last = answered.value.last().filter(|_| more);
    let cursor = last.map(|view| cursor::encode(&query, (&view.object, view.partition)));
    let items = answered.value.iter().map(ObjectJson::from).collect();
    Ok(answer(&answered, &ListJson { items, cursor }))
}

pub(super) async fn summary(State(front): State<Front>, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = front.desk.with_copies().summary().await?;
    Ok(answer(&answered, &SummaryJson(&answered.value)))
}

/// That an object is not known is an answer, too, as of a position like any other.
fn about<'a, T, B: Serialize>(name: &str, answered: &'a Answered<Option<T>>, body: impl FnOnce(&'a T) -> B) -> Response {
    match &answered.value {
        Some(value) => answer(answered, &body(value)),
        None => {
            let unknown = Problem::new(problem::OBJECT_NOT_FOUND, format!("no object {name:?} is known")).with("object", name);
            placed(answered, unknown.into_response())
        }
    }
}

fn answer<T>(answered: &Answered<T>, body: &impl Serialize) -> Response {
    placed(answered, Json(body).into_response())
}

fn placed<T>(answered: &Answered<T>, mut response: Response) -> Response {
    let position = answered.position.iter().map(|(&partition, &offset)| (partition, offset));
    response.headers_mut().insert(POSITION, position_value(position));
    if let Some(stale_ms) = answered.stale_ms {
        response.headers_mut().insert(LAG, HeaderValue::from(stale_ms));
    }
    response
}

/// The text of the header [`POSITION`].
pub(super) fn position_value(position: impl Iterator<Item = (Partition, Offset)>) -> HeaderValue {
    let parts: Vec<_> = position.map(|(partition, offset)| format!("{partition}:{offset}")).collect();
    HeaderValue::try_from(parts.join(",")).expect("digits, colons and commas are a header's text")
}
