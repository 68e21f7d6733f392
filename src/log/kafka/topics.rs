//! The house's topics, at the start: those that are missing are created, those that are there are verified.
//!
//! A topic that would break a promise refuses the start, with its name, the setting, its value and the fix; what only weakens the house
//! is a warning. Unreachable brokers are waited for.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as Place, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
    types::RDKafkaRespErr,
};
use statehouse_dataflows::vocabulary::{Offset, Partition};
use tokio::runtime::{Builder, Runtime};

use super::{
    Waiting,
    context::Voice,
    drop_aside,
    settings::{BATCH_BYTES_MAX, MESSAGE_BYTES_MAX, Settings, make},
};
use crate::log::LogError;

const ASK: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(200);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long created topics may take to get leaders.
const LEADERS_PATIENCE: Duration = Duration::from_secs(30);
/// What a record's framing and our headers may take of a topic's max.message.bytes.
const FRAMING_BYTES: usize = 4096;
const _: () = assert!(crate::chunk::PIECE_BYTES_MAX <= BATCH_BYTES_MAX);

/// What the topics are.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) partitions: Partition,
    /// The longest record that the rejects topic takes, less its framing.
    pub(super) reject_bytes_max: usize,
    pub(super) warnings: Vec<String>,
}

/// Creates what is missing (unless it must not) and verifies the rest.
///
/// # Errors
/// When a topic is not as it must be, the brokers refuse us, or nobody waits any more while they can't be reached.
pub(super) fn prepare(settings: &Settings, client: &BaseConsumer<Voice>, waiting: &Waiting<'_>) -> Result<Facts, LogError> {
    let mut said = Instant::now();
    loop {
        match try_to_prepare(settings, client, waiting) {
            Err(LogError::Unavailable(why)) if (waiting.keep_trying)() => {
                (waiting.tell)(&why);
                if said.elapsed() >= SAY_EVERY {
                    said = Instant::now();
                    tracing::warn!("{why}; trying on");
                }
                thread::sleep(RETRY_AFTER);
            }
            outcome => return outcome,
        }
    }
}

fn try_to_prepare(settings: &Settings, client: &BaseConsumer<Voice>, waiting: &Waiting<'_>) -> Result<Facts, LogError> {
    let admin = Admin::new(settings)?;
    let shapes = wait_for_brokers(settings, client, waiting)?;
    let wanted = wanted(settings, &shapes);
    let missing = wanted.iter().filter(|topic| !shapes.contains_key(topic.name)).collect::<Vec<_>>();
    if !missing.is_empty() {
        if !settings.create_topics {
            return Err(absent(&missing));
        }
        admin.create(settings, &missing)?;
        wait_for_leaders(client, &missing)?;
    }
    verify(settings, client, &admin)
}

/// Like [`prepare`], but changes nothing: topics that `prepare` would create are only mentioned.
///
/// # Errors
/// As [`prepare`]'s.
pub(super) fn check(settings: &Settings, client: &BaseConsumer<Voice>, waiting: &Waiting<'_>) -> Result<Vec<String>, LogError> {
    let shapes = wait_for_brokers(settings, client, waiting)?;
    let wanted = wanted(settings, &shapes);
    let missing = wanted.iter().filter(|topic| !shapes.contains_key(topic.name)).collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(verify(settings, client, &Admin::new(settings)?)?.warnings);
    }
    if !settings.create_topics {
        return Err(absent(&missing));
    }
    Ok(missing.iter().map(|topic| format!("topic {} is missing; it will be created at the start", topic.name)).collect())
}

/// A topic's partitions and its least number of replicas.
#[derive(Clone, Copy, Debug)]
struct Shape {
    partitions: i32,
    replicas: usize,
}

fn shape(topic: &MetadataTopic) -> Shape {
    let partitions = topic.partitions();
    Shape {
        partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
    }
}

fn shapes(client: &BaseConsumer<Voice>) -> Result<BTreeMap<String, Shape>, KafkaError> {
    // All topics: asking for one by name may create it, as the broker is configured.
    let metadata = client.fetch_metadata(None, ASK)?;
    let there =
        metadata.topics().iter().filter(|topic| topic.error().is_none_or(|error| error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR));
    Ok(there.map(|topic| (topic.name().to_owned(), shape(topic))).collect())
}

