//! The README's transcripts of a house on one machine, and of one that others may ask, typed word by word: what a newcomer sees is what
//! they show.
//!
//! Times and revisions differ on every machine, as the README says, and are masked; the port is one that is free.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
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
    let (config, entries) = section(&readme, "Use it on one machine");
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

/// A configuration, and what is typed then.
fn section<'a>(readme: &'a str, title: &str) -> (&'a str, Vec<Entry>) {
    let section = readme.split(&format!("## {title}\n")).nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).collect();
    let config = blocks[0].strip_prefix("toml\n").expect("first a configuration");
    (config, blocks[1..].iter().flat_map(|block| transcript(block)).collect())
}

#[test]
fn tokens_and_tls_in_the_commands_that_are_shown() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (config, entries) = section(&readme, "Let others ask it: tokens and TLS");
    assert!(entries.len() >= 7, "a transcript was not found: {entries:#?}");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("statehouse.toml");
    let data = directory.path().join("statehouse-data");
    let mut config = format!("{}\n[local]\npath = {data:?}\n", config.replace(":7717", ":0"));
    for name in ["tokens.toml", "certificate.pem", "key.pem"] {
        config = config.replace(&format!("{name:?}"), &format!("{:?}", directory.path().join(name))); // it runs in another directory
    }
    fs::write(&file, config).unwrap();
    let (mut house, mut exports, mut address) = (None, String::new(), String::new());
    for Entry { command, output } in entries {
        let typed = exports.clone() + &command.replace("localhost:7717", &address);
        if command.starts_with("statehouse serve ") {
            let serving = Program::serve(&file);
            address = format!("localhost:{}", serving.address.rsplit(':').next().expect("a port"));
            house = Some(serving);
        } else if command.starts_with("export ") {
            exports = format!("{typed}; ");
            until_it_answers(&format!("{exports} statehouse list"), directory.path());
        } else if command.starts_with("openssl ") {
            let Output { status, stderr, .. } = shell(&typed, directory.path()).output().expect("there is a shell");
            assert!(status.success(), "$ {typed}\n{}", String::from_utf8_lossy(&stderr));
        } else {
            assert_eq!(run(&typed, directory.path(), ""), output, "$ {command}");
        }
    }
    let closed = shell(&format!("curl -s --cacert certificate.pem https://{address}/v1/summary"), directory.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&closed.stdout).contains("\"status\":401"), "{closed:?}");
    let mut house = house.expect("it was started");
    let second = "statehouse token --scope read --save second.token >> tokens.toml";
    run(&format!("{second}; kill -HUP {}", house.id()), directory.path(), "");
    until_it_answers(&format!("{exports} statehouse list --token-file second.token"), directory.path());
    assert!(house.runs(), "SIGHUP reads files again and ends nothing");
    house.terminate();
}

fn until_it_answers(command: &str, directory: &Path) {
    let began = Instant::now();
    loop {
        let Output { status, stderr, .. } = shell(command, directory).output().expect("there is a shell");
        if status.success() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "$ {command}\n{}", String::from_utf8_lossy(&stderr));
        thread::sleep(Duration::from_millis(20)); // between two looks at the condition
    }
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
    let ended = shell(command, directory).env("STATEHOUSE_URL", format!("http://{address}")).output().expect("there is a shell");
    let (said, complaint) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success() && complaint.is_empty(), "$ {command}\n{said}{complaint}{} (is curl installed?)", ended.status);
    said
}

fn shell(command: &str, directory: &Path) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_statehouse")).parent().map(PathBuf::from).expect("it is in a directory");
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default()))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(directory).env("PATH", path);
    shell
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
