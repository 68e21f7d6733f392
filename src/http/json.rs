//! Bodies in JSON. They end with a newline, so that a shell's prompt stands in a line of its own.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

const TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// A body of `application/json`.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, TYPE)], line(&self.0)).into_response()
    }
}

/// A value as one line of JSON.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("what is answered has only texts as keys");
    bytes.push(b'\n');
    bytes
}
