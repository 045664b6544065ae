//! Integration tests: the library against real services and the whole program.

mod browse;
mod s3;
