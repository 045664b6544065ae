//! Parsers for the values of arguments, environment variables and the configuration file.
//!
//! Guarantees: what can't be used is refused with the reason and the remedy; who calls names the
//! argument, variable or key and the value. Called by `args` (through clap) and `config`.

use std::path::Path;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::compress::Compression;
use crate::env::{Clock, SystemClock};
use crate::format::ids::Digest;
use crate::gc::MaxUnused;
use crate::limits;
use crate::policy::GroupBy;
use crate::policy::calendar::later;

/// A value that can't be used: why, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct ParseError {
    reason: String,
    remedy: &'static str,
}

fn refuse<T>(reason: impl Into<String>, remedy: &'static str) -> Result<T, ParseError> {
    Err(ParseError { reason: reason.into(), remedy })
}

/// Bytes in a region's name.
const REGION_NAME_BYTES_MAX: usize = 64;
/// Hexadecimal digits that an abbreviated id has at least.
const PREFIX_DIGITS_MIN: usize = 4;

/// A size in bytes: a number, optionally with a fraction and a unit. `K`, `M`, `G`, `T` mean the same
/// as `KiB`, `MiB`, `GiB`, `TiB` (1024); `KB`, `MB`, `GB`, `TB` are decimal (1000). Case doesn't matter.
///
/// # Errors
/// When it is no such size or does not fit 64 bits.
pub fn size(text: &str) -> Result<u64, ParseError> {
    const REMEDY: &str = "write bytes, or a number with a unit as in 64KiB, 256M or 1.5GiB";
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') || fraction.len() > 9 {
        return refuse("this is not a size", REMEDY);
    }
    let unit_bytes: u128 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return refuse(format!("'{}' is not a unit of size", unit.trim_start()), REMEDY),
    };
    let scale = 10u128.pow(fraction.len() as u32);
    let scaled = format!("{whole}{fraction}").parse::<u128>().ok().and_then(|n| n.checked_mul(unit_bytes));
    match scaled.map(|n| n / scale).map(u64::try_from) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => refuse("this size is too large", "write less than 16 EiB"),
    }
}

/// What a collection tolerates: a share in percent with at most two decimals, or a size.
///
/// # Errors
/// When it is neither, or more than 100 %.
pub fn max_unused(text: &str) -> Result<MaxUnused, ParseError> {
    let Some(share) = text.trim().strip_suffix('%') else { return size(text).map(MaxUnused::Bytes) };
    let (whole, fraction) = share.trim().split_once('.').unwrap_or((share.trim(), ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths = format!("{whole}{fraction:0<2}").parse::<u32>().ok();
    match hundredths {
        Some(share @ 0..=10_000) if !whole.is_empty() && fraction.len() <= 2 && digits(whole) && digits(fraction) => {
            Ok(MaxUnused::Permyriad(share))
        }
        _ => refuse("this is not a share", "write a percentage from 0% to 100%, or a size as in 10GiB"),
    }
}

/// The ceiling for all buffers and caches, in bytes.
///
/// # Errors
/// As [`size`], and below what the engine can keep.
pub fn memory(text: &str) -> Result<usize, ParseError> {
    memory_bytes(size(text)?)
}

/// Checks a memory ceiling given in bytes.
///
/// # Errors
/// Below what the engine can keep, or more than an address space.
pub fn memory_bytes(bytes: u64) -> Result<usize, ParseError> {
    const _: () = assert!(limits::MEMORY_BYTES_MIN == 96 << 20);
    match usize::try_from(bytes) {
        Ok(bytes) if bytes >= limits::MEMORY_BYTES_MIN => Ok(bytes),
        Ok(_) => refuse("this is less memory than the program can work in", "give it 96MiB or more"),
        Err(_) => refuse("this is more memory than the machine can address", "give it less"),
    }
}

/// A dataset's average chunk size in bytes: a power of two within the format's bounds.
///
/// # Errors
/// As [`size`], and for what is not such a power of two.
pub fn chunk_size(text: &str) -> Result<usize, ParseError> {
    const _: () = assert!(limits::CHUNK_AVERAGE_BYTES_MIN == 8 << 10 && limits::CHUNK_AVERAGE_BYTES_MAX == 1 << 20);
    let bytes = size(text)?;
    match usize::try_from(bytes) {
        Ok(bytes)
            if bytes.is_power_of_two()
                && (limits::CHUNK_AVERAGE_BYTES_MIN..=limits::CHUNK_AVERAGE_BYTES_MAX).contains(&bytes) =>
        {
            Ok(bytes)
        }
        _ => refuse("this average chunk size is not supported", "use 8KiB, 16KiB, 32KiB, … up to 1MiB"),
    }
}

/// How hard to compress, by name.
///
/// # Errors
/// For anything else.
pub fn compression(text: &str) -> Result<Compression, ParseError> {
    match text {
        "off" => Ok(Compression::Off),
        "fast" => Ok(Compression::Fast),
        "default" => Ok(Compression::Default),
        "max" => Ok(Compression::Max),
        _ => refuse("this is no way to compress", "use off, fast, default or max"),
    }
}

/// A number of threads, at least 1.
///
/// # Errors
/// For anything else.
pub fn threads(text: &str) -> Result<usize, ParseError> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => refuse("this is not a number of threads", "write a number from 1 to 1024"),
    }
}

