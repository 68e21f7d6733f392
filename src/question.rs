//! Questions to a worker, and their answers. A worker takes them in one ordered queue together with commit notices, so a question asked
//! after a commit was announced sees it. Between http (asks) and worker (answers); neither knows the other.

use std::{collections::BTreeSet, sync::Arc};

use statehouse_dataflows::{
    query::{Explanation, ListQuery, ObjectView, ReportView, Summary},
    vocabulary::{Name, Partition},
};
use tokio::sync::oneshot;

/// One question, and where its answer goes. A dropped reply is no error: whoever asked has left.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// One object.
    Object(Partition, Name),
    /// An object's reports, by agent.
    Reports(Partition, Name),
    /// Why an object is what it is.
    Explain(Partition, Name),
    /// This worker's objects of these partitions, ordered by name and partition.
    List(ListQuery, Arc<BTreeSet<Partition>>),
    /// This worker's objects of these partitions, by state.
    Summary(Arc<BTreeSet<Partition>>),
}

/// The answer to each [`Ask`], as of L.
#[derive(Clone, Debug)]
pub enum Answer {
    /// None: not known.
    Object(Option<ObjectView>),
    /// None: the object is not known.
    Reports(Option<Vec<ReportView>>),
    /// None: not known.
    Explain(Option<Box<Explanation>>),
    /// At most `limit` objects.
    List(Vec<ObjectView>),
    /// Counts by state.
    Summary(Summary),
}
