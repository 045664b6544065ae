//! Integration tests: the library against real services and the whole program.

<<<<<<< HEAD
mod backup;
mod facts;
mod faults;
mod fixture;
mod property;
=======
mod browse;
>>>>>>> browse
mod s3;
