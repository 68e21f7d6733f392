//! `check-config`: whether a configuration can be used, and every setting it amounts to.

use std::{error::Error, time::Duration};

use clap::Args;

use super::ConfigArgs;
use crate::{
    config::{LogKind, registry::Registry},
    http::Access,
    log::kafka,
};

/// How long `--connect` waits for brokers.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct CheckConfig {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also ask the brokers whether topics are as they must be. Changes nothing.
    #[arg(long)]
    connect: bool,
}

impl CheckConfig {
    pub(super) fn run(&self, registry: &Registry) -> Result<(), Box<dyn Error>> {
        let config = self.config.load()?;
        config.plan(registry)?;
        Access::load(&config.http)?;
        if config.log == LogKind::Kafka {
            kafka::check_settings(&config)?;
        }
        print!("{}", config.describe());
        if self.connect && config.log == LogKind::Kafka {
            for warning in kafka::check(&config, PATIENCE)? {
                eprintln!("warning: {warning}");
            }
        }
        Ok(())
    }
}
