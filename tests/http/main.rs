//! HTTP over real sockets, with a small made-up house behind the desk: every endpoint, every refusal, any name, who may ask, and clients
//! that dribble, stall, flood or never let go. The whole house is tested elsewhere.

mod access;
mod backend;
mod bounds;
#[path = "../support/certificate.rs"]
mod certificate;
mod client;
mod health;
mod instances;
mod names;
mod reads;
mod refusals;
mod server;
mod tls;
mod verbs;
mod writes;
