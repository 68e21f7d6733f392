//! Questions: from a path and parameters to a question at the desk, and from its answer to JSON with its position.

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use statehouse_dataflows::{
    query::ListQuery,
    vocabulary::{Offset, Partition},
};

use super::{
    Front, cursor,
    elsewhere::{self, Asked},
    gather::{self, Wanted},
    json::Json,
    params::{ObjectPath, Params},
    problem::{self, Problem},
    view::{ExplanationJson, ListJson, ObjectJson, ReportJson, ReportsJson, SummaryJson},
};
use crate::desk::{Answered, Desk, Unavailable};

/// As of which position an answer is: `partition:offset` by comma; every record before the offset is in it.
pub(super) const POSITION: HeaderName = HeaderName::from_static("statehouse-position");
/// For how many milliseconds the answer has been stale (of a copy: was not known to be all that is committed; of one who was asleep: another may
/// have owned the partition); absent if it is not.
pub(super) const LAG: HeaderName = HeaderName::from_static("statehouse-lag-ms");

/// What parts of an answer have in common.
const CONSISTENCY: HeaderName = HeaderName::from_static("statehouse-consistency");

/// How many objects a list shows unless told.
const LIST_DEFAULT: usize = 100;

pub(super) async fn object(
    State(front): State<Front>,
    ObjectPath(name): ObjectPath,
    params: Params,
    asked: Asked,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = match here_or_elsewhere(&front, &asked, &name, |desk, name| async move { desk.object(name).await }).await? {
        Known::Here(answered) => answered,
        Known::Elsewhere(response) => return Ok(response),
    };
    Ok(about(&name, &answered, ObjectJson::from))
}

pub(super) async fn reports(
    State(front): State<Front>,
    ObjectPath(name): ObjectPath,
    params: Params,
    asked: Asked,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = match here_or_elsewhere(&front, &asked, &name, |desk, name| async move { desk.reports(name).await }).await? {
        Known::Here(answered) => answered,
        Known::Elsewhere(response) => return Ok(response),
    };
    Ok(about(&name, &answered, |reports| ReportsJson { object: &name, reports: reports.iter().map(ReportJson::from).collect() }))
}

pub(super) async fn explain(
    State(front): State<Front>,
    ObjectPath(name): ObjectPath,
    params: Params,
    asked: Asked,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let answered = match here_or_elsewhere(&front, &asked, &name, |desk, name| async move { desk.explain(name).await }).await? {
        Known::Here(answered) => answered,
        Known::Elsewhere(response) => return Ok(response),
    };
    Ok(about(&name, &answered, |why| ExplanationJson::from(&**why)))
}

pub(super) async fn list(State(front): State<Front>, params: Params, asked: Asked) -> Result<Response, Problem> {
    params.only(&["prefix", "state", "limit", "cursor", "local"])?;
    let max = front.limits.max_list;
    let limit = params.number("limit", 1..=max)?.unwrap_or(LIST_DEFAULT.min(max));
    let state = params.get("state").map(|state| (!state.is_empty()).then(|| state.to_owned()));
    let mut query = ListQuery { prefix: params.get("prefix").unwrap_or_default().to_owned(), state, after: None, limit };
    let cursor = params.get("cursor");
    query.after = cursor.map(|text| cursor::decode(&query, text)).transpose()?;
    let is_local = params.flag("local")?;
    let answered = gather::list(&front, &asked, Wanted { query: &query, cursor, is_local }).await?;
    let page = &answered.value;
    let last = page.items.last().filter(|_| page.more);
    let cursor = last.map(|item| cursor::encode(&query, (&item.object, item.partition)));
    Ok(per_partition(answer(&answered, &ListJson { items: page.items.iter().map(|item| &*item.json).collect(), cursor })))
}

pub(super) async fn summary(State(front): State<Front>, params: Params, asked: Asked) -> Result<Response, Problem> {
    params.only(&["local"])?;
    let is_local = params.flag("local")?;
    let answered = gather::summary(&front, &asked, is_local).await?;
    Ok(per_partition(answer(&answered, &SummaryJson(&answered.value))))
}

/// Says that each partition is shown as of its own position: the whole is not one moment's picture.
fn per_partition(mut response: Response) -> Response {
    response.headers_mut().insert(CONSISTENCY, HeaderValue::from_static("per-partition"));
    response
}

/// What was found about an object.
enum Known<T> {
    Here(Answered<Option<T>>),
    Elsewhere(Response),
}

/// Asks this instance, else the owner, else a warm copy here: who knows best comes first.
async fn here_or_elsewhere<'a, T, F>(
    front: &Front,
    asked: &Asked,
    name: &'a str,
    ask: impl Fn(Desk, &'a str) -> F,
) -> Result<Known<T>, Problem>
where
    F: Future<Output = Result<Answered<Option<T>>, Unavailable>>,
{
    let why = match ask(front.desk.clone(), name).await {
        Ok(answered) => return Ok(Known::Here(answered)),
        Err(why) => why,
    };
    let said = elsewhere::about(front, asked, name, why).await;
    if let Ok(response) = said.as_ref()
        && response.status() != StatusCode::SERVICE_UNAVAILABLE
    {
        return said.map(Known::Elsewhere);
    }
    match ask(front.desk.with_copies(), name).await {
        Ok(answered) => Ok(Known::Here(answered)),
        Err(_) => said.map(Known::Elsewhere),
    }
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
