//! Integration tests: the library against real services and the whole program.

mod attack;
mod audit;
mod backup;
mod browse;
mod cli;
mod facts;
mod faults;
mod fixture;
mod frozen;
mod memory;
mod program;
mod property;
mod reader;
mod replicate;
mod restore;
mod roles;
mod s3;
mod stage;
mod streams;
mod writer;
