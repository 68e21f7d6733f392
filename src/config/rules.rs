//! `[[rule]]`: as typed, and as the plan that the dataflow runs on.
//!
//! The settings that every rule takes are typed here; all others belong to the rule named and are handed to it, so that rules of one's
//! own ([`Registry`]) take their settings from the same table as built-in ones.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use statehouse_dataflows::plan::{Of, OnEmpty, OnNone, Order, Plan, Quorum, Rule, RuleSet, WEIGHT_MAX};
use toml::{Table, Value};

use super::{
    Config, ConfigError, STATE_BYTES_MAX, load,
    registry::{BUILT_IN, Registry},
    wording::{Complaint, did_you_mean},
};

/// The settings that every rule takes, beside its own.
const COMMON: [&str; 8] = ["prefix", "rule", "weights", "min_reports", "of", "on_none", "on_empty", "order"];
/// Where the rule's own stand once they are set apart.
const APART: &str = "settings";
/// The own settings of built-in rules, with some value.
const ANY_SAMPLE: &str = "priority = [\"down\", \"degraded\"]\notherwise = \"up\"";
const QUORUM_SAMPLE: &str = "k = 2\nshare = \"60 %\"";

/// One `[[rule]]`, as typed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Objects whose names start with it; empty: all.
    #[serde(default)]
    pub prefix: String,
    /// latest | majority | plurality | any | quorum | unanimous | a registered rule's name.
    pub rule: String,
    /// Weights by agent's name or glob, 0 to 1000; the first that matches counts, 1 where none does. 0 is heard but not counted.
    #[serde(default)]
    pub weights: Table,
    /// Fewer live reports give no verdict. Default 1.
    pub min_reports: Option<u32>,
    /// What shares are counted against: `"live"` (reports, the default) or the number of expected agents.
    pub of: Option<Value>,
    /// Where there is no verdict: `"keep"` (the default), `"latest"`, or a state (`{ state = "keep" }` for one of these two names).
    pub on_none: Option<Value>,
    /// Where no live report is left: `"remove"` (the default) or `"keep"`.
    pub on_empty: Option<String>,
    /// Which of an agent's reports is its latest: by `"arrival"` (the default) or `"timestamp"`.
    pub order: Option<String>,
    /// The rule's own settings: any takes `priority` and `otherwise`, quorum takes `k` or `share`. In the file they stand among the others.
    #[serde(default)]
    pub settings: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnySettings {
    priority: Vec<String>,
    otherwise: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuorumSettings {
    k: Option<u32>,
    share: Option<Value>,
}

/// Refuses rules that are no list of tables with a rule's name in each.
pub(super) fn check_shape(table: &Table) -> Result<(), ConfigError> {
    let Some(rules) = table.get("rule") else { return Ok(()) };
    let Some(list) = rules.as_array().filter(|rules| rules.iter().all(Value::is_table)) else {
        let fix = "rules are a list: write [[rule]], with two brackets, and each setting of the rule in a line below it";
        return Err(ConfigError::setting("rule", rules, fix));
    };
    match list.iter().position(|rule| rule.get("rule").is_none()) {
        Some(nth) => {
            let fix = format!("say which rule it is: write rule = \"majority\" below the [[rule]]. Known: {}", BUILT_IN.join(", "));
            Err(ConfigError::setting(format!("rule[{nth}].rule"), &MISSING, fix))
        }
        None => Ok(()),
    }
}

/// Whether a built-in rule or every rule has a setting of this name.
pub(super) fn is_setting(name: &str) -> bool {
    COMMON.contains(&name) || [ANY_SAMPLE, QUORUM_SAMPLE].iter().any(|sample| table_of(sample).contains_key(name))
}

/// Moves what is a rule's own into `settings`.
pub(super) fn set_own_settings_apart(table: &mut Table) {
    for rule in table.get_mut("rule").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_table_mut) {
        let (common, own): (Table, Table) =
            std::mem::take(rule).into_iter().partition(|(key, _)| key == APART || COMMON.contains(&key.as_str()));
        *rule = common;
        if !own.is_empty() {
            let settings = rule.entry(APART).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(settings) = settings {
                settings.extend(own);
            }
        }
    }
}

