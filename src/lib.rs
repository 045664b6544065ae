//! keepstone: a content-addressed, deduplicating, encrypted backup repository.

pub mod backup;
pub mod check;
pub mod chunker;
#[cfg(feature = "rocksdb")]
pub mod cli;
pub mod compress;
pub mod crypto;
pub mod diff;
pub mod env;
pub mod find;
pub mod format;
pub mod index;
pub mod limits;
pub mod pack;
pub mod replicate;
pub mod repo;
pub mod report;
pub mod restore;
pub mod ship;
pub mod source;
pub mod stats;
pub mod store;
