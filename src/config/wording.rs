//! What serde complains about, in words that say what to write instead. Its own are for those who know the program's types.

use toml::Value;

/// A complaint of which more can be said than serde does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Complaint<'m> {
    /// No field has this name; these are known.
    UnknownField(&'m str, Vec<&'m str>),
    /// This field has to be there.
    MissingField(&'m str),
    /// No choice has this name; these are known.
    UnknownVariant(&'m str, Vec<&'m str>),
    /// The value has another type, or does not fit its type.
    Type,
    /// Anything else: says by itself what to write.
    Other,
}

impl<'m> Complaint<'m> {
    /// Takes serde's message apart; the forms are those of its `de::Error`.
    pub(super) fn of(message: &'m str) -> Self {
        let mut names = message.split('`').skip(1).step_by(2);
        let mut first = || names.next().unwrap_or_default();
        match message {
            _ if message.starts_with("unknown field `") => Self::UnknownField(first(), names.collect()),
            _ if message.starts_with("missing field `") => Self::MissingField(first()),
            _ if message.starts_with("unknown variant `") => Self::UnknownVariant(first(), names.collect()),
            _ if message.starts_with("invalid type: ") || message.starts_with("invalid value: ") => Self::Type,
            _ => Self::Other,
        }
    }
}

/// What is wrong with a value, and what to write: as `message` says, or better. `sample` is a value that the setting could have.
pub(super) fn problem(message: &str, found: Option<&Value>, sample: Option<&Value>) -> String {
    match (Complaint::of(message), sample) {
        (Complaint::UnknownVariant(typed, known), _) => {
            let known: Vec<String> = known.into_iter().map(str::to_owned).collect();
            format!("{}write {}", did_you_mean(typed, &known), one_of(&known))
        }
        (Complaint::Type, Some(Value::Table(_))) => "write settings in braces, or in a section of their own".to_owned(),
        (Complaint::Type, Some(sample)) => {
            let also_whole = found.is_some_and(Value::is_integer) && sample.is_integer();
            format!("{}{}, such as {sample}", if also_whole { "out of range: " } else { "" }, what_to_write(sample))
        }
        _ => message.to_owned(),
    }
}

/// `did you mean "x"? `, or nothing.
pub(super) fn did_you_mean(typed: &str, known: &[String]) -> String {
    nearest(typed, known).map_or_else(String::new, |name| format!("did you mean {name:?}? "))
}

/// The known name that was probably meant: the same one in another section, else one with few of its letters changed.
pub(super) fn nearest(typed: &str, known: &[String]) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let far = |name: &&String| strsim::damerau_levenshtein(name, typed);
    let in_another_section = known.iter().filter(|name| last(name) == last(typed)).min_by_key(far);
    let misspelt = || known.iter().min_by_key(far).filter(|name| far(name) <= 3.min(typed.chars().count() / 2));
    in_another_section.or_else(misspelt).cloned()
}

/// `"a", "b" or "c"`.
fn one_of(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn what_to_write(sample: &Value) -> &'static str {
    match sample {
        Value::Integer(_) => "write a whole number without quotes",
        Value::Float(_) => "write a number without quotes",
        Value::Boolean(_) => "write true or false",
        Value::Array(_) => "write a list",
        Value::String(_) | Value::Datetime(_) | Value::Table(_) => "write a text in quotes",
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "every value is refused")]
    struct Settings {
        one: u8,
        two: Option<Choice>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoSettings {}

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Choice {
        Kafka,
        Local,
    }

    /// The form of serde's messages is no promise of it: this is where a change of it shows.
    #[test]
    fn every_complaint_is_understood() {
        let refused = |text: &str| toml::from_str::<Settings>(text).unwrap_err().message().to_owned();
        assert_eq!(Complaint::of(&refused("one = 1\ntree = 3")), Complaint::UnknownField("tree", vec!["one", "two"]));
        assert_eq!(Complaint::of(&refused("")), Complaint::MissingField("one"));
        assert_eq!(Complaint::of(&refused("one = 1\ntwo = 'here'")), Complaint::UnknownVariant("here", vec!["kafka", "local"]));
        assert_eq!(Complaint::of(&refused("one = 'x'")), Complaint::Type);
        assert_eq!(Complaint::of(&refused("one = 256")), Complaint::Type);
        let nothing = toml::from_str::<NoSettings>("k = 1").unwrap_err();
        assert_eq!(Complaint::of(nothing.message()), Complaint::UnknownField("k", vec![]));
        assert_eq!(Complaint::of("write a share"), Complaint::Other);
    }
}
