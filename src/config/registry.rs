//! Rules of one's own, by name. A program that embeds the library registers them; `[[rule]]` names them and holds their settings.
//!
//! Used once, when the configuration is turned into a plan.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::de::DeserializeOwned;
use statehouse_dataflows::{
    plan::Rule,
    rule::{ReportsRule, TallyRule},
};

use super::{ConfigError, rules::own_settings};

/// The names that are taken.
pub const BUILT_IN: [&str; 6] = ["latest", "majority", "plurality", "any", "quorum", "unanimous"];

/// Builds a rule from its place in the configuration and its settings there.
type Factory = Arc<dyn Fn(&str, toml::Table) -> Result<Rule, ConfigError> + Send + Sync>;

/// Rules of one's own, by name.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<String, Factory>,
}

/// A rule that can't be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is empty or a built-in rule's.
    #[error("{0:?} can't name a rule of one's own: it is empty or a built-in rule; choose another name")]
    Reserved(String),
    /// The name is taken.
    #[error("a rule {0:?} is registered already: choose another name")]
    Twice(String),
}

impl Registry {
    /// Without rules of one's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a rule over the tally. `build` is called for each `[[rule]]` that names it, with the settings there that are not every
    /// rule's; take a [`toml::Table`] to get them as they are, or a struct with `#[serde(deny_unknown_fields)]`. Its error says what
    /// is wrong with them and what to write instead.
    ///
    /// # Errors
    /// When, and only when, the name is empty, built in, or registered already.
    pub fn tally_rule<S, R, F>(&mut self, name: &str, build: F) -> Result<(), RegistryError>
    where
        S: DeserializeOwned,
        R: TallyRule + 'static,
        F: Fn(S) -> Result<R, String> + Send + Sync + 'static,
    {
        let shared: Arc<str> = name.into();
        let factory =
            move |place: &str, settings| Ok(Rule::Tally(Arc::clone(&shared), Arc::new(build_with(&build, (place, &shared), &settings)?)));
        self.insert(name, Arc::new(factory))
    }

    /// Registers a rule over all live reports; else as [`Registry::tally_rule`].
    ///
    /// # Errors
    /// As [`Registry::tally_rule`].
    pub fn reports_rule<S, R, F>(&mut self, name: &str, build: F) -> Result<(), RegistryError>
    where
        S: DeserializeOwned,
        R: ReportsRule + 'static,
        F: Fn(S) -> Result<R, String> + Send + Sync + 'static,
    {
        let shared: Arc<str> = name.into();
        let factory =
            move |place: &str, settings| Ok(Rule::Reports(Arc::clone(&shared), Arc::new(build_with(&build, (place, &shared), &settings)?)));
        self.insert(name, Arc::new(factory))
    }

    fn insert(&mut self, name: &str, factory: Factory) -> Result<(), RegistryError> {
        if name.is_empty() || BUILT_IN.contains(&name) {
            return Err(RegistryError::Reserved(name.to_owned()));
        }
        if self.factories.contains_key(name) {
            return Err(RegistryError::Twice(name.to_owned()));
        }
        self.factories.insert(name.to_owned(), factory);
        Ok(())
    }

    /// The registered names, ordered.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }

    /// Builds the rule of this name for the `[[rule]]` at `place`; none where there is none.
    pub(crate) fn build(&self, name: &str, place: &str, settings: toml::Table) -> Option<Result<Rule, ConfigError>> {
        self.factories.get(name).map(|build| build(place, settings))
    }
}

fn build_with<S: DeserializeOwned, R>(
    build: &impl Fn(S) -> Result<R, String>,
    (place, rule): (&str, &str),
    settings: &toml::Table,
) -> Result<R, ConfigError> {
    let shown = settings.to_string().trim_end().replace('\n', ", ");
    let settings = own_settings((place, rule), settings, "")?;
    build(settings).map_err(|problem| ConfigError::setting(place, &format!("{{ {shown} }}"), problem))
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
