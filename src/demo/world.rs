//! The demo's world: the sites that may be attacked, the agents that watch them, the states they may report.

/// The sites, objects of the house.
pub(crate) const SITES: [&str; 40] = [
    "bakery.example",
    "bank.example",
    "books.example",
    "campus.example",
    "cars.example",
    "chat.example",
    "cityhall.example",
    "clinic.example",
    "flights.example",
    "flowers.example",
    "forum.example",
    "games.example",
    "garden.example",
    "hotel.example",
    "insurance.example",
    "jobs.example",
    "library.example",
    "mail.example",
    "maps.example",
    "museum.example",
    "music.example",
    "news.example",
    "pay.example",
    "pharmacy.example",
    "photos.example",
    "pizza.example",
    "radio.example",
    "rail.example",
    "school.example",
    "shoes.example",
    "shop.example",
    "taxi.example",
    "tickets.example",
    "tools.example",
    "toys.example",
    "travel.example",
    "video.example",
    "votes.example",
    "weather.example",
    "wine.example",
];

/// The agents: two proxies in front of the sites, two places where traffic is scrubbed, one probe that looks from outside.
pub(crate) const AGENTS: [&str; 5] = ["waf-frankfurt", "waf-dublin", "scrubber-oslo", "scrubber-paris", "probe-vienna"];

/// A place in [`SITES`].
pub(crate) type Site = usize;
/// A place in [`AGENTS`].
pub(crate) type Agent = usize;

/// All is well.
pub(crate) const NORMAL: &str = "normal";
/// What the story is about.
pub(crate) const UNDER_ATTACK: &str = "under_attack";
/// What the operator pins.
pub(crate) const MAINTENANCE: &str = "maintenance";

/// The house's configuration, but for addresses and directories: nothing is published before three agents have been heard.
pub(crate) const CONFIG: &str = r#"
house = "demo"

[[rule]]
rule = "majority"
min_reports = 3
"#;