impl Config {
    /// The plan that the rules make, with rules of one's own from the registry. Without any `[[rule]]`: majority for all objects; without
    /// one for the empty prefix, likewise for the rest.
    ///
    /// # Errors
    /// When, and only when, a rule is unknown, has a setting that it doesn't take or that is out of its range, or two have the same prefix.
    pub fn plan(&self, registry: &Registry) -> Result<Plan, ConfigError> {
        let mut sets = Vec::with_capacity(self.rules.len() + 1);
        for (nth, rule) in self.rules.iter().enumerate() {
            sets.push(rule.rule_set(&format!("rule[{nth}]"), registry)?);
        }
        if self.rules.iter().all(|rule| !rule.prefix.is_empty()) {
            sets.push(RuleSet::new(Rule::Majority));
        }
        Ok(Plan::new(sets)?)
    }
}

impl RuleConfig {
    fn rule_set(&self, place: &str, registry: &Registry) -> Result<RuleSet, ConfigError> {
        let mut set = RuleSet::new(self.built_rule(place, registry)?);
        set.prefix = self.prefix.clone();
        set.weights = self.weights.iter().map(|(agent, weight)| weight_of(place, agent, weight)).collect::<Result<_, _>>()?;
        set.min_reports = at_least_one(&format!("{place}.min_reports"), self.min_reports.unwrap_or(set.min_reports), "reports")?;
        set.of = self.of.as_ref().map_or(Ok(Of::Live), |of| of_from(&format!("{place}.of"), of))?;
        set.on_none = self.on_none.as_ref().map_or(Ok(OnNone::Keep), |on_none| on_none_from(&format!("{place}.on_none"), on_none))?;
        set.on_empty = match self.on_empty.as_deref() {
            None | Some("remove") => OnEmpty::Remove,
            Some("keep") => OnEmpty::Keep,
            Some(other) => return Err(not_one_of(&format!("{place}.on_empty"), other, "\"remove\" or \"keep\"")),
        };
        set.order = match self.order.as_deref() {
            None | Some("arrival") => Order::Arrival,
            Some("timestamp") => Order::Timestamp,
            Some(other) => return Err(not_one_of(&format!("{place}.order"), other, "\"arrival\" or \"timestamp\"")),
        };
        Ok(set)
    }

    fn built_rule(&self, place: &str, registry: &Registry) -> Result<Rule, ConfigError> {
        let named = self.rule.as_str();
        let plain = |rule: Rule| own_settings((place, named), &self.settings, "").map(|NoSettings {}| rule);
        match named {
            "latest" => plain(Rule::Latest),
            "majority" => plain(Rule::Majority),
            "plurality" => plain(Rule::Plurality),
            "unanimous" => plain(Rule::Unanimous),
            "any" => any_from(place, own_settings((place, named), &self.settings, ANY_SAMPLE)?),
            "quorum" => quorum_from(place, &own_settings((place, named), &self.settings, QUORUM_SAMPLE)?),
            name => registry.build(name, place, self.settings.clone()).unwrap_or_else(|| Err(no_such_rule(place, name, registry))),
        }
    }
}

/// Gives the own settings of the rule of this name, at this place, their type. `sample`: values that they could have, as TOML, if known.
pub(super) fn own_settings<T: DeserializeOwned>((place, rule): (&str, &str), settings: &Table, sample: &str) -> Result<T, ConfigError> {
    let sample = table_of(sample);
    load::typed(place, &Value::Table(settings.clone()), &Value::Table(sample.clone())).map_err(|error| {
        let ConfigError::Setting { setting, value, problem } = &error else { return error };
        match Complaint::of(problem) {
            Complaint::UnknownField(name, own) => ConfigError::setting(setting, value, no_such_setting(rule, name, &own)),
            Complaint::MissingField(name) => {
                let fix = sample.get(name).map_or_else(|| "set it".to_owned(), |value| format!("write {name} = {value}"));
                ConfigError::setting(format!("{place}.{name}"), &MISSING, format!("the rule {rule:?} needs it: {fix} below the [[rule]]"))
            }
            _ => error,
        }
    })
}

/// What stands for a value that is not there.
pub(super) const MISSING: &str = "(missing)";

fn no_such_setting(rule: &str, typed: &str, own: &[&str]) -> String {
    if Config::schema().get(typed).is_some_and(|known| !known.is_table() && !known.is_array()) {
        return "it is no setting of a rule: write it at the top of the file, above every [section] and [[rule]]".to_owned();
    }
    let known: Vec<String> = own.iter().chain(&COMMON).map(|name| (*name).to_owned()).collect();
    format!("the rule {rule:?} has no setting {typed:?}: {}it takes {}", did_you_mean(typed, &known), known.join(", "))
}

fn table_of(sample: &str) -> Table {
    sample.parse().expect("samples are valid TOML")
}

