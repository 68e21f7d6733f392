//! `token`: makes a bearer token, the client's half and the server's.
//!
//! The secret goes to a file that only its owner can read, never to the terminal or a pipe; the entry without it to stdout, to be appended
//! to the server's file.

use std::{
    error::Error,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;

use crate::http::{FreshToken, Scope};

/// For nobody but the owner.
const PRIVATE: u32 = 0o600;

/// Beyond it no time can be written.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

#[derive(Args, Debug)]
pub(super) struct MakeToken {
    /// What it is good for: read, write (which may read, too), or peer (what instances of a house ask of each other).
    #[arg(long)]
    scope: Scope,
    /// The file to put the secret in; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    save: PathBuf,
    /// What the entry is called; default: as the file.
    #[arg(long)]
    name: Option<String>,
    /// How long it is good, such as 90days; default: until its entry is taken out.
    #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "DURATION")]
    for_: Option<Duration>,
}

impl MakeToken {
    pub(super) fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.for_.is_some_and(|time| time > LONGEST) {
            return Err("--for: that is longer than a hundred years; leave it out".into());
        }
        let expires = self.for_.map(|time| SystemTime::now() + time);
        let fresh = FreshToken::draw()?;
        self.save(&fresh).map_err(|error| format!("--save {}: {error}; name a file that can be made", self.save.display()))?;
        let name = self.name.clone().or_else(|| Some(self.save.file_stem()?.to_string_lossy().into_owned()));
        io::stdout().write_all(fresh.entry(&name.unwrap_or_default(), self.scope, expires).as_bytes())?;
        Ok(())
    }

    fn save(&self, fresh: &FreshToken) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&self.save)?;
        writeln!(file, "{}", *fresh.token)
    }
}
