//! One file per stored object: encode and decode only, no input, output or cryptography.

pub mod ids;
pub mod node;
