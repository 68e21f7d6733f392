//! What happens in the demo's world, step by step: pure, and decided by the seed alone.
//!
//! A story is an endless row of attacks. Each is a list of cues (who does what when), built from the seed when the one before has ended;
//! around the cues every agent keeps renewing its claims, as real ones do. Output: [`Step`]s for the cast to act.

use std::collections::VecDeque;

use super::world::{AGENTS, Agent, MAINTENANCE, NORMAL, SITES, Site, UNDER_ATTACK};

/// The story's time that one step covers.
pub(super) const STEP_MS: u64 = 100;
/// From the start of one attack to the start of the next.
const ATTACK_MS: u64 = 52_000;
/// How long the operator's override holds, in story time.
const PIN_MS: u64 = 12_000;
/// How many sites a broken agent is wrong about.
const FALSE_ALARMS: usize = 6;

/// One report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Who.
    pub(super) agent: Agent,
    /// Of what.
    pub(super) site: Site,
    /// The state claimed.
    pub(super) state: &'static str,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The narrator explains what comes.
    Tell(String),
    /// An agent changes its mind.
    Report(Claim),
    /// An operator pins a site's state for this long, in story time.
    Pin(Site, &'static str, u64),
    /// The house is asked why the site is what it is.
    Ask(Site),
}

/// What happens within [`STEP_MS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// In this order.
    pub(super) acts: Vec<Act>,
    /// After them: agents repeat what they claimed before.
    pub(super) renewals: Vec<Claim>,
}