fn wait_for_brokers(settings: &Settings, client: &BaseConsumer<Voice>, waiting: &Waiting<'_>) -> Result<BTreeMap<String, Shape>, LogError> {
    let mut said = Instant::now();
    loop {
        let error = match shapes(client) {
            Ok(shapes) => return Ok(shapes),
            Err(error) => error,
        };
        // Serves the client's own complaints, so that the reason becomes known.
        client.poll(RETRY_AFTER);
        if let Some(refusal) = client.context().refusal() {
            return Err(LogError::Setting(format!(
                "Kafka at {} refuses the user, or can't be trusted: {refusal}; see security.protocol, sasl.* and ssl.* in [kafka.properties]",
                settings.brokers()
            )));
        }
        let reason = format!("Kafka at {} can't be reached (kafka.brokers): {error}", settings.brokers());
        (waiting.tell)(&reason);
        if !(waiting.keep_trying)() {
            return Err(LogError::Unavailable(reason));
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::warn!("{reason}; trying on");
        }
    }
}

fn wait_for_leaders(client: &BaseConsumer<Voice>, topics: &[&Wanted<'_>]) -> Result<(), LogError> {
    let deadline = Instant::now() + LEADERS_PATIENCE;
    loop {
        let metadata = client.fetch_metadata(None, ASK);
        let led = |wanted: &&&Wanted<'_>| {
            metadata.as_ref().is_ok_and(|metadata| {
                let topic = metadata.topics().iter().find(|topic| topic.name() == wanted.name);
                topic.is_some_and(|topic| {
                    !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0)
                })
            })
        };
        let Some(leaderless) = topics.iter().find(|topic| !led(topic)) else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(LogError::Unavailable(format!("topic {} was created but has no leaders yet", leaderless.name)));
        }
        thread::sleep(RETRY_AFTER / 4);
    }
}

/// A topic as it is created.
struct Wanted<'a> {
    name: &'a str,
    partitions: i32,
    options: &'static [(&'static str, &'static str)],
}

fn wanted<'a>(settings: &'a Settings, there: &BTreeMap<String, Shape>) -> Vec<Wanted<'a>> {
    // A record that was acknowledged must not be lost to a replica that fell behind.
    const SAFE: (&str, &str) = ("unclean.leader.election.enable", "false");
    const PLAIN: &[(&str, &str)] = &[SAFE];
    // Compacted, as a cluster's default may be, it would refuse rejects without a key.
    const DELETED: &[(&str, &str)] = &[SAFE, ("cleanup.policy", "delete")];
    // Deleted by nobody but us, when a restore does not need it any more.
    const KEPT: &[(&str, &str)] =
        &[SAFE, ("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1"), ("max.message.bytes", "1048588")];
    const LATEST: &[(&str, &str)] = &[SAFE, ("cleanup.policy", "compact")];
    let topics = &settings.topics;
    let partitions = there.get(&topics.source).map_or(settings.partitions, |source| source.partitions);
    vec![
        Wanted { name: &topics.source, partitions, options: PLAIN },
        Wanted { name: &topics.sink, partitions, options: PLAIN },
        Wanted { name: &topics.checkpoint, partitions, options: KEPT },
        Wanted { name: &topics.rejects, partitions, options: DELETED },
        Wanted { name: &topics.instances, partitions: 1, options: LATEST },
    ]
}

fn absent(missing: &[&Wanted<'_>]) -> LogError {
    let list = missing.iter().map(|topic| {
        let options = topic.options.iter().map(|(name, value)| format!(" --config {name}={value}")).collect::<String>();
        format!("\n  kafka-topics --create --topic {} --partitions {}{options}", topic.name, topic.partitions)
    });
    LogError::Setting(format!("topics are missing and kafka.create_topics = false; create them or allow it:{}", list.collect::<String>()))
}

/// Why a topic was not, or not surely, created.
fn not_created(name: &str, code: RDKafkaErrorCode, replication_factor: i32) -> LogError {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => LogError::Setting(format!(
            "topic {name} can't be created with kafka.replication_factor = {replication_factor}: there are not that many brokers; lower it"
        )),
        RDKafkaErrorCode::RequestTimedOut
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::NetworkException
        | RDKafkaErrorCode::NotController => LogError::Unavailable(format!(
            "topic {name} may or may not have been created: the brokers did not answer in time ({code}); start again, or create it by hand"
        )),
        code => LogError::Setting(format!("topic {name} can't be created: {code}; create it by hand")),
    }
}

/// The admin client and what its futures run on.
pub(super) struct Admin {
    client: Option<AdminClient<Voice>>,
    runtime: Runtime,
}

impl Admin {
    pub(super) fn new(settings: &Settings) -> Result<Self, LogError> {
        let runtime = Builder::new_current_thread().build().map_err(|error| LogError::Unavailable(format!("no runtime: {error}")))?;
        Ok(Self { client: Some(make(&settings.admin(), Voice::default())?), runtime })
    }

