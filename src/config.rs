//! The configuration: what was typed in `statehouse.toml` or the environment, checked, and what it means.
//!
//! `main` loads it once; every stage gets just its own section. A setting has its unit in its name or takes a duration with a unit
//! ("5m"), and a default. The environment wins over the file: `STATEHOUSE__HTTP__LISTEN=0.0.0.0:7717` sets `http.listen`.
//! Errors name the setting, the value and the fix. `examples/statehouse.toml` lists every setting.

mod check;
mod describe;
mod error;
mod load;
mod peer_url;
pub mod registry;
mod rules;
mod sections;
mod wording;

use std::{collections::BTreeMap, thread};

use serde::{Deserialize, Serialize};

pub use self::{
    error::ConfigError,
    peer_url::{PeerUrl, is_asked},
    rules::RuleConfig,
    sections::*,
};

/// The longest state.
pub const STATE_BYTES_MAX: usize = 1024;

/// `statehouse.toml`, loaded and checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The application id: names the consumer group and, unless told otherwise, the topics.
    pub house: String,
    /// Worker threads; none: as many as cores ([`Config::worker_count`]).
    pub workers: Option<usize>,
    /// Which log.
    #[serde(default)]
    pub log: LogKind,
    /// What comes in.
    #[serde(default)]
    pub source: SourceConfig,
    /// What goes out.
    #[serde(default)]
    pub sink: SinkConfig,
    /// How much makes an epoch.
    #[serde(default)]
    pub commit: CommitConfig,
    /// Names of topics; those not given follow the house's name ([`Config::topics`]).
    #[serde(default)]
    pub topics: TopicsConfig,
    /// The Kafka log.
    #[serde(default)]
    pub kafka: KafkaConfig,
    /// Reading state back.
    #[serde(default)]
    pub restore: RestoreConfig,
    /// Warm copies of others' partitions.
    #[serde(default)]
    pub standby: StandbyConfig,
    /// The embedded log.
    #[serde(default)]
    pub local: LocalConfig,
    /// The HTTP server.
    #[serde(default)]
    pub http: HttpConfig,
    /// `[[rule]]`: by prefix; the longest matching prefix wins. None: majority for all objects.
    #[serde(default, rename = "rule")]
    pub rules: Vec<RuleConfig>,
    /// Where each setting that is not a default was set, by its dotted name.
    #[serde(skip)]
    origins: BTreeMap<String, Origin>,
}

/// Where a setting was set.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// In the file.
    File,
    /// In this environment variable.
    Environment(String),
}

/// The names of a house's five topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Reports come in here.
    pub source: String,
    /// Changes go out here.
    pub sink: String,
    /// The rolling checkpoint.
    pub checkpoint: String,
    /// Source records that can't be used.
    pub rejects: String,
    /// Who runs the house.
    pub instances: String,
}

impl Topics {
    /// By role, in the order of the fields.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &str); 5] {
        [
            ("source", &self.source),
            ("sink", &self.sink),
            ("checkpoint", &self.checkpoint),
            ("rejects", &self.rejects),
            ("instances", &self.instances),
        ]
    }
}

impl Config {
    /// The configuration of a house in which everything else is the default.
    #[must_use]
    pub fn of(house: &str) -> Self {
        Self {
            house: house.to_owned(),
            workers: None,
            log: LogKind::default(),
            source: SourceConfig::default(),
            sink: SinkConfig::default(),
            commit: CommitConfig::default(),
            topics: TopicsConfig::default(),
            kafka: KafkaConfig::default(),
            restore: RestoreConfig::default(),
            standby: StandbyConfig::default(),
            local: LocalConfig::default(),
            http: HttpConfig::default(),
            rules: Vec::new(),
            origins: BTreeMap::new(),
        }
    }

    /// How many worker threads: as configured, else the cores.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from).min(check::WORKERS_MAX))
    }

    /// The topics: as configured, else `<house>-reports`, `-changes`, `-checkpoint`, `-rejects`, `-instances`.
    #[must_use]
    pub fn topics(&self) -> Topics {
        let name = |given: &Option<String>, role: &str| given.clone().unwrap_or_else(|| format!("{}-{role}", self.house));
        Topics {
            source: name(&self.topics.source, "reports"),
            sink: name(&self.topics.sink, "changes"),
            checkpoint: name(&self.topics.checkpoint, "checkpoint"),
            rejects: name(&self.topics.rejects, "rejects"),
            instances: name(&self.topics.instances, "instances"),
        }
    }
}
