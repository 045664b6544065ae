//! How many threads this process may still start: systems bound them by user, service and container, and where one is
//! refused in the midst of the work, libraries end the process.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::exit::{Class, CliError};

/// Threads beside the workers that a command starts at most: for the index, the regions, the walk and the progress.
const BESIDE: usize = 20;
/// They do nothing.
const STACK_BYTES: usize = 16 << 10;

/// `wanted` workers, or as many as can be had.
///
/// # Errors
/// `Limit` when there is none for a single one.
pub fn to_be_had(wanted: usize) -> Result<usize, CliError> {
    let released = Arc::new((Mutex::new(false), Condvar::new()));
    let begin = |_| {
        let released = Arc::clone(&released);
        let wait = move || {
            let (over, changed) = &*released;
            let over = over.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(over, |over| !*over));
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(wait)
    };
    let mut refusal = None;
    let started: Vec<_> = (0..BESIDE + wanted)
        .map(begin)
        .map_while(|thread| thread.map_err(|error| refusal = Some(error)).ok())
        .collect();
    *released.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    released.1.notify_all();
    let count = started.len();
    started.into_iter().for_each(|thread| drop(thread.join()));
    match (count.checked_sub(BESIDE), refusal) {
        (Some(workers @ 1..), _) => Ok(workers),
        (_, refusal) => {
            let why = refusal.map_or_else(String::new, |error| format!(": {error}"));
            let message = format!("this process may start {count} threads more, and needs {}{why}", BESIDE + 1);
            let hint = "raise what bounds them: `ulimit -u`, TasksMax of a systemd unit, pids.max of a container";
            Err(CliError::new(Class::Limit, message).hint(hint))
        }
    }
}
