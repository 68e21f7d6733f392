//! Who runs the house: the directory, as this instance sees it.

use axum::extract::State;
use serde::Serialize;

use super::{Front, json::Json, params::Params, problem::Problem};
use crate::log::directory::{Instance, Instances};

#[derive(Serialize)]
pub(super) struct InstancesJson {
    /// Who answers.
    here: String,
    /// How many partitions the house has.
    partitions: i32,
    /// Those that nobody owns now.
    without_owner: Vec<i32>,
    instances: Vec<InstanceJson>,
}

#[derive(Serialize)]
struct InstanceJson {
    id: String,
    /// Null: it has told none.
    url: Option<String>,
    partitions: Vec<i32>,
    version: String,
    started: i64,
    config: Option<String>,
    /// Whether it is configured differently from who answers.
    differs: bool,
}

pub(super) async fn instances(State(front): State<Front>, params: Params) -> Result<Json<InstancesJson>, Problem> {
    params.only(&[])?;
    Ok(Json(InstancesJson::of(&front.peers.instances())))
}

impl InstancesJson {
    fn of(instances: &Instances) -> Self {
        let differs = |id: &str| instances.differing().any(|differing| differing.id == id);
        // A claim that is not the newest one counts for nothing.
        let owned = |instance: &Instance| {
            let claimed = instance.partitions.iter().copied();
            claimed.filter(|partition| instances.owner(*partition).is_some_and(|owner| owner.id == instance.id)).collect()
        };
        let shown = |instance: &Instance| InstanceJson {
            id: instance.id.clone(),
            url: instance.url.as_ref().map(ToString::to_string),
            partitions: owned(instance),
            version: instance.version.clone(),
            started: instance.started_ms,
            config: instance.config_digest.clone(),
            differs: differs(&instance.id),
        };
        Self {
            here: instances.here().to_owned(),
            partitions: instances.partitions(),
            without_owner: (0..instances.partitions()).filter(|partition| instances.owner(*partition).is_none()).collect(),
            instances: instances.all().map(shown).collect(),
        }
    }
}
