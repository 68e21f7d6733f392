//! What can be wrong with a configuration. Every error says which setting, which value, and what to write instead.

use std::{fmt::Display, path::PathBuf};

use statehouse_dataflows::plan::PlanError;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {path}: name a readable file with -c")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// There is no such setting.
    #[error("{setting}: no such setting{}{}", from(.variable), hint(.suggestion))]
    Unknown {
        /// Its dotted name, as typed.
        setting: String,
        /// The environment variable that sets it; none: the file.
        variable: Option<String>,
        /// The setting that may have been meant.
        suggestion: Option<String>,
    },
    /// A setting has a value that it can't have.
    #[error("{setting} = {value}: {problem}")]
    Setting {
        /// Its dotted name.
        setting: String,
        /// The value, as TOML; masked where it may be a secret.
        value: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
    /// The rules don't go together.
    #[error("[[rule]]: {0}")]
    Plan(#[from] PlanError),
}

impl ConfigError {
    pub(crate) fn setting(setting: impl Into<String>, value: &dyn Display, problem: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), value: value.to_string(), problem: problem.into() }
    }
}

fn from(variable: &Option<String>) -> String {
    variable.as_ref().map_or_else(String::new, |name| format!(" (environment variable {name})"))
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(|| ": remove it".to_owned(), |name| format!(": did you mean {name}?"))
}
