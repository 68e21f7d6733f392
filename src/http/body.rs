//! Request bodies: bounded in size and time each, and in size all together.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::header,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    Front,
    problem::{self, Problem},
};

/// How many largest bodies may be in memory at once, in parts or whole.
const BODIES_MAX: usize = 8;

/// The size of the semaphore that bounds all bodies together.
pub(super) fn budget_kib(max_body_bytes: usize) -> usize {
    (BODIES_MAX * max_body_bytes).div_ceil(1024).max(BODIES_MAX)
}

/// A body that was read, and its part of the common budget.
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    budget: Option<OwnedSemaphorePermit>,
}

/// Reads the whole body.
///
/// # Errors
/// When it is larger than `max_body_bytes`, pauses for longer than `header_timeout_ms`, breaks off, or too many bodies are here already.
pub(super) async fn read(front: &Front, request: Request) -> Result<Received, Problem> {
    let limits = &front.limits;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > limits.max_body_bytes) {
        return Err(too_large(limits.max_body_bytes)); // before a byte of it is read
    }
    let mut body = request.into_body();
    let mut received = Received { bytes: Vec::new(), budget: None };
    while let Some(data) = next(&mut body, Duration::from_millis(limits.header_timeout_ms)).await? {
        if received.bytes.len() + data.len() > limits.max_body_bytes {
            return Err(too_large(limits.max_body_bytes));
        }
        received.take(&data, front)?;
    }
    Ok(received)
}

impl Received {
    fn take(&mut self, data: &[u8], front: &Front) -> Result<(), Problem> {
        let held = self.budget.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = (self.bytes.len() + data.len()).div_ceil(1024) - held;
        let permit = std::sync::Arc::clone(&front.bodies).try_acquire_many_owned(more as u32);
        let permit = permit.map_err(|_| Problem::new(problem::OVERLOADED, "too many bodies are being received"))?;
        match &mut self.budget {
            Some(budget) => budget.merge(permit),
            None => self.budget = Some(permit),
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// The next piece of the body; none at its end.
async fn next(body: &mut Body, pause: Duration) -> Result<Option<axum::body::Bytes>, Problem> {
    loop {
        let frame = timeout(pause, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
        let frame = frame.map_err(|_| {
            let detail = format!("nothing of the body came for {}", humantime::format_duration(pause));
            Problem::new(problem::BODY_TIMEOUT, detail)
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Problem::invalid(format!("the body broke off: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                } // trailers say nothing to us
            }
        }
    }
}

fn too_large(max_body_bytes: usize) -> Problem {
    Problem::new(problem::TOO_LARGE, format!("a body may have at most {max_body_bytes} bytes")).with("max_bytes", max_body_bytes)
}
