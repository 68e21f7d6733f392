//! A program of your own around the library, with two rules of your own: one over the tally, one over all reports with their agents.
//!
//! Run it: `cargo run --example embed`. It opens a house on the embedded log in a temporary directory, reports, and prints what became of
//! it. A program that should rather be a server with all of `statehouse`'s verbs is shorter still: its `main` is
//! `statehouse::cli::run(&registry)`.

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use serde::Deserialize;
use statehouse::{
    config::Config,
    desk::Desk,
    encode::report_json,
    house::{self, Surroundings},
    log::local,
    registry::{Registry, RegistryError},
};
use statehouse_dataflows::rule::{Ballot, ReportsRule, TallyRule, Vote};

/// What follows `rule = "..."` in a `[[rule]]` are the rule's own settings.
const CONFIG: &str = r#"
house = "embedded"

[[rule]]
rule = "worst"
states = ["down", "degraded"]
votes = 2
otherwise = "up"

[[rule]]
prefix = "net/"
rule = "two_kinds"
"#;

/// Over the tally: the worst state that at least `votes` agents claim. Its fields are its settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Worst {
    /// The worst first.
    states: Vec<String>,
    votes: u32,
    otherwise: String,
}

impl TallyRule for Worst {
    /// `otherwise` may be decided though nobody claims it.
    fn named_states(&self) -> Vec<String> {
        vec![self.otherwise.clone()]
    }

    fn decide<'a>(&'a self, votes: &[Vote<'a>], _live: u32) -> Option<&'a str> {
        let enough = |state: &&String| votes.iter().any(|vote| vote.state == **state && vote.weight >= self.votes);
        Some(self.states.iter().find(enough).unwrap_or(&self.otherwise))
    }
}

/// Over all reports: a state that agents of two kinds claim (`probe-1` is of the kind `probe`); of several the one claimed last.
struct TwoKinds;

impl ReportsRule for TwoKinds {
    fn decide<'a>(&'a self, reports: &[Ballot<'a>]) -> Option<&'a str> {
        let kinds = |state| reports.iter().filter(|report| report.state == state).map(|report| kind(report.agent)).collect::<BTreeSet<_>>();
        let confirmed = reports.iter().filter(|report| kinds(report.state).len() >= 2);
        confirmed.max_by_key(|report| report.offset).map(|report| report.state)
    }
}

fn kind(agent: &str) -> &str {
    agent.split('-').next().unwrap_or(agent)
}

fn registry() -> Result<Registry, RegistryError> {
    let mut registry = Registry::new();
    registry.tally_rule("worst", |settings: Worst| Ok(settings))?;
    registry.reports_rule("two_kinds", |_: toml::Table| Ok(TwoKinds))?;
    Ok(registry)
}

fn main() -> Result<(), Box<dyn Error>> {
    for line in run()? {
        println!("{line}");
    }
    Ok(())
}

/// Opens a house, tells it some reports, asks what it made of them, closes it.
fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut config = Config::parse(CONFIG)?;
    config.local.path = directory.path().join("log");
    let plan = Arc::new(config.plan(&registry()?)?);
    let log = local::open(&config.local, &config.house)?;
    let house = house::start(&config, &plan, log, Surroundings::default())?;

    let desk = house.desk().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let lines = runtime.block_on(use_it(&desk));

    house.stop();
    house.wait()?;
    lines
}

async fn use_it(desk: &Desk) -> Result<Vec<String>, Box<dyn Error>> {
    let reports = [
        ("web/shop", "probe-1", "down"),
        ("web/shop", "probe-2", "degraded"),
        ("web/shop", "probe-3", "degraded"),
        ("net/core", "probe-1", "down"),
        ("net/core", "probe-2", "down"),
        ("net/edge", "probe-1", "down"),
        ("net/edge", "router-7", "down"),
    ];
    for (object, agent, state) in reports {
        let place = desk.append(object, Some(&report_json(agent, Some(state), None, None))).await?;
        if !desk.applied(place, Duration::from_secs(10)).await? {
            return Err(format!("the report on {object} was not applied in time").into());
        }
    }
    let mut lines = Vec::new();
    for object in ["web/shop", "net/core", "net/edge"] {
        let explained = desk.explain(object).await?.value.ok_or("a reported object is known")?;
        let state = explained.object.published.state.as_deref().unwrap_or("-");
        lines.push(format!("{object:<9} {state:<9} {}", explained.why));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #[test]
    fn rules_of_ones_own_decide() {
        let lines = super::run().unwrap();
        let states: Vec<_> = lines.iter().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(states, ["web/shop degraded", "net/core -", "net/edge down"], "{lines:#?}");
    }
}
