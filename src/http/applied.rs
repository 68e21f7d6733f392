//! Waiting until records are applied and committed: here, and at the instances that own the others' partitions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    Front,
    elsewhere::{self, Asked},
    json::Json,
    params::Params,
    problem::Problem,
};
use crate::desk::Unavailable;

/// What came of a wait: whether all was applied in time, or why nobody can tell.
pub(super) type Waited = Result<bool, Problem>;

#[derive(Deserialize, Serialize)]
struct AppliedJson {
    applied: bool,
}

/// Waits until every record before these positions is applied and committed: what a write's `Statehouse-Position` says, for example.
pub(super) async fn applied(State(front): State<Front>, params: Params, asked: Asked) -> Result<Response, Problem> {
    let wait = super::writes::wait(&front, &params, &["position", "wait"])?.unwrap_or_default();
    let position = params.position("position")?;
    let applied = until(&front, asked.hop.as_deref(), (&position, wait)).await?;
    Ok(Json(AppliedJson { applied }).into_response())
}

/// Waits, at most so long, until every record before these positions is applied and committed.
///
/// # Errors
/// When the owner of one of them can't tell.
pub(super) async fn until(front: &Front, hop: Option<&str>, (position, wait): (&BTreeMap<Partition, Offset>, Duration)) -> Waited {
    let until = Instant::now() + wait;
    let left = || until.saturating_duration_since(Instant::now());
    let mut elsewhere = BTreeMap::<String, BTreeMap<Partition, Offset>>::new();
    let mut outcome = Ok(true);
    for (&partition, &next) in position {
        let here = match other_owner(front, partition) {
            None => front.desk.applied((partition, next - 1), left()).await,
            Some(_) => Err(Unavailable::NotOwner(partition)),
        };
        // It may have gone to another instance only while we waited.
        match (here, other_owner(front, partition)) {
            (Ok(true), _) => {}
            (Ok(false), _) => return Ok(false),
            (Err(_), Some(owner)) => _ = elsewhere.entry(owner).or_default().insert(partition, next),
            (Err(why), None) => {
                let why = elsewhere::owner(front, hop, partition).err().unwrap_or_else(|| why.into());
                outcome = outcome.and(Err(why));
            }
        }
    }
    for positions in elsewhere.values() {
        match ask(front, hop, (positions, left())).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => outcome = outcome.and(Err(why)),
        }
    }
    outcome
}

/// Who owns a partition that is not ours.
fn other_owner(front: &Front, partition: Partition) -> Option<String> {
    if front.desk.standing().partitions.contains_key(&partition) {
        return None;
    }
    let instances = front.peers.instances();
    instances.owner(partition).filter(|owner| owner.id != instances.here()).map(|owner| owner.id.clone())
}

/// Asks the one owner of these partitions.
async fn ask(front: &Front, hop: Option<&str>, (positions, wait): (&BTreeMap<Partition, Offset>, Duration)) -> Waited {
    let Some((&partition, _)) = positions.first_key_value() else { return Ok(true) };
    let owner = elsewhere::owner(front, hop, partition)?.ok_or(Unavailable::NotOwner(partition))?;
    let pairs: Vec<_> = positions.iter().map(|(partition, next)| format!("{partition}:{next}")).collect();
    let target = format!("/v1/applied?position={}&wait={}ms", pairs.join(","), wait.as_millis());
    let said = front.peers.ask(&owner, &target, wait + front.peers.patience).await?;
    match serde_json::from_slice::<AppliedJson>(&said.body) {
        Ok(body) if said.status.is_success() => Ok(body.applied),
        _ => Err(said.refusal()),
    }
}
