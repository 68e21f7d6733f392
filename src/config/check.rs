//! The ranges of settings, with their units, and what must hold between them.

use std::{collections::BTreeMap, fmt::Display, net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{AgentFrom, Config, ConfigError, HttpConfig, LogKind, STATE_BYTES_MAX, SourceConfig, SourceFormat, rules::MISSING};
use crate::chunk::PIECE_BYTES_MAX;

/// More threads than this help nobody.
pub(super) const WORKERS_MAX: usize = 256;
/// The longest name that Kafka takes for a topic.
const TOPIC_BYTES_MAX: usize = 249;
/// Leaves room in a topic's name for the longest of `-checkpoint` and its like.
const HOUSE_BYTES_MAX: usize = 200;
const KEY_BYTES_MAX: usize = 32 << 10;
const AGENT_BYTES_MAX: usize = 4 << 10;
// A row has at most an object's name, an agent's and three states: any one fits a piece of a chunk, many times over.
const _: () = assert!((KEY_BYTES_MAX + AGENT_BYTES_MAX + 3 * STATE_BYTES_MAX) * 8 <= PIECE_BYTES_MAX);

impl Config {
    /// Checks every range. Loading does it; programs that fill in the fields themselves call it.
    ///
    /// # Errors
    /// When, and only when, a setting is out of its range or contradicts another.
    pub fn check(&self) -> Result<(), ConfigError> {
        name("house", &self.house, HOUSE_BYTES_MAX)?;
        within("workers", self.worker_count(), 1..=WORKERS_MAX, "threads")?;
        self.source.check()?;
        self.check_topics()?;
        self.check_kafka()?;
        within("commit.min_interval_ms", self.commit.min_interval_ms, 1..=10_000, "milliseconds")?;
        within("commit.max_records", self.commit.max_records, 1..=1_000_000, "records")?;
        within("commit.idle_slice_bytes", self.commit.idle_slice_bytes, 4_096..=1 << 30, "bytes a second")?;
        within("local.partitions", self.local.partitions, 1..=1_024, "partitions")?;
        within("local.keep_records", self.local.keep_records, 0..=1_000_000_000_000, "records")?;
        within("local.queue_records", self.local.queue_records, 1..=10_000_000, "records")?;
        within("restore.readers", self.restore.readers, 1..=64, "partitions")?;
        within("standby.copies", self.standby.copies, 0..=100, "copies")?;
        self.check_http()
    }

    fn check_topics(&self) -> Result<(), ConfigError> {
        let topics = self.topics();
        let mut seen = BTreeMap::new();
        for (role, topic) in topics.all() {
            let setting = format!("topics.{role}");
            name(&setting, topic, TOPIC_BYTES_MAX)?;
            if let Some(other) = seen.insert(topic, role) {
                let fix = format!("topics.{other} is the same: each topic of a house needs a name of its own");
                return Err(ConfigError::setting(setting, &quoted(topic), fix));
            }
        }
        Ok(())
    }

    fn check_kafka(&self) -> Result<(), ConfigError> {
        let kafka = &self.kafka;
        if self.log == LogKind::Kafka && kafka.brokers.split(',').any(|broker| broker.trim().is_empty()) {
            return Err(ConfigError::setting("kafka.brokers", &quoted(&kafka.brokers), "write host:port, several with commas"));
        }
        within("kafka.partitions", kafka.partitions, 1..=10_000, "partitions")?;
        if kafka.replication_factor != -1 {
            within("kafka.replication_factor", kafka.replication_factor, 1..=32, "replicas, or -1 for the cluster's default")?;
        }
        within("kafka.session_timeout_ms", kafka.session_timeout_ms, 1_000..=1_800_000, "milliseconds")?;
        within("kafka.transaction_timeout_ms", kafka.transaction_timeout_ms, 1_000..=900_000, "milliseconds")?;
        within("kafka.trim_interval_ms", kafka.trim_interval_ms, 100..=86_400_000, "milliseconds")?;
        if self.commit.min_interval_ms * 2 > u64::from(kafka.transaction_timeout_ms) {
            let fix = format!("set at most half of kafka.transaction_timeout_ms ({})", kafka.transaction_timeout_ms);
            return Err(ConfigError::setting("commit.min_interval_ms", &self.commit.min_interval_ms, fix));
        }
        Ok(())
    }

    fn check_http(&self) -> Result<(), ConfigError> {
        const TIMES_MS: RangeInclusive<u64> = 100..=3_600_000;
        let http = &self.http;
        http.check_reach()?;
        within("http.max_connections", http.max_connections, 1..=65_536, "connections")?;
        within("http.max_connections_per_address", http.max_connections_per_address, 1..=65_536, "connections")?;
        within("http.max_body_bytes", http.max_body_bytes, 1 << 10..=1 << 30, "bytes")?;
        within("http.header_timeout_ms", http.header_timeout_ms, TIMES_MS, "milliseconds")?;
        within("http.request_timeout_ms", http.request_timeout_ms, TIMES_MS, "milliseconds")?;
        within("http.write_timeout_ms", http.write_timeout_ms, TIMES_MS, "milliseconds")?;
        within("http.peer_timeout_ms", http.peer_timeout_ms, TIMES_MS, "milliseconds")?;
        within("http.max_list", http.max_list, 1..=100_000, "objects")?;
        within("http.queue_questions", http.queue_questions, 1..=1_000_000, "questions")
    }
}

impl HttpConfig {
    /// Checks that nobody beyond this machine can ask without a token, or be overheard.
    fn check_reach(&self) -> Result<(), ConfigError> {
        let (has_certificate, has_key) = (self.tls.certificate.is_some(), self.tls.key.is_some());
        if has_certificate != has_key {
            let (missing, other) = if has_key { ("certificate", "key") } else { ("key", "certificate") };
            let fix = format!("http.tls.{other} is set: name both PEM files, or none");
            return Err(ConfigError::setting(format!("http.tls.{missing}"), &MISSING, fix));
        }
        if let Some(name) = self.hosts.iter().find(|name| !is_host(name)) {
            return Err(ConfigError::setting("http.hosts", &quoted(name), "write names or IP addresses, without scheme and port"));
        }
        let refused = |fix: String| Err(ConfigError::setting("http.listen", &quoted(&self.listen.to_string()), fix));
        let port = self.listen.port();
        if !self.is_loopback() && self.tokens.is_none() {
            return refused(format!(
                "beyond this machine everyone could read and write: name a file of tokens in http.tokens (`statehouse token` makes them), \
                 or listen on 127.0.0.1:{port}"
            ));
        }
        if !self.is_loopback() && !has_certificate && !self.insecure {
            return refused(format!(
                "beyond this machine tokens could be overheard: set http.tls.certificate and http.tls.key, or listen on 127.0.0.1:{port}, or \
                 set http.insecure = true if something in front of it does TLS"
            ));
        }
        Ok(())
    }
}

fn is_host(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    (is_plain && (1..=253).contains(&name.len())) || name.parse::<IpAddr>().is_ok()
}

impl SourceConfig {
    /// Checks what a decoder hangs on: limits, where fields are, where the agent is.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        within("source.max_key_bytes", self.max_key_bytes, 1..=KEY_BYTES_MAX, "bytes")?;
        within("source.max_value_bytes", self.max_value_bytes, 16..=16 << 20, "bytes")?;
        within("source.max_agent_bytes", self.max_agent_bytes, 1..=AGENT_BYTES_MAX, "bytes")?;
        let skew = self.max_future_skew;
        if !(Duration::from_secs(1)..=Duration::from_secs(366 * 86_400)).contains(&skew) {
            let shown = humantime::format_duration(skew);
            return Err(ConfigError::setting("source.max_future_skew", &shown, "set a duration from \"1s\" to \"366days\""));
        }
        self.check_agent()?;
        if self.state.is_empty() {
            return Err(ConfigError::setting("source.state", &"\"\"", "write a JSON pointer to the state, such as \"/state\""));
        }
        let all = [("state", &self.state), ("ts", &self.ts), ("ttl", &self.ttl), ("type", &self.r#type), ("for", &self.r#for)];
        all.into_iter().try_for_each(|(field, text)| pointer(&format!("source.{field}"), text))
    }

    fn check_agent(&self) -> Result<(), ConfigError> {
        let (setting, value, fix) = match &self.agent {
            AgentFrom::Pointer(text) if self.format == SourceFormat::Text => {
                ("source.agent", text, "a text has no agent in it: set { header = \"name\" } or { fixed = \"name\" }".to_owned())
            }
            AgentFrom::Pointer(text) if text.is_empty() => {
                ("source.agent", text, "write a JSON pointer to the agent, such as \"/agent\"".to_owned())
            }
            AgentFrom::Pointer(text) => return pointer("source.agent", text),
            AgentFrom::Header { header } if header.is_empty() => {
                ("source.agent.header", header, "name the header that holds the agent".to_owned())
            }
            AgentFrom::Fixed { fixed } if !(1..=self.max_agent_bytes).contains(&fixed.len()) => {
                ("source.agent.fixed", fixed, format!("name an agent of 1 to {} bytes", self.max_agent_bytes))
            }
            AgentFrom::Header { .. } | AgentFrom::Fixed { .. } => return Ok(()),
        };
        Err(ConfigError::setting(setting, &quoted(value), fix))
    }
}

/// Checks a JSON pointer (RFC 6901); an empty one is not read.
fn pointer(setting: &str, text: &str) -> Result<(), ConfigError> {
    let fix = match text.strip_prefix('/') {
        None if text.is_empty() => return Ok(()),
        None => "write a JSON pointer to a field, such as \"/state\" or \"/data/state\"",
        Some(rest) if rest.replace("~0", "").replace("~1", "").contains('~') => "in a JSON pointer write ~0 for ~ and ~1 for /",
        Some(_) => return Ok(()),
    };
    Err(ConfigError::setting(setting, &quoted(text), fix))
}

fn within<T: Copy + PartialOrd + Display>(setting: &str, value: T, range: RangeInclusive<T>, unit: &str) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::setting(setting, &value, format!("set {} to {} {unit}", range.start(), range.end())))
}

/// Checks a name that Kafka must take as (part of) a topic's.
fn name(setting: &str, name: &str, bytes_max: usize) -> Result<(), ConfigError> {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if is_plain && (1..=bytes_max).contains(&name.len()) && !matches!(name, "." | "..") {
        return Ok(());
    }
    let fix = format!("use 1 to {bytes_max} of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\"");
    Err(ConfigError::setting(setting, &quoted(name), fix))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
