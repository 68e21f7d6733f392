//! The dataflow of Statehouse: reports in, changes out, with every intermediate verdict, whatever the batches.
pub mod plan;
pub mod query;
pub mod reference;
pub mod rule;
pub mod vocabulary;