/// A moment in nanoseconds since the Unix epoch, by the system's clock and zone; see [`time_from`].
///
/// # Errors
/// As [`time_from`].
pub fn time(text: &str) -> Result<i64, ParseError> {
    let Ok(now) = Timestamp::from_nanosecond(i128::from(SystemClock.now_ns())) else {
        return refuse("the system's clock shows no usable time", "set the clock");
    };
    time_from(text, &now.to_zoned(TimeZone::system()))
}

/// As [`time`], for the beginning of a period: a local day means its first moment.
///
/// # Errors
/// As [`time_from`].
pub fn time_since(text: &str) -> Result<i64, ParseError> {
    let day = text.trim();
    match day.len() <= 10 && day.parse::<Date>().is_ok() {
        true => time(&format!("{day} 00:00")),
        false => time(text),
    }
}

/// As [`time`], for the end of a period: how long means from now on, and it must be in the future.
///
/// # Errors
/// As [`time_from`], and for what is past.
pub fn time_until(text: &str) -> Result<i64, ParseError> {
    let now = SystemClock.now_ns();
    let at = match duration(text) {
        Ok(span) => later(now, &span, &TimeZone::system()),
        Err(_) => time(text)?,
    };
    match at > now {
        true => Ok(at),
        false => refuse("this time is past", "write one in the future, such as 2030-01-01, or how long: '90 days'"),
    }
}

/// How long: `30d`, `2 weeks`, `1 year 6 months`, `P30D`; more than nothing.
///
/// # Errors
/// For anything else.
pub fn duration(text: &str) -> Result<Span, ParseError> {
    const REMEDY: &str = "write how long as 12h, 30d, '2 weeks', '1 year 6 months' or P30D";
    match text.trim().parse::<Span>() {
        Ok(span) if span.is_positive() => Ok(span),
        Ok(_) => refuse("this is not a length of time above nothing", REMEDY),
        Err(_) => refuse("this is not a length of time", REMEDY),
    }
}

/// How many snapshots to keep.
///
/// # Errors
/// For what is no number from 0 to 100,000.
pub fn keep_count(text: &str) -> Result<u32, ParseError> {
    match text.trim().parse() {
        Ok(count @ 0..=100_000) => Ok(count),
        _ => refuse("this is not a number of snapshots", "write a number from 0 to 100000"),
    }
}

/// A share in percent: `60` or `60%`.
///
/// # Errors
/// For what is no whole number from 0 to 100.
pub fn percentage(text: &str) -> Result<u8, ParseError> {
    match text.trim().trim_end_matches('%').parse() {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => refuse("this is not a share", "write whole percents from 0 to 100, as in 60%"),
    }
}

/// By what snapshots are grouped: words from `dataset`, `host`, `slot`, `tags`, separated by commas; or `none`.
///
/// # Errors
/// For any other word.
pub fn group_by(text: &str) -> Result<GroupBy, ParseError> {
    let mut by = GroupBy { dataset: false, host: false, slot: false, tags: false };
    for word in text.split(',').map(str::trim).filter(|word| *word != "none") {
        match word {
            "dataset" => by.dataset = true,
            "host" => by.host = true,
            "slot" => by.slot = true,
            "tags" => by.tags = true,
            _ => {
                return refuse(
                    format!("snapshots aren't grouped by '{word}'"),
                    "write dataset, host, slot or tags, separated by commas, or none",
                );
            }
        }
    }
    Ok(by)
}

