//! Transcripts: a house, what happens to its one object, `----`, and what is published after each event.
//!
//! The files in `tests/transcripts` are the meaning of the rules. `UPDATE=1 cargo test -p statehouse-dataflows --test transcript` writes
//! the reference's answers into them; look at the difference before you keep it.
//!
//! A block is a line `house` with its settings; a line per event, `[at <seconds>] <agent> <state> [@<seconds>]`, `withdraw <agent> [@..]`,
//! `override <state> [for <seconds>]`, `lift`, `purge`, or `tick <seconds>` (the clock reaches it); then `----` and the answer. The
//! answer shows what was published before and after (`-`: nothing), the cause, and the tally at the event; at its end
//! how many reports were late.

mod support;

use std::{env, fmt::Write, fs, path::Path, sync::Arc};

use statehouse_dataflows::{
    plan::{Of, OnEmpty, OnNone, Order, Plan, Quorum, Rule, RuleSet},
    reference::Reference,
    vocabulary::{Change, Millis, TICK_MS},
};
use support::{Fed, Pump, Step, Told, tell, world::World};

const OBJECT: &str = "o";

/// One block of a file.
struct Block {
    title: String,
    lines: Vec<String>,
    answer: String,
}

/// Who answers a block: gets what each line fed, gives what each line changed, and how many reports were late.
type Answerer = fn(&Plan, &[Vec<Fed>]) -> (Vec<Vec<Change>>, u64);

const ANSWERERS: [(&str, Answerer); 3] =
    [("the reference", by_reference), ("the engine, event by event", event_by_event), ("the engine, in one epoch", in_one_epoch)];

#[test]
fn every_transcript_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no transcripts");
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let (head, blocks) = read(&text);
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, write(&head, &blocks)).unwrap();
            continue;
        }
        for (block, (who, answerer)) in blocks.iter().flat_map(|block| ANSWERERS.map(|answerer| (block, answerer))) {
            let place = format!("{}: {}", path.file_name().unwrap().display(), block.title);
            assert_eq!(block.answer, answer(block, answerer), "{place}, by {who}");
        }
    }
}

fn by_reference(plan: &Plan, fed: &[Vec<Fed>]) -> (Vec<Vec<Change>>, u64) {
    let mut reference = Reference::new(plan);
    let changes = fed.iter().map(|fed| tell(&mut reference, fed)).collect();
    (changes, reference.late())
}

fn event_by_event(plan: &Plan, fed: &[Vec<Fed>]) -> (Vec<Vec<Change>>, u64) {
    let mut world = World::new(&Arc::new(plan.clone()), 1, u64::MAX);
    let mut late = 0;
    let mut changes = Vec::new();
    for fed in fed {
        world.feed(fed);
        let end = fed.last().expect("a line feeds something").run.end();
        let left = world.close(end);
        world.committed(end - 1);
        late += left.late;
        changes.push(left.changes);
    }
    (changes, late)
}

fn in_one_epoch(plan: &Plan, fed: &[Vec<Fed>]) -> (Vec<Vec<Change>>, u64) {
    let mut world = World::new(&Arc::new(plan.clone()), 1, u64::MAX);
    fed.iter().for_each(|fed| world.feed(fed));
    let end = |fed: &Vec<Fed>| fed.last().expect("a line feeds something").run.end();
    let left = world.close(fed.last().map_or(1, end));
    let of_line = |line: &Vec<Fed>| {
        let mine = |change: &&Change| (line[0].run.first..end(line)).contains(&change.seq);
        left.changes.iter().filter(mine).cloned().collect()
    };
    (fed.iter().map(of_line).collect(), left.late)
}

fn answer(block: &Block, answerer: Answerer) -> String {
    let mut pump = Pump::new(1);
    let plan = Plan::of(settings(&block.title)).unwrap();
    let fed: Vec<_> = block.lines.iter().map(|line| feed(&mut pump, line)).collect();
    let width = block.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (changes, late) = answerer(&plan, &fed);
    let mut text = String::new();
    for (line, changes) in block.lines.iter().zip(changes) {
        let shown: Vec<_> = changes.iter().map(show).collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(" · ") };
        writeln!(text, "{line:width$}  {shown}").unwrap();
    }
    if late > 0 {
        writeln!(text, "late: {late}").unwrap();
    }
    text
}

fn show(change: &Change) -> String {
    let name = |state: &Option<_>| state.as_deref().unwrap_or("-").to_owned();
    let votes: Vec<_> = change.tally.weights.iter().map(|(state, weight)| format!(" {state} {weight}")).collect();
    let (cause, live, votes) = (change.cause.as_str(), change.tally.live, votes.join(","));
    format!("{} → {} ({cause}; {live} live:{votes})", name(&change.previous), name(&change.state))
}