fn any_from(place: &str, any: AnySettings) -> Result<Rule, ConfigError> {
    for state in any.priority.iter().chain(&any.otherwise) {
        check_state(place, state)?;
    }
    if any.priority.is_empty() {
        return Err(ConfigError::setting(format!("{place}.priority"), &"[]", "name at least one state, the most important first"));
    }
    Ok(Rule::Any { priority: any.priority, otherwise: any.otherwise })
}

fn quorum_from(place: &str, quorum: &QuorumSettings) -> Result<Rule, ConfigError> {
    let quorum = match (quorum.k, &quorum.share) {
        (Some(k), None) => Quorum::Count(at_least_one(&format!("{place}.k"), k, "votes")?),
        (None, Some(share)) => Quorum::ShareBasisPoints(basis_points(&format!("{place}.share"), share)?),
        _ => return Err(ConfigError::setting(place, &"quorum", "set either k (a number of votes) or share (such as \"60 %\")")),
    };
    Ok(Rule::Quorum(quorum))
}

/// Reads "60 %" or "66.67 %" as parts of ten thousand.
fn basis_points(setting: &str, share: &Value) -> Result<u32, ConfigError> {
    let parse = |text: &str| {
        let number = text.strip_suffix('%')?.trim();
        let (whole, hundredths) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || hundredths.len() > 2 || !is_number(whole) || !is_number(hundredths) {
            return None;
        }
        format!("{whole}{hundredths:0<2}").parse().ok().filter(|points| (1..=10_000).contains(points))
    };
    let points = share.as_str().and_then(parse);
    points.ok_or_else(|| ConfigError::setting(setting, share, "write a share from \"0.01 %\" to \"100 %\", with at most two decimals"))
}

fn weight_of(place: &str, agent: &str, weight: &Value) -> Result<(String, u32), ConfigError> {
    let valid = weight.as_integer().and_then(|weight| u32::try_from(weight).ok()).filter(|weight| *weight <= WEIGHT_MAX);
    match valid {
        Some(weight) => Ok((agent.to_owned(), weight)),
        None => {
            Err(ConfigError::setting(format!("{place}.weights.{agent:?}"), weight, format!("set a whole number from 0 to {WEIGHT_MAX}")))
        }
    }
}

fn of_from(setting: &str, of: &Value) -> Result<Of, ConfigError> {
    match of {
        Value::String(text) if text == "live" => Ok(Of::Live),
        Value::Integer(agents @ 1..=1_000_000_000) => Ok(Of::Expected(u32::try_from(*agents).expect("in range"))),
        other => Err(ConfigError::setting(
            setting,
            other,
            "write \"live\", or the weight expected (of as many agents, where none is given a weight; 1 to 1000000000)",
        )),
    }
}

fn on_none_from(setting: &str, on_none: &Value) -> Result<OnNone, ConfigError> {
    let named = |state: &str| check_state(setting, state).map(|()| OnNone::State(state.to_owned()));
    match on_none {
        Value::String(text) if text == "keep" => Ok(OnNone::Keep),
        Value::String(text) if text == "latest" => Ok(OnNone::Latest),
        Value::String(state) => named(state),
        Value::Table(table) if table.len() == 1 && table.get("state").is_some_and(Value::is_str) => {
            named(table.get("state").and_then(Value::as_str).unwrap_or_default())
        }
        other => Err(ConfigError::setting(setting, other, "write \"keep\", \"latest\", or a state: { state = \"unknown\" }")),
    }
}

fn check_state(setting: &str, state: &str) -> Result<(), ConfigError> {
    if (1..=STATE_BYTES_MAX).contains(&state.len()) {
        return Ok(());
    }
    Err(ConfigError::setting(setting, &Value::from(state), format!("a state has 1 to {STATE_BYTES_MAX} bytes: shorten or name it")))
}

fn at_least_one(setting: &str, value: u32, unit: &str) -> Result<u32, ConfigError> {
    const MOST: u32 = 1_000_000_000;
    if (1..=MOST).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::setting(setting, &value, format!("set 1 to {MOST} {unit}")))
}

fn not_one_of(setting: &str, value: &str, choices: &str) -> ConfigError {
    ConfigError::setting(setting, &Value::from(value), format!("write {choices}"))
}

fn no_such_rule(place: &str, name: &str, registry: &Registry) -> ConfigError {
    let known: Vec<String> = BUILT_IN.into_iter().chain(registry.names()).map(str::to_owned).collect();
    let meant = did_you_mean(name, &known);
    ConfigError::setting(format!("{place}.rule"), &Value::from(name), format!("no such rule: {meant}Known: {}", known.join(", ")))
}
