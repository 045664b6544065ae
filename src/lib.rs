//! keepstone: a content-addressed, deduplicating, encrypted backup repository that keeps every snapshot
//! whole in each of its regions.
//!
//! The program's `main` calls [`cli::run`]; everything below [`cli`] is a library that prints nothing, reads
//! no environment, and gets time and randomness from its caller. `ARCHITECTURE.md` follows a byte from the
//! command line into a region; `format-spec/` is the normative description of what is stored.
//!
//! # Data flow
//!
//! ```text
//! backup    source → chunker → crypto (ChunkId) → index: known? ─ yes → node, tree
//!                                                        └ no → pack (frame → compress → seal) → ship → store, per region
//!           … packs, then segment, then snapshot, then commit, in each region
//! restore   repo (snapshot → trees) → index (where?) → store → pack (open) → crypto (ChunkId?) → restore::target
//! ```
//!
//! # Layers
//!
//! | layer | rooms | what they are |
//! | --- | --- | --- |
//! | 5 | [`cli`] | one file a command; configuration, prompts, text and JSON: the only part that prints |
//! | 4 | [`backup`], [`replicate`], [`restore`], [`check`], [`diff`], [`find`], [`stats`], [`gc`] | one operation each; none knows of another |
//! | 3 | [`pack`] → [`index`] → [`ship`] → [`repo`] | what operations share; each may use those before it |
//! | 2 | [`store`], [`source`] | the outside: where bytes are kept, where they come from |
//! | 1 | [`format`](mod@format) → [`crypto`], [`compress`]; [`chunker`] | what stored bytes mean: encode, decode, seal, cut; no input or output |
//! | 0 | [`limits`], [`timing`] → [`report`], [`env`](mod@env) | every bound; what a run tells, and where its time goes; time and randomness |
//!
//! A room uses lower layers only, and of its own those to its left. `tests/tidy.rs` holds the exact table
//! and fails on a violation.
//!
//! # Errors
//!
//! Each fallible module has an enum of its own. An `Err` stops a run; a [`report::Issue`] lets it go on, and
//! the outcome says so. Stored and received bytes never cause a panic: a broken rule is named by its id in
//! `format-spec/` ([`format::wire::DecodeError`]).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

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
pub mod gc;
pub mod index;
pub mod limits;
pub mod pack;
pub mod policy;
pub mod replicate;
pub mod repo;
pub mod report;
pub mod restore;
pub mod ship;
pub mod source;
pub mod stats;
pub mod store;
pub mod timing;
