//! A simulated client's group member: what the Kafka client does in the background for a consumer, with its habits in trouble. A member
//! that is told that the group does not know it, or that its generation is over, marks all it has as lost, unless a step of a
//! rebalance waits for its answer: then it only forgets its id or its generation.

use std::collections::{BTreeSet, VecDeque};

use statehouse_dataflows::vocabulary::Partition;

use super::{
    group::{Membership, Pulse},
    state::State,
};

/// A step of a rebalance, to be answered by whoever reads.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Assign(Vec<Partition>),
    Revoke { partitions: Vec<Partition>, lost: bool },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) membership: Membership,
    join: Join,
    pub(super) has: BTreeSet<Partition>,
    /// All it has may be another's.
    pub(super) lost: bool,
    pub(super) steps: VecDeque<Step>,
    heard_us: u64,
    /// When it does something next.
    pub(super) next_us: u64,
    pub(super) closed: bool,
}

impl Default for Membership {
    /// Of one that never joined.
    fn default() -> Self {
        Self { member: String::new(), generation: -1 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Join {
    /// Not asked to join yet, or closed.
    #[default]
    Apart,
    Out,
    Waiting,
    Syncing(BTreeSet<Partition>),
    /// A step waits for its answer.
    Answering,
    Steady,
}

impl Member {
    pub(super) fn subscribe(&mut self, now_us: u64) {
        (self.join, self.next_us) = (Join::Out, now_us);
    }

    pub(super) fn assigned(&mut self, partitions: &[Partition]) {
        self.has.extend(partitions);
        self.join = Join::Steady;
    }

    pub(super) fn unassigned(&mut self, partitions: &[Partition], now_us: u64) {
        self.has.retain(|partition| !partitions.contains(partition));
        self.lost &= !self.has.is_empty();
        (self.join, self.next_us) = (Join::Out, now_us);
    }

    fn lose_all(&mut self) {
        if self.has.is_empty() {
            self.join = Join::Out;
            return;
        }
        self.lost = true;
        self.join = Join::Answering;
        self.steps.push_back(Step::Revoke { partitions: self.has.iter().copied().collect(), lost: true });
    }

    fn sync(&mut self, given: &BTreeSet<Partition>) {
        let revoked: Vec<_> = self.has.difference(given).copied().collect();
        let gained: Vec<_> = given.difference(&self.has).copied().collect();
        self.join = Join::Answering;
        self.steps.push_back(if revoked.is_empty() { Step::Assign(gained) } else { Step::Revoke { partitions: revoked, lost: false } });
    }

    fn pulse(&mut self, pulse: Pulse, now_us: u64) {
        let is_steady = self.join == Join::Steady;
        match pulse {
            Pulse::Well => self.heard_us = now_us,
            Pulse::Rebalancing => {
                self.heard_us = now_us;
                if is_steady {
                    (self.join, self.next_us) = (Join::Out, now_us);
                }
            }
            Pulse::Unknown | Pulse::Generation => {
                match pulse {
                    Pulse::Unknown => self.membership.member.clear(),
                    _ => self.membership.generation = -1,
                }
                if is_steady {
                    // Both are forgotten, which is more than the Kafka client does: whoever looks before it commits must see the loss.
                    self.membership = Membership::default();
                    self.lose_all();
                }
            }
        }
    }
}

impl State {
    /// The background of one client does what is due.
    pub(super) fn tend(&mut self, number: usize) {
        let is_cut_off = self.is_cut_off(number) || self.coordinator_away_until_us > self.now_us;
        let mut member = std::mem::take(&mut self.instances[number].member);
        member.next_us = self.now_us + self.dice.from(500, 6_000);
        if is_cut_off {
            self.tend_apart(number, &mut member);
        } else {
            self.tend_member(number, &mut member);
        }
        self.instances[number].member = member;
    }

    /// Nobody is reached.
    fn tend_apart(&self, number: usize, member: &mut Member) {
        if member.join == Join::Steady && member.heard_us + self.options.session_us < self.now_us {
            self.say(&self.instances[number].name, || "its session is over".to_owned());
            member.lose_all();
        }
    }

    fn tend_member(&mut self, number: usize, member: &mut Member) {
        match member.join.clone() {
            Join::Apart => member.next_us = u64::MAX,
            Join::Out => self.join(number, member),
            Join::Waiting => match self.group.joined(&member.membership.member) {
                None => {}
                Some(Err(_)) => {
                    member.membership.member.clear();
                    member.join = Join::Out;
                }
                Some(Ok((generation, given))) => {
                    member.membership.generation = generation;
                    (member.join, member.heard_us) = (Join::Syncing(given), self.now_us);
                }
            },
            // The group went on meanwhile.
            Join::Syncing(_) if self.group.generation != member.membership.generation => member.join = Join::Out,
            Join::Syncing(given) => {
                member.sync(&given);
                let (name, generation) = (&self.instances[number].name, self.group.generation);
                self.say(name, || format!("generation {generation} gives it {given:?}: {:?}", member.steps));
            }
            Join::Answering | Join::Steady => self.beat(number, member),
        }
    }

    /// One without an id is told a new one, and then all it has is lost.
    fn join(&mut self, number: usize, member: &mut Member) {
        let name = self.instances[number].name.clone();
        let id = &mut member.membership.member;
        if id.is_empty() {
            *id = self.group.new_id(&name);
            member.lose_all();
        } else if self.group.join(id, &name, member.has.clone(), self.now_us) {
            member.join = Join::Waiting;
        } else {
            id.clear();
        }
    }

    fn beat(&mut self, number: usize, member: &mut Member) {
        member.next_us = self.now_us + self.options.heartbeat_us;
        let Membership { member: id, generation } = &member.membership;
        let pulse = self.group.heartbeat(id, *generation, self.now_us);
        if pulse != Pulse::Well {
            self.say(&self.instances[number].name, || format!("its heartbeat is answered {pulse:?}"));
        }
        member.pulse(pulse, self.now_us);
    }

    /// The member leaves; nothing more is heard of it.
    pub(super) fn leave(&mut self, number: usize) {
        let (now_us, is_cut_off) = (self.now_us, self.is_cut_off(number));
        let member = &mut self.instances[number].member;
        (member.closed, member.join, member.next_us) = (true, Join::Apart, u64::MAX);
        member.has.clear();
        let id = member.membership.member.clone();
        if !is_cut_off {
            self.group.leave(&id, now_us);
        }
    }
}
