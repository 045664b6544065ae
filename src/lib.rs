//! keepstone: a content-addressed, deduplicating, encrypted backup repository.

pub mod env;
pub mod format;
pub mod limits;
pub mod report;
pub mod restore;
pub mod source;
pub mod store;
