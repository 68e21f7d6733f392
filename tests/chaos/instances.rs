//! Instances of one house: the real program, each in a slot of its own, killed, paused and started again.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use statehouse_dataflows::vocabulary::Millis;

const PATIENCE: Duration = Duration::from_secs(60);

/// The wall-clock.
pub(crate) fn now_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

/// One process, from its start to its end.
pub(crate) struct Life {
    /// Tells lives apart, also of one slot.
    pub(crate) number: usize,
    pub(crate) address: String,
    /// What it calls itself, once that was asked.
    pub(crate) id: OnceLock<String>,
    child: Mutex<Child>,
    paused: AtomicBool,
    /// When it was killed; 0: it was not.
    killed_ms: AtomicI64,
}

impl Life {
    /// kill -9. Only the first time counts.
    pub(crate) fn kill(&self) {
        let mut child = self.child();
        if self.killed_ms.load(Ordering::SeqCst) == 0 {
            let _ended_already = child.kill();
            self.killed_ms.store(now_ms(), Ordering::SeqCst);
            child.wait().expect("it ends");
        }
    }

    pub(crate) fn killed_ms(&self) -> Option<Millis> {
        Some(self.killed_ms.load(Ordering::SeqCst)).filter(|ms| *ms > 0)
    }

    pub(crate) fn runs(&self) -> bool {
        self.child().try_wait().expect("it can be looked at").is_none()
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
        self.paused.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// SIGTERM, and a clean end.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
        let begun = Instant::now();
        while self.runs() {
            assert!(begun.elapsed() < PATIENCE, "instance {} does not end", self.number);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child().id()); // the shell's own: small machines have no program of that name
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success(), "{kill}");
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ended_already = child.kill();
        let _waited = child.wait();
    }
}

/// All slots; who asks takes a copy of what lives now.
pub(crate) struct Instances {
    directory: PathBuf,
    config: PathBuf,
    /// By slot: the brokers' addresses that the instance is given.
    brokers: Vec<String>,
    lives: Mutex<Vec<Option<Arc<Life>>>>,
    begun: Mutex<usize>,
}

impl Instances {
    /// None runs yet. Logs go to `directory`.
    pub(crate) fn new(directory: &Path, config: &Path, brokers: Vec<String>) -> Self {
        let lives = Mutex::new(brokers.iter().map(|_| None).collect());
        Self { directory: directory.to_owned(), config: config.to_owned(), brokers, lives, begun: Mutex::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.brokers.len()
    }

    /// Starts the program in this slot and waits until it listens.
    pub(crate) fn start(&self, slot: usize) {
        let number = {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            *begun += 1;
            *begun
        };
        let log = self.directory.join(format!("instance-{slot}.log"));
        let from = fs::metadata(&log).map_or(0, |log| log.len()) as usize;
        let stderr = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_statehouse"));
        command.args(["serve", "--log", "json", "--config"]).arg(&self.config).env("STATEHOUSE__KAFKA__BROKERS", &self.brokers[slot]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr::<File>(stderr).spawn().expect("the program starts");
        let begun = Instant::now();
        let address = loop {
            let said = fs::read(&log).expect("its log");
            let said = String::from_utf8_lossy(&said[from.min(said.len())..]).into_owned();
            if let Some(address) = said.lines().find_map(address) {
                break address;
            }
            assert!(child.try_wait().expect("it can be looked at").is_none(), "instance {slot} ended before it listened:\n{said}");
            assert!(begun.elapsed() < PATIENCE, "instance {slot} does not listen:\n{said}");
            thread::sleep(Duration::from_millis(5));
        };
        let life = Life {
            number,
            address,
            id: OnceLock::new(),
            child: Mutex::new(child),
            paused: AtomicBool::new(false),
            killed_ms: AtomicI64::new(0),
        };
        self.lives()[slot] = Some(Arc::new(life));
    }

    /// Who is in this slot, killed or not.
    pub(crate) fn life(&self, slot: usize) -> Option<Arc<Life>> {
        self.lives()[slot].clone()
    }

    /// Those that were not killed and are not paused, by slot.
    pub(crate) fn awake(&self) -> Vec<(usize, Arc<Life>)> {
        let lives = self.lives().clone();
        let awake =
            |(slot, life): (usize, Option<Arc<Life>>)| Some((slot, life.filter(|life| life.killed_ms().is_none() && !life.is_paused())?));
        lives.into_iter().enumerate().filter_map(awake).collect()
    }

    /// Slots whose process ended though nobody killed it.
    pub(crate) fn ended(&self) -> Vec<usize> {
        let lives = self.lives().clone();
        let ended = |life: &Arc<Life>| life.killed_ms().is_none() && !life.runs();
        lives.iter().enumerate().filter(|(_, life)| life.as_ref().is_some_and(ended)).map(|(slot, _)| slot).collect()
    }

    fn lives(&self) -> MutexGuard<'_, Vec<Option<Arc<Life>>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(line: &str) -> Option<String> {
    let line = serde_json::from_str::<Value>(line).ok()?;
    line["address"].as_str().map(str::to_owned)
}
