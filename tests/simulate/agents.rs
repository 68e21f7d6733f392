//! What agents write in a history, and what they mean by it.

use std::collections::BTreeMap;

use statehouse::log::simulated::{Cluster, Dice, Topic};
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

use crate::house::BEGIN_MS;

/// What a record means.
#[derive(Clone, Debug)]
pub(crate) enum Meant {
    Report { agent: String, state: String },
    Withdraw { agent: String },
    Override { state: String, for_ms: Option<Millis> },
    Lift,
    Purge,
    Nothing,
}

/// A record as it was meant.
pub(crate) struct Written {
    pub(crate) object: String,
    pub(crate) timestamp_ms: Millis,
    pub(crate) meant: Meant,
}

/// Everything that was written, by place.
pub(crate) type Script = BTreeMap<(Partition, Offset), Written>;

/// Writes one record.
pub(crate) fn write(cluster: &Cluster, dice: &mut Dice, objects: &[(Partition, String)], script: &mut Script) {
    let (partition, object) = objects[dice.below(objects.len())].clone();
    let agent = format!("agent-{}", dice.below(4));
    let state = ["up", "down", "odd"][dice.below(3)].to_owned();
    let meant = match dice.below(40) {
        0..=27 => Meant::Report { agent, state },
        28..=31 => Meant::Withdraw { agent },
        32..=33 => Meant::Override { state: "pinned".to_owned(), for_ms: Some(100 * (1 + dice.below(12) as Millis)) },
        34 => Meant::Override { state, for_ms: None },
        35..=36 => Meant::Lift,
        37 => Meant::Purge,
        _ => Meant::Nothing,
    };
    // Producers' clocks differ a little, and stand still now and then.
    let timestamp_ms = BEGIN_MS + (cluster.now_us() / 1_000) as Millis + dice.from(0, 400) as Millis - 300;
    let value = match &meant {
        Meant::Report { agent, state } => Some(format!(r#"{{"agent":"{agent}","state":"{state}"}}"#)),
        Meant::Withdraw { agent } => Some(format!(r#"{{"agent":"{agent}","state":null}}"#)),
        Meant::Override { state, for_ms: Some(for_ms) } => Some(format!(r#"{{"type":"override","state":"{state}","for":"{for_ms}ms"}}"#)),
        Meant::Override { state, for_ms: None } => Some(format!(r#"{{"type":"override","state":"{state}"}}"#)),
        Meant::Lift => Some(r#"{"type":"override","state":null}"#.to_owned()),
        Meant::Purge => None,
        Meant::Nothing => Some("neither JSON nor anything".to_owned()),
    };
    let offset = cluster.append((Topic::Source, partition), timestamp_ms, Some(&object), value.as_deref().map(str::as_bytes));
    cluster.say("agent", || format!("[{partition}] {offset} at {timestamp_ms}: {object} {meant:?}"));
    script.insert((partition, offset), Written { object, timestamp_ms, meant });
}
