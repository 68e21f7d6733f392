//! The dataflow of Statehouse: reports in, changes out, with every intermediate verdict, whatever the batches.
//!
//! Pure: timely, differential-dataflow and small helpers only; no I/O, clock, threads or randomness that a result could depend on. What
//! cannot touch the world cannot fail on it. [`engine::Engine`] is one worker's part of a house, [`mod@reference`] the obviously correct fold
//! that says what it must do; `tests/oracle.rs` holds the one against the other.
//!
//! In the order in which data moves: [`vocabulary`] and [`plan`] are the words; `names` gives ids, `reports` is the upsert of `claim`s,
//! `tally` the difference type, `flat` the arrangements (of `slots`, sorted `by_object`), `verdict` (with [`rule`]) decides, `publish`
//! (with `due`) says what is `posted` and makes [`changes`], [`rows`] is what the checkpoint gets, [`mod@slice`] what it repeats, [`query`] has the answers (`votes` in
//! them as in changes) and [`digest`] what the checkpoint is checked by.

mod by_object;
pub mod changes;
mod claim;
pub mod digest;
mod due;
pub mod engine;
mod flat;
mod names;
pub mod plan;
mod posted;
mod publish;
pub mod query;
pub mod reference;
mod reports;
pub mod rows;
pub mod rule;
pub mod slice;
mod slots;
mod tally;
mod verdict;
pub mod vocabulary;
mod votes;
