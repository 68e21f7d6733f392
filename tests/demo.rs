//! The demo as a newcomer runs it: the real program, its lines, its end.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

/// The whole story of an attack takes five seconds at this speed, where the machine has nothing else to do.
const FAST: [&str; 6] = ["demo", "--speed", "10", "--listen", "127.0.0.1:0", "--seed=7"];

fn demo(more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_statehouse")).args(FAST).args(more).stdout(Stdio::piped()).spawn().unwrap()
}

/// Where the demo said that its log is.
fn directory(lines: &[String]) -> &Path {
    let line = lines.iter().find(|line| line.contains("keeps its log in")).unwrap_or_else(|| panic!("no directory in {lines:#?}"));
    Path::new(line.split_once("keeps its log in ").unwrap().1.strip_suffix(" until then.").unwrap())
}

fn is_attack(line: &str) -> bool {
    line.contains("normal → under_attack") && line.contains("vote: 3 of 5 say under_attack")
}

#[test]
fn it_shows_a_vote_turning_into_a_change() {
    let mut demo = demo(&[]);
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    // However long it takes on this machine.
    let is_pinned = |line: &str| line.contains("under_attack → maintenance") && line.contains("override");
    let lines = read_until(&mut out, is_pinned);
    let at =
        |what: &dyn Fn(&str) -> bool| lines.iter().position(|line| what(line)).unwrap_or_else(|| panic!("a line is missing in {lines:#?}"));
    let suspicion = at(&|line| line.contains("1 under_attack: majority decides \"normal\""));
    assert!(suspicion < at(&is_attack), "in this order, and both before the override: {lines:#?}");
    let ends = |line: &str| line.contains("── The override of ") && line.contains(" has ended: what stands behind it shows again");
    let more = read_until(&mut out, ends);
    let after = read_until(&mut out, |line| line.contains("maintenance → under_attack"));
    assert!(
        after.len() == 1 && !more.iter().any(|line| line.contains("maintenance → ")),
        "told just before it shows: {more:#?} {after:#?}"
    );
    assert!(interrupt(&mut demo).success(), "{lines:#?}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains('\x1b') && lines.iter().all(|line| !line.contains('\x1b')), "colours in a pipe: {lines:#?}\n{rest}");
}

#[test]
fn it_ends_by_itself_and_leaves_hints_and_nothing_else() {
    let ended = demo(&["--seconds", "1"]).wait_with_output().unwrap();
    let lines: Vec<String> = String::from_utf8(ended.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(ended.status.success(), "{}: {lines:#?}", ended.status);
    let hints = lines.iter().filter(|line| line.trim_start().contains("curl ") || line.contains(" explain ") || line.contains(" get "));
    assert!(hints.count() >= 3, "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("Ended: "), "{lines:#?}");
    assert!(!directory(&lines).exists(), "left behind: {lines:#?}");
}

#[test]
fn it_ends_cleanly_at_ctrl_c() {
    let mut demo = demo(&[]);
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let mut lines = read_until(&mut out, is_attack);
    assert!(directory(&lines).exists());
    assert!(interrupt(&mut demo).success(), "{lines:#?}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    lines.extend(rest.lines().map(str::to_owned));
    assert!(lines.last().unwrap().starts_with("Ended: "), "{lines:#?}");
    assert!(!directory(&lines).exists(), "left behind: {lines:#?}");
}

fn read_until(out: &mut BufReader<ChildStdout>, found: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    for line in out.lines() {
        lines.push(line.unwrap());
        if found(lines.last().unwrap()) {
            return lines;
        }
    }
    panic!("the demo ended before: {lines:#?}");
}

fn interrupt(demo: &mut Child) -> ExitStatus {
    let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", demo.id())]).status().unwrap();
    assert!(sent.success(), "no signal was sent");
    demo.wait().unwrap()
}
