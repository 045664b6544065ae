//! Integration tests: the library against real services and the whole program.

mod attack;
mod audit;
mod backup;
mod browse;
mod cli;
mod facts;
mod faults;
mod fixture;
mod follow;
mod frozen;
mod gc;
mod keys;
mod memory;
mod program;
mod property;
mod reader;
mod replicate;
mod restore;
mod retention;
mod roles;
mod s3;
mod serve;
mod stage;
mod streams;
mod thefts;
mod writer;
