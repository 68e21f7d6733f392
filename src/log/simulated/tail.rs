//! What copies are kept from in a simulated world: committed records of many checkpoint partitions, and who is in the group.

use std::{collections::BTreeMap, time::Duration};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{Topic, link::Link, partition::Stored, state::State};
use crate::log::{LogError, Peer, Peers, Tail, Tailed};

/// See the module.
pub(super) struct SimulatedTail {
    link: Link,
    /// By partition: where it is read on; none: nothing came yet.
    places: BTreeMap<Partition, Option<Offset>>,
}

/// What one look at a partition brought.
struct Fetched {
    partition: Partition,
    records: Vec<Stored>,
    /// Before this everything has come.
    place: Offset,
    is_lost: bool,
    is_end: bool,
}

impl SimulatedTail {
    /// Nothing is followed yet.
    pub(super) fn new(link: Link) -> Self {
        Self { link, places: BTreeMap::new() }
    }
}

fn fetch(state: &mut State, partition: Partition, place: Option<Offset>) -> Fetched {
    let few = 1 + state.dice.below(8);
    let log = state.log(Topic::Checkpoint, partition);
    let (low, end) = (log.low, log.stable_end());
    let mut place = place.unwrap_or(low);
    let (is_lost, mut records) = (place < low, Vec::new());
    while !is_lost && records.len() < few {
        let Some(record) = log.next(place, end, false).cloned() else {
            place = end.max(place); // markers, and what was never committed
            break;
        };
        place = record.offset + 1;
        records.push(record);
    }
    Fetched { partition, is_end: !is_lost && place >= end, records, place, is_lost }
}

impl Tail for SimulatedTail {
    fn follow(&mut self, partition: Partition) -> Result<(), LogError> {
        self.places.insert(partition, None);
        Ok(())
    }

    fn leave(&mut self, partition: Partition) -> Result<(), LogError> {
        self.places.remove(&partition);
        Ok(())
    }

    fn poll(&mut self, wait: Duration, each: &mut dyn FnMut(Tailed<'_>)) {
        let places: Vec<_> = self.places.iter().map(|(partition, place)| (*partition, *place)).collect();
        let look = |state: &mut State| places.into_iter().map(|(partition, place)| fetch(state, partition, place)).collect::<Vec<_>>();
        let Ok(fetched) = self.link.call("tail", look) else { return };
        let mut is_new = false;
        for Fetched { partition, records, place, is_lost, is_end } in fetched {
            if is_lost {
                each(Tailed::Lost(partition));
                continue;
            }
            let before = self.places.insert(partition, Some(place));
            is_new |= before != Some(Some(place));
            for record in records {
                each(Tailed::Record(partition, record.offset, record.value.as_deref().unwrap_or_default()));
            }
            if is_end {
                each(Tailed::End(partition));
            }
        }
        if !is_new {
            self.link.wait(wait.as_micros() as u64);
        }
    }

    fn end(&mut self, partition: Partition) -> Option<Offset> {
        let answer = self.link.call("end of a tail", |state| {
            let is_leaderless = state.leaderless_until_us.get(&partition).is_some_and(|until_us| *until_us > state.now_us);
            (!is_leaderless).then(|| state.log(Topic::Checkpoint, partition).end())
        });
        answer.ok().flatten()
    }

    fn place(&self, partition: Partition) -> Option<Offset> {
        *self.places.get(&partition)?
    }
}

/// Who is in the group.
pub(super) struct SimulatedPeers {
    link: Link,
    me: String,
}

impl SimulatedPeers {
    /// As seen by this instance.
    pub(super) fn new(link: Link, me: String) -> Self {
        Self { link, me }
    }
}

impl Peers for SimulatedPeers {
    fn me(&self) -> &str {
        &self.me
    }

    fn look(&mut self) -> Result<Vec<Peer>, LogError> {
        let answer = self.link.call("peers", |state| state.group.owners());
        let owners = answer.map_err(|silence| LogError::Unavailable(format!("{silence:?}")))?;
        let owners = owners.ok_or_else(|| LogError::Unavailable("the group rebalances".to_owned()))?;
        Ok(owners.into_iter().map(|(instance, owned)| Peer { instance, owned: owned.into_iter().collect() }).collect())
    }
}