/// A time zone: `UTC`, `local`, or a name such as `Europe/Berlin`.
///
/// # Errors
/// For a zone that this machine doesn't know.
pub fn time_zone(text: &str) -> Result<TimeZone, ParseError> {
    match text.trim() {
        "local" => Ok(TimeZone::system()),
        utc if utc.eq_ignore_ascii_case("utc") => Ok(TimeZone::UTC),
        name => TimeZone::get(name).or_else(|_| {
            let remedy = "write UTC, local, or a name from the tz database, as in Europe/Berlin";
            refuse("this machine knows no such time zone", remedy)
        }),
    }
}

/// Why something is done: 1 to 4096 bytes of text.
///
/// # Errors
/// For less or more.
pub fn reason(text: &str) -> Result<String, ParseError> {
    match text.trim().len() {
        1..=4096 => Ok(text.trim().to_owned()),
        _ => refuse("this is not a reason", "write a few words, at most 4096 bytes"),
    }
}

/// A moment in nanoseconds since the Unix epoch: RFC 3339 (`2026-11-01T14:30:00Z`), a local time
/// (`2026-11-01 14:30`), a local day, which means its end (`2026-11-01`), or how long ago (`3d`,
/// `3 days ago`, `P3D`).
///
/// # Errors
/// When it is none of these or lies outside the years that fit.
pub fn time_from(text: &str, now: &Zoned) -> Result<i64, ParseError> {
    const REMEDY: &str =
        "write 2026-11-01T14:30:00Z, a local time as '2026-11-01 14:30', a day as 2026-11-01, or '3 days ago'";
    let text = text.trim();
    let zone = now.time_zone().clone();
    // A date is also a prefix of a date with a time, so it must be the whole text: 10 characters at most.
    let date = text.parse::<Date>().ok().filter(|_| text.len() <= 10);
    let at: Option<Timestamp> = if text.eq_ignore_ascii_case("now") {
        Some(now.timestamp())
    } else if let Some(date) = date {
        date.to_datetime(Time::MAX).to_zoned(zone).ok().map(|at| at.timestamp())
    } else if let Ok(at) = text.parse::<Timestamp>() {
        Some(at)
    } else if let Ok(at) = text.parse::<DateTime>() {
        at.to_zoned(zone).ok().map(|at| at.timestamp())
    } else if let Ok(span) = text.parse::<Span>() {
        now.checked_sub(span.abs()).ok().map(|at| at.timestamp())
    } else {
        return refuse("this is not a time", REMEDY);
    };
    match at.map(|at| i64::try_from(at.as_nanosecond())) {
        Some(Ok(at_ns)) => Ok(at_ns),
        _ => refuse("this time is out of range", "use one between the years 1678 and 2262"),
    }
}

/// How much of the stored data `check` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// Every pack.
    All,
    /// A random choice of packs, in hundredths of a percent: 1 to 10,000.
    Permyriad(u32),
    /// The `part`-th of `of` fixed parts, counting from 1: all parts in turn read everything.
    Part {
        /// Which part, 1 to `of`.
        part: u32,
        /// How many parts, at least 1.
        of: u32,
    },
}

impl FromStr for ReadData {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const REMEDY: &str = "write all, a share as 5% or 2.5%, or one part of several as 1/7";
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        if text.eq_ignore_ascii_case("all") {
            return Ok(ReadData::All);
        }
        if let Some(share) = text.strip_suffix('%') {
            let (whole, fraction) = share.split_once('.').unwrap_or((share, "0"));
            if fraction.is_empty() || fraction.len() > 2 {
                return refuse("a share has at most two decimals", REMEDY);
            }
            let hundredths = number(&format!("{fraction:0<2}"));
            let permyriad = number(whole).and_then(|n| n.checked_mul(100)).zip(hundredths).map(|(n, h)| n + h);
            return match permyriad {
                Some(permyriad @ 1..=10_000) => Ok(ReadData::Permyriad(permyriad)),
                _ => refuse("this is not a share between 0.01% and 100%", REMEDY),
            };
        }
        match text.split_once('/').map(|(part, of)| (number(part), number(of))) {
            Some((Some(part), Some(of))) if part >= 1 && part <= of => Ok(ReadData::Part { part, of }),
            Some(_) => refuse("this is not one part of several", REMEDY),
            None => refuse("this is not a subset of the data", REMEDY),
        }
    }
}

