//! Statehouse: keeps the shared state of objects that many agents report on.
pub mod board;
pub mod chunk;
pub mod cli;
pub mod commit;
pub mod config;
pub mod decode;
pub mod demo;
pub mod desk;
pub mod encode;
pub mod house;
pub mod http;
pub mod lease;
pub mod log;
pub mod message;
pub mod metrics;
pub mod pump;
pub mod question;
pub mod restore;
pub mod rotation;
pub mod route;
pub mod standby;
pub mod worker;

// Under the name by which those who embed the library reach it.
pub use config::registry;
