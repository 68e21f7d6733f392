//! What `check-config` shows, and the digest by which instances of a house notice that they were configured differently.

use std::fmt::Write as _;

use toml::{Table, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::{Config, Origin, PropertyValue, RuleConfig};

/// Client properties whose names have one of these in them are not shown.
const SECRETS: [&str; 7] = ["password", "secret", "token", "jaas", "pem", "credential", "key"];

impl Config {
    /// Every setting with its effective value, as TOML, and where it was set. Values that may be secrets are masked.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut effective = self.effective();
        let rules = std::mem::take(&mut effective.rules);
        let table = Table::try_from(&effective).expect("a configuration is valid TOML");
        let mut lines = Vec::new();
        self.describe_table(&table, "", &mut lines);
        for (name, value) in &self.kafka.properties {
            let origin = self.origin(&format!("kafka.properties.{name}"), "kafka.properties");
            lines.push((format!("kafka.properties.{name:?} = {}", shown(name, value)), origin));
        }
        let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0).min(60);
        let mut text = String::new();
        for (setting, origin) in lines {
            writeln!(text, "{setting:width$}  # {origin}").expect("a string takes everything");
        }
        let origin = self.origin("rule", "rule");
        for rule in rules {
            write!(text, "\n[[rule]]  # {origin}\n{}", rule.lines()).expect("a string takes everything");
        }
        text
    }

    /// A stable hash of what must be the same at all instances of a house: the same records must give the same changes.
    #[must_use]
    pub fn config_digest(&self) -> u64 {
        let effective = self.effective();
        let source = Table::try_from(&effective.source).expect("a section is valid TOML");
        let mut rules: Vec<String> = effective.rules.iter().map(RuleConfig::lines).collect();
        rules.sort_unstable(); // their order means nothing
        let mut text =
            format!("{}\n{:?}\n{:?}\n{:?}\n", self.house, effective.topics(), effective.sink.format, effective.kafka.partitioner);
        for (key, value) in source.iter().filter(|(key, _)| key.as_str() != "start") {
            writeln!(text, "{key} = {value}").expect("a string takes everything");
        }
        text.push_str(&rules.join("\n"));
        xxh3_64(text.as_bytes())
    }

    /// With everything filled in that has no fixed default.
    fn effective(&self) -> Self {
        let topics = self.topics();
        let mut effective = self.clone();
        effective.workers = Some(self.worker_count());
        effective.topics.source = Some(topics.source);
        effective.topics.sink = Some(topics.sink);
        effective.topics.checkpoint = Some(topics.checkpoint);
        effective.topics.rejects = Some(topics.rejects);
        effective.topics.instances = Some(topics.instances);
        effective.rules.iter_mut().for_each(RuleConfig::fill_in);
        if effective.rules.iter().all(|rule| !rule.prefix.is_empty()) {
            effective.rules.push(RuleConfig::majority());
        }
        effective
    }

    fn describe_table(&self, table: &Table, prefix: &str, lines: &mut Vec<(String, String)>) {
        for (key, value) in table {
            let setting = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) if setting != "source.agent" => self.describe_table(inner, &setting, lines),
                Value::Array(empty) if empty.is_empty() => {}
                value => lines.push((format!("{setting} = {value}"), self.origin(&setting, &setting))),
            }
        }
    }

    /// Where a setting, or else the section that it came with, was set.
    fn origin(&self, setting: &str, section: &str) -> String {
        match self.origins.get(setting).or_else(|| self.origins.get(section)) {
            Some(Origin::File) => "file".to_owned(),
            Some(Origin::Environment(name)) => format!("environment {name}"),
            None => "default".to_owned(),
        }
    }
}

impl RuleConfig {
    /// The rule of a house without any.
    pub(super) fn majority() -> Self {
        let mut rule = Self {
            prefix: String::new(),
            rule: "majority".into(),
            weights: Table::new(),
            min_reports: None,
            of: None,
            on_none: None,
            on_empty: None,
            order: None,
            settings: Table::new(),
        };
        rule.fill_in();
        rule
    }

    /// Its settings, one a line, its own among them.
    fn lines(&self) -> String {
        let mut table = Table::try_from(self).expect("a rule is valid TOML");
        if let Some(Value::Table(own)) = table.remove("settings") {
            table.extend(own);
        }
        table.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }

    /// Writes the defaults out.
    fn fill_in(&mut self) {
        self.min_reports.get_or_insert(1);
        self.of.get_or_insert_with(|| "live".into());
        self.on_none.get_or_insert_with(|| "keep".into());
        self.on_empty.get_or_insert_with(|| "remove".into());
        self.order.get_or_insert_with(|| "arrival".into());
    }
}

fn shown(name: &str, value: &PropertyValue) -> String {
    let is_secret = SECRETS.iter().any(|part| name.contains(part));
    match value {
        PropertyValue::Text(text) if !is_secret => Value::from(text.as_str()).to_string(),
        PropertyValue::Number(number) if !is_secret => number.to_string(),
        PropertyValue::Flag(flag) if !is_secret => flag.to_string(),
        hidden => format!("{hidden:?}"),
    }
}