/// An abbreviated id: 4 to 64 hexadecimal digits, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when an id written in hexadecimal starts with these digits.
    pub fn matches(&self, id_hex: &str) -> bool {
        id_hex.starts_with(&self.0)
    }
}

impl FromStr for IdPrefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const REMEDY: &str = "write the first 4 or more digits of an id";
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return refuse("this is not the beginning of an id", REMEDY);
        }
        match text.len() {
            0..PREFIX_DIGITS_MIN => refuse("this is too short to tell ids apart", REMEDY),
            PREFIX_DIGITS_MIN..=64 => Ok(IdPrefix(text.to_ascii_lowercase())),
            _ => refuse("this is longer than an id", REMEDY),
        }
    }
}

/// How a snapshot is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRef {
    /// The newest that the filters admit, or the `back`-th before it.
    Latest {
        /// 0 for the newest.
        back: u32,
    },
    /// The one whose id starts so.
    Prefix(IdPrefix),
}

impl FromStr for SnapshotRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const REMEDY: &str = "write latest, latest~1 for the one before, or the first 4 or more digits of its id \
                              (`keepstone snapshots` lists them)";
        if let Some(rest) = text.strip_prefix("latest") {
            let back = match rest.strip_prefix('~') {
                None if rest.is_empty() => Some(0),
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
                _ => None,
            };
            return match back {
                Some(back) => Ok(SnapshotRef::Latest { back }),
                None => refuse("this is not a snapshot", REMEDY),
            };
        }
        match text.parse() {
            Ok(prefix) => Ok(SnapshotRef::Prefix(prefix)),
            Err(ParseError { reason, .. }) => refuse(reason, REMEDY),
        }
    }
}

/// `NAME=URL`, which defines a region, or `NAME`, which chooses one that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionArg {
    /// The region's local name.
    pub name: String,
    /// Where it is; `None` for a configured one.
    pub url: Option<String>,
}

impl FromStr for RegionArg {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, url) = match text.split_once('=') {
            Some((name, url)) => (name, Some(region_url(url)?)),
            None => (text, None),
        };
        // `--region /mnt/backup` is the likely slip.
        if url.is_none() && text.contains('/') {
            return refuse("this is an address without a name", "write NAME=URL, for instance here=/mnt/backup");
        }
        Ok(RegionArg { name: region_name(name)?, url })
    }
}

/// A region's local name: letters, digits, `-`, `_` and `.`, at most 64, starting with a letter or digit.
///
/// # Errors
/// For anything else.
pub fn region_name(text: &str) -> Result<String, ParseError> {
    let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= REGION_NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        return Ok(text.to_owned());
    }
    refuse(
        format!("'{text}' can't name a region"),
        "use letters, digits, '-', '_' and '.', at most 64, starting with a letter or digit; write NAME=URL",
    )
}