    fn client(&self) -> &AdminClient<Voice> {
        self.client.as_ref().expect("taken only by drop")
    }

    fn create(&self, settings: &Settings, missing: &[&Wanted<'_>]) -> Result<(), LogError> {
        let topics = missing.iter().map(|wanted| {
            let topic = NewTopic::new(wanted.name, wanted.partitions, TopicReplication::Fixed(settings.replication_factor));
            wanted.options.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        });
        let topics = topics.collect::<Vec<_>>();
        let options = AdminOptions::new().operation_timeout(Some(ASK)).request_timeout(Some(ASK * 2));
        let created = self.runtime.block_on(self.client().create_topics(&topics, &options));
        let created = created.map_err(|error| LogError::Unavailable(format!("topics can't be created: {error}")))?;
        for result in created {
            match result {
                Ok(name) => tracing::info!(topic = name, "created"),
                // Another instance starts at the same time.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(not_created(&name, code, settings.replication_factor)),
            }
        }
        Ok(())
    }

    /// Deletes each partition's records before an offset. Returns for which it was refused, and why.
    pub(super) fn delete_records(&self, topic: &str, before: &BTreeMap<Partition, Offset>) -> Result<Vec<(Partition, String)>, LogError> {
        let refused = |error: KafkaError| LogError::Unavailable(format!("records of {topic} can't be deleted: {error}"));
        let mut places = TopicPartitionList::new();
        for (partition, offset) in before {
            places.add_partition_offset(topic, *partition, Place::Offset(*offset)).map_err(refused)?;
        }
        let options = AdminOptions::new().operation_timeout(Some(ASK)).request_timeout(Some(ASK * 2));
        let deleted = self.runtime.block_on(self.client().delete_records(&places, &options)).map_err(refused)?;
        let refused = deleted.elements().into_iter().filter_map(|place| Some((place.partition(), place.error().err()?.to_string())));
        Ok(refused.collect())
    }

    /// By topic; a topic whose options must not be seen is left out.
    fn options(&self, topics: &[&str]) -> Result<BTreeMap<String, ConfigResource>, LogError> {
        let wanted = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect::<Vec<_>>();
        let options = AdminOptions::new().request_timeout(Some(ASK * 2));
        let described = self.runtime.block_on(self.client().describe_configs(&wanted, &options));
        let described = described.map_err(|error| LogError::Unavailable(format!("the topics' settings are not known: {error}")))?;
        Ok(topics.iter().zip(described).filter_map(|(topic, resource)| Some(((*topic).to_owned(), resource.ok()?))).collect())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop_aside(self.client.take());
    }
}

fn verify(settings: &Settings, client: &BaseConsumer<Voice>, admin: &Admin) -> Result<Facts, LogError> {
    let topics = &settings.topics;
    let shapes = shapes(client).map_err(|error| LogError::Unavailable(format!("the topics are not known: {error}")))?;
    let of = |name: &str| shapes.get(name).copied().ok_or_else(|| LogError::Unavailable(format!("topic {name} has vanished")));
    let partitions = of(&topics.source)?.partitions;
    for name in [&topics.sink, &topics.checkpoint, &topics.rejects] {
        let found = of(name)?.partitions;
        if found != partitions {
            return Err(LogError::Setting(format!(
                "topic {name} has {found} partitions, but the source {} has {partitions}: they must be equal. Delete {name} if the house is \
                 new (it will be created), or choose other topics in [topics]",
                topics.source
            )));
        }
    }
    if of(&topics.instances)?.partitions != 1 {
        return Err(LogError::Setting(format!("topic {} must have 1 partition; delete it (it will be created)", topics.instances)));
    }
    let names = topics.all().map(|(_, name)| name);
    let mut judge = Judge { options: admin.options(&names)?, warnings: Vec::new() };
    judge.checkpoint(&topics.checkpoint)?;
    judge.others(settings)?;
    for name in names {
        judge.durability(name, of(name)?.replicas);
    }
    Ok(Facts { partitions, reject_bytes_max: reject_bytes_max(judge.bytes(&topics.rejects)), warnings: judge.warnings })
}

/// How long a reject may be, of a topic that takes records so long: the client has a limit of its own.
fn reject_bytes_max(topic_bytes: usize) -> usize {
    topic_bytes.min(MESSAGE_BYTES_MAX).saturating_sub(FRAMING_BYTES)
}

/// Compares topics' options with what they must be.
struct Judge {
    options: BTreeMap<String, ConfigResource>,
    warnings: Vec<String>,
}

impl Judge {
    fn value(&self, topic: &str, option: &str) -> Option<&str> {
        self.options.get(topic)?.get(option)?.value.as_deref()
    }

