//! A checkpoint in files: written by the shipped engine and encoder, read back record by record as from brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use statehouse::{
    chunk,
    log::{Checkpoint, LogError, Progress, Start},
};
use statehouse_dataflows::{
    engine::{Closed, Engine},
    plan::{Plan, Rule, RuleSet},
    query::ListQuery,
    vocabulary::{Event, Offset, Partition, Run, Seq},
};

use super::workload::{World, state};

/// Whose checkpoint it is.
pub(crate) const HOUSE: &str = "bench";

/// What is written.
pub(crate) struct Shape {
    pub(crate) reports: u64,
    pub(crate) objects: i32,
    pub(crate) agents: i32,
    pub(crate) partitions: Partition,
    /// Reports in an epoch.
    pub(crate) epoch: u64,
}

/// The files, and what is known of them.
#[derive(Clone)]
pub(crate) struct Kept {
    directory: PathBuf,
    pub(crate) progress: BTreeMap<Partition, (Offset, Progress)>,
    /// Rows written.
    pub(crate) rows: u64,
    /// Live reports at the end.
    pub(crate) live: u64,
    /// Objects by state at the end.
    pub(crate) objects: BTreeMap<String, i64>,
}

/// A partition being written.
struct Writing {
    file: BufWriter<File>,
    progress: Progress,
    next_offset: Offset,
    event: u64,
}

/// Writes the checkpoint of the workload.
pub(crate) fn write(shape: &Shape, directory: &Path) {
    let world = World::new(shape.reports, shape.objects, shape.agents);
    let mut engine = Engine::new(Arc::new(Plan::of(RuleSet::new(Rule::Majority)).expect("a valid plan")));
    let mut writing: Vec<_> = (0..shape.partitions).map(|partition| Writing::new(directory, partition)).collect();
    let (mut seq, mut rows) = (1, 0);
    for claims in world.claims.chunks(shape.epoch as usize) {
        for (partition, writing) in (0..).zip(&mut writing) {
            let mine = claims.iter().filter(|(object, ..)| *object as Partition % shape.partitions == partition);
            seq = writing.feed(&mut engine, &world, (partition, seq), mine);
        }
        let Closed { rows: made, digests, .. } = engine.close(seq);
        for part in made {
            rows += part.len();
            let writing = &mut writing[part.partition() as usize];
            let delta = digests.iter().find(|(partition, _)| *partition == part.partition()).map_or(0, |(_, delta)| *delta);
            writing.chunk(&part, delta);
        }
        engine.committed(seq - 1);
    }
    let all: BTreeSet<Partition> = (0..shape.partitions).collect();
    let held = engine.list(&ListQuery { limit: usize::MAX, ..ListQuery::default() }, &all);
    let live: i64 = held.iter().map(|view| view.votes.live).sum();
    let mut text = format!("{rows} {live}\n");
    for writing in writing {
        let Writing { progress: Progress { n, digest, .. }, next_offset, mut file, .. } = writing;
        file.flush().expect("it is written");
        text += &format!("{n} {digest} {next_offset}\n");
    }
    for (state, count) in engine.summary(&all) {
        text += &format!("={} {count}\n", state.as_deref().unwrap_or_default());
    }
    fs::write(directory.join("known"), text).expect("it is written");
}

impl Writing {
    fn new(directory: &Path, partition: Partition) -> Self {
        let file = File::create(directory.join(partition.to_string())).expect("a file");
        Self { file: BufWriter::new(file), progress: Progress::default(), next_offset: 0, event: 1 }
    }

    fn feed<'c>(
        &mut self,
        engine: &mut Engine,
        world: &World,
        (partition, first): (Partition, Seq),
        claims: impl Iterator<Item = &'c (u32, u16, bool)> + Clone,
    ) -> Seq {
        let count = claims.clone().count() as u64;
        let (event, offset) = (self.event, Some(self.next_offset));
        engine.run(Run { first, count, partition, event, clock_ms: kept_clock_ms(), offset });
        for (seq, &(object, agent, attacked)) in (first..).zip(claims) {
            let (agent, state, ts_ms) = (&world.agents[agent as usize], state(attacked), kept_clock_ms() + seq as i64);
            let hash = u64::from(object).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            engine.apply(seq, &world.objects[object as usize], hash, Event::Report { agent, state, ts_ms, ttl_ms: None });
        }
        self.event += count;
        self.next_offset += count as Offset;
        first + count
    }

    fn chunk(&mut self, rows: &statehouse_dataflows::rows::Rows, delta: u64) {
        self.progress.n += 1;
        self.progress.digest = self.progress.digest.wrapping_add(delta);
        let header = chunk::Header {
            house: HOUSE.to_owned(),
            partition: rows.partition(),
            n: self.progress.n,
            next_offset: self.next_offset,
            clock_ms: kept_clock_ms(),
            event: self.event,
            digest: self.progress.digest,
            ..chunk::Header::default()
        };
        for piece in chunk::encode(&header, std::slice::from_ref(rows), chunk::PIECE_BYTES_MAX) {
            self.file.write_all(&(piece.len() as u64).to_le_bytes()).expect("it is written");
            self.file.write_all(&piece).expect("it is written");
        }
    }
}

/// The clock of every partition.
fn kept_clock_ms() -> i64 {
    1_763_800_000_000
}

impl Kept {
    /// Reads what is known of the files.
    pub(crate) fn open(directory: &Path) -> Self {
        let text = fs::read_to_string(directory.join("known")).expect("it was written");
        let (objects, numbers): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('='));
        let numbers: Vec<Vec<u64>> =
            numbers.iter().map(|line| line.split(' ').map(|number| number.parse().expect("a number")).collect()).collect();
        let progress = |fields: &Vec<u64>| (fields[2] as Offset, Progress { n: fields[0], digest: fields[1], ..Progress::default() });
        let object = |line: &&str| {
            let (state, count) = line[1..].rsplit_once(' ').expect("two fields");
            (state.to_owned(), count.parse().expect("a number"))
        };
        Self {
            directory: directory.to_owned(),
            progress: (0..).zip(numbers[1..].iter().map(progress)).collect(),
            rows: numbers[0][0],
            live: numbers[0][1],
            objects: objects.iter().map(object).collect(),
        }
    }

    /// How large the files are.
    pub(crate) fn bytes(&self) -> u64 {
        self.progress.keys().map(|partition| fs::metadata(self.file(*partition)).map_or(0, |metadata| metadata.len())).sum()
    }

    fn file(&self, partition: Partition) -> PathBuf {
        self.directory.join(partition.to_string())
    }
}

impl Checkpoint for Kept {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        Ok(self.progress.get(&partition).copied())
    }

    fn start_offset(&mut self, _: Partition, _: Start) -> Result<Offset, LogError> {
        unreachable!("there is progress")
    }

    fn read(&mut self, partition: Partition, _: Offset, each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>) -> Result<bool, LogError> {
        let mut file = BufReader::new(File::open(self.file(partition)).expect("it was written"));
        let (mut length, mut piece) = ([0; 8], Vec::new());
        for offset in 0.. {
            if file.read_exact(&mut length).is_err() {
                break;
            }
            piece.resize(u64::from_le_bytes(length) as usize, 0);
            file.read_exact(&mut piece).expect("it was written whole");
            if each(offset, &piece).is_break() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
