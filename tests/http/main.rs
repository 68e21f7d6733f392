//! HTTP over real sockets, with a small made-up house behind the desk: every endpoint, every refusal, any name, and clients that dribble,
//! stall, flood or never let go. The whole house is tested elsewhere.

mod backend;
mod bounds;
mod client;
mod health;
mod names;
mod reads;
mod refusals;
mod server;
mod verbs;
mod writes;
