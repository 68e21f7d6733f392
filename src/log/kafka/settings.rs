//! What each Kafka client is told, and why. From `[kafka]` and `[topics]`; used by every file here that makes a client.
//!
//! One table per kind of client, so that no option is anybody's default by accident. `[kafka.properties]` comes last and wins, except
//! for the options that a promise hangs on: those are refused. Values may be secrets and are never printed.

use std::{collections::BTreeMap, env, fs, path::Path, time::Duration};

use rdkafka::{
    ClientContext,
    config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::BaseConsumer,
    error::KafkaError,
    producer::BaseProducer,
};
use uuid::Uuid;

use super::{
    context::{Deliveries, Voice},
    timing,
};
use crate::{
    config::{AgentFrom, Config, HttpConfig, Partitioner, PropertyValue, Topics},
    log::{LogError, directory::PeerSecret},
};

/// For every client.
const COMMON: &[(&str, &str)] = &[
    // A half-open connection (a firewall that forgot us) must not look like silence.
    ("socket.keepalive.enable", "true"),
    ("socket.connection.setup.timeout.ms", "10000"),
    // An outage costs as little as possible after its end; a connection try every two seconds harms nobody.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "2000"),
    // The default (100, growing to 1000) is paid on nearly every transaction while the broker finishes the one before.
    ("retry.backoff.ms", "2"),
    ("retry.backoff.max.ms", "20"),
];

/// For every consumer.
const CONSUMER: &[(&str, &str)] = &[
    // Offsets are committed by transactions and by nothing else.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Where to read is always said explicitly: an offset that is gone is an error, not a silent jump.
    ("auto.offset.reset", "error"),
    // Tells when a partition is caught up.
    ("enable.partition.eof", "true"),
    // Bits do flip on the way; the default is not to look.
    ("check.crcs", "true"),
    ("allow.auto.create.topics", "false"),
    // What is fetched ahead, per partition: bounds memory, and a second of the fastest stream.
    ("queued.max.messages.kbytes", "8192"),
    // When the bound is reached fetching pauses this long; the default of a second starves a fast reader.
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.error.backoff.ms", "100"),
    // A fetch without answer is an outage after this, not after a minute.
    ("socket.timeout.ms", "10000"),
];

/// For the one member of the group.
const MEMBER: &[(&str, &str)] = &[
    // The new protocol makes any group change abort a commit in flight, and has a fatal error in this client's version.
    ("group.protocol", "classic"),
    // A member that comes or goes stops only the partitions that move.
    ("partition.assignment.strategy", "cooperative-sticky"),
    // An empty partition answers a fetch after this, and only then it is known to be caught up; the default is half a second.
    ("fetch.wait.max.ms", "100"),
    // Aborted and open transactions are not read; offset fetches wait for pending transactions.
    ("isolation.level", "read_committed"),
];

/// How far producers fill a batch of several records (`batch.size`). Batches fit the brokers' default limit of a message even when single
/// records may be larger.
pub(super) const BATCH_BYTES_MAX: usize = 1_000_000;

/// The longest record that a producer sends, whatever topics take (`message.max.bytes`): as large as source.max_value_bytes can be set.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// For every producer, beside [`BATCH_BYTES_MAX`] and [`MESSAGE_BYTES_MAX`].
const PRODUCER: &[(&str, &str)] = &[
    // Acknowledged means on every in-sync replica, once, in order.
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // An epoch is all there at once: waiting for more only adds latency.
    ("linger.ms", "0"),
    // Cheap, and JSON shrinks to a fifth; chunks are compressed already and stay as they are.
    ("compression.codec", "lz4"),
    // Bounds memory; a full queue waits for deliveries.
    ("queue.buffering.max.messages", "1000000"),
    ("queue.buffering.max.kbytes", "262144"),
];

/// Options that are ours alone, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("group.id", "the house's name is the group: set house instead"),
    ("client.id", "it tells the instances of a house apart"),
    ("session.timeout.ms", "set kafka.session_timeout_ms instead"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout_ms instead"),
    ("partitioner", "set kafka.partitioner instead"),
    ("message.max.bytes", "chunks and rejects are cut to fit it"),
    ("batch.size", "topics are verified to take batches of it"),
    ("message.timeout.ms", "it follows kafka.transaction_timeout_ms"),
    ("delivery.timeout.ms", "it follows kafka.transaction_timeout_ms"),
    ("transactional.id", "exactly-once hangs on a fresh one for each start"),
    ("group.instance.id", "membership is dynamic"),
    ("group.protocol", "exactly-once was proved for the classic protocol"),
    ("partition.assignment.strategy", "members of one house must not differ in it"),
    ("enable.auto.commit", "exactly-once hangs on it"),
    ("auto.commit.enable", "exactly-once hangs on it"),
    ("enable.auto.offset.store", "exactly-once hangs on it"),
    ("enable.partition.eof", "clocks hang on it"),
    ("isolation.level", "exactly-once hangs on it"),
    ("statistics.interval.ms", "that answers of one who was asleep are marked as stale hangs on it"),
    ("auto.offset.reset", "set source.start instead; later offsets are exactly what was committed"),
    ("enable.idempotence", "exactly-once hangs on it"),
    ("acks", "exactly-once hangs on it"),
    ("request.required.acks", "exactly-once hangs on it"),
];

