//! The window in which a forgotten snapshot can be brought back. Page: `format-spec/verdict.md`.

use super::calendar::{cutoff, later};
use jiff::Span;
use jiff::tz::TimeZone;

/// When the window of a forgotten snapshot ends, by what its verdict says alone: the promise to people.
pub fn ends_at(decided_at: i64, window: &Span) -> i64 {
    later(decided_at, window, &TimeZone::UTC)
}

/// Whether a collector may name a forgotten snapshot in a fence (`VERDICT-8`). `first_seen_at` is when a
/// collector first saw it forgotten, by its own clock and as the region recorded it; where nothing is
/// recorded the window begins only now.
pub fn is_over(decided_at: i64, first_seen_at: Option<i64>, now: i64, window: &Span) -> bool {
    first_seen_at.is_some_and(|seen| ends_at(decided_at.max(seen), window) <= now)
}

/// The days before a window within which something must have been signed, so that a collector believes its clock
/// that the window is over: more than between two quarterly backups.
pub const QUIET_DAYS: i64 = 100;

/// What the times that are signed in a repository say of a collector's clock (`VERDICT-9`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// One lies within [`QUIET_DAYS`] before the window that ends now: it can have been lived through. What a clock
    /// signed itself since it leapt ahead says so only once a whole window has gone by.
    pub window: bool,
    /// So does one, or all that lie before now lie in the window: it can be as late as the clock says.
    pub present: bool,
}

impl Witness {
    /// Of the times `signed`, by a clock that says `now`.
    pub fn of(signed: impl IntoIterator<Item = i64>, now: i64, window: &Span) -> Self {
        let began_at = cutoff(now, window, &TimeZone::UTC);
        let quiet_since = cutoff(began_at, &Span::new().days(QUIET_DAYS), &TimeZone::UTC);
        let (mut before, mut just_before, mut since) = (false, false, false);
        for at in signed.into_iter().filter(|at| *at <= now) {
            before |= at < quiet_since;
            just_before |= (quiet_since..=began_at).contains(&at);
            since |= at > began_at;
        }
        Witness { window: just_before, present: just_before || since && !before }
    }

    /// What is said where a person vouches for the clock, or nothing hangs on it.
    pub const TRUSTED: Witness = Witness { window: true, present: true };
}

#[cfg(test)]
mod tests {
    use super::{Witness, is_over};
    use jiff::Span;

    /// VERDICT-8: neither a verdict's false time nor a collector that never saw it shortens the window.
    #[test]
    fn the_window_counts_from_the_later_moment() {
        const DAY: i64 = 86_400_000_000_000;
        let over = |decided: i64, seen: Option<i64>, now: i64| {
            is_over(decided * DAY, seen.map(|day| day * DAY), now * DAY, &Span::new().days(7))
        };
        assert!(over(10, Some(10), 17) && !over(10, Some(10), 16));
        // Born with its window over.
        assert!(!over(-1000, None, 17) && !over(-1000, Some(17), 23) && over(-1000, Some(17), 24));
        assert!(!is_over(i64::MIN, None, i64::MAX, &Span::new().days(7)));
        // A clock ahead makes it longer.
        assert!(!over(100, Some(10), 50) && over(100, Some(10), 107));
        assert!(!is_over(i64::MAX, Some(0), i64::MAX - 1, &Span::new().days(7)));
    }

    /// VERDICT-9: a clock that leapt ahead finds nothing signed just before the window, one that is right does.
    #[test]
    fn a_window_is_lived_through() {
        const DAY: i64 = 86_400_000_000_000;
        let says = |now: i64, signed: &[i64]| {
            let Witness { window, present } =
                Witness::of(signed.iter().map(|day| day * DAY), now * DAY, &Span::new().days(7));
            (window, present)
        };
        assert_eq!(says(107, &[3, 100]), (true, true));
        assert_eq!((says(207, &[100]), says(207, &[99])), ((true, true), (false, false)));
        // A repository that is new.
        assert_eq!(
            (says(107, &[101, 107]), says(107, &[108]), says(107, &[])),
            ((false, true), (false, false), (false, false))
        );
        // What a clock signed itself since it leapt ahead says nothing of the window until one has gone by.
        assert_eq!(says(20_000, &[98, 99, 30_000]), (false, false));
        assert_eq!((says(20_000, &[99, 19_999]), says(20_006, &[99, 19_999])), ((false, false), (true, true)));
        assert_eq!(Witness::of([0], i64::MAX, &Span::new().days(7)), Witness { window: false, present: false });
        assert_eq!(Witness::of([i64::MIN], i64::MIN, &Span::new()), Witness::TRUSTED);
    }
}