/// A region's address: a directory, or a URL without credentials in it.
///
/// # Errors
/// When it is empty or has a user name or password in it.
pub fn region_url(text: &str) -> Result<String, ParseError> {
    if text.trim().is_empty() {
        return refuse("the region's address is empty", "write a directory or a URL such as s3://bucket/prefix");
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && let Some((user, _)) = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'))
        // Whom to log in as on another machine is no secret.
        && (scheme != "ssh" || user.contains(':'))
    {
        return refuse(
            "the region's address has credentials in it, which other users of this machine could read",
            "give them through the store's own environment variables (such as AWS_ACCESS_KEY_ID) instead",
        );
    }
    Ok(text.to_owned())
}

/// Refuses an empty path in a configuration file: it would stand for the directory of the file.
///
/// # Errors
/// When it is empty.
pub fn is_given(path: &Path) -> Result<(), ParseError> {
    match path.as_os_str().is_empty() {
        true => refuse("an empty path names nothing", "name a file or directory, or leave the line out"),
        false => Ok(()),
    }
}

/// What to say of a directory that must be absolute and isn't.
pub fn not_absolute() -> ParseError {
    ParseError {
        reason: "this is neither an absolute directory nor a URL".into(),
        remedy: "write /DIRECTORY, ~/DIRECTORY, or a URL such as s3://bucket/prefix",
    }
}

/// The root key's fingerprint: 64 hexadecimal digits; spaces, `-` and `:` between them are skipped.
///
/// # Errors
/// For anything else.
pub fn fingerprint(text: &str) -> Result<Digest, ParseError> {
    let digits: String =
        text.chars().filter(|c| !matches!(c, ' ' | '-' | ':')).map(|c| c.to_ascii_lowercase()).collect();
    match Digest::from_hex(&digits) {
        Some(fingerprint) => Ok(fingerprint),
        None => refuse(
            format!("a fingerprint has 64 hexadecimal digits, and this has {} characters", digits.chars().count()),
            "copy the whole of it from the output of `keepstone init` or from the emergency sheet",
        ),
    }
}

/// A tag, dataset or host name: 1 to 255 bytes without control characters.
///
/// # Errors
/// For anything else.
pub fn label(text: &str) -> Result<String, ParseError> {
    const _: () = assert!(limits::LABEL_BYTES_MAX == 255);
    if text.is_empty() || text.len() > limits::LABEL_BYTES_MAX || text.chars().any(char::is_control) {
        return refuse("this can't be a name", "use 1 to 255 bytes without control characters");
    }
    Ok(text.to_owned())
}

/// The name of a stream's one file in its snapshot: as a directory entry's.
///
/// # Errors
/// For what no directory entry may be named.
pub fn file_name(text: &str) -> Result<String, ParseError> {
    let fits = !text.is_empty()
        && text.len() <= limits::NAME_BYTES_MAX
        && !text.contains(['/', '\0'])
        && text != "."
        && text != "..";
    if fits {
        return Ok(text.to_owned());
    }
    refuse("this can't be a file's name", "use 1 to 255 bytes without '/', as in db.sql")
}

/// An age recipient: a public key, `age1…`.
///
/// # Errors
/// For anything else; a secret key is refused without repeating it.
pub fn recipient(text: &str) -> Result<String, ParseError> {
    let text = text.trim();
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return refuse(
            "this is a secret key, and the command line is no place for it",
            "give the public key that belongs to it (`age-keygen -y FILE`), and treat this one as exposed",
        );
    }
    if text.starts_with("age1") && text.len() > 8 && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(text.to_owned());
    }
    refuse("this is not an age recipient", "give a public key that begins with age1")
}

/// A file that marks its directory as not to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The file's name.
    pub name: String,
    /// What the file must begin with; `None` when its presence is enough.
    pub header: Option<String>,
}

impl FromStr for Marker {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, header) = match text.split_once(':') {
            Some((_, "")) => return refuse("the header is empty", "write NAME, or NAME:HEADER"),
            Some((name, header)) => (name, Some(header.to_owned())),
            None => (text, None),
        };
        Ok(Marker { name: file_name(name)?, header })
    }
}

#[cfg(test)]
mod tests {
    use super::{IdPrefix, Marker, ReadData, RegionArg, SnapshotRef};
    use super::{chunk_size, fingerprint, label, memory, recipient, size, threads, time_from};
    use super::{duration, group_by, keep_count, percentage, reason, time_until, time_zone};
    use jiff::Zoned;

