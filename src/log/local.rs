//! The embedded log, on redb.