/// What was configured, secrets read, for the life of the process. Has no `Debug`: it holds secrets.
pub(super) struct Settings {
    pub(super) house: String,
    pub(super) topics: Topics,
    /// This process start: the consumer's client id, and the key in the instances topic.
    pub(super) instance: String,
    pub(super) transactional_id: String,
    pub(super) session_timeout: Duration,
    pub(super) transaction_timeout: Duration,
    pub(super) trim_interval: Duration,
    pub(super) partitioner: Partitioner,
    pub(super) create_topics: bool,
    pub(super) partitions: i32,
    pub(super) replication_factor: i32,
    /// The header that names the agent, if one does.
    pub(super) agent_header: Option<String>,
    /// What instances of the house know each other by.
    pub(super) peer_secret: PeerSecret,
    /// What must be the same at all instances.
    pub(super) config_digest: String,
    brokers: String,
    properties: BTreeMap<String, String>,
}

impl Settings {
    /// # Errors
    /// When a setting is out of range, a property is refused, or a secret can't be read.
    pub(super) fn new(config: &Config) -> Result<Self, LogError> {
        config.check().map_err(|error| LogError::Setting(error.to_string()))?;
        let kafka = &config.kafka;
        let session_timeout = Duration::from_millis(kafka.session_timeout_ms.into());
        let transaction_timeout = Duration::from_millis(kafka.transaction_timeout_ms.into());
        let properties = resolve(&kafka.properties)?;
        timing::check(&properties, session_timeout, transaction_timeout)?;
        let instance = format!("{}-{}", config.house, Uuid::new_v4());
        Ok(Self {
            house: config.house.clone(),
            topics: config.topics(),
            transactional_id: instance.clone(),
            instance,
            session_timeout,
            transaction_timeout,
            trim_interval: Duration::from_millis(kafka.trim_interval_ms),
            partitioner: kafka.partitioner,
            create_topics: kafka.create_topics,
            partitions: kafka.partitions,
            replication_factor: kafka.replication_factor,
            agent_header: match &config.source.agent {
                AgentFrom::Header { header } => Some(header.clone()),
                AgentFrom::Pointer(_) | AgentFrom::Fixed { .. } => None,
            },
            peer_secret: peer_secret(&config.http)?,
            config_digest: format!("{:016x}", config.config_digest()),
            brokers: kafka.brokers.clone(),
            properties,
        })
    }

    /// The member of the group, which reads the source.
    pub(super) fn member(&self) -> ClientConfig {
        let mut client = self.client(&[COMMON, CONSUMER, MEMBER]);
        client.set("group.id", &self.house);
        client.set("heartbeat.interval.ms", timing::heartbeat_ms(self.session_timeout).to_string());
        // Where partitions end, and whether the group still answers, is only told in statistics.
        client.set("statistics.interval.ms", timing::statistics_ms(self.session_timeout).to_string());
        self.set_membership(&mut client);
        self.passed_through(client)
    }

    /// A consumer outside the group for what a restore reads. Has the group's id, to ask for its offsets, but never joins.
    pub(super) fn reader(&self, isolation: Isolation) -> ClientConfig {
        let mut client = self.client(&[COMMON, CONSUMER]);
        client.set("group.id", &self.house);
        // Only so that what was passed through fits.
        self.set_membership(&mut client);
        client.set("isolation.level", isolation.name());
        // A restore reads one partition as fast as it can, and learns of its end by a fetch that finds nothing.
        client.set("fetch.wait.max.ms", "10");
        client.set("queued.max.messages.kbytes", "32768");
        client.set("fetch.message.max.bytes", "4194304");
        self.passed_through(client)
    }

    /// A consumer outside the group that reads many checkpoint partitions as they come.
    pub(super) fn tail(&self) -> ClientConfig {
        let mut client = self.reader(Isolation::Committed);
        // What is committed comes at once; this is how long a fetch that finds nothing waits, and with it how often one is made.
        client.set("fetch.wait.max.ms", "250");
        // Fetched ahead, of all partitions together: the chunks of a first copy are taken as fast as they are decoded.
        client.set("queued.max.messages.kbytes", "8192");
        self.passed_through(client)
    }

