//! Periods of a calendar, and how long ago something was.
//!
//! Days, weeks, months and years are those of the policy's time zone; UTC unless it names another, so that
//! two machines agree (`RETAIN-7`). An hour that a clock shows twice in autumn is two hours.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// How long a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// `hourly`, `daily`, …
    pub fn name(self) -> &'static str {
        match self {
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }
}

/// What two moments of one period have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(i64, i64, i64);

fn zoned(at_ns: i64, zone: &TimeZone) -> Zoned {
    // 64 bits of nanoseconds are 292 years each way: always within the calendar's range.
    Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or_default().to_zoned(zone.clone())
}

/// The bucket of a moment, in nanoseconds since the Unix epoch. Weeks begin on Monday.
pub fn bucket(period: Period, at_ns: i64, zone: &TimeZone) -> Bucket {
    let at = zoned(at_ns, zone);
    let (year, month, day) = (i64::from(at.year()), i64::from(at.month()), i64::from(at.day()));
    match period {
        Period::Hour => {
            let offset = i64::from(at.offset().seconds());
            Bucket(at_ns.div_euclid(1_000_000_000).saturating_add(offset).div_euclid(3600), offset, 0)
        }
        Period::Day => Bucket(year, month, day),
        Period::Week => {
            let week = at.date().iso_week_date();
            Bucket(i64::from(week.year()), i64::from(week.week()), 0)
        }
        Period::Month => Bucket(year, month, 0),
        Period::Year => Bucket(year, 0, 0),
    }
}

/// The moment that lies `span` before `now`; the earliest there is when that is out of range.
pub fn cutoff(now: i64, span: &Span, zone: &TimeZone) -> i64 {
    let before = zoned(now, zone).checked_sub(span.abs());
    before.ok().and_then(|at| i64::try_from(at.timestamp().as_nanosecond()).ok()).unwrap_or(i64::MIN)
}

/// The moment that lies `span` after `from`; the latest there is when that is out of range.
pub fn later(from: i64, span: &Span, zone: &TimeZone) -> i64 {
    let after = zoned(from, zone).checked_add(span.abs());
    after.ok().and_then(|at| i64::try_from(at.timestamp().as_nanosecond()).ok()).unwrap_or(i64::MAX)
}
