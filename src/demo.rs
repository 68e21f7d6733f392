//! The demo: a small world of sites and agents, a story of attacks that goes on until you stop it, and a view of what the house makes of
//! it.
//!
//! ```text
//!  story ─▶ cast ─▶ HTTP ─▶ house on the embedded log ─▶ sink ─▶ view
//!   what happens    reports                              changes   lines
//! ```
//! It stands outside of the flow, as any user would: the [cast] only knows the HTTP address, and the [view] shows what is read back from
//! the sink and asked of the API, nothing else. [`story`] is pure, so that a seed always tells the same one.

pub(crate) mod cast;
pub(crate) mod story;
pub(crate) mod view;
pub(crate) mod world;
