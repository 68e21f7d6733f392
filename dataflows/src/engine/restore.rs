//! What comes back from a checkpoint: objects with all their rows into the index and the dataflow, without a change or a row; and then the
//! comparison with what the rules of today make of them.
//!
//! An object is taken as a whole: its places are written once, its claims make one difference of its tally.

use crate::{
    claim::Claim,
    names::{AgentId, Names},
    publish::Control,
    reports::Subject,
    rows::{Line, Posted, Rows},
    rule::decide::Rules,
    tally::StateId,
    vocabulary::{Partition, Seq},
};

use super::Engine;

impl Engine {
    /// Objects of a partition that is not whole, each with all its rows as the checkpoint has them, and with its hash, as in
    /// [`Engine::apply`]. Makes no change and no row. All share the seq, whose run is a tick at the restored clock.
    ///
    /// # Panics
    /// If an object is restored twice, or has more than one row of one kind and agent.
    pub fn restore(&mut self, seq: Seq, hashes: &[u64], rows: &Rows) {
        debug_assert_eq!(hashes.len(), rows.objects(), "every object has a hash");
        let (mut known, mut claims) = (Known::of(rows), Vec::new());
        for (hash, (name, lines)) in hashes.iter().zip(rows.runs(0..rows.len())) {
            let id = self.known(seq, Subject { name, hash: *hash });
            let mut published = None;
            let mut names = self.stores.names.borrow_mut();
            for line in lines {
                match *line {
                    Line::Report { agent, state, ts_ms, offset, due_ms } => {
                        let agent = known.agent(agent, &mut names, &self.rules);
                        let state = known.state(state, &mut names);
                        claims.push(Claim { agent, state, ts_ms, offset, due_ms: due_ms.unwrap_or(Claim::NEVER) });
                    }
                    Line::Object(place) => {
                        published = Some(rows.published(place).renumbered(|state| known.held_state(state, &mut names)));
                    }
                    Line::NoReport(_) | Line::NoObject => {}
                }
            }
            drop(names);
            self.with_reports(seq, |reports, context| reports.restore(id, &mut claims, context));
            claims.clear();
            if let Some(published) = published {
                self.post(seq, id, published);
            }
        }
    }

    /// After all rows of a partition: compares the next `objects_max` of its objects, in an order of the engine's own. Where today's rules
    /// come to something else than what is stored, that is a change (cause `rule`). Each object is compared once after a restore, whatever
    /// the shares, so their seqs should differ in nothing but the seq.
    pub fn compare(&mut self, seq: Seq, partition: Partition, objects_max: usize) {
        self.still.remove(&partition);
        self.control(seq, Control::Compare(partition, objects_max));
    }

    /// What is published of an object by its row.
    fn post(&mut self, seq: Seq, id: u32, posted: Posted) {
        let slot = self.stores.posted.borrow_mut().take(posted);
        self.control(seq, Control::Restore(id, slot));
    }
}

/// The ids of what rows name, as far as they are used: each name is looked up once.
struct Known<'a> {
    rows: &'a Rows,
    /// By place; [`Known::NONE`] where it was not used yet.
    agents: Vec<AgentId>,
    /// The same of states.
    states: Vec<StateId>,
}

impl<'a> Known<'a> {
    const NONE: u32 = u32::MAX;

    fn of(rows: &'a Rows) -> Self {
        Self { rows, agents: vec![Self::NONE; rows.agents().len()], states: vec![Self::NONE; rows.states().len()] }
    }

    #[inline]
    fn agent(&mut self, place: u32, names: &mut Names, rules: &Rules) -> AgentId {
        let id = &mut self.agents[place as usize];
        if *id == Self::NONE {
            let name = &self.rows.agents()[place as usize];
            *id = names.agent(name, |set| rules.sets[set].weight(name));
        }
        *id
    }

    #[inline]
    fn state(&mut self, place: u32, names: &mut Names) -> StateId {
        let id = &mut self.states[place as usize];
        if *id == Self::NONE {
            *id = names.states.intern(&self.rows.states()[place as usize]).0;
        }
        *id
    }

    fn held_state(&mut self, place: u32, names: &mut Names) -> StateId {
        let id = self.state(place, names);
        names.states.hold(id);
        id
    }
}
