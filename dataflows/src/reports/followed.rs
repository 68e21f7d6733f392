//! An agent's report as the owner of a followed partition left it: makes differences, but no row.

use super::{AsRow, Context, Put, Reports};
use crate::{
    claim::Claim,
    names::ObjectId,
    vocabulary::{Name, Report},
};

impl Reports {
    /// This is the agent's report now; none: it has none any more.
    pub(crate) fn follow(&mut self, id: ObjectId, agent: &Name, report: Option<&Report>, context: &mut Context<'_>) {
        match report {
            Some(report) => self.follow_some(id, agent, report, context),
            None => self.follow_none(id, agent, context),
        }
    }

    fn follow_some(&mut self, id: ObjectId, agent: &Name, report: &Report, context: &mut Context<'_>) {
        let rules = context.rules;
        let agent = context.names.agent(agent, |set| rules.sets[set].weight(agent));
        let (state, _) = context.names.states.intern(&report.state);
        let due_ms = report.due_ms.unwrap_or(Claim::NEVER);
        let claim = Claim { agent, state, ts_ms: report.ts_ms, offset: report.offset, due_ms };
        let object = self.object(id);
        let held = object.find(agent).ok().map(|at| *self.claims.borrow().row(object.agents[at].slot));
        let follows_newest = rules.sets[object.set()].latest;
        if held == Some(claim) {
            return;
        }
        context.names.states.hold(state);
        self.any_ttl |= claim.due().is_some();
        self.object_mut(id).touched = context.seq;
        if held.is_some() && follows_newest {
            // Within a chunk it may have been withdrawn and have come back as an older one, which otherwise the newest never does.
            self.replace(id, Put { agent, claim: None, row: AsRow::No }, context);
        }
        self.replace(id, Put { agent, claim: Some(claim), row: AsRow::No }, context);
    }

    fn follow_none(&mut self, id: ObjectId, agent: &str, context: &mut Context<'_>) {
        let Some(agent) = context.names.agents.find(agent).filter(|agent| self.object(id).find(*agent).is_ok()) else { return };
        self.object_mut(id).touched = context.seq;
        self.replace(id, Put { agent, claim: None, row: AsRow::No }, context);
    }
}
