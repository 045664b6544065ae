//! `[retention]`: what `forget` keeps, and the floors that it never goes below by itself.

use jiff::tz::TimeZone;
use jiff::{Span, SpanFieldwise};
use serde::Deserialize;
use serde::de::Deserializer;

use super::file::{TextOrNumber, labels, many, one, size};
use crate::cli::parse::{self, IdPrefix};
use crate::policy::GroupBy;

/// How long a forgotten snapshot can be unforgotten, unless the file says otherwise.
const FORGET_WINDOW_DAYS: i64 = 7;

/// What a policy keeps; the options of `forget` have the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are named after the options that they are defaults for")]
pub struct RetentionSection {
    #[serde(deserialize_with = "count")]
    pub keep_last: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub keep_hourly: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub keep_daily: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub keep_weekly: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub keep_monthly: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub keep_yearly: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub keep_within: Option<SpanFieldwise>,
    #[serde(deserialize_with = "labels")]
    pub keep_tags: Vec<String>,
    #[serde(deserialize_with = "group_by")]
    pub group_by: Option<GroupBy>,
    #[serde(deserialize_with = "size")]
    pub least_bytes: Option<u64>,
    pub least_files: Option<u64>,
    #[serde(deserialize_with = "percentage")]
    pub greatest_shrink: Option<u8>,
    /// In how many regions a snapshot must count; all that are configured unless it says otherwise.
    pub regions: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub minimum_age: Option<SpanFieldwise>,
    pub minimum_copies: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub forget_window: Option<SpanFieldwise>,
    #[serde(deserialize_with = "duration")]
    pub clock_slack: Option<SpanFieldwise>,
    #[serde(deserialize_with = "time_zone")]
    pub time_zone: Option<TimeZone>,
    #[serde(deserialize_with = "prefixes")]
    pub accept: Vec<IdPrefix>,
}

impl RetentionSection {
    /// How long a forgotten snapshot can be unforgotten.
    pub fn window(&self) -> Span {
        self.forget_window.map_or_else(|| Span::new().days(FORGET_WINDOW_DAYS), |window| window.0)
    }
}

fn count<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::keep_count)
}

fn percentage<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u8>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::percentage)
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SpanFieldwise>, D::Error> {
    one(input, |text| parse::duration(text).map(Span::fieldwise))
}

fn group_by<'de, D: Deserializer<'de>>(input: D) -> Result<Option<GroupBy>, D::Error> {
    one(input, parse::group_by)
}

fn time_zone<'de, D: Deserializer<'de>>(input: D) -> Result<Option<TimeZone>, D::Error> {
    one(input, parse::time_zone)
}

fn prefixes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IdPrefix>, D::Error> {
    many(input, str::parse)
}
