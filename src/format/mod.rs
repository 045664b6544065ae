//! One file per stored object: encode and decode only, no input, output or cryptography.
//! Pages: `format-spec/`.

pub mod accepted;
pub mod attestation;
pub mod audit;
pub mod config;
pub mod designation;
pub mod envelope;
pub mod gc;
pub mod ids;
pub mod node;
pub mod pack;
pub mod ring;
pub mod roster;
pub mod segment;
pub mod sequence;
pub mod session;
pub mod snapshot;
pub mod verdict;
pub mod wire;
