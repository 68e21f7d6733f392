//! The README's transcript of a house on one machine, typed word by word: what a newcomer sees is what it shows.
//!
//! Times and revisions differ on every machine, as the README says, and are masked; the port is one that is free.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use program::Program;
use tempfile::TempDir;

#[path = "support/program.rs"]
mod program;

/// What was typed, and what came.
#[derive(Debug)]
struct Entry {
    command: String,
    output: String,
}

#[test]
fn the_transcript_is_what_one_sees() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("## Use it on one machine\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).collect();
    let config = blocks[0].strip_prefix("toml\n").expect("first a configuration");
    let entries: Vec<Entry> = blocks[1..].iter().flat_map(|block| transcript(block)).collect();
    assert!(entries.len() >= 12, "a transcript was not found: {entries:#?}");

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("statehouse.toml");
    let data = directory.path().join("statehouse-data");
    fs::write(&file, format!("{config}\n[http]\nlisten = \"127.0.0.1:0\"\n[local]\npath = {data:?}\n")).unwrap();
    let house = Program::serve(&file);
    house.wait_until_ready(&program::agent());
    for Entry { command, output } in entries.iter().filter(|entry| !entry.command.starts_with("statehouse serve ")) {
        let typed = command.replace("127.0.0.1:7717", &house.address);
        assert_eq!(masked(&run(&typed, directory.path(), &house.address)), masked(output), "$ {command}");
    }
    house.terminate();
}

/// Commands stand behind `$ `, go on after a backslash, and are followed by their output.
fn transcript(block: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut goes_on = false;
    for line in block.lines().filter(|line| !line.is_empty()) {
        match (line.strip_prefix("$ "), entries.last_mut()) {
            (Some(command), _) => entries.push(Entry { command: command.to_owned(), output: String::new() }),
            (None, Some(entry)) if goes_on => entry.command += &format!("\n{line}"),
            (None, Some(entry)) => entry.output += &format!("{line}\n"),
            (None, None) => panic!("no command before {line:?}"),
        }
        goes_on = (goes_on || line.starts_with("$ ")) && line.ends_with('\\');
    }
    entries
}

/// As in a shell with the program on its PATH.
fn run(command: &str, directory: &Path, address: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_statehouse")).parent().map(PathBuf::from).expect("it is in a directory");
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default()))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(directory).env("PATH", path).env("STATEHOUSE_URL", format!("http://{address}"));
    let ended = shell.output().expect("there is a shell");
    let (said, complaint) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success() && complaint.is_empty(), "$ {command}\n{said}{complaint}{} (is curl installed?)", ended.status);
    said
}

/// Times and revisions replaced by a sign.
fn masked(text: &str) -> String {
    let words = text.split_inclusive([' ', ',', ')', '\n']);
    let mut before = "";
    let mut masked = String::new();
    for word in words {
        let bare = word.trim_end_matches([' ', ',', ')', '\n']);
        let is_time = bare.len() == 24 && bare.ends_with('Z') && bare.as_bytes()[10] == b'T';
        let key = ["\"since\":", "\"revision\":"].into_iter().find(|key| bare.starts_with(key));
        match key {
            Some(key) => masked += &format!("{key}#{}", &word[bare.len()..]),
            None if is_time || before == "revision " => masked += &format!("#{}", &word[bare.len()..]),
            None => masked += word,
        }
        before = word;
    }
    masked
}

#[test]
fn only_times_and_revisions_are_masked() {
    for (text, expected) in [
        ("  since      2026-11-22T20:31:57.900Z (vote, revision 2)\n", "  since      # (vote, revision #)\n"),
        (
            r#"{"state":"normal","since":1795379518100,"cause":"vote","revision":9,"live":3}"#,
            r#"{"state":"normal","since":#,"cause":"vote","revision":#,"live":3}"#,
        ),
        ("applied, at offset 4 of partition 0\n", "applied, at offset 4 of partition 0\n"),
    ] {
        assert_eq!(masked(text), expected);
    }
}
