//! The window in which a forgotten snapshot can be brought back. Page: `format-spec/verdict.md`.

use super::calendar::later;
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

#[cfg(test)]
mod tests {
    use super::is_over;
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
}