    /// The longest message a topic takes; Kafka's default where it can't be seen.
    fn bytes(&self, topic: &str) -> usize {
        self.value(topic, "max.message.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(1_048_588)
    }

    fn checkpoint(&mut self, topic: &str) -> Result<(), LogError> {
        for (option, must) in [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")] {
            let Some(value) = self.value(topic, option) else {
                self.warnings.push(format!("topic {topic}: {option} can't be seen (it must be {must}); allow DESCRIBE_CONFIGS on it"));
                continue;
            };
            if value != must {
                return Err(LogError::Setting(format!(
                    "topic {topic} has {option}={value}, but must have {must}, or Kafka deletes state that a restore needs: \
                     kafka-configs --alter --topic {topic} --add-config {option}={must}"
                )));
            }
        }
        Ok(())
    }

    fn others(&mut self, settings: &Settings) -> Result<(), LogError> {
        let topics = &settings.topics;
        for topic in [&topics.checkpoint, &topics.sink, &topics.rejects] {
            let bytes = self.bytes(topic);
            if bytes < BATCH_BYTES_MAX + FRAMING_BYTES {
                return Err(LogError::Setting(format!(
                    "topic {topic} has max.message.bytes={bytes}, but needs at least {}: kafka-configs --alter --topic {topic} \
                     --add-config max.message.bytes=1048588",
                    BATCH_BYTES_MAX + FRAMING_BYTES
                )));
            }
        }
        if self.value(&topics.source, "cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            self.warnings.push(format!(
                "topic {} is compacted (cleanup.policy): of an object's reports only the last agent's survives, the others are lost; use delete",
                topics.source
            ));
        }
        if self.value(&topics.instances, "cleanup.policy").is_some_and(|policy| !policy.contains("compact")) {
            self.warnings.push(format!("topic {} should be compacted: cleanup.policy=compact", topics.instances));
        }
        if let Some(policy) = self.value(&topics.rejects, "cleanup.policy").filter(|policy| policy.contains("compact")) {
            return Err(LogError::Setting(format!(
                "topic {0} has cleanup.policy={policy}, but must have delete: rejects need not have a key, and without one a compacted topic \
                 takes none: kafka-configs --alter --topic {0} --add-config cleanup.policy=delete",
                topics.rejects
            )));
        }
        let (source, rejects) = (self.bytes(&topics.source), self.bytes(&topics.rejects));
        if rejects < source {
            self.warnings.push(format!(
                "topic {} has max.message.bytes={rejects}, less than the source's {source}: longer rejects are kept without their value",
                topics.rejects
            ));
        }
        Ok(())
    }

    fn durability(&mut self, topic: &str, replicas: usize) {
        if self.value(topic, "unclean.leader.election.enable") == Some("true") {
            self.warnings
                .push(format!("topic {topic} has unclean.leader.election.enable=true: a broker's failure can lose what was committed"));
        }
        let in_sync = self.value(topic, "min.insync.replicas").and_then(|value| value.parse::<usize>().ok()).unwrap_or(1);
        if replicas < 3 || in_sync < 2 {
            self.warnings.push(format!(
                "topic {topic} has {replicas} replicas and min.insync.replicas={in_sync}: the loss of one machine can lose what was \
                 committed; 3 and 2 are safe"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_fits_the_topic_and_the_client() {
        assert_eq!(reject_bytes_max(1_048_588), 1_048_588 - FRAMING_BYTES);
        assert_eq!(reject_bytes_max(50 << 20), (16 << 20) - FRAMING_BYTES);
    }

    #[test]
    fn a_timeout_is_no_wrong_setting() {
        for code in [RDKafkaErrorCode::RequestTimedOut, RDKafkaErrorCode::OperationTimedOut, RDKafkaErrorCode::NotController] {
            let error = not_created("t", code, 3);
            assert!(matches!(&error, LogError::Unavailable(why) if why.contains("may or may not have been created")), "{error:?}");
        }
        for (code, why) in [
            (RDKafkaErrorCode::InvalidReplicationFactor, "kafka.replication_factor = 3"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, "create it by hand"),
        ] {
            let error = not_created("t", code, 3);
            assert!(matches!(&error, LogError::Setting(text) if text.contains(why)), "{error:?}");
        }
    }
}
