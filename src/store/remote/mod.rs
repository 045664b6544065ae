//! A region on another machine, behind `keepstone serve` (`ssh://host/path`).
//!
//! [`server`] gives a local directory to one client over a pair of byte streams, and refuses what its
//! role may not do (`access`); [`client`] is the [`Store`](super::Store) that speaks to it, over a
//! process such as `ssh` (`connection`). Both know the messages of [`message`] and nothing else of each
//! other. Page: `format-spec/serve.md`.

mod access;
mod address;
pub mod client;
mod connection;
pub mod message;
pub mod server;

pub use access::{Family, family};