    /// A consumer outside the group that follows the register, in which mostly nothing comes.
    pub(super) fn follower(&self) -> ClientConfig {
        let mut client = self.client(&[COMMON, CONSUMER]);
        client.set("group.id", &self.house);
        client.set("session.timeout.ms", self.session_timeout.as_millis().to_string());
        client.set("isolation.level", Isolation::Uncommitted.name());
        client.set("queued.max.messages.kbytes", "1024");
        self.passed_through(client)
    }

    /// The transactional producer with this id.
    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let timeout_ms = self.transaction_timeout.as_millis();
        let mut client = self.producer();
        client.set("transactional.id", id);
        client.set("transaction.timeout.ms", timeout_ms.to_string());
        // A record not delivered when its transaction times out never will be. (0 would mean for ever.)
        client.set("message.timeout.ms", timeout_ms.to_string());
        // A lost answer is noticed while there is still time to ask again.
        client.set("socket.timeout.ms", (timeout_ms / 2).min(10_000).to_string());
        self.passed_through(client)
    }

    /// An idempotent producer outside transactions: HTTP writes.
    pub(super) fn idempotent(&self) -> ClientConfig {
        let mut client = self.producer();
        // HTTP clients don't wait longer than that.
        client.set("message.timeout.ms", "30000");
        client.set("socket.timeout.ms", "10000");
        client.set("queue.buffering.max.messages", "100000");
        client.set("queue.buffering.max.kbytes", "65536");
        self.passed_through(client)
    }

    /// The producer of this instance's registration, made for each record. Not idempotent: a new client gets its producer id half a second
    /// later than it could have written, and an entry that is there twice says nothing else than once.
    pub(super) fn registrar(&self) -> ClientConfig {
        let mut client = self.idempotent();
        client.set("enable.idempotence", "false");
        client.set("max.in.flight.requests.per.connection", "1"); // in order, however often it is tried
        client
    }

    /// For topics and their settings.
    pub(super) fn admin(&self) -> ClientConfig {
        let client = self.client(&[COMMON]);
        self.passed_through(client)
    }

    /// Makes each client and drops it: whatever the client refuses shows. Without brokers' addresses, so nobody is connected to.
    ///
    /// # Errors
    /// As [`make`]'s.
    pub(super) fn try_out(&self) -> Result<(), LogError> {
        let alone = |mut client: ClientConfig| {
            client.remove("bootstrap.servers");
            client
        };
        let readers = [self.reader(Isolation::Committed), self.reader(Isolation::Uncommitted), self.follower()];
        for client in readers.into_iter().chain([self.member()]) {
            drop(make::<_, BaseConsumer<Voice>>(&alone(client), Voice::default())?);
        }
        for client in [self.transactional(&self.transactional_id), self.idempotent(), self.registrar(), self.admin()] {
            drop(make::<_, BaseProducer<Deliveries>>(&alone(client), Deliveries::default())?);
        }
        Ok(())
    }

    fn set_membership(&self, client: &mut ClientConfig) {
        client.set("session.timeout.ms", self.session_timeout.as_millis().to_string());
        let max_poll_interval = timing::max_poll_interval(self.session_timeout, self.transaction_timeout);
        client.set("max.poll.interval.ms", max_poll_interval.as_millis().to_string());
    }

    fn producer(&self) -> ClientConfig {
        let mut client = self.client(&[COMMON, PRODUCER]);
        client.set("batch.size", BATCH_BYTES_MAX.to_string());
        client.set("message.max.bytes", MESSAGE_BYTES_MAX.to_string());
        client
    }

    fn client(&self, tables: &[&[(&str, &str)]]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        client.set("client.id", &self.instance);
        client.set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in tables.iter().copied().flatten() {
            client.set(*name, *value);
        }
        client
    }

    fn passed_through(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// What was configured as the brokers' addresses, for messages.
    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }
}

/// Which transactions a consumer waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Isolation {
    /// Sees what is committed, up to the first open transaction.
    Committed,
    /// Sees everything, and so the true end.
    Uncommitted,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Makes a client.
///
/// # Errors
/// When an option is unknown or its value is out of range; never shows the value.
pub(super) fn make<C: ClientContext, T: FromClientConfigAndContext<C>>(config: &ClientConfig, context: C) -> Result<T, LogError> {
    T::from_config_and_context(config, context).map_err(|error| match error {
        KafkaError::ClientConfig(_, why, name, value) => {
            let why = if value.is_empty() { why } else { why.replace(&value, "***") };
            LogError::Setting(format!("kafka.properties: \"{name}\" was refused: {why}"))
        }
        other => LogError::Setting(format!("the Kafka client can't be made: {other}; see [kafka] and [kafka.properties]")),
    })
}