/// An endless story.
#[derive(Debug)]
pub(super) struct Story {
    chance: Chance,
    now_ms: u64,
    attacks: u64,
    cues: VecDeque<(u64, Act)>,
    claims: [[&'static str; AGENTS.len()]; SITES.len()],
}

impl Story {
    /// The story of this seed.
    pub(super) fn new(seed: u64) -> Self {
        let claims = [[NORMAL; AGENTS.len()]; SITES.len()];
        Self { chance: Chance(seed), now_ms: 0, attacks: 0, cues: VecDeque::new(), claims }
    }

    /// The site that is attacked first.
    pub(super) fn first_victim(&self) -> Site {
        Attack::drawn(&mut Chance(self.chance.0)).victims[0]
    }

    /// The first step: every agent says that every site is normal. Agent by agent, so that each site waits for its third.
    pub(super) fn opening(&self) -> Step {
        let calm = format!("{} agents look at {} sites; nothing is published before three have spoken", AGENTS.len(), SITES.len());
        let all = |agent| (0..SITES.len()).map(move |site| Claim { agent, site, state: NORMAL });
        Step { acts: vec![Act::Tell(calm)], renewals: (0..AGENTS.len()).flat_map(all).collect() }
    }

    /// The next step, with so many renewals.
    pub(super) fn step(&mut self, renewals: usize) -> Step {
        if self.now_ms.is_multiple_of(ATTACK_MS) {
            let cues = Attack::drawn(&mut self.chance).cues(self.now_ms, self.attacks);
            self.attacks += 1;
            self.cues.extend(cues);
        }
        self.now_ms += STEP_MS;
        let mut step = Step::default();
        while self.cues.front().is_some_and(|(at_ms, _)| *at_ms < self.now_ms) {
            let (_, act) = self.cues.pop_front().expect("there is a first one");
            if let Act::Report(claim) = act {
                self.claims[claim.site][claim.agent] = claim.state;
            }
            step.acts.push(act);
        }
        step.renewals = (0..renewals).map(|_| self.renewal()).collect();
        step
    }

    fn renewal(&mut self) -> Claim {
        let (agent, site) = (self.chance.below(AGENTS.len()), self.chance.below(SITES.len()));
        Claim { agent, site, state: self.claims[site][agent] }
    }
}

/// Who and what an attack is about.
struct Attack {
    /// The sites attacked: the first, and the one it spreads to.
    victims: [Site; 2],
    /// In which order agents notice an attack, and later its end.
    noticing: Vec<Agent>,
    calming: Vec<Agent>,
    /// The agent that goes wrong, and about which sites.
    broken: Agent,
    false_alarms: Vec<Site>,
}

impl Attack {
    fn drawn(chance: &mut Chance) -> Self {
        let sites = chance.shuffled(SITES.len());
        Self {
            victims: [sites[0], sites[1]],
            noticing: chance.shuffled(AGENTS.len()),
            calming: chance.shuffled(AGENTS.len()),
            broken: chance.below(AGENTS.len()),
            false_alarms: sites[2..2 + FALSE_ALARMS].to_vec(),
        }
    }

    /// The attack, acted out from `start_ms` on.
    fn cues(&self, start_ms: u64, number: u64) -> VecDeque<(u64, Act)> {
        let mut script = Script { at_ms: start_ms, cues: VecDeque::new() };
        script.wait(if number == 0 { 4_000 } else { 0 }); // time to read what the demo says at its start
        self.suspicion(&mut script);
        self.spreading(&mut script);
        self.maintenance(&mut script);
        self.false_alarm(&mut script);
        self.recovery(&mut script);
        debug_assert!(script.at_ms < start_ms + ATTACK_MS, "an attack ends before the next begins");
        script.cues
    }

    fn suspicion(&self, script: &mut Script) {
        let [site, _] = self.victims;
        let name = SITES[site];
        let &[first, second, third, ref others @ ..] = self.noticing.as_slice() else { unreachable!("there are five agents") };
        script.tell(format!("{} suspects an attack on {name}: one agent alone is no majority", AGENTS[first]));
        script.report(first, site, UNDER_ATTACK);
        script.ask(site);
        script.wait(3_000);
        script.tell(format!("{} sees it too: still no majority", AGENTS[second]));
        script.report(second, site, UNDER_ATTACK);
        script.ask(site);
        script.wait(3_000);
        script.tell(format!("{} makes it a majority", AGENTS[third]));
        script.report(third, site, UNDER_ATTACK);
        script.all(others, site, UNDER_ATTACK, 900);
        script.wait(2_500);
    }

    fn spreading(&self, script: &mut Script) {
        let [_, site] = self.victims;
        script.tell(format!("The attack spreads to {}", SITES[site]));
        script.all(&self.noticing, site, UNDER_ATTACK, 900);
        script.wait(2_500);
    }

    fn maintenance(&self, script: &mut Script) {
        let [_, site] = self.victims;
        script.tell(format!("An operator pins {} to {MAINTENANCE} for a while: a mask over whatever the agents say", SITES[site]));
        script.act(Act::Pin(site, MAINTENANCE, PIN_MS));
        script.wait(4_000);
    }

    fn false_alarm(&self, script: &mut Script) {
        let broken = AGENTS[self.broken];
        script.tell(format!("{broken} goes wrong and calls {FALSE_ALARMS} healthy sites {UNDER_ATTACK}: it is outvoted"));
        for &site in &self.false_alarms {
            script.report(self.broken, site, UNDER_ATTACK);
        }
        script.ask(self.false_alarms[0]);
        script.wait(4_000);
        script.tell(format!("{broken} is repaired"));
        for &site in &self.false_alarms {
            script.report(self.broken, site, NORMAL);
        }
        script.wait(5_000); // the mask ends by itself in the meantime
    }

    fn recovery(&self, script: &mut Script) {
        for site in self.victims {
            script.tell(format!("{} recovers: it is {NORMAL} again once a majority of the agents says so", SITES[site]));
            script.all(&self.calming, site, NORMAL, 800);
            script.wait(2_000);
        }
    }
}

/// Cues in the making.
struct Script {
    at_ms: u64,
    cues: VecDeque<(u64, Act)>,
}

impl Script {
    fn act(&mut self, act: Act) {
        self.cues.push_back((self.at_ms, act));
    }

    fn tell(&mut self, text: String) {
        self.act(Act::Tell(text));
    }

    fn report(&mut self, agent: Agent, site: Site, state: &'static str) {
        self.act(Act::Report(Claim { agent, site, state }));
    }

    fn ask(&mut self, site: Site) {
        self.act(Act::Ask(site));
    }

    /// One after the other.
    fn all(&mut self, agents: &[Agent], site: Site, state: &'static str, pause_ms: u64) {
        for &agent in agents {
            self.wait(pause_ms);
            self.report(agent, site, state);
        }
    }

    fn wait(&mut self, pause_ms: u64) {
        self.at_ms += pause_ms;
    }
}

/// A small generator of seeded chance (the steps of SplitMix64): a story needs no more, and stays the same in every release.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, evenly but for a bias that no story shows.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use statehouse_dataflows::{
        plan::{Plan, Rule, RuleSet},
        reference::Reference,
        vocabulary::{Cause, Event, Moment},
    };

