//! Who keeps a warm copy of which partition.
//!
//! Between the log, which says who is there and owns what, and whoever keeps copies. Every instance works it out for itself, from the same
//! facts and with the same result: of all instances but the owner, those of the highest hashes with the partition (rendezvous
//! hashing), so that copies are spread evenly and few move when an instance comes or goes. Pure.
//!
//! Known limit: the group's assignor does not know of copies. Where fewer than all others keep one, a partition may go to an
//! instance without.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_dataflows::vocabulary::Partition;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::log::Peer;

/// The partitions of which instance `me` is to keep a copy, when `copies` instances keep one of each.
#[must_use]
pub fn wanted(me: &str, peers: &[Peer], (partitions, copies): (Partition, usize)) -> BTreeSet<Partition> {
    let owners: BTreeMap<Partition, &str> =
        peers.iter().flat_map(|peer| peer.owned.iter().map(|partition| (*partition, peer.instance.as_str()))).collect();
    let is_mine = |partition: &Partition| {
        let owner = owners.get(partition);
        if owner == Some(&me) {
            return false;
        }
        let mine = weight(*partition, me);
        let others = peers.iter().map(|peer| peer.instance.as_str()).filter(|instance| *instance != me && Some(instance) != owner);
        others.filter(|instance| weight(*partition, instance) > mine).count() < copies
    };
    (0..partitions).filter(is_mine).collect()
}

/// No two instances have the same for a partition, but by an accident that costs a copy more.
fn weight(partition: Partition, instance: &str) -> u64 {
    xxh3_64_with_seed(instance.as_bytes(), u64::from(partition.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instances a, b, ... own every n-th partition each.
    fn house(instances: usize, partitions: Partition) -> Vec<Peer> {
        let owned = |nth: usize| (0..partitions).filter(|partition| *partition as usize % instances == nth).collect();
        (0..instances).map(|nth| Peer { instance: format!("instance-{nth}"), owned: owned(nth) }).collect()
    }

    /// By partition: who keeps a copy of it.
    fn keepers(peers: &[Peer], of: (Partition, usize)) -> BTreeMap<Partition, Vec<&str>> {
        let mut keepers = BTreeMap::<_, Vec<_>>::new();
        for peer in peers {
            wanted(&peer.instance, peers, of).into_iter().for_each(|partition| keepers.entry(partition).or_default().push(&*peer.instance));
        }
        keepers
    }

    #[test]
    fn every_partition_has_so_many_copies_and_none_at_its_owner() {
        for (instances, partitions, copies) in [(1, 4, 1), (2, 4, 1), (3, 12, 1), (3, 12, 2), (5, 64, 2), (3, 4, 9), (3, 4, 0)] {
            let peers = house(instances, partitions);
            let keepers = keepers(&peers, (partitions, copies));
            for partition in 0..partitions {
                let kept_by = keepers.get(&partition).cloned().unwrap_or_default();
                assert_eq!(kept_by.len(), copies.min(instances - 1), "{instances} instances, {copies} copies of {partition}: {kept_by:?}");
                assert!(!kept_by.contains(&&*peers[partition as usize % instances].instance), "its owner keeps a copy of {partition}");
            }
        }
    }

    #[test]
    fn copies_are_spread() {
        let peers = house(4, 256);
        let kept = |peer: &Peer| wanted(&peer.instance, &peers, (256, 1)).len();
        let counts: Vec<_> = peers.iter().map(kept).collect();
        assert!(counts.iter().all(|count| (40..=90).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_copy_moves_only_to_or_from_who_comes_or_goes() {
        let (three, four) =
            (house(3, 48), house(3, 48).into_iter().chain([Peer { instance: "new".into(), owned: vec![] }]).collect::<Vec<_>>());
        let (before, after) = (keepers(&three, (48, 1)), keepers(&four, (48, 1)));
        let moved: Vec<_> = (0..48).filter(|partition| before[partition] != after[partition]).collect();
        assert!(!moved.is_empty() && moved.iter().all(|partition| after[partition] == ["new"]), "{moved:?}");
    }

    #[test]
    fn partitions_without_an_owner_keep_their_copies() {
        let mut peers = house(3, 12);
        let before = wanted("instance-1", &peers, (12, 1));
        peers[0].owned.clear(); // it is being restarted
        let after = wanted("instance-1", &peers, (12, 1));
        assert!(
            before.iter().all(|partition| partition % 3 != 0
                || after.contains(partition)
                || wanted("instance-0", &peers, (12, 1)).contains(partition))
        );
    }
}
