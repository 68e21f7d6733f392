//! Tidiness that no compiler checks: who may name which crate, which module knows which, headers, sizes, what must not be left
//! behind. Reads the sources as text.
//!
//! A limit here is a ratchet: it may be lowered with the code, and is not raised to let a change in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file past this has more than one idea.
const FILE_LINES_MAX: usize = 600;
/// Clippy holds every function to 70 lines; of those that no longer fit a glance (30 lines) there are at most this many in a hundred.
const LONG_FUNCTIONS_PERCENT_MAX: usize = 2;
const GLANCE_LINES: usize = 30;
/// All that the dataflow may lean on: nothing that reads a clock, starts a thread, draws a random number or does I/O.
const DATAFLOWS_LEAN_ON: [&str; 6] = ["differential-dataflow", "hashbrown", "prefetch-index", "timely", "wildmatch", "xxhash-rust"];
/// What of the standard library would be such a thing.
const IMPURE: [&str; 9] =
    ["std::env", "std::fs", "std::io", "std::net", "std::process", "std::thread", "std::time", "Instant", "SystemTime"];
/// Who may start threads, and runtimes with threads of their own.
const START_THREADS: [&str; 4] = ["src/house", "src/log/kafka", "src/cli/serve.rs", "src/demo"];
/// How that looks.
const STARTS: [&str; 7] =
    ["thread::Builder", "thread::spawn", "thread::scope", "new_current_thread", "new_multi_thread", "Runtime::new", "spawn_blocking"];
/// Left behind by mistake. In two parts, or this file would be full of them.
const LEFT_BEHIND: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("MEASURED-", "HERE"),
    concat!("<<<<", "<<<"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
];

struct File {
    path: String,
    text: String,
}

impl File {
    /// Lines with their numbers, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines()).map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    /// As [`File::code`], without what is there for tests only; nothing of a file of tests.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        // Of a test item that is passed over: its indent. Formatted code ends it with a semicolon, or with a brace under its first column.
        let mut passing = None;
        self.code().filter(move |(_, line)| {
            if line.contains("#[cfg(test)]") {
                passing = Some(line.len() - line.trim_start().len());
                return false;
            }
            let Some(indent) = passing else { return !is_tests };
            let is_at_its_column = line.len() - line.trim_start().len() == indent;
            if is_at_its_column && (line.trim_end().ends_with(';') || line.trim() == "}") {
                passing = None;
            }
            false
        })
    }

    fn is_below(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

/// Every text file of the repository that people write, by path from its root.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match () {
                () if path.is_dir() && !["target", ".git", "statehouse-data"].contains(&name.as_str()) => directories.push(path),
                () if path.is_file() && !["Cargo.lock", ".git"].contains(&name.as_str()) => files.extend(read(root, &path)),
                () => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn read(root: &Path, path: &PathBuf) -> Option<File> {
    let text = String::from_utf8(fs::read(path).unwrap()).ok()?;
    Some(File { path: path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), text })
}

fn rust_files() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

fn shipped_files() -> Vec<File> {
    rust_files().into_iter().filter(|file| file.is_below(&["src/", "dataflows/src/"])).collect()
}

/// Whether a word stands in a line by itself.
fn names(line: &str, word: &str) -> bool {
    let is_part = |at: Option<char>| at.is_some_and(|char| char.is_alphanumeric() || char == '_');
    line.match_indices(word).any(|(at, _)| !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next()))
}

/// Fails with every finding, not with the first.
fn none(findings: &[String], what: &str) {
    assert!(findings.is_empty(), "{what}:\n{}", findings.join("\n"));
}

#[test]
fn a_foreign_word_stands_in_one_place() {
    let places = [
        ("rdkafka", "src/log/kafka"),
        ("axum", "src/http"),
        ("hyper", "src/http"),
        ("hyper_rustls", "src/http"),
        ("hyper_util", "src/http"),
        ("redb", "src/log/local"),
        ("rustls", "src/http"),
        ("tokio_rustls", "src/http"),
    ];
    let mut found = Vec::new();
    for file in shipped_files() {
        for (word, place) in places.iter().filter(|(_, place)| !file.is_below(&[place])) {
            let named = file.code().filter(|(_, line)| names(line, word) && !line.contains(&format!("\"{word}\"")));
            found.extend(named.map(|(number, _)| format!("{}:{number} names {word}, which only {place}* may", file.path)));
        }
    }
    none(&found, "a crate is named outside of its place");
}

