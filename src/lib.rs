//! Statehouse: keeps the shared state of objects that many agents report on.
pub mod chunk;
pub mod config;
pub mod decode;
pub mod desk;
pub mod encode;
pub mod log;
pub mod metrics;
pub mod question;
pub mod registry;
