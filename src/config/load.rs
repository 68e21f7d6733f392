//! From text and environment to a checked [`Config`]: one table is built of both, unknown settings are refused, then it is typed.

use std::{collections::BTreeMap, ffi::OsStr, fs, path::Path};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{Config, ConfigError, Origin, PeerUrl, RuleConfig, TlsConfig, rules, wording};

/// Variables of the environment that begin with it are settings.
const PREFIX: &str = "STATEHOUSE__";

impl Config {
    /// Loads the file and lets the environment override it.
    ///
    /// # Errors
    /// When, and only when, the file can't be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let environment = std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value)));
        Self::parse_with(&text, environment)
    }

    /// Parses the text of a `statehouse.toml`, without the environment.
    ///
    /// # Errors
    /// When, and only when, it is not TOML, has an unknown setting, or one has a value that it can't have. Rules are looked at by
    /// [`Config::plan`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::parse_with(text, [])
    }

    /// As [`Config::parse`], with these variables (others than `STATEHOUSE__...` are passed over).
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_with(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table: Table = text.parse().map_err(|error| not_toml(text, &error))?;
        let schema = Self::schema();
        let mut origins = BTreeMap::new();
        note_origins(&table, "", &mut origins);
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix(PREFIX) {
                let setting = override_with(&mut table, &schema, path, value)?;
                origins.insert(setting, Origin::Environment(name));
            }
        }
        flatten_properties(&mut table);
        rules::check_shape(&table)?;
        refuse_unknown(&table, &schema, "", &origins)?;
        rules::set_own_settings_apart(&mut table);
        if !table.contains_key("house") {
            return Err(ConfigError::setting("house", &rules::MISSING, "name the house: house = \"my-house\""));
        }
        let config = Self { origins, ..typed("", &Value::Table(table), &Value::Table(schema))? };
        config.check()?;
        Ok(config)
    }

    /// Every setting there is, with some value of its type.
    pub(super) fn schema() -> Table {
        let mut sample = Self::of("my-house");
        sample.rules.push(RuleConfig::majority());
        let topics = sample.topics();
        sample.workers = Some(1);
        sample.http.tokens = Some("tokens.toml".into());
        sample.http.tls = TlsConfig { certificate: Some("certificate.pem".into()), key: Some("key.pem".into()) };
        sample.topics.source = Some(topics.source);
        sample.topics.sink = Some(topics.sink);
        sample.topics.checkpoint = Some(topics.checkpoint);
        sample.topics.rejects = Some(topics.rejects);
        sample.topics.instances = Some(topics.instances);
        sample.http.peer_secret = Some("peer-secret".into());
        sample.http.peer_ca = Some("peer-ca.pem".into());
        sample.http.advertise = PeerUrl::parse("http://node:7717").ok();
        let mut schema = Table::try_from(&sample).expect("the defaults are valid TOML");
        let kafka = schema.get_mut("kafka").and_then(Value::as_table_mut).expect("there is a section kafka");
        kafka.insert("properties".into(), Value::Table(Table::new())); // not serialized, as they may be secrets
        schema
    }
}

/// TOML's own words for a second `[rule]` say nothing of what it should be.
fn not_toml(text: &str, error: &toml::de::Error) -> ConfigError {
    let has_one_bracket = text.lines().any(|line| line.trim().starts_with("[rule]"));
    let hint = if has_one_bracket { "for each rule write [[rule]], with two brackets" } else { "" };
    ConfigError::Syntax(format!("{error}{hint}"))
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Gives `value` the type of settings `T` that stand under `prefix`. `sample` has values that they could have.
pub(super) fn typed<T: DeserializeOwned>(prefix: &str, value: &Value, sample: &Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value.clone()).map_err(|e| {
        let path = e.path().to_string();
        let setting = match (prefix, path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, ".") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        let found = if setting.starts_with("kafka.properties") { None } else { lookup(value, e.path().iter()) };
        let shown = found.map_or_else(|| "***".to_owned(), Value::to_string);
        let problem = wording::problem(e.inner().message(), found, lookup(sample, e.path().iter()));
        ConfigError::setting(setting, &shown, problem)
    })
}

