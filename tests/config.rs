//! The configuration as people write it: what it means, and what is said where it can't be.

use std::time::Duration;

use statehouse::{
    config::{AgentFrom, Config, ConfigError, LogKind, PropertyValue},
    log::Start,
    registry::{Registry, RegistryError},
};
use statehouse_dataflows::{
    plan::{Of, OnEmpty, OnNone, Order, Plan, Quorum, Rule},
    rule::{Ballot, ReportsRule, TallyRule, Vote},
};

const EXAMPLE: &str = include_str!("../examples/statehouse.toml");

fn parse(text: &str) -> Config {
    Config::parse(&format!("house = \"h\"\n{text}")).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(text: &str) -> String {
    Config::parse(&format!("house = \"h\"\n{text}")).expect_err(text).to_string()
}

fn plan(text: &str) -> Plan {
    parse(text).plan(&Registry::new()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn plan_refused(text: &str) -> String {
    parse(text).plan(&Registry::new()).expect_err(text).to_string()
}

fn with_variable(name: &str, value: &str) -> Result<Config, ConfigError> {
    let other = ("PATH".to_owned(), "/bin".to_owned());
    Config::parse_with("house = \"h\"", [other, (name.to_owned(), value.to_owned())])
}

#[test]
fn the_example_lists_every_setting_with_its_default() {
    let example = Config::parse(EXAMPLE).expect("the example is valid");
    let without_origins = |config: &Config| {
        config.describe().lines().map(|line| line.split("  #").next().unwrap_or("").trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(without_origins(&example), without_origins(&Config::of("demo")));
    assert_eq!(example.config_digest(), Config::of("demo").config_digest());
    for line in without_origins(&example).iter().filter(|line| line.contains(" = ")) {
        let setting = line.split(" = ").next().expect("a part").rsplit('.').next().expect("a part");
        assert!(EXAMPLE.contains(&format!("{setting} = ")), "the example lacks {setting}");
    }
}

#[test]
fn every_commented_setting_of_the_example_is_valid_too() {
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix("# ").filter(|rest| rest.starts_with("[[") || rest.contains(" = ") && !rest.ends_with('.')).unwrap_or(line)
        })
        .collect();
    let config = Config::parse(&uncommented.join("\n")).expect("valid");
    assert_eq!((config.workers, config.topics.sink.as_deref(), config.kafka.properties.len()), (Some(2), Some("demo-changes"), 4));
}

#[test]
fn nothing_but_a_house_is_needed() {
    let config = parse("");
    assert_eq!(
        (config.log, config.source.start, config.source.max_future_skew),
        (LogKind::Local, Start::Earliest, Duration::from_secs(300))
    );
    assert!(config.worker_count() >= 1);
    let topics = config.topics();
    assert_eq!(
        [topics.source, topics.sink, topics.checkpoint, topics.rejects, topics.instances],
        ["h-reports", "h-changes", "h-checkpoint", "h-rejects", "h-instances"]
    );
    assert_eq!(Config::parse("").expect_err("no house").to_string(), "house = (missing): name the house: house = \"my-house\"");
}

#[test]
fn starts() {
    for (text, start) in [
        ("\"latest\"", Start::Latest),
        ("1763800000000", Start::Timestamp(1_763_800_000_000)),
        ("\"2025-11-22T08:26:40Z\"", Start::Timestamp(1_763_800_000_000)),
        ("2025-11-22T08:26:40Z", Start::Timestamp(1_763_800_000_000)),
    ] {
        assert_eq!(parse(&format!("source.start = {text}")).source.start, start, "{text}");
    }
    assert!(refused("source.start = \"yesterday\"").starts_with("source.start = \"yesterday\": write \"earliest\""));
    assert!(refused("source.start = -5").starts_with("source.start = -5: write"));
}

#[test]
fn errors_name_setting_value_and_fix() {
    for (text, message) in [
        ("workers = 0", "workers = 0: set 1 to 256 threads"),
        ("http.max_list = 0", "http.max_list = 0: set 1 to 100000 objects"),
        ("commit.min_interval_ms = 6000", "commit.min_interval_ms = 6000: set at most half of kafka.transaction_timeout_ms (10000)"),
        ("source.max_future_skew = \"0s\"", "source.max_future_skew = 0s: set a duration from \"1s\" to \"366days\""),
        (
            "topics.sink = \"h-reports\"",
            "topics.sink = \"h-reports\": topics.source is the same: each topic of a house needs a name of its own",
        ),
        ("topics.sink = \"a b\"", "topics.sink = \"a b\": use 1 to 249 of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\""),
        ("source.state = \"state\"", "source.state = \"state\": write a JSON pointer to a field, such as \"/state\" or \"/data/state\""),
        ("http.max_lists = 5", "http.max_lists: no such setting: did you mean http.max_list?"),
        ("listen = \"127.0.0.1:1\"", "listen: no such setting: did you mean http.listen?"),
        ("sinks = 5", "sinks: no such setting: did you mean sink?"),
        ("wholly_unheard_of = 5", "wholly_unheard_of: no such setting: remove it"),
        ("rules = []", "rules: no such setting: did you mean [[rule]]?"),
        ("local.partitions = \"two\"", "local.partitions = \"two\": write a whole number without quotes, such as 1"),
        ("local.partitions = 99999999999", "local.partitions = 99999999999: out of range: write a whole number without quotes, such as 1"),
        ("http.max_list = \"many\"", "http.max_list = \"many\": write a whole number without quotes, such as 1000"),
        ("kafka.create_topics = \"no\"", "kafka.create_topics = \"no\": write true or false, such as true"),
        ("topics.sink = 5", "topics.sink = 5: write a text in quotes, such as \"my-house-changes\""),
        ("http = 5", "http = 5: write settings in braces, or in a section of their own"),
        ("log = \"kafak\"", "log = \"kafak\": did you mean \"kafka\"? write \"local\" or \"kafka\""),
        ("sink.format = \"xml\"", "sink.format = \"xml\": write \"full\" or \"state\""),
    ] {
        assert_eq!(refused(text), message);
    }
    for (text, beginning) in [
        ("source.max_future_skew = 5", "source.max_future_skew = 5: expected a duration with a unit"),
        ("source.max_future_skew = \"5\"", "source.max_future_skew = \"5\": "),
        ("source.agent = 5", "source.agent = 5: expected a JSON pointer"),
        ("kafka.properties.\"sasl.password\" = [\"hush\"]", "kafka.properties.sasl.password = ***: expected a string"),
        ("house = ", "not valid TOML: "),
    ] {
        assert!(refused(text).starts_with(beginning), "{}", refused(text));
    }
    assert!(Config::load("no/such/file.toml".as_ref()).expect_err("no file").to_string().starts_with("can't read no/such/file.toml"));
}

#[test]
fn an_address_to_listen_on_is_proposed_where_none_is_given() {
    for (typed, proposed) in [
        ("\"localhost:8080\"", "\"127.0.0.1:8080\""),
        ("\"localhost\"", "\"127.0.0.1:7717\""),
        ("\"here:there\"", "\"127.0.0.1:7717\""),
        ("\":8080\"", "\"127.0.0.1:8080\""),
        ("8080", "\"127.0.0.1:8080\""),
        ("\"8080\"", "\"127.0.0.1:8080\""),
        ("\"*:8080\"", "\"0.0.0.0:8080\""),
        ("\"10.0.0.1\"", "\"10.0.0.1:7717\""),
        ("\"10.0.0.1:99999\"", "\"10.0.0.1:7717\""),
        ("\"::1\"", "\"[::1]:7717\""),
    ] {
        let error = refused(&format!("http.listen = {typed}"));
        let expected = format!("http.listen = {typed}: write an IP address and a port, such as {proposed} (names are not looked up; ");
        assert!(error.starts_with(&expected), "{error}");
        let port = parse(&format!("http.listen = {proposed}\nhttp.tokens = \"t\"\nhttp.insecure = true")).http.listen.port();
        assert_ne!(port, 0, "what is proposed is taken");
    }
}

#[test]
fn beyond_this_machine_it_wants_tokens_and_tls() {
    let everyone = "beyond this machine everyone could read and write: name a file of tokens in http.tokens";
    let overheard = "beyond this machine tokens could be overheard: set http.tls.certificate and http.tls.key, or listen on 127.0.0.1:80, or set \
                     http.insecure = true";
    let (tokens, tls, insecure) = ("http.tokens = \"t\"\n", "http.tls = { certificate = \"c\", key = \"k\" }\n", "http.insecure = true\n");
    for listen in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "[::ffff:10.0.0.1]:80", "[fe80::1]:80"] {
        for (more, refusal) in [
            (String::new(), Some(everyone)),
            (tls.to_owned(), Some(everyone)),
            (insecure.to_owned(), Some(everyone)),
            (tls.to_owned() + insecure, Some(everyone)),
            (tokens.to_owned(), Some(overheard)),
            (tokens.to_owned() + tls, None),
            (tokens.to_owned() + insecure, None),
        ] {
            let text = format!("http.listen = \"{listen}\"\n{more}");
            match (Config::parse(&format!("house = \"h\"\n{text}")), refusal) {
                (Ok(_), None) => {}
                (Err(error), Some(refusal)) => {
                    let expected = format!("http.listen = \"{listen}\": {refusal}");
                    assert!(error.to_string().starts_with(&expected), "{text}: {error}");
                }
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }
    for listen in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        parse(&format!("http.listen = \"{listen}\""));
    }
    for (text, refusal) in [
        ("http.tls.key = \"k\"", "http.tls.certificate = (missing): http.tls.key is set: name both PEM files, or none"),
        ("http.tls.certificate = \"c\"", "http.tls.key = (missing): http.tls.certificate is set: name both PEM files, or none"),
        ("http.hosts = [\"a:80\"]", "http.hosts = \"a:80\": write names or IP addresses, without scheme and port"),
        ("http.hosts = [\"\"]", "http.hosts = \"\": write names"),
        ("http.hosts = \"a\"", "http.hosts = \"a\": write a list"),
        ("http.token = \"t\"", "http.token: no such setting: did you mean http.tokens?"),
    ] {
        assert!(refused(text).starts_with(refusal), "{}", refused(text));
    }
}

#[test]
fn a_rule_in_the_wrong_place_or_form_says_where_it_belongs() {
    let two_brackets = "rules are a list: write [[rule]], with two brackets, and each setting of the rule in a line below it";
    let below = "it is a setting of a rule: write it in a line below a [[rule]]";
    let twice = refused("[rule]\nrule = \"any\"\n[rule]\nrule = \"latest\"");
    assert!(twice.starts_with("not valid TOML: ") && twice.ends_with("\nfor each rule write [[rule]], with two brackets"), "{twice}");
    assert!(!refused("log = ").contains("[[rule]]"));
    for (text, message) in [
        ("[rule]\nrule = \"majority\"", format!("rule = {{ rule = \"majority\" }}: {two_brackets}")),
        ("rule = \"majority\"", format!("rule = \"majority\": {two_brackets}")),
        ("rule = [\"majority\"]", format!("rule = [\"majority\"]: {two_brackets}")),
        ("priority = [\"down\"]", format!("priority = [\"down\"]: {below}")),
        ("min_reports = 2", format!("min_reports = 2: {below}")),
        ("[http]\nprefix = \"net/\"", format!("http.prefix = \"net/\": {below}")),
        (
            "[[rule]]\nprefix = \"net/\"",
            "rule[0].rule = (missing): say which rule it is: write rule = \"majority\" below the [[rule]]. \
             Known: latest, majority, plurality, any, quorum, unanimous"
                .to_owned(),
        ),
        (
            "[[rule]]\nrule = \"latest\"\nmin_reports = -1",
            "rule[0].min_reports = -1: out of range: write a whole number without quotes, such as 1".to_owned(),
        ),
        ("[[rule]]\nrule = \"latest\"\nprefix = 5", "rule[0].prefix = 5: write a text in quotes, such as \"\"".to_owned()),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn the_environment_wins() {
    let set = |name: &str, value: &str| with_variable(name, value).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(set("STATEHOUSE__HOUSE", "123").house, "123", "a text stays one");
    assert_eq!(set("STATEHOUSE__WORKERS", "3").workers, Some(3));
    assert_eq!(set("STATEHOUSE__HTTP__LISTEN", "127.0.0.2:80").http.listen.port(), 80);
    assert_eq!(set("STATEHOUSE__SOURCE__MAX_FUTURE_SKEW", "1m").source.max_future_skew, Duration::from_secs(60));
    assert_eq!(set("STATEHOUSE__SOURCE__START", "5").source.start, Start::Timestamp(5));
    assert_eq!(set("STATEHOUSE__SOURCE__AGENT", "{ header = \"who\" }").source.agent, AgentFrom::Header { header: "who".into() });
    assert!(!set("STATEHOUSE__KAFKA__CREATE_TOPICS", "false").kafka.create_topics);
    assert_eq!(set("STATEHOUSE__TOPICS__SINK", "007").topics().sink, "007");
    let properties = set("STATEHOUSE__KAFKA__PROPERTIES__SASL_USERNAME", "0123").kafka.properties;
    assert_eq!(properties.get("sasl.username"), Some(&PropertyValue::Text("0123".into())));
    assert_eq!(set("STATEHOUSE__RULE", "[{ rule = \"latest\" }]").rules[0].rule, "latest");

    let both =
        Config::parse_with("house = \"h\"\nhttp.max_list = 5", [("STATEHOUSE__HTTP__MAX_LIST".to_owned(), "6".to_owned())]).expect("valid");
    assert_eq!(both.http.max_list, 6);
    for (name, value, message) in [
        ("STATEHOUSE__HTTP__MAX_LIST", "many", "http.max_list = \"many\": write a whole number"),
        (
            "STATEHOUSE__HTTP__MAX_LISTS",
            "5",
            "http.max_lists: no such setting (environment variable STATEHOUSE__HTTP__MAX_LISTS): did you mean http.max_list?",
        ),
        ("STATEHOUSE__HOUSE__NAME", "5", "house.name: no such setting (environment variable STATEHOUSE__HOUSE__NAME)"),
    ] {
        let error = with_variable(name, value).expect_err(name).to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn client_properties_are_dotted_names_however_written() {
    let config = parse(
        "[kafka.properties]\nsasl.username = \"u\"\n\"sasl.password\" = { file = \"p\" }\nssl.ca.location = \"/ca\"\nsocket.timeout.ms = 5\n",
    );
    let names: Vec<&str> = config.kafka.properties.keys().map(String::as_str).collect();
    assert_eq!(names, ["sasl.password", "sasl.username", "socket.timeout.ms", "ssl.ca.location"]);
    assert_eq!(config.kafka.properties.get("sasl.password"), Some(&PropertyValue::File { file: "p".into() }));
}

#[test]
fn what_is_shown_says_where_it_was_set_and_hides_secrets() {
    let text = "house = \"h\"\nhttp.max_list = 5\n[kafka.properties]\n\"sasl.username\" = \"u\"\n\"sasl.password\" = \"hush\"\n\"ssl.key.password\" = { env = \"KEY\" }\n\
                [[rule]]\nrule = \"quorum\"\nk = 2\nweights = { b = 2, a = 0 }\n";
    let config = Config::parse_with(text, [("STATEHOUSE__WORKERS".to_owned(), "3".to_owned())]).expect("valid");
    let shown = config.describe();
    let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let has = |setting: &str, origin: &str| {
        assert!(
            shown.iter().any(|line| line.starts_with(setting) && line.ends_with(&format!("# {origin}"))),
            "{setting} from {origin} in\n{}",
            shown.join("\n")
        );
    };
    has("house = \"h\" ", "file");
    has("http.max_list = 5 ", "file");
    has("workers = 3 ", "environment STATEHOUSE__WORKERS");
    has("http.listen = \"127.0.0.1:7717\" ", "default");
    has("source.max_future_skew = \"5m\" ", "default");
    has("topics.sink = \"h-changes\" ", "default");
    has("kafka.properties.\"sasl.username\" = \"u\" ", "file");
    has("kafka.properties.\"sasl.password\" = *** ", "file");
    has("kafka.properties.\"ssl.key.password\" = (from environment variable KEY) ", "file");
    assert!(!format!("{config:?}").contains("hush"), "nor does Debug show it");
    let rule = shown.iter().position(|line| *line == "[[rule]]  # file").expect("the rule");
    assert_eq!(
        shown[rule + 1..],
        [
            "prefix = \"\"",
            "rule = \"quorum\"",
            "weights = { b = 2, a = 0 }",
            "min_reports = 1",
            "of = \"live\"",
            "on_none = \"keep\"",
            "on_empty = \"remove\"",
            "order = \"arrival\"",
            "k = 2"
        ]
    );
}

#[test]
fn the_digest_sees_what_must_agree_and_nothing_else() {
    let digest = |text: &str| parse(text).config_digest();
    let one = digest("");
    for same in [
        "workers = 3",
        "http.max_list = 5",
        "source.start = \"latest\"",
        "kafka.brokers = \"b:1\"",
        "topics.sink = \"h-changes\"",
        "[[rule]]\nrule = \"majority\"\nmin_reports = 1",
    ] {
        assert_eq!(digest(same), one, "{same}");
    }
    for other in [
        "source.state = \"/s\"",
        "sink.format = \"state\"",
        "topics.sink = \"s\"",
        "kafka.partitioner = \"crc32\"",
        "[[rule]]\nrule = \"latest\"",
        "[[rule]]\nrule = \"majority\"\nmin_reports = 2",
    ] {
        assert_ne!(digest(other), one, "{other}");
    }
    let rules = |first: &str, second: &str| {
        digest(&format!("[[rule]]\nrule = \"latest\"\nprefix = \"{first}\"\n[[rule]]\nrule = \"latest\"\nprefix = \"{second}\"\n"))
    };
    assert_eq!(rules("a", "b"), rules("b", "a"));
    let weights = |weights: &str| digest(&format!("[[rule]]\nrule = \"majority\"\nweights = {weights}"));
    assert_ne!(weights("{ a = 1, \"*\" = 2 }"), weights("{ \"*\" = 2, a = 1 }"), "the first that matches counts");
    assert_eq!(Config::of("h").config_digest(), 4_949_301_490_819_820_069, "stable over releases: change it only with a release note");
}

#[test]
fn rules_become_the_plan() {
    assert!(matches!(plan("").sets(), [set] if matches!(set.rule, Rule::Majority) && set.prefix.is_empty()));
    let plan = plan(
        "[[rule]]\nprefix = \"net/\"\nrule = \"any\"\npriority = [\"down\", \"degraded\"]\notherwise = \"up\"\n\
         [[rule]]\nprefix = \"site-\"\nrule = \"quorum\"\nshare = \"66.7 %\"\nweights = { z = 0, \"*\" = 3 }\nmin_reports = 3\nof = 5\non_none = \"unknown\"\non_empty = \"keep\"\norder = \"timestamp\"\n",
    );
    let [site, net, rest] = plan.sets() else { panic!("two and the default: {plan:?}") };
    assert!(matches!(&net.rule, Rule::Any { priority, otherwise: Some(up) } if priority == &["down", "degraded"] && up == "up"));
    assert!(matches!(site.rule, Rule::Quorum(Quorum::ShareBasisPoints(6670))));
    assert_eq!(site.weights, [("z".to_owned(), 0), ("*".to_owned(), 3)], "in the order they were written");
    assert_eq!((site.min_reports, site.of, &site.on_none), (3, Of::Expected(5), &OnNone::State("unknown".into())));
    assert_eq!((site.on_empty, site.order, rest.prefix.as_str()), (OnEmpty::Keep, Order::Timestamp, ""));
}

#[test]
fn no_verdicts_and_shares_as_written() {
    let on_none = |value: &str| plan(&format!("[[rule]]\nrule = \"majority\"\non_none = {value}")).sets()[0].on_none.clone();
    assert_eq!(on_none("\"keep\""), OnNone::Keep);
    assert_eq!(on_none("\"latest\""), OnNone::Latest);
    assert_eq!(on_none("\"unknown\""), OnNone::State("unknown".into()));
    assert_eq!(on_none("{ state = \"keep\" }"), OnNone::State("keep".into()));
    let share = |text: &str| plan(&format!("[[rule]]\nrule = \"quorum\"\nshare = \"{text}\"")).sets()[0].rule.clone();
    for (text, points) in [("60 %", 6_000), ("60%", 6_000), ("0.01 %", 1), ("100.00%", 10_000), ("33.33 %", 3_333)] {
        assert!(matches!(share(text), Rule::Quorum(Quorum::ShareBasisPoints(read)) if read == points), "{text}");
    }
}

#[test]
fn rules_that_cannot_be() {
    for (text, message) in [
        (
            "rule = \"majorty\"",
            "rule[0].rule = \"majorty\": no such rule: did you mean \"majority\"? Known: latest, majority, plurality, any, quorum, unanimous",
        ),
        (
            "rule = \"majority\"\nk = 2",
            "rule[0].k = 2: the rule \"majority\" has no setting \"k\": it takes prefix, rule, weights, min_reports, of, on_none, on_empty, order",
        ),
        (
            "rule = \"majority\"\nmin_report = 2",
            "rule[0].min_report = 2: the rule \"majority\" has no setting \"min_report\": did you mean \"min_reports\"? it takes prefix, ",
        ),
        (
            "rule = \"any\"\nprority = [\"x\"]",
            "rule[0].prority = [\"x\"]: the rule \"any\" has no setting \"prority\": did you mean \"priority\"? it takes priority, otherwise, prefix, ",
        ),
        (
            "rule = \"majority\"\nworkers = 2",
            "rule[0].workers = 2: it is no setting of a rule: write it at the top of the file, above every [section] and [[rule]]",
        ),
        ("rule = \"any\"\npriority = \"x\"", "rule[0].priority = \"x\": write a list, such as [\"down\", \"degraded\"]"),
        ("rule = \"quorum\"\nk = \"2\"", "rule[0].k = \"2\": write a whole number without quotes, such as 2"),
        ("rule = \"quorum\"", "rule[0] = quorum: set either k"),
        ("rule = \"quorum\"\nk = 1\nshare = \"5 %\"", "rule[0] = quorum: set either k"),
        ("rule = \"quorum\"\nk = 0", "rule[0].k = 0: set 1 to"),
        ("rule = \"quorum\"\nshare = \"0 %\"", "rule[0].share = \"0 %\": write a share from"),
        ("rule = \"quorum\"\nshare = \"100.01 %\"", "rule[0].share = "),
        ("rule = \"quorum\"\nshare = \"1.234 %\"", "rule[0].share = "),
        ("rule = \"quorum\"\nshare = \"+5 %\"", "rule[0].share = "),
        ("rule = \"quorum\"\nshare = 0.6", "rule[0].share = 0.6: "),
        (
            "rule = \"any\"",
            "rule[0].priority = (missing): the rule \"any\" needs it: write priority = [\"down\", \"degraded\"] below the [[rule]]",
        ),
        ("rule = \"any\"\npriority = []", "rule[0].priority = []: name at least one state"),
        ("rule = \"any\"\npriority = [\"\"]", "rule[0] = \"\": a state has 1 to 1024 bytes"),
        ("rule = \"majority\"\nmin_reports = 0", "rule[0].min_reports = 0: set 1 to"),
        ("rule = \"majority\"\nof = 0", "rule[0].of = 0: write \"live\""),
        ("rule = \"majority\"\nof = \"all\"", "rule[0].of = \"all\": write \"live\""),
        ("rule = \"majority\"\non_none = 5", "rule[0].on_none = 5: write \"keep\""),
        ("rule = \"majority\"\non_empty = \"drop\"", "rule[0].on_empty = \"drop\": write \"remove\" or \"keep\""),
        ("rule = \"majority\"\norder = \"time\"", "rule[0].order = \"time\": write \"arrival\" or \"timestamp\""),
        ("rule = \"majority\"\nweights = { \"a*\" = 1001 }", "rule[0].weights.\"a*\" = 1001: set a whole number from 0 to 1000"),
        (
            "rule = \"majority\"\n[[rule]]\nrule = \"latest\"",
            "[[rule]]: two rules have prefix = \"\" (which is that of a rule without a prefix): keep one",
        ),
    ] {
        let error = plan_refused(&format!("[[rule]]\n{text}"));
        assert!(error.starts_with(message), "{text}: {error}");
    }
}

struct Veto {
    state: String,
}

impl TallyRule for Veto {
    fn decide<'a>(&'a self, votes: &[Vote<'a>], _live: u32) -> Option<&'a str> {
        votes.iter().map(|vote| vote.state).find(|state| *state == self.state)
    }
}

struct First;

impl ReportsRule for First {
    fn decide<'a>(&'a self, reports: &[Ballot<'a>]) -> Option<&'a str> {
        reports.iter().min_by_key(|ballot| ballot.agent).map(|ballot| ballot.state)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct VetoSettings {
    state: String,
}

#[test]
fn rules_of_ones_own() {
    let mut registry = Registry::new();
    let veto = |settings: VetoSettings| {
        if settings.state.is_empty() { Err("name a state".to_owned()) } else { Ok(Veto { state: settings.state }) }
    };
    registry.tally_rule("veto", veto).expect("a new name");
    registry.reports_rule("first", |_: toml::Table| Ok(First)).expect("a new name");
    assert_eq!(registry.tally_rule("veto", veto), Err(RegistryError::Twice("veto".into())));
    assert_eq!(registry.tally_rule("majority", veto), Err(RegistryError::Reserved("majority".into())));
    assert_eq!(registry.names().collect::<Vec<_>>(), ["first", "veto"]);

    let plan = |text: &str| parse(&format!("[[rule]]\n{text}")).plan(&registry);
    let sets = plan("rule = \"veto\"\nstate = \"attack\"\nmin_reports = 2").expect("valid");
    let Rule::Tally(name, rule) = &sets.sets()[0].rule else { panic!("over the tally") };
    let votes = [Vote { state: "calm", weight: 2 }, Vote { state: "attack", weight: 1 }];
    assert_eq!((name.as_ref(), rule.decide(&votes, 3), sets.sets()[0].min_reports), ("veto", Some("attack"), 2));
    let sets = plan("rule = \"first\"\nany = 5").expect("valid");
    assert!(matches!(&sets.sets()[0].rule, Rule::Reports(name, _) if name.as_ref() == "first"));

    let refused = |text: &str| plan(text).expect_err(text).to_string();
    assert_eq!(refused("rule = \"veto\"\nstate = \"\""), "rule[0] = { state = \"\" }: name a state");
    assert_eq!(refused("rule = \"veto\""), "rule[0].state = (missing): the rule \"veto\" needs it: set it below the [[rule]]");
    let unknown = "rule[0].stat = \"x\": the rule \"veto\" has no setting \"stat\": did you mean \"state\"? it takes state, prefix, rule, ";
    assert!(refused("rule = \"veto\"\nstate = \"x\"\nstat = \"x\"").starts_with(unknown));
    assert!(refused("rule = \"vetto\"").contains("did you mean \"veto\"?"));
}
