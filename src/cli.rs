//! The command line: what was typed, and which verb does it.
//!
//! Every program that embeds the library can have the same command line, with rules of its own: it calls [`run`] from its `main`. Nothing
//! else in the library ends the process, and nothing but the demo prints.

mod check;
mod client;
mod logging;
mod serve;
mod token;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use self::logging::LogFormat;
use crate::{
    config::{Config, registry::Registry},
    demo,
};

/// Keeps the shared state of objects that many agents report on.
#[derive(Debug, Parser)]
#[command(name = "statehouse", version, arg_required_else_help = true)]
struct Cli {
    /// How the server's own log is written (to stderr).
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a house until SIGTERM or SIGINT.
    Serve(serve::Serve),
    /// Check a configuration and show what it means.
    CheckConfig(check::CheckConfig),
    /// Watch simulated agents vote: a house of its own, and a story of attacks on its objects.
    Demo(demo::Options),
    /// Make a bearer token: the secret goes to a file of its own, its entry for the file that http.tokens names to stdout.
    Token(token::MakeToken),
    #[command(flatten)]
    Client(client::ClientCommand),
}

/// Which configuration.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration file; variables STATEHOUSE__SECTION__SETTING of the environment win over it.
    #[arg(short, long, default_value = "statehouse.toml", value_name = "FILE")]
    config: PathBuf,
    /// Worker threads; wins over the file.
    #[arg(long)]
    workers: Option<usize>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, Box<dyn Error>> {
        let mut config = Config::load(&self.config)?;
        if self.workers.is_some() {
            config.workers = self.workers;
            config.check()?;
        }
        Ok(config)
    }
}

/// Does what the process was asked to do, with these rules beside the built-in ones.
#[must_use]
pub fn run(registry: &Registry) -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Verb::Serve(serve) => {
            logging::start(cli.log);
            serve.run(registry)
        }
        Verb::CheckConfig(check) => check.run(registry),
        Verb::Demo(options) => demo::run(options).map_err(Into::into),
        Verb::Token(token) => token.run(),
        Verb::Client(command) => return client::run(command), // has exit codes of its own
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("statehouse: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, in one line; a cause that its error already tells is not told again.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text
}