/// The comment lines before the first block, and the blocks.
fn read(text: &str) -> (String, Vec<Block>) {
    let start = text.find("house ").expect("a transcript has a house");
    let blocks = text[start..].split("\n\n").filter(|block| !block.trim().is_empty()).map(|block| {
        let (script, answer) = block.split_once("----").unwrap_or_else(|| panic!("no ---- in {block:?}"));
        let mut lines = script.lines().map(str::to_owned);
        let title = lines.next().expect("a block has a title");
        Block { title, lines: lines.collect(), answer: format!("{}\n", answer.trim()) }
    });
    (text[..start].to_owned(), blocks.collect())
}

fn write(head: &str, blocks: &[Block]) -> String {
    let block = |block: &Block| format!("{}\n{}\n----\n{}", block.title, block.lines.join("\n"), answer(block, by_reference));
    format!("{head}{}", blocks.iter().map(block).collect::<Vec<_>>().join("\n"))
}

fn settings(title: &str) -> RuleSet {
    let mut words = title.strip_prefix("house ").expect("a block begins with its house").split(' ');
    let rule = words.next().expect("a house has a rule");
    let mut set = RuleSet::new(match rule {
        "latest" => Rule::Latest,
        "majority" => Rule::Majority,
        "plurality" => Rule::Plurality,
        "any" => Rule::Any { priority: Vec::new(), otherwise: None },
        "quorum" => Rule::Quorum(Quorum::Count(0)),
        "unanimous" => Rule::Unanimous,
        other => panic!("no rule {other:?}"),
    });
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("no = in {word:?}"));
        setting(&mut set, key, value);
    }
    set
}

fn setting(set: &mut RuleSet, key: &str, value: &str) {
    match (key, &mut set.rule) {
        ("of", _) => set.of = Of::Expected(value.parse().unwrap()),
        ("min_reports", _) => set.min_reports = value.parse().unwrap(),
        ("order", _) if value == "timestamp" => set.order = Order::Timestamp,
        ("on_empty", _) if value == "keep" => set.on_empty = OnEmpty::Keep,
        ("on_none", _) if value == "latest" => set.on_none = OnNone::Latest,
        ("on_none", _) => set.on_none = OnNone::State(value.to_owned()),
        ("weight", _) => {
            let (agent, weight) = value.split_once(':').expect("weight=agent:weight");
            set.weights.push((agent.to_owned(), weight.parse().unwrap()));
        }
        ("states", Rule::Any { priority, .. }) => *priority = value.split(',').map(str::to_owned).collect(),
        ("otherwise", Rule::Any { otherwise, .. }) => *otherwise = Some(value.to_owned()),
        ("k", Rule::Quorum(quorum)) => *quorum = Quorum::Count(value.parse().unwrap()),
        ("percent", Rule::Quorum(quorum)) => *quorum = Quorum::ShareBasisPoints(value.parse::<u32>().unwrap() * 100),
        _ => panic!("no setting {key}={value}"),
    }
}

/// What a line feeds: the ticks up to its time, then its event.
fn feed(pump: &mut Pump, line: &str) -> Vec<Fed> {
    let mut words: Vec<_> = line.split_whitespace().collect();
    let mut steps = Vec::new();
    if let ["at" | "tick", time, ..] = words[..] {
        let ticks = (seconds(time) - pump.clock_ms(0)) / TICK_MS;
        steps.push(Step::Ticks(0, u64::try_from(ticks).unwrap_or_else(|_| panic!("the clock runs back at {line:?}"))));
        words.drain(..2);
    }
    let ts_ms = words.pop_if(|word| word.starts_with('@')).map_or(0, |word| seconds(&word[1..]));
    let name = |word: &str| word.to_owned();
    let told = match words[..] {
        [] => None,
        ["withdraw", agent] => Some(Told::Withdraw { agent: name(agent), ts_ms }),
        ["override", state] => Some(Told::Override { state: name(state), for_ms: None }),
        ["override", state, "for", time] => Some(Told::Override { state: name(state), for_ms: Some(seconds(time)) }),
        ["lift"] => Some(Told::Lift),
        ["purge"] => Some(Told::Purge),
        [agent, state] => Some(Told::Report { agent: name(agent), state: name(state), ts_ms, ttl_ms: None }),
        _ => panic!("what is {line:?}?"),
    };
    steps.extend(told.map(|told| Step::Record(0, OBJECT.to_owned(), told)));
    pump.feed(&steps)
}

fn seconds(word: &str) -> Millis {
    word.parse::<Millis>().unwrap_or_else(|_| panic!("no number of seconds: {word:?}")) * 1_000
}