    use super::*;

    /// What a house with the demo's rule makes of the story: (site, previous, state, cause).
    fn changes(seed: u64, steps: usize) -> Vec<(String, Option<String>, Option<String>, Cause)> {
        let plan = Plan::of(RuleSet { min_reports: 3, ..RuleSet::new(Rule::Majority) }).unwrap();
        let (mut house, mut story) = (Reference::new(&plan), Story::new(seed));
        let mut changes = Vec::new();
        let mut number = 0;
        let opening = story.opening();
        let mut told: VecDeque<Step> = (0..steps).map(|_| story.step(3)).collect();
        told.push_front(opening);
        for (nth, step) in (0..).zip(told) {
            let clock_ms = nth * STEP_MS as i64;
            changes.extend(house.tick(0, 0, clock_ms));
            let renewals = step.renewals.iter().copied().map(Act::Report);
            for act in step.acts.into_iter().chain(renewals) {
                let (site, event) = match act {
                    Act::Report(Claim { agent, site, state }) => {
                        (site, Event::Report { agent: AGENTS[agent], state, ts_ms: clock_ms, ttl_ms: None })
                    }
                    Act::Pin(site, state, for_ms) => (site, Event::Override { state, for_ms: Some(for_ms as i64) }),
                    Act::Tell(_) | Act::Ask(_) => continue,
                };
                number += 1;
                let moment = Moment { partition: 0, event: number, clock_ms, offset: Some(number as i64) };
                changes.extend(house.apply(moment, number, SITES[site], event));
            }
        }
        let owned = |name: Option<statehouse_dataflows::vocabulary::Name>| name.map(|name| name.to_string());
        changes.into_iter().map(|change| (change.object.to_string(), owned(change.previous), owned(change.state), change.cause)).collect()
    }

    #[test]
    fn a_seed_tells_one_story() {
        let told = |seed| {
            let mut story = Story::new(seed);
            (0..1_200).map(|_| story.step(3)).collect::<Vec<_>>()
        };
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn every_attack_is_voted_in_and_out_and_false_alarms_change_nothing() {
        let steps = (2 * ATTACK_MS / STEP_MS) as usize;
        for seed in 0..5 {
            let changes = changes(seed, steps);
            let (calm, attacks) = changes.split_at(SITES.len());
            assert!(calm.iter().all(|change| change.1.is_none() && change.2.as_deref() == Some(NORMAL)), "seed {seed}: {calm:?}");
            let seen: Vec<_> =
                attacks.iter().map(|(_, from, to, cause)| (from.as_deref().unwrap(), to.as_deref().unwrap(), *cause)).collect();
            let attack = [
                (NORMAL, UNDER_ATTACK, Cause::Vote),
                (NORMAL, UNDER_ATTACK, Cause::Vote),
                (UNDER_ATTACK, MAINTENANCE, Cause::Override),
                (MAINTENANCE, UNDER_ATTACK, Cause::Override),
                (UNDER_ATTACK, NORMAL, Cause::Vote),
                (UNDER_ATTACK, NORMAL, Cause::Vote),
            ];
            assert_eq!(seen, attack.repeat(2), "seed {seed}");
        }
    }
}