/// A row of the map that is not true would be believed; and where two modules know each other, neither can be understood alone.
#[test]
fn the_map_is_true_and_without_a_circle() {
    let (named, mapped) = (named(), mapped());
    assert!(mapped.len() > 15 && mapped["pump"].contains("log"), "{mapped:?}");
    let rooms: BTreeSet<_> = named.keys().chain(mapped.keys()).collect();
    let untrue = rooms.into_iter().filter(|room| named.get(*room) != mapped.get(*room));
    let untrue: Vec<_> = untrue.map(|room| format!("{room} names {:?}; on the map {:?}", named.get(room), mapped.get(room))).collect();
    none(&untrue, "the map in ARCHITECTURE.md differs from the sources");
    let mut left = named;
    while let Some(leaf) = left.iter().find(|(_, known)| known.iter().all(|room| !left.contains_key(room))).map(|(room, _)| room.clone()) {
        left.remove(&leaf);
    }
    none(&left.iter().map(|(room, known)| format!("{room} names {known:?}")).collect::<Vec<_>>(), "a circle, and who leads to it");
}

/// What each module at the top of `src` knows of, as the map says: before the semicolon in the last column.
fn mapped() -> BTreeMap<String, BTreeSet<String>> {
    let row = |line: &str| {
        let cells: Vec<_> = line.strip_prefix("| `src/")?.strip_suffix(" |")?.split(" | ").collect();
        let &[place, _, known] = cells.as_slice() else { panic!("not a row: {line}") };
        let known = known.split(';').next()?.split(", ").filter(|room| *room != "nothing");
        Some((place.split('.').next()?.to_owned(), known.map(str::to_owned).collect()))
    };
    fs::read_to_string("ARCHITECTURE.md").unwrap().lines().filter_map(row).collect()
}

/// The same as the sources say.
fn named() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files().iter().filter(|file| file.is_below(&["src/"]) && file.path != "src/lib.rs") {
        let room = file.path["src/".len()..].split(['/', '.']).next().unwrap();
        let known = all.entry(room.to_owned()).or_default();
        known.extend(rooms_named(file).into_iter().filter(|other| other != room));
    }
    all
}

/// What follows the crate's root in a file's paths.
fn rooms_named(file: &File) -> Vec<String> {
    let text = file.shipped().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let upward = "super::".repeat(file.path.matches('/').count());
    let is_longer = |before: &str| before.ends_with(|char: char| char.is_alphanumeric() || ['_', ':', '$'].contains(&char));
    let roots = ["crate::", "statehouse::", &upward];
    let paths = roots.iter().flat_map(|root| text.match_indices(root)).filter(|(at, _)| !is_longer(&text[..*at]));
    paths.flat_map(|(at, root)| heads(&text[at + root.len()..])).collect()
}

/// The first word of a path, or of each path in the braces that it begins with.
fn heads(path: &str) -> Vec<String> {
    let head = |path: &str| path.trim().split(|char: char| !(char.is_alphanumeric() || char == '_')).next().unwrap().to_owned();
    let Some(group) = path.strip_prefix('{') else { return vec![head(path)] };
    let (mut depth, mut outer) = (1, String::new());
    for char in group.chars() {
        depth += i32::from(char == '{') - i32::from(char == '}');
        match depth {
            0 => break,
            1 => outer.push(char),
            _ => {}
        }
    }
    outer.split(',').filter(|path| !path.trim().is_empty()).map(head).collect()
}

