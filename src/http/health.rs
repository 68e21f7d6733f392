//! For operators: is it alive, is it ready, what does it count, what is it. Whether it is alive or ready anybody may ask; why not, only who
//! may read.

use std::time::Duration;

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    Front,
    access::{self, Caller, Scope},
    json::Json,
    params::Params,
    problem::Problem,
};
use crate::{board::PartitionStanding, log::directory::Instances, message::RestoreProgress, metrics::Staleness};

/// How long a scrape waits for the count of objects before it leaves it out.
const SUMMARY_WAIT: Duration = Duration::from_secs(2);

/// Answers as long as the process does: an outage of the log is no reason to restart it.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 if requests are answered in full, 503 and the reasons if not. `?verbose` shows every check; `?exclude=log` leaves one (or several,
/// by comma) out: with that an instance stays in service with stale reads while the log is away.
pub(super) async fn readyz(State(front): State<Front>, Extension(caller): Extension<Caller>, params: Params) -> Result<Response, Problem> {
    params.only(&["verbose", "exclude"])?;
    let may_know = caller.may(Scope::Read);
    if params.get("verbose").is_some() && !may_know {
        return Err(access::unauthorized());
    }
    let excluded: Vec<_> = params.get("exclude").into_iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).collect();
    let checks = checks(&front);
    if let Some(unknown) = excluded.iter().find(|name| checks.iter().all(|check| check.name != **name)) {
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        return Err(Problem::invalid(format!("exclude={unknown:?}: there is no such check; known: {}", names.join(", "))));
    }
    let ready = checks.iter().all(|check| check.trouble.is_none() || excluded.contains(&check.name));
    let mut text = String::new();
    if may_know && (!ready || params.get("verbose").is_some()) {
        text = checks.iter().map(|check| check.line(&excluded)).collect();
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, text).into_response())
}

struct Check {
    name: &'static str,
    trouble: Option<String>,
    note: String,
}

impl Check {
    fn line(&self, excluded: &[&str]) -> String {
        match &self.trouble {
            _ if excluded.contains(&self.name) => format!("[+]{} excluded\n", self.name),
            Some(trouble) => format!("[-]{} failed: {trouble}\n", self.name),
            None => format!("[+]{} ok{}\n", self.name, self.note),
        }
    }
}

fn checks(front: &Front) -> [Check; 4] {
    let (desk, instances) = (&front.desk, front.peers.instances());
    let standing = desk.standing();
    let restoring: Vec<_> = standing
        .partitions
        .iter()
        .filter(|(_, how)| **how == PartitionStanding::Restoring)
        .map(|(partition, _)| match standing.restores.get(partition) {
            Some(restore) => format!("{partition} ({})", how_far(restore)),
            None => partition.to_string(),
        })
        .collect();
    let restore = match (standing.partitions.len(), restoring.len()) {
        // One more than there are partitions: it has the others to ask.
        (0, _) if is_spare(&instances) => None,
        (0, _) => Some("no partition is assigned yet".to_owned()),
        (_, 0) => None,
        (all, some) => Some(format!("restoring {some} of {all} partitions: {}", restoring.join(", "))),
    };
    let log = desk.stale_ms(&standing).map(|age_ms| {
        let age = humantime::format_duration(Duration::from_millis(age_ms.unsigned_abs()));
        format!("stale for {age}: {}", standing.trouble.as_deref().unwrap_or("commits fail"))
    });
    let stopping = standing.stopping.then(|| "shutting down".to_owned());
    [
        Check { name: "restore", trouble: restore, note: format!(", partitions live: {}", standing.partitions.len()) },
        Check { name: "instances", trouble: None, note: known(&instances) },
        Check { name: "log", trouble: log, note: String::new() },
        Check { name: "shutdown", trouble: stopping, note: String::new() },
    ]
}

/// In words, for people.
fn how_far(restore: &RestoreProgress) -> String {
    let RestoreProgress { chunks: (chunks, chunks_total), bytes, rows, handed_rows: (handed, handed_total), .. } = *restore;
    let done = format!("{} % done, chunks {chunks} of {chunks_total}, {rows} rows and {bytes} bytes read", restore.permille() / 10);
    let handed = if handed_total > 0 { format!(", rows {handed} of {handed_total} handed over") } else { String::new() };
    let left = restore.seconds_left().map(|seconds| format!(", about {seconds} s left")).unwrap_or_default();
    done + &handed + &left
}

/// Whether others own everything, and there is nothing left for all to own one.
fn is_spare(instances: &Instances) -> bool {
    let partitions = instances.partitions();
    let is_owned = |partition| instances.owner(partition).is_some_and(|owner| owner.id != instances.here());
    instances.all().count() > partitions.unsigned_abs() as usize && (0..partitions).all(is_owned)
}

/// Another configuration is no reason to stop answering, but one to look.
fn known(instances: &Instances) -> String {
    let differing: Vec<_> = instances.differing().map(|instance| instance.id.as_str()).collect();
    let note = format!(", known: {}", instances.all().count());
    if differing.is_empty() { note } else { format!("{note}, CONFIGURED DIFFERENTLY: {}", differing.join(", ")) }
}

pub(super) async fn metrics(State(front): State<Front>) -> Response {
    let objects = tokio::time::timeout(SUMMARY_WAIT, front.desk.summary()).await;
    let objects = objects.ok().and_then(Result::ok).map(|answered| answered.value);
    let (known, differing) = {
        let instances = front.peers.instances();
        (instances.all().count(), instances.differing().count())
    };
    front.metrics.instances(known, differing);
    let age_ms = front.desk.stale_ms(&front.desk.standing());
    exposition(front.metrics.scrape(objects.as_ref(), Staleness { age_ms }))
}

/// Metrics as they are scraped.
pub(super) fn exposition(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

pub(super) async fn version() -> Json<serde_json::Value> {
    Json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") }))
}
