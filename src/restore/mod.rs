//! Bringing a snapshot back: what to fetch, and where its bytes go.
//!
//! [`target`] is the only part that touches a file system.

pub mod target;