#[test]
fn threads_start_in_few_places() {
    let (mut found, mut starting) = (Vec::new(), BTreeSet::new());
    for file in shipped_files() {
        // So that nothing hides behind a name of its own.
        let renamed =
            |line: &str| line.contains("use std::thread::") || line.contains("thread::{") && !line.contains("thread::{self, JoinHandle}");
        let starts = |line: &str| STARTS.iter().any(|word| names(line, word)) || renamed(line);
        let lines: Vec<_> = file.shipped().filter(|(_, line)| starts(line)).collect();
        let Some(place) = START_THREADS.into_iter().find(|place| file.is_below(&[place])) else {
            found.extend(lines.iter().map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
            continue;
        };
        starting.extend(lines.first().map(|_| place));
    }
    none(&found, &format!("a thread is started outside of {START_THREADS:?}"));
    assert_eq!(starting, BTreeSet::from(START_THREADS), "a place that may start threads and does not need not be allowed to");
}

#[test]
fn the_dataflow_is_pure() {
    let manifest: toml::Table = fs::read_to_string("dataflows/Cargo.toml").unwrap().parse().unwrap();
    let leans_on: BTreeSet<_> = manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(leans_on, BTreeSet::from(DATAFLOWS_LEAN_ON), "dependencies of dataflows");
    let mut found = Vec::new();
    for file in shipped_files().iter().filter(|file| file.is_below(&["dataflows/src/"])) {
        let impure = file.shipped().filter(|(_, line)| IMPURE.iter().any(|word| names(line, word)));
        found.extend(impure.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    none(&found, "the dataflow touches the world");
}

#[test]
fn every_dependency_says_why() {
    let mut found = Vec::new();
    for path in ["Cargo.toml", "dataflows/Cargo.toml"] {
        let text = fs::read_to_string(path).unwrap();
        let mut section = "";
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let is_new = section.contains("dependencies]")
                && line.contains(" = ")
                && !line.contains("path = ")
                && !line.contains("workspace = true");
            if is_new && !before.starts_with('#') {
                found.push(format!("{path}: {line}"));
            }
            before = line;
        }
    }
    none(&found, "a dependency without a reason in the line before");
}

#[test]
fn every_file_begins_with_its_header() {
    let found: Vec<_> = rust_files().iter().filter(|file| !file.text.starts_with("//! ")).map(|file| file.path.clone()).collect();
    none(&found, "a file does not say what it is");
}

#[test]
fn files_have_one_idea() {
    let long = |file: &File| Some(file.text.lines().count()).filter(|lines| *lines > FILE_LINES_MAX);
    let found: Vec<_> = rust_files().iter().filter_map(|file| Some(format!("{} has {} lines", file.path, long(file)?))).collect();
    none(&found, "a file is too long");
}

#[test]
fn most_functions_fit_a_glance() {
    let (mut all, mut long) = (0, Vec::new());
    for file in shipped_files() {
        for (name, lines) in functions(&file) {
            all += 1;
            if lines > GLANCE_LINES {
                long.push(format!("{}: {name} has {lines} lines", file.path));
            }
        }
    }
    assert!(all > 300, "only {all} functions were found");
    if long.len() * 100 > all * LONG_FUNCTIONS_PERCENT_MAX {
        none(&long, &format!("of {all} functions, more than {LONG_FUNCTIONS_PERCENT_MAX} % are longer than {GLANCE_LINES} lines"));
    }
}

/// Shipped functions and their lengths: formatted code ends a function with a brace under its first column.
fn functions(file: &File) -> Vec<(String, usize)> {
    let lines: Vec<_> = file.shipped().collect();
    let mut found = Vec::new();
    for (at, (_, line)) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some((_, rest)) = line.split_once("fn ").filter(|(before, _)| before.trim_start().split(' ').all(is_qualifier)) else {
            continue;
        };
        let ending = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[at..].iter().position(|(_, line)| line.trim_end() == ending) else { continue };
        let is_only_declared = lines[at..].iter().find(|(_, line)| line.contains(['{', ';'])).is_some_and(|(_, line)| !line.contains('{'));
        if !is_only_declared {
            found.push((rest.split(['(', '<']).next().unwrap_or_default().to_owned(), length + 1));
        }
    }
    found
}

fn is_qualifier(word: &str) -> bool {
    ["", "pub", "pub(crate)", "pub(super)", "async", "const"].contains(&word) || word.starts_with("pub(in")
}

#[test]
fn nothing_is_left_behind() {
    let mut found = Vec::new();
    for file in files() {
        for (number, line) in (1..).zip(file.text.lines()) {
            let left =
                LEFT_BEHIND.iter().find(|word| line.contains(*word) && (!word.chars().all(char::is_alphabetic) || names(line, word)));
            found.extend(left.map(|word| format!("{}:{number}: {word}", file.path)));
        }
    }
    none(&found, "left behind");
}

#[test]
fn nothing_shipped_unwraps() {
    let mut found = Vec::new();
    for file in shipped_files() {
        let unwraps = file.shipped().filter(|(_, line)| line.contains(".unwrap()"));
        found.extend(unwraps.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    none(&found, "say why it holds, with expect");
}