fn lookup<'a>(value: &'a Value, path: impl Iterator<Item = &'a Segment>) -> Option<&'a Value> {
    let mut found = value;
    for segment in path {
        found = match segment {
            Segment::Map { key } => found.get(key)?,
            // A sample of a list has one item.
            Segment::Seq { index } => found.get(index).or_else(|| found.get(0))?,
            _ => return None,
        };
    }
    Some(found)
}

fn note_origins(table: &Table, prefix: &str, origins: &mut BTreeMap<String, Origin>) {
    for (key, value) in table {
        let setting = dotted(prefix, key);
        match value {
            Value::Table(inner) if !is_leaf(&setting) => note_origins(inner, &setting, origins),
            _ => drop(origins.insert(setting, Origin::File)),
        }
    }
}

/// Settings whose values are tables of their own.
fn is_leaf(setting: &str) -> bool {
    matches!(setting, "source.agent" | "kafka.properties" | "rule")
}

fn dotted(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Puts one variable's value in its place; returns the setting's name. `path` is what follows [`PREFIX`].
fn override_with(table: &mut Table, schema: &Table, path: &str, value: String) -> Result<String, ConfigError> {
    let mut keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
    if let [kafka, properties, name] = keys.as_mut_slice()
        && (kafka.as_str(), properties.as_str()) == ("kafka", "properties")
    {
        *name = name.replace('_', "."); // client properties are dotted, and shells take no dots in names
    }
    let setting = keys.join(".");
    let (last, sections) = keys.split_last().expect("a split has at least one part");
    let mut known = Some(schema);
    let mut place = table;
    for section in sections {
        known = known.and_then(|known| known.get(section)?.as_table());
        let inner = place.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else {
            return Err(ConfigError::Unknown { setting, variable: Some(format!("{PREFIX}{path}")), suggestion: None });
        };
        place = inner;
    }
    let is_text = setting.starts_with("kafka.properties.") || matches!(known.and_then(|known| known.get(last)), Some(Value::String(_)));
    place.insert(last.clone(), read(value, is_text));
    Ok(setting)
}

/// A variable's text as the TOML that it would be in the file, if it is any; else, and where text is wanted, as it stands.
fn read(text: String, is_text: bool) -> Value {
    if is_text && !text.trim_start().starts_with('{') {
        return Value::String(text);
    }
    match format!("value = {text}").parse::<Table>() {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}

/// Client properties are dotted names, but TOML reads `sasl.username = "x"` as nested tables: folds them back.
fn flatten_properties(table: &mut Table) {
    let properties = table.get_mut("kafka").and_then(|kafka| kafka.get_mut("properties")).and_then(Value::as_table_mut);
    let Some(properties) = properties else { return };
    let mut flat = Table::new();
    let mut nested: Vec<(String, Value)> = std::mem::take(properties).into_iter().collect();
    while let Some((name, value)) = nested.pop() {
        match value {
            Value::Table(inner) if !is_secret(&inner) => nested.extend(inner.into_iter().map(|(key, value)| (dotted(&name, &key), value))),
            value => drop(flat.insert(name, value)),
        }
    }
    *properties = flat;
}

fn is_secret(table: &Table) -> bool {
    table.len() == 1 && (table.contains_key("file") || table.contains_key("env"))
}

fn refuse_unknown(table: &Table, schema: &Table, prefix: &str, origins: &BTreeMap<String, Origin>) -> Result<(), ConfigError> {
    for (key, value) in table {
        let setting = dotted(prefix, key);
        match (schema.get(key), value) {
            (None, value) => {
                let variable = match origins.get(&setting) {
                    Some(Origin::Environment(name)) => Some(name.clone()),
                    _ => None,
                };
                if rules::is_setting(key) {
                    return Err(ConfigError::setting(setting, value, "it is a setting of a rule: write it in a line below a [[rule]]"));
                }
                let meant = wording::nearest(&setting, &names(&Config::schema(), ""));
                let suggestion = meant.map(|name| if name == "rule" { "[[rule]]".to_owned() } else { name });
                return Err(ConfigError::Unknown { suggestion, setting, variable });
            }
            (Some(Value::Table(known)), Value::Table(inner)) if !is_leaf(&setting) => refuse_unknown(inner, known, &setting, origins)?,
            _ => {}
        }
    }
    Ok(())
}

fn names(table: &Table, prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in table {
        let setting = dotted(prefix, key);
        if let Value::Table(inner) = value {
            all.extend(names(inner, &setting));
        }
        all.push(setting);
    }
    all
}
