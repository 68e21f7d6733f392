//! Writes: each request is one record of the source; the answer says where it stands and, where asked to wait, whether it is applied.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Front,
    applied::{self, Waited},
    body,
    json::Json,
    params::{ObjectPath, Params, ReportPath},
    problem::Problem,
    reads::{POSITION, position_value},
    record::Write,
};

/// Where a record stands.
#[derive(Serialize)]
struct PlaceJson {
    partition: i32,
    offset: i64,
    /// Absent if nobody asked to wait; null if only another instance can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Option<bool>>,
    /// Why that can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(super) async fn report(State(front): State<Front>, path: ReportPath, params: Params, request: Request) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait"])?;
    let received = body::read(&front, request).await?;
    let report = Write::report(&front.decoder, path.object, &path.agent, &received.bytes)?;
    drop(received);
    write(&front, report, wait).await
}

pub(super) async fn withdraw(State(front): State<Front>, path: ReportPath, params: Params) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait", "ts"])?;
    let ts_ms = params.number("ts", 0..=i64::MAX)?;
    let withdrawal = Write::withdrawal(&front.decoder, path.object, &path.agent, ts_ms)?;
    write(&front, withdrawal, wait).await
}

pub(super) async fn pin(
    State(front): State<Front>,
    ObjectPath(object): ObjectPath,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait"])?;
    let received = body::read(&front, request).await?;
    let pin = Write::pin(&front.decoder, object, &received.bytes)?;
    drop(received);
    write(&front, pin, wait).await
}

pub(super) async fn lift(State(front): State<Front>, ObjectPath(object): ObjectPath, params: Params) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait"])?;
    write(&front, Write::lift(&front.decoder, object)?, wait).await
}

pub(super) async fn purge(State(front): State<Front>, ObjectPath(object): ObjectPath, params: Params) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait"])?;
    write(&front, Write::purge(&front.decoder, object)?, wait).await
}

/// The path of a report, but without an agent in it.
pub(super) async fn of_no_agent() -> Problem {
    Problem::invalid("the agent's name is empty: write who reports after /reports/").with("field", "agent")
}

/// The parameter `wait`, which leaves time to answer within the bound on the whole request.
pub(super) fn wait(front: &Front, params: &Params, known: &[&str]) -> Result<Option<Duration>, Problem> {
    params.only(known)?;
    params.duration("wait", Duration::from_millis(front.limits.request_timeout_ms / 5 * 4))
}

async fn write(front: &Front, record: Write, wait: Option<Duration>) -> Result<Response, Problem> {
    let (partition, offset) = front.desk.append(&record.object, record.value.as_deref()).await?;
    // As in an answer to a read: the position from which on this record is in it.
    let position = BTreeMap::from([(partition, offset + 1)]);
    let waited = match wait {
        Some(wait) => Some(applied::until(front, None, (&position, wait)).await),
        None => None,
    };
    let applied = waited.as_ref().map(|waited| waited.as_ref().ok().copied());
    let body = PlaceJson { partition, offset, applied, detail: why_not_told(waited.as_ref()) };
    let mut response = (status(waited.as_ref()), Json(body)).into_response();
    response.headers_mut().insert(POSITION, position_value(position.into_iter()));
    Ok(response)
}

pub(super) fn status(waited: Option<&Waited>) -> StatusCode {
    if matches!(waited, Some(Ok(true))) { StatusCode::OK } else { StatusCode::ACCEPTED }
}

pub(super) fn why_not_told(waited: Option<&Waited>) -> Option<String> {
    let why = waited?.as_ref().err()?.detail();
    Some(format!("{why}: it will be applied there, and this one can't tell when"))
}
