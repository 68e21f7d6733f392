//! A disk in memory that can fail, tear and lose power, as a redb storage backend: for tests of whatever stands on the embedded log.
//!
//! What was written and what would survive a power failure are two images, as on a machine: a write is seen at once by every reader, but
//! durable only after a sync. Every write, change of length and sync is one *step*; a [`Fault`] strikes at one of them. After a sync that
//! failed the disk plays the nastiest thing that kernels do: the bytes stay readable, but later syncs don't write them.
//!
//! Include it with `#[path = "support/disk.rs"] mod disk;` and hand `move || Ok(disk.backend())` to the log.
//!
//! Known limitations: reads never fail; sectors are written whole.
#![allow(dead_code, reason = "every test program includes the whole module and uses a part of it")]
#![allow(unreachable_pub, reason = "a module of test programs")]

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

/// What reaches the disk whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

/// What goes wrong, once, and at which step (the first is 0).
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The step that it strikes.
    pub step: u64,
    /// What becomes of that step.
    pub kind: FaultKind,
    /// Whether the disk refuses every later step until [`Disk::power_cycle`], as seen by a process that was killed; or works again.
    pub lasting: bool,
}

/// What becomes of the step that a fault strikes; it answers with an error in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing of it happens.
    Fails,
    /// Half of it happens: the first half of the bytes of a write, the first half of the writes of a sync.
    Tears,
}

/// What a power failure does to the writes since the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There was none, only the process was killed.
    Nothing,
    /// None of them had reached the disk.
    Everything,
    /// Of each, some sectors had, as drawn from this seed.
    Some(u64),
}

#[derive(Debug, Default)]
struct Platter {
    /// What readers see.
    seen: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    /// What lies between the two, in order; but not what a failed sync dropped.
    pending: Vec<Step>,
    steps: u64,
    fault: Option<Fault>,
    struck: bool,
    refusing: bool,
    /// Backends of earlier lives are dead.
    life: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Disk {
    /// A new handle for a process that opens the disk now.
    pub fn backend(&self) -> DiskBackend {
        DiskBackend { life: self.platter().life, disk: self.clone() }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.platter().steps
    }

    /// Arms a fault.
    pub fn arm(&self, fault: Fault) {
        self.platter().fault = Some(fault);
    }

    /// Takes back a fault that has not struck.
    pub fn disarm(&self) {
        self.platter().fault = None;
    }

    /// Whether a fault has struck.
    pub fn struck(&self) -> bool {
        self.platter().struck
    }

    /// The machine, or just the process, dies and comes back: handles from before are dead, faults over.
    pub fn power_cycle(&self, loss: Loss) {
        let mut platter = self.platter();
        platter.life += 1;
        platter.refusing = false;
        platter.fault = None;
        if loss == Loss::Nothing {
            // Only the process died: what was seen still is, though it need not be durable.
            return;
        }
        let pending = std::mem::take(&mut platter.pending);
        if let Loss::Some(mut seed) = loss {
            for step in pending {
                step.apply_some(&mut platter.durable, || splitmix(&mut seed).is_multiple_of(2));
            }
        }
        platter.seen = platter.durable.clone();
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

impl Platter {
    /// Counts a step. Says what becomes of it.
    fn step(&mut self) -> io::Result<Option<FaultKind>> {
        if self.refusing {
            return Err(io::Error::other("the disk is gone"));
        }
        let step = self.steps;
        self.steps += 1;
        let Some(fault) = self.fault.filter(|fault| fault.step == step) else { return Ok(None) };
        self.struck = true;
        self.refusing = fault.lasting;
        Ok(Some(fault.kind))
    }

    fn change(&mut self, step: Step) -> io::Result<()> {
        let torn = match (self.step()?, &step) {
            (None, _) => {
                self.keep(step);
                return Ok(());
            }
            (Some(FaultKind::Tears), Step::Write(at, bytes)) => Some(Step::Write(*at, bytes[..bytes.len() / 2].to_vec())),
            (Some(_), _) => None,
        };
        if let Some(torn) = torn {
            self.keep(torn);
        }
        Err(struck())
    }

    fn keep(&mut self, step: Step) {
        step.apply(&mut self.seen);
        self.pending.push(step);
    }

    fn sync(&mut self) -> io::Result<()> {
        let outcome = self.step()?;
        let pending = std::mem::take(&mut self.pending);
        let written = match outcome {
            None => pending.len(),
            Some(FaultKind::Tears) => pending.len() / 2,
            Some(FaultKind::Fails) => 0,
        };
        for (i, step) in pending.into_iter().enumerate() {
            if i < written {
                step.apply(&mut self.durable);
            } else if matches!(step, Step::Length(_)) {
                // File systems journal lengths; it is only bytes that they forget.
                self.pending.push(step);
            }
        }
        if outcome.is_some() { Err(struck()) } else { Ok(()) }
    }
}

impl Step {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                image.resize(image.len().max(end), 0);
                image[*at..end].copy_from_slice(bytes);
            }
        }
    }

    /// Applies those sectors of a write that `keep` says, or all or nothing of a change of length.
    fn apply_some(&self, image: &mut Vec<u8>, mut keep: impl FnMut() -> bool) {
        let Self::Write(at, bytes) = self else {
            if keep() {
                self.apply(image);
            }
            return;
        };
        let (mut at, mut rest) = (*at, bytes.as_slice());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
            if keep() {
                Self::Write(at, now.to_vec()).apply(image);
            }
            at += now.len();
            rest = later;
        }
    }
}

fn struck() -> io::Error {
    io::Error::other("the disk was told to fail here")
}

/// The next pseudo-random number.
pub fn splitmix(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// One process's handle to the disk.
#[derive(Debug)]
pub struct DiskBackend {
    disk: Disk,
    life: u64,
}

impl DiskBackend {
    fn alive(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        if platter.life == self.life { Ok(platter) } else { Err(io::Error::other("this process is dead")) }
    }
}

impl StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.alive()?;
        let at = usize::try_from(offset).expect("the disk is in memory");
        let bytes = platter.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?.change(Step::Length(usize::try_from(len).expect("the disk is in memory")))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.alive()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("the disk is in memory");
        self.alive()?.change(Step::Write(at, data.to_vec()))
    }
}
