//! Statehouse: keeps the shared state of objects that many agents report on.
pub mod config;
pub mod desk;
pub mod log;
pub mod metrics;
pub mod question;
