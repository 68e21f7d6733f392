//! Who is in the group, and who owns what: asked of the group's coordinator.
//!
//! Members are told apart by their client ids, which are instances. What each owns stands in its assignment, in the consumers' own format
//! (version, topics with their partitions, and user data that is not read).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{consumer::Consumer, groups::GroupInfo};
use statehouse_dataflows::vocabulary::Partition;

use super::{lock, readers::Readers, settings::Settings};
use crate::log::{LogError, Peer, Peers};

/// One question to the brokers: whoever keeps copies has others to serve.
const ASK: Duration = Duration::from_secs(1);
/// A group whose members have their partitions.
const STABLE: &str = "Stable";

/// See the module's header.
pub(super) struct KafkaPeers {
    settings: Arc<Settings>,
    /// Tended here, as their only other user is on the same thread.
    readers: Arc<Mutex<Readers>>,
}

impl KafkaPeers {
    pub(super) fn new(settings: Arc<Settings>, readers: Arc<Mutex<Readers>>) -> Self {
        Self { settings, readers }
    }
}

impl Peers for KafkaPeers {
    fn me(&self) -> &str {
        &self.settings.instance
    }

    fn look(&mut self) -> Result<Vec<Peer>, LogError> {
        let group = &self.settings.house;
        let unknown = |why: String| LogError::Unavailable(format!("the members of group \"{group}\" are not known: {why}"));
        let readers = lock(&self.readers);
        readers.tend();
        let groups = readers.raw.fetch_group_list(Some(group), ASK).map_err(|error| unknown(error.to_string()))?;
        let Some(found) = groups.groups().iter().find(|found| found.name() == group) else {
            return Err(unknown("there is no group".into()));
        };
        if found.state() != STABLE {
            return Err(unknown(format!("it is {}", found.state())));
        }
        Ok(GroupInfo::members(found)
            .iter()
            .map(|member| Peer {
                instance: member.client_id().to_owned(),
                owned: member.assignment().map_or_else(Vec::new, |bytes| owned(bytes, &self.settings.topics.source)),
            })
            .collect())
    }
}

/// The partitions of the topic in an assignment; none where it is not understood.
fn owned(assignment: &[u8], topic: &str) -> Vec<Partition> {
    let mut bytes = Bytes(assignment);
    bytes.read(topic).unwrap_or_default()
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn read(&mut self, topic: &str) -> Option<Vec<Partition>> {
        let _version = self.short()?;
        let mut owned = Vec::new();
        for _ in 0..self.long()? {
            let length = usize::try_from(self.short()?).ok()?;
            let (name, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            for _ in 0..self.long()? {
                let partition = self.long()?;
                owned.extend((name == topic.as_bytes()).then_some(partition));
            }
        }
        Some(owned)
    }

    fn short(&mut self) -> Option<i16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i16::from_be_bytes(*bytes))
    }

    fn long(&mut self) -> Option<i32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(topics: &[(&str, &[Partition])]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend((topics.len() as i32).to_be_bytes());
        for (topic, partitions) in topics {
            bytes.extend((topic.len() as i16).to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend((partitions.len() as i32).to_be_bytes());
            partitions.iter().for_each(|partition| bytes.extend(partition.to_be_bytes()));
        }
        bytes.extend((-1_i32).to_be_bytes()); // no user data
        bytes
    }

    #[test]
    fn an_assignment_says_who_owns_what() {
        let bytes = assignment(&[("other", &[9]), ("source", &[0, 3])]);
        assert_eq!((owned(&bytes, "source"), owned(&bytes, "else")), (vec![0, 3], vec![]));
        assert!(owned(&assignment(&[]), "source").is_empty());
        for end in 0..bytes.len() - 4 {
            assert!(owned(&bytes[..end], "source").is_empty(), "cut off after {end} bytes");
        }
        assert!(owned(&[0, 0, 0x7f, 0xff, 0xff, 0xff], "source").is_empty(), "more topics than there are bytes");
    }
}
