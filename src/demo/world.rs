//! The demo's world: the sites that may be attacked, the agents that watch them, the states they may report.

use statehouse_dataflows::vocabulary::Partition;

/// The sites, objects of the house.
pub(super) const SITES: [&str; 40] = [
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
pub(super) const AGENTS: [&str; 5] = ["waf-frankfurt", "waf-dublin", "scrubber-oslo", "scrubber-paris", "probe-vienna"];

/// A place in [`SITES`].
pub(super) type Site = usize;
/// A place in [`AGENTS`].
pub(super) type Agent = usize;

/// All is well.
pub(super) const NORMAL: &str = "normal";
/// What the story is about.
pub(super) const UNDER_ATTACK: &str = "under_attack";
/// What the operator pins.
pub(super) const MAINTENANCE: &str = "maintenance";

/// The embedded log has one partition, so all changes come in one order.
pub(super) const PARTITION: Partition = 0;
/// The house's configuration, but for addresses and directories: nothing is published before three agents have been heard.
pub(super) const CONFIG: &str = r#"
house = "demo"

[local]
partitions = 1

[[rule]]
rule = "majority"
min_reports = 3
"#;
