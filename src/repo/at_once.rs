//! Reads and writes many small objects at once: a repository of years holds thousands of commits, snapshots
//! and verdicts, and one after another each would wait for its answer.

use super::RepoError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// How many calls are under way together.
const CALLS: usize = 16;
/// From this many on it pays; fewer are done in order, on the caller's thread.
const ITEMS_MIN: usize = 64;

/// Calls `each` with every item and gives what it made of them, in their order.
///
/// # Errors
/// The first failure, in the items' order, of those that were met; no item is begun after one.
pub(crate) fn at_once<T: Sync, R: Send>(
    items: &[T],
    each: impl Fn(&T) -> Result<R, RepoError> + Sync,
) -> Result<Vec<R>, RepoError> {
    if items.len() < ITEMS_MIN {
        return items.iter().map(each).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Result<R, RepoError>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            let outcome = each(item);
            if outcome.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..CALLS {
            // With fewer threads it takes longer; this one always works.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_comes_back_in_order() {
        for count in [0, 1, ITEMS_MIN - 1, ITEMS_MIN, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = at_once(&items, |item| Ok(item * 2)).expect("nothing fails");
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_failure_ends_it_and_is_told() {
        for count in [10, 10_000] {
            let (items, called) = ((0..count).collect::<Vec<usize>>(), AtomicUsize::new(0));
            let failure = at_once(&items, |item| {
                called.fetch_add(1, Ordering::Relaxed);
                if *item < 5 { Ok(()) } else { Err(RepoError::Audit(format!("item {item}"))) }
            });
            assert!(matches!(failure, Err(RepoError::Audit(_))), "{failure:?}");
            assert!(called.load(Ordering::Relaxed) < 10_000, "the rest is not begun");
        }
    }
}
