//! The simulated group coordinator: classic protocol, cooperative assignment, dynamic members.
//!
//! A rebalance has two phases: everybody joins, telling what it has; then nobody is given what another still has, and who has too much is
//! told to give it up and joins again. Commits are validated as brokers do: a membership without generation and member id passes unseen,
//! and nobody looks whether a member has the partition that it commits.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_dataflows::vocabulary::Partition;

use super::transactions::Refused;

/// What a commit shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) member: String,
    pub(super) generation: i32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) generation: i32,
    members: BTreeMap<String, Member>,
    /// Since when the group waits for everybody to join.
    joining_since_us: Option<u64>,
    ids: u64,
    /// Given to who has not joined with it yet.
    new_ids: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Member {
    instance: String,
    heard_us: u64,
    /// In the rebalance of now.
    joined: bool,
    has: BTreeSet<Partition>,
    given: BTreeSet<Partition>,
}

/// How a heartbeat is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    Well,
    Rebalancing,
    Unknown,
    Generation,
}

impl Group {
    /// A member id for one that has none.
    pub(super) fn new_id(&mut self, instance: &str) -> String {
        self.ids += 1;
        let id = format!("{instance}#{}", self.ids);
        self.new_ids.insert(id.clone());
        id
    }

    /// Whether the group knows this id.
    pub(super) fn join(&mut self, id: &str, instance: &str, has: BTreeSet<Partition>, now_us: u64) -> bool {
        if !self.new_ids.remove(id) && !self.members.contains_key(id) {
            return false;
        }
        let member = self.members.entry(id.to_owned()).or_default();
        instance.clone_into(&mut member.instance);
        (member.heard_us, member.joined, member.has) = (now_us, true, has);
        self.rebalance_for(id, now_us);
        true
    }

    /// Everybody else must join again, too.
    fn rebalance_for(&mut self, id: &str, now_us: u64) {
        self.rebalance(now_us);
        if let Some(member) = self.members.get_mut(id) {
            member.joined = true;
        }
    }

    /// The generation and what the member is given, once everybody has joined.
    pub(super) fn joined(&self, id: &str) -> Option<Result<(i32, BTreeSet<Partition>), Pulse>> {
        let Some(member) = self.members.get(id) else { return Some(Err(Pulse::Unknown)) };
        self.joining_since_us.is_none().then(|| Ok((self.generation, member.given.clone())))
    }

    pub(super) fn heartbeat(&mut self, id: &str, generation: i32, now_us: u64) -> Pulse {
        let Some(member) = self.members.get_mut(id) else { return Pulse::Unknown };
        if generation != self.generation {
            return Pulse::Generation;
        }
        member.heard_us = now_us;
        if self.joining_since_us.is_some() { Pulse::Rebalancing } else { Pulse::Well }
    }

    pub(super) fn leave(&mut self, id: &str, now_us: u64) {
        if self.members.remove(id).is_some() {
            self.rebalance(now_us);
        }
    }

    /// Everybody must join again.
    pub(super) fn rebalance(&mut self, now_us: u64) {
        if self.joining_since_us.is_none() {
            self.members.values_mut().for_each(|member| member.joined = false);
            self.joining_since_us = Some(now_us);
        }
    }

    /// The instances that are in it.
    pub(super) fn instances(&self) -> BTreeSet<String> {
        self.members.values().map(|member| member.instance.clone()).collect()
    }

    /// Who is in it, with what each was given; none while it rebalances.
    pub(super) fn owners(&self) -> Option<Vec<(String, BTreeSet<Partition>)>> {
        let owners = self.members.values().map(|member| (member.instance.clone(), member.given.clone()));
        self.joining_since_us.is_none().then(|| owners.collect())
    }

    pub(super) fn validate(&self, membership: &Membership) -> Result<(), Refused> {
        let Membership { member, generation } = membership;
        if *generation < 0 && (self.members.is_empty() || member.is_empty()) {
            return Ok(());
        }
        if !self.members.contains_key(member) {
            return Err(Refused::UnknownMember);
        }
        if *generation == self.generation { Ok(()) } else { Err(Refused::Generation) }
    }

    /// Throws out who was not heard of, and completes a rebalance that everybody has joined.
    pub(super) fn turn(&mut self, now_us: u64, session_us: u64, partitions: Partition) {
        let before = self.members.len();
        let is_joining = self.joining_since_us.is_some();
        self.members.retain(|_, member| (is_joining && member.joined) || member.heard_us + session_us > now_us);
        if self.members.len() < before {
            self.rebalance(now_us);
        }
        if self.joining_since_us.is_some() && self.members.values().all(|member| member.joined) {
            self.joining_since_us = None;
            self.generation += 1;
            self.assign(partitions);
            for member in self.members.values_mut() {
                (member.joined, member.heard_us) = (false, now_us);
            }
        }
    }

    /// Sticky and cooperative: what one has stays with it up to its share, what nobody has goes to who has room.
    fn assign(&mut self, partitions: Partition) {
        let mut taken = BTreeSet::new();
        let mut claims: BTreeSet<Partition> = self.members.values().flat_map(|member| member.has.iter().copied()).collect();
        let mut room: BTreeMap<String, usize> = BTreeMap::new();
        let (share, mut extra) = match self.members.len() {
            0 => return,
            members => (partitions as usize / members, partitions as usize % members),
        };
        for (id, member) in &mut self.members {
            let mine: Vec<_> = member.has.iter().copied().filter(|partition| !taken.contains(partition)).collect();
            let mut quota = share;
            if extra > 0 && mine.len() > share {
                (quota, extra) = (share + 1, extra - 1);
            }
            member.given = mine.iter().copied().take(quota).collect();
            taken.extend(&member.given);
            room.insert(id.clone(), quota - member.given.len());
        }
        claims.extend(&taken);
        let mut free: Vec<_> = (0..partitions).filter(|partition| !claims.contains(partition)).collect();
        for (id, member) in &mut self.members {
            let extra_one = usize::from(extra > 0 && room[id] == 0 && member.given.len() <= share);
            for _ in 0..room[id] + extra_one {
                member.given.extend(free.pop());
            }
            extra = extra.saturating_sub(extra_one);
        }
        // What is left over goes to whoever comes first; nobody is without an owner for long.
        if let Some(member) = self.members.values_mut().next() {
            member.given.extend(free);
        }
    }
}