    #[test]
    fn what_may_stay_unused_is_a_share_or_a_size() {
        use crate::gc::MaxUnused::{Bytes, Permyriad};
        let good =
            [("5%", Permyriad(500)), ("0%", Permyriad(0)), ("100%", Permyriad(10_000)), ("2.5 %", Permyriad(250))];
        for (text, meant) in
            good.into_iter().chain([("0.25%", Permyriad(25)), ("10KiB", Bytes(10_240)), ("7", Bytes(7))])
        {
            assert_eq!(super::max_unused(text), Ok(meant), "{text}");
        }
        for text in ["101%", "%", "-1%", "1.234%", "+5%", "5%%", "half", ".5%"] {
            assert!(super::max_unused(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("64K", 64 << 10),
            ("64kib", 64 << 10),
            ("256MiB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("64M", 64 << 20),
            ("64MB", 64_000_000),
            ("1.5GiB", 3 << 29),
            ("2T", 2 << 40),
            ("10b", 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.", ".5G", "1..5", "1.2.3", "5 parsecs", "99999999T", "١K"] {
            let error = size(text).unwrap_err().to_string();
            assert!(error.contains("; write"), "{text}: {error}");
        }
        assert!(size("5 parsecs").unwrap_err().to_string().contains("'parsecs'"));
    }

    #[test]
    fn bounded_sizes() {
        assert_eq!(memory("96MiB"), Ok(96 << 20));
        assert!(memory("95MiB").unwrap_err().to_string().contains("96MiB"));
        assert_eq!(chunk_size("8K"), Ok(8192));
        assert_eq!(chunk_size("1MiB"), Ok(1 << 20));
        for text in ["4K", "2MiB", "24K", "1MB"] {
            assert!(chunk_size(text).is_err(), "{text}");
        }
        assert_eq!(threads("8"), Ok(8));
        assert!(threads("0").is_err() && threads("many").is_err());
    }

    #[test]
    fn times() {
        let now: Zoned = "2026-11-05T12:00:00+01:00[+01:00]".parse().unwrap();
        let at = |text: &str| {
            time_from(text, &now)
                .map(|ns| jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap().to_string())
                .map_err(|error| error.to_string())
        };
        for (text, expected) in [
            ("2026-11-01T14:30:00Z", "2026-11-01T14:30:00Z"),
            ("2026-11-01T14:30:00+02:00", "2026-11-01T12:30:00Z"),
            ("2026-11-01 14:30", "2026-11-01T13:30:00Z"),
            ("2026-11-01 14:30:05", "2026-11-01T13:30:05Z"),
            ("2026-11-01T14:30", "2026-11-01T13:30:00Z"),
            ("2026-11-01", "2026-11-01T22:59:59.999999999Z"),
            ("3 days ago", "2026-11-02T11:00:00Z"),
            ("3d ago", "2026-11-02T11:00:00Z"),
            ("3d", "2026-11-02T11:00:00Z"),
            ("P3D", "2026-11-02T11:00:00Z"),
            ("-P3D", "2026-11-02T11:00:00Z"),
            ("36 hours ago", "2026-11-03T23:00:00Z"),
            ("1 month ago", "2026-10-05T11:00:00Z"),
            ("now", "2026-11-05T11:00:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "yesterday-ish", "2026-13-01", "2026-02-30", "25:00", "3 fortnights ago"] {
            assert!(at(text).unwrap_err().contains("2026-11-01"), "{text}");
        }
        assert!(at("3000-01-01").unwrap_err().contains("out of range"));
        assert!(at("9000 years ago").unwrap_err().contains("out of range"));
    }

    #[test]
    fn daylight_saving_keeps_days_whole() {
        let Ok(now) = "2026-03-30T12:00:00+02:00[Europe/Berlin]".parse::<Zoned>() else { return };
        let expected: jiff::Timestamp = "2026-03-28T12:00:00+01:00".parse().unwrap();
        assert_eq!(time_from("2 days ago", &now).map(i128::from), Ok(expected.as_nanosecond()));
    }

    #[test]
    fn subsets() {
        for (text, expected) in [
            ("all", ReadData::All),
            ("5%", ReadData::Permyriad(500)),
            ("2.5%", ReadData::Permyriad(250)),
            ("0.01%", ReadData::Permyriad(1)),
            ("100%", ReadData::Permyriad(10_000)),
            ("1/7", ReadData::Part { part: 1, of: 7 }),
            ("7/7", ReadData::Part { part: 7, of: 7 }),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "0%", "101%", "100.01%", "-5%", "+5%", "1.234%", "5.%", "0/7", "8/7", "1/0", "x/y", "half"] {
            let error = text.parse::<ReadData>().unwrap_err().to_string();
            assert!(error.contains("1/7"), "{text}: {error}");
        }
    }

    #[test]
    fn snapshots() {
        assert_eq!("latest".parse(), Ok(SnapshotRef::Latest { back: 0 }));
        assert_eq!("latest~12".parse(), Ok(SnapshotRef::Latest { back: 12 }));
        assert_eq!("ABCD12".parse(), Ok(SnapshotRef::Prefix(IdPrefix("abcd12".into()))));
        for text in ["", "abc", "latest~", "latest~x", "latest~-1", "latest1", "ghij", &"a".repeat(65)] {
            let error = text.parse::<SnapshotRef>().unwrap_err().to_string();
            assert!(error.contains("latest~1"), "{text}: {error}");
        }
        assert!(IdPrefix("abcd".into()).matches("abcd99"));
    }

    #[test]
    fn regions() {
        let region = |text: &str| text.parse::<RegionArg>().map(|region| (region.name, region.url));
        assert_eq!(region("here=/mnt/b=c"), Ok(("here".into(), Some("/mnt/b=c".into()))));
        assert_eq!(region("far=s3://bucket/at@home"), Ok(("far".into(), Some("s3://bucket/at@home".into()))));
        assert_eq!(region("far"), Ok(("far".into(), None)));
        assert_eq!(region("nas=ssh://anna@nas/x"), Ok(("nas".into(), Some("ssh://anna@nas/x".into()))));
        for text in [
            "",
            "=x",
            "a b=x",
            "-a=x",
            "here=",
            "/mnt/backup",
            "a=s3://key:secret@bucket",
            "a=ssh://anna:secret@nas/x",
            "é=x",
        ] {
            let error = region(text).unwrap_err().to_string();
            assert!(error.contains("; "), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn fingerprints() {
        let plain = "0123456789abcdef".repeat(4);
        let upper = plain.to_uppercase();
        let grouped: Vec<&str> = (0..16).map(|group| &upper[group * 4..group * 4 + 4]).collect();
        assert_eq!(fingerprint(&plain).unwrap().to_string(), plain);
        assert_eq!(fingerprint(&grouped.join(" ")), fingerprint(&plain));
        assert!(fingerprint(&plain[1..]).unwrap_err().to_string().contains("63"));
        assert!(fingerprint(&plain.replace('a', "g")).is_err());
    }

    #[test]
    fn retention_values() {
        assert!(duration("30d").is_ok() && duration("1 year 6 months").is_ok() && duration("P30D").is_ok());
        for text in ["", "0d", "-3d", "soon", "3 days ago"] {
            assert!(duration(text).unwrap_err().to_string().contains("P30D"), "{text}");
        }
        assert_eq!((keep_count("0"), keep_count(" 7 ")), (Ok(0), Ok(7)));
        assert!(keep_count("-1").is_err() && keep_count("many").is_err() && keep_count("100001").is_err());
        assert_eq!((percentage("60%"), percentage("0"), percentage("100")), (Ok(60), Ok(0), Ok(100)));
        assert!(percentage("101").is_err() && percentage("1.5").is_err());
        let by = group_by("dataset, slot").unwrap();
        assert!(by.dataset && by.slot && !by.host && !by.tags);
        assert!(!group_by("none").unwrap().dataset);
        assert!(group_by("datset").unwrap_err().to_string().contains("'datset'"));
        assert!(time_zone("UTC").is_ok() && time_zone("Mars/Olympus").is_err());
        assert!(time_until("90 days").is_ok() && time_until("2200-01-01").is_ok());
        assert!(time_until("2001-01-01").unwrap_err().to_string().contains("past"));
        assert!(reason(" why ").is_ok_and(|text| text == "why") && reason("  ").is_err());
    }

    #[test]
    fn labels_markers_recipients() {
        assert!(label("web server").is_ok());
        assert!(label("").is_err() && label("a\nb").is_err() && label(&"x".repeat(256)).is_err());
        assert_eq!(".nobackup".parse(), Ok(Marker { name: ".nobackup".into(), header: None }));
        assert_eq!("TAG:Sig: 8a".parse(), Ok(Marker { name: "TAG".into(), header: Some("Sig: 8a".into()) }));
        assert!(
            "a/b".parse::<Marker>().is_err() && "TAG:".parse::<Marker>().is_err() && ":x".parse::<Marker>().is_err()
        );
        assert!(recipient("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p").is_ok());
        let error = recipient("AGE-SECRET-KEY-1QQQ").unwrap_err().to_string();
        assert!(error.contains("exposed") && !error.contains("1QQQ"));
        assert!(recipient("ssh-ed25519 AAAA").is_err());
    }
}
