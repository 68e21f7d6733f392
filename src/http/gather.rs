//! Lists and the summary over all instances: each answers for the partitions that it owns, and the parts are put together.
//!
//! All or nothing: the parts must be of every partition, each once, or there is no answer. Each partition is shown as of its own last
//! commit, which the answer names; the whole is not one moment's picture.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use statehouse_dataflows::{
    query::{ListQuery, ObjectView, Summary},
    vocabulary::{Name, Partition},
};
use tokio::task::{JoinError, JoinSet};

use super::{
    Front,
    elsewhere::Asked,
    params::position_of,
    peers::Said,
    problem::{self, Problem},
    reads::{LAG, POSITION},
    view::ObjectJson,
};
use crate::{config::RouteConfig, desk::Answered, log::directory::Instance};

/// A part of a list: objects by name and partition.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Whether there are more.
    pub(super) more: bool,
}

/// One object of a list.
pub(super) struct Item {
    pub(super) object: String,
    pub(super) partition: Partition,
    pub(super) json: Box<RawValue>,
}

/// Who has a part of the whole.
struct Parts {
    /// Whether all partitions are wanted, or just what this instance owns.
    is_whole: bool,
    /// Whether this instance has one.
    here: bool,
    elsewhere: Vec<Instance>,
}

impl Parts {
    /// # Errors
    /// When a partition has no owner that could be asked.
    fn of(front: &Front, asked: &Asked, is_local: bool) -> Result<Self, Problem> {
        let owned = front.desk.standing().partitions;
        let instances = front.peers.instances();
        let is_alone = instances.partitions() == 0 || owned.is_empty() && instances.others().next().is_none();
        if is_local || is_alone || asked.hop.is_some() || front.peers.route == RouteConfig::Local {
            return Ok(Self { is_whole: false, here: true, elsewhere: Vec::new() });
        }
        let mut elsewhere = BTreeSet::new();
        for partition in (0..instances.partitions()).filter(|partition| !owned.contains_key(partition)) {
            let owner = instances.owner(partition).filter(|owner| owner.id != instances.here());
            let owner = owner.ok_or_else(|| {
                let detail =
                    format!("partition {partition} has no owner now: it is changing hands (?local=true answers for this instance alone)");
                Problem::new(problem::NO_OWNER, detail).with("partition", partition)
            })?;
            elsewhere.insert(&owner.id);
        }
        let elsewhere = elsewhere.into_iter().filter_map(|id| instances.get(id).cloned()).collect();
        Ok(Self { is_whole: true, here: !owned.is_empty(), elsewhere })
    }

    /// Puts the question to all others at once.
    fn ask(&self, front: &Front, target: &str) -> JoinSet<Result<Answered<Said>, Problem>> {
        let mut asking = JoinSet::new();
        for instance in self.elsewhere.clone() {
            let (front, target) = (front.clone(), target.to_owned());
            asking.spawn(async move {
                let said = front.peers.ask(&instance, &target, front.peers.patience).await?;
                answered(said)
            });
        }
        asking
    }

    /// Every partition once, or nothing.
    fn together<T>(&self, front: &Front, parts: Vec<Answered<T>>) -> Result<Answered<Vec<T>>, Problem> {
        let mut whole = Answered { value: Vec::with_capacity(parts.len()), position: BTreeMap::new(), stale_ms: None };
        let mut twice = None;
        for part in parts {
            for (partition, next) in part.position {
                twice = twice.or(whole.position.insert(partition, next).map(|_| partition));
            }
            whole.stale_ms = whole.stale_ms.max(part.stale_ms);
            whole.value.push(part.value);
        }
        let missing = (0..front.peers.instances().partitions()).find(|partition| !whole.position.contains_key(partition));
        match twice.or(missing.filter(|_| self.is_whole)) {
            None => Ok(whole),
            Some(partition) => {
                let detail = format!("partition {partition} changed hands while the instances were asked");
                Err(Problem::new(problem::NO_OWNER, detail).with("partition", partition))
            }
        }
    }
}

/// Which list, and which page of it.
pub(super) struct Wanted<'a> {
    pub(super) query: &'a ListQuery,
    /// The cursor in it, as it came.
    pub(super) cursor: Option<&'a str>,
    pub(super) is_local: bool,
}

