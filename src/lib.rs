//! Statehouse: keeps the shared state of objects that many agents report on.
pub mod config;
pub mod log;
pub mod question;
