//! The program `statehouse`: the library's command line, with the built-in rules.

use std::process::ExitCode;

use statehouse::{cli, config::registry::Registry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(&Registry::new())
}