fn peer_secret(http: &HttpConfig) -> Result<PeerSecret, LogError> {
    let path = http.peer_secret.as_deref().unwrap_or(Path::new(""));
    PeerSecret::of(http).map_err(|why| LogError::Setting(format!("http.peer_secret = {path:?}: {why}")))
}

fn resolve(properties: &BTreeMap<String, PropertyValue>) -> Result<BTreeMap<String, String>, LogError> {
    properties
        .iter()
        .map(|(name, value)| {
            if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                return Err(LogError::Setting(format!("kafka.properties: \"{name}\" can't be set: {instead}; remove it")));
            }
            Ok((name.clone(), text(name, value)?))
        })
        .collect()
}

fn text(name: &str, value: &PropertyValue) -> Result<String, LogError> {
    match value {
        PropertyValue::Text(text) => Ok(text.clone()),
        PropertyValue::Number(number) => Ok(number.to_string()),
        PropertyValue::Flag(flag) => Ok(flag.to_string()),
        PropertyValue::File { file } => secret_file(name, file),
        PropertyValue::Env { env: variable } => env::var(variable).map_err(|_| {
            LogError::Setting(format!("kafka.properties: \"{name}\": the environment variable {variable} is not set (or not UTF-8)"))
        }),
    }
}

fn secret_file(name: &str, file: &Path) -> Result<String, LogError> {
    match fs::read_to_string(file) {
        // Editors end files with a newline; no password does.
        Ok(secret) => Ok(secret.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(LogError::Setting(format!("kafka.properties: \"{name}\": can't read {}: {error}", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpListener};

    use super::*;

    fn config(properties: &str) -> Config {
        toml::from_str(&format!("house = 'test'\nrule = []\n[kafka.properties]\n{properties}")).expect("a configuration")
    }

    fn refusal(properties: &str) -> String {
        Settings::new(&config(properties)).err().expect("refused").to_string()
    }

    #[test]
    fn every_client_takes_its_options() {
        let settings = Settings::new(&config("'socket.nagle.disable' = true\n'fetch.min.bytes' = 1")).expect("settings");
        settings.try_out().expect("clients");
    }

    #[test]
    fn trying_out_connects_to_nobody() {
        let broker = TcpListener::bind("127.0.0.1:0").expect("a port");
        broker.set_nonblocking(true).expect("an answer at once");
        let mut config = config("");
        config.kafka.brokers = broker.local_addr().expect("it is bound").to_string();
        let settings = Settings::new(&config).expect("settings");
        settings.try_out().expect("clients");
        assert_eq!(broker.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
        let _client: BaseProducer<Deliveries> = make(&settings.idempotent(), Deliveries::default()).expect("a client");
        broker.set_nonblocking(false).expect("it waits");
        broker.accept().expect("a client that is meant to connect does so at once");
    }

    #[test]
    fn promises_are_not_for_sale() {
        assert_eq!(
            refusal("'isolation.level' = 'read_uncommitted'"),
            "kafka.properties: \"isolation.level\" can't be set: exactly-once hangs on it; remove it"
        );
        assert!(refusal("'group.id' = 'x'").contains("set house instead"));
        assert!(refusal("'message.max.bytes' = 1000000").contains("chunks and rejects are cut to fit it"));
    }

    #[test]
    fn secrets_come_from_files_and_are_not_shown() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "open sesame\n").expect("written");
        let properties = format!("'sasl.password' = {{ file = {:?} }}", file.path());
        let settings = Settings::new(&config(&properties)).expect("settings");
        assert_eq!(settings.member().get("sasl.password"), Some("open sesame"));
        assert!(!format!("{:?}", config("'sasl.password' = 'open sesame'")).contains("sesame"));
        assert!(refusal("'sasl.password' = { env = 'NO_SUCH_VARIABLE_HERE' }").contains("NO_SUCH_VARIABLE_HERE"));
        assert!(refusal("'sasl.password' = { file = '/no/such/file' }").contains("/no/such/file"));
    }

    #[test]
    fn a_refused_value_is_named_but_not_shown() {
        let refused = |properties| Settings::new(&config(properties)).expect("settings").try_out().expect_err("refused").to_string();
        let error = refused("'security.protocol' = 'sesame'");
        assert!(error.contains("security.protocol") && !error.contains("sesame"), "{error}");
        let error = refused("'sokcet.timeout.ms' = 5");
        assert!(error.starts_with("kafka.properties: \"sokcet.timeout.ms\" was refused: No such configuration property"), "{error}");
    }
}
