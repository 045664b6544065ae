//! Integration tests: the library against real services and the whole program.

mod backup;
mod browse;
mod facts;
mod faults;
mod fixture;
mod property;
mod s3;
