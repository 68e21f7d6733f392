//! Many writes in one request: one JSON object per line. Good lines are appended, in order; bad ones are named by their number.
//!
//! Known limitation: lines are not appended as one; a request that breaks off may leave the first of them appended. Sending the same
//! lines again is harmless, as each says what holds, not what to add.

use std::collections::{BTreeMap, VecDeque};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    Front,
    applied::{self, Waited},
    body,
    json::Json,
    params::Params,
    problem::{self, Problem},
    reads::{POSITION, position_value},
    record::Write,
    writes::{status, wait, why_not_told},
};
use crate::desk::{Appending, appended};

/// How many lines may be on their way into the log at a time.
const WINDOW: usize = 10_000;
/// How many bad lines are described; the others are only counted.
const ERRORS_MAX: usize = 1_000;

pub(super) async fn reports(State(front): State<Front>, params: Params, request: Request) -> Result<Response, Problem> {
    let wait = wait(&front, &params, &["wait"])?;
    json_lines(&request)?;
    let received = body::read(&front, request).await?;
    let mut batch = Batch::default();
    for (number, line) in (1..).zip(received.bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match Write::line(&front.decoder, line) {
            Ok(record) => batch.append(&front, number, &record).await,
            Err(problem) => batch.refuse(number, problem),
        }
    }
    batch.settle(0).await;
    drop(received); // so that nobody waits for room while we wait for the commit
    let waited = match wait {
        Some(wait) => Some(applied::until(&front, None, (&batch.position, wait)).await),
        None => None,
    };
    batch.answer(waited.as_ref())
}

/// A type that a page of another origin can't send without asking first.
fn json_lines(request: &Request) -> Result<(), Problem> {
    const KNOWN: [&str; 4] = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"];
    let sent = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if KNOWN.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Problem::new(problem::MEDIA_TYPE, format!("content-type {sent:?}: send application/x-ndjson")))
}

/// The lines of one request, on their way.
#[derive(Default)]
struct Batch {
    waiting: VecDeque<(usize, Appending)>,
    appended: usize,
    refused: usize,
    errors: Vec<Value>,
    /// The first refusal.
    first: Option<Problem>,
    /// By partition: the offset after the last line appended.
    position: BTreeMap<Partition, Offset>,
}

impl Batch {
    async fn append(&mut self, front: &Front, number: usize, record: &Write) {
        self.settle(WINDOW - 1).await;
        self.waiting.push_back((number, front.desk.begin_append(&record.object, record.value.as_deref())));
    }

    /// Waits until at most so many lines are on their way.
    async fn settle(&mut self, most: usize) {
        while self.waiting.len() > most {
            let Some((number, appending)) = self.waiting.pop_front() else { return };
            match appended(appending).await {
                Ok((partition, offset)) => {
                    self.appended += 1;
                    let next = self.position.entry(partition).or_default();
                    *next = (*next).max(offset + 1);
                }
                Err(error) => self.refuse(number, error.into()),
            }
        }
    }

    fn refuse(&mut self, number: usize, problem: Problem) {
        self.refused += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(json!({ "line": number, "problem": problem.json() }));
        }
        self.first.get_or_insert(problem);
    }

    fn answer(mut self, waited: Option<&Waited>) -> Result<Response, Problem> {
        self.errors.sort_by_key(|error| error["line"].as_u64());
        match self.first {
            None if self.appended == 0 => return Err(Problem::invalid("there is no line in the body")),
            Some(first) if self.appended == 0 => {
                let problem = first.again(&format!("none of {} lines was appended; the first refusal: ", self.refused));
                return Err(problem.with("refused", self.refused).with("errors", self.errors));
            }
            _ => {}
        }
        let mut body = Map::new();
        body.insert("appended".to_owned(), self.appended.into());
        body.insert("refused".to_owned(), self.refused.into());
        body.insert("errors".to_owned(), self.errors.into());
        body.extend(waited.map(|waited| ("applied".to_owned(), waited.as_ref().ok().copied().into())));
        body.extend(why_not_told(waited).map(|why| ("detail".to_owned(), why.into())));
        let status = if self.refused > 0 { StatusCode::MULTI_STATUS } else { status(waited) };
        let mut response = (status, Json(body)).into_response();
        response.headers_mut().insert(POSITION, position_value(self.position.into_iter()));
        Ok(response)
    }
}