impl Wanted<'_> {
    fn target(&self) -> String {
        let mut target = format!("/v1/objects?local=true&limit={}&prefix={}", self.query.limit, encoded(&self.query.prefix));
        if let Some(state) = &self.query.state {
            target += &format!("&state={}", encoded(state.as_deref().unwrap_or_default()));
        }
        if let Some(cursor) = self.cursor {
            target += &format!("&cursor={}", encoded(cursor));
        }
        target
    }
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A page of the list of all objects, by name and then partition.
pub(super) async fn list(front: &Front, asked: &Asked, wanted: Wanted<'_>) -> Result<Answered<Page>, Problem> {
    let parts = Parts::of(front, asked, wanted.is_local)?;
    let mut asking = parts.ask(front, &wanted.target());
    let mut pages = Vec::new();
    if parts.here {
        let limit = wanted.query.limit;
        let further = ListQuery { limit: limit + 1, ..wanted.query.clone() }; // just to know whether there is more
        pages.push(front.desk.with_copies().list(further).await?.map(|views| Page::of(&views, limit)));
    }
    while let Some(said) = asking.join_next().await {
        pages.push(parsed::<Theirs<'_>, _>(&said.map_err(|error| broken(&error))??, Page::read)?);
    }
    Ok(parts.together(front, pages)?.map(|pages| Page::merged(pages, wanted.query.limit)))
}

/// How many objects are in each state.
pub(super) async fn summary(front: &Front, asked: &Asked, is_local: bool) -> Result<Answered<Summary>, Problem> {
    let parts = Parts::of(front, asked, is_local)?;
    let mut asking = parts.ask(front, "/v1/summary?local=true");
    let mut summaries = Vec::new();
    if parts.here {
        summaries.push(front.desk.with_copies().summary().await?);
    }
    while let Some(said) = asking.join_next().await {
        summaries.push(parsed(&said.map_err(|error| broken(&error))??, |counts: Counts| Ok(counts.summary()))?);
    }
    Ok(parts.together(front, summaries)?.map(|summaries| {
        let mut sums = BTreeMap::<Option<Name>, i64>::new();
        for (state, count) in summaries.into_iter().flatten() {
            *sums.entry(state).or_default() += count;
        }
        sums.into_iter().filter(|(_, count)| *count != 0).collect()
    }))
}

impl Page {
    fn of(views: &[ObjectView], limit: usize) -> Self {
        let item = |view: &ObjectView| Item {
            object: view.object.to_string(),
            partition: view.partition,
            json: to_raw_value(&ObjectJson::from(view)).expect("what is answered has only texts as keys"),
        };
        Self { items: views.iter().take(limit).map(item).collect(), more: views.len() > limit }
    }

    fn read(theirs: Theirs<'_>) -> Result<Self, serde_json::Error> {
        let item = |json: &RawValue| {
            let Key { object, partition } = serde_json::from_str(json.get())?;
            Ok(Item { object, partition, json: json.to_owned() })
        };
        Ok(Self { items: theirs.items.into_iter().map(item).collect::<Result<_, _>>()?, more: theirs.cursor.is_some() })
    }

    /// Each page is the beginning of its part, so the beginning of them all is the beginning of the whole.
    fn merged(pages: Vec<Self>, limit: usize) -> Self {
        let mut more = pages.iter().any(|page| page.more);
        let mut items: Vec<_> = pages.into_iter().flat_map(|page| page.items).collect();
        items.sort_by(|a, b| (&a.object, a.partition).cmp(&(&b.object, b.partition)));
        more |= items.len() > limit;
        items.truncate(limit);
        Self { items, more }
    }
}

/// A page as another instance writes it.
#[derive(Deserialize)]
struct Theirs<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    cursor: Option<String>,
}

/// Where an item stands in a list.
#[derive(Deserialize)]
struct Key {
    object: String,
    partition: Partition,
}

/// A summary as another instance writes it.
#[derive(Deserialize)]
struct Counts {
    by_state: BTreeMap<String, i64>,
    without_state: i64,
}

impl Counts {
    fn summary(self) -> Summary {
        let by_state = self.by_state.into_iter().map(|(state, count)| (Some(state.into()), count));
        by_state.chain([(None, self.without_state)]).collect()
    }
}

/// Another instance's answer, with its position and age.
fn answered(said: Said) -> Result<Answered<Said>, Problem> {
    if !said.status.is_success() {
        return Err(said.refusal());
    }
    let text = |name| said.headers.get(name).and_then(|value| value.to_str().ok());
    let position = text(POSITION).and_then(position_of).ok_or_else(|| foreign(&said.instance, "its answer has no position"))?;
    let stale_ms = text(LAG).and_then(|lag| lag.parse().ok());
    Ok(Answered { value: said, position, stale_ms })
}

fn parsed<'a, T: Deserialize<'a>, U>(
    said: &'a Answered<Said>,
    read: impl FnOnce(T) -> Result<U, serde_json::Error>,
) -> Result<Answered<U>, Problem> {
    let value = serde_json::from_slice(&said.value.body).and_then(read);
    let value = value.map_err(|error| foreign(&said.value.instance, &error.to_string()))?;
    Ok(Answered { value, position: said.position.clone(), stale_ms: said.stale_ms })
}

fn foreign(instance: &str, why: &str) -> Problem {
    Problem::new(problem::PEER, format!("instance {instance} does not answer as one does: {why}"))
}

fn broken(error: &JoinError) -> Problem {
    Problem::new(problem::PEER, format!("a question to another instance broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(objects: &[&str], more: bool) -> Page {
        let item = |object: &&str| Item { object: (*object).to_owned(), partition: 0, json: to_raw_value(object).unwrap() };
        Page { items: objects.iter().map(item).collect(), more }
    }

    #[test]
    fn pages_are_merged_in_order_and_cut() {
        for (pages, limit, expected, more) in [
            (vec![], 2, &[][..], false),
            (vec![page(&["a", "c"], false), page(&["b"], false)], 3, &["a", "b", "c"], false),
            (vec![page(&["a", "c"], false), page(&["b"], false)], 2, &["a", "b"], true),
            (vec![page(&["a", "c"], true), page(&[], false)], 2, &["a", "c"], true),
            (vec![page(&["x", "y"], true), page(&["a", "b"], true)], 2, &["a", "b"], true),
        ] {
            let merged = Page::merged(pages, limit);
            let objects: Vec<_> = merged.items.iter().map(|item| item.object.as_str()).collect();
            assert_eq!((objects.as_slice(), merged.more), (expected, more));
        }
    }

    #[test]
    fn the_question_to_others_is_the_same_question() {
        let query = ListQuery { prefix: "a/&b".into(), state: Some(None), after: None, limit: 7 };
        let target = |query: &ListQuery, cursor| Wanted { query, cursor, is_local: false }.target();
        assert_eq!(target(&query, Some("01ff")), "/v1/objects?local=true&limit=7&prefix=a%2F%26b&state=&cursor=01ff");
        let query = ListQuery { state: Some(Some("x y".into())), ..ListQuery::default() };
        assert_eq!(target(&query, None), "/v1/objects?local=true&limit=0&prefix=&state=x%20y");
    }
}
