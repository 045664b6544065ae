//! Text for people and JSON for programs: escaped paths, sizes, durations, times, tables.
//!
//! Guarantees: nothing that came from a file name, a store or an error reaches a terminal with
//! control characters, terminal escapes or text-direction overrides in it; escaping is unambiguous.
//! Pure but for the local time zone. Called by every command.
//!
//! Paths are raw bytes. In text, [`escape`] shows them. In JSON, [`JsonPath`] gives `path` (where the
//! bytes are not UTF-8, with U+FFFD in place of what isn't) and `path_hex` (all the bytes, in
//! hexadecimal) only where `path` alone would not be exact.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::format::ids::SnapshotId;
use crate::format::node::{NodeKind, Timestamp};

/// Characters that a terminal acts on, or that change how the text around them is shown.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(out: &mut String, c: char) {
    // Writing to a String cannot fail.
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if u32::from(c) < 0x80 => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// The first digits of a snapshot's id, which name it as a rule.
pub fn short(id: &SnapshotId) -> String {
    id.to_string()[..12].to_owned()
}

/// Raw bytes (a path, a link target) as one line of text: control and formatting characters, bytes
/// that are not UTF-8 and the backslash itself are written as escapes (`\n`, `\x1b`, `\u{202e}`, `\xff`, `\\`).
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(|c| c == '\\' || is_unsafe(c))
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if is_unsafe(c) => push_escaped(&mut out, c),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

/// A local path as one line of text, as [`escape`].
pub fn path(path: &Path) -> Cow<'_, str> {
    escape(path.as_os_str().as_bytes())
}

/// A message of ours that may quote outside text: its lines stay, every other control or formatting
/// character is escaped. Backslashes stay, since what is quoted may be escaped already.
pub fn printable(text: &str) -> Cow<'_, str> {
    let keep = |c: char| c == '\n' || !is_unsafe(c);
    if text.chars().all(keep) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| if keep(c) { out.push(c) } else { push_escaped(&mut out, c) });
    Cow::Owned(out)
}

/// A raw-byte path as JSON fields; flatten it into the object that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JsonPath {
    /// The path; inexact (U+FFFD) exactly where `path_hex` is present.
    pub path: String,
    /// The path's bytes in hexadecimal, only where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}

impl From<&[u8]> for JsonPath {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(path) => JsonPath { path: path.to_owned(), path_hex: None },
            Err(_) => JsonPath { path: String::from_utf8_lossy(bytes).into_owned(), path_hex: Some(hex(bytes)) },
        }
    }
}

/// Adds raw bytes to a JSON object as [`JsonPath`] does, under a name of their own: `key`, and
/// `key_hex` where they are not UTF-8.
pub fn put_bytes(object: &mut serde_json::Value, key: &str, bytes: &[u8]) {
    let JsonPath { path, path_hex } = JsonPath::from(bytes);
    object[key] = path.into();
    if let Some(hex) = path_hex {
        object[format!("{key}_hex")] = hex.into();
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A size in bytes with a binary unit and about three digits: `0 B`, `1023 B`, `1.50 KiB`, `23.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.5 and above would be shown as 1024 of this unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A count with its digits in groups of three: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun, in the plural but for one: `1 file`, `2 files`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A part of a whole in percent, or `-` where the whole is zero. Never `100%` before all is done.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// A duration with its two largest units: `0.25 s`, `12.3 s`, `4m 05s`, `2h 07m`, `3d 04h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Bytes over time as `12.3 MiB/s`, or `-` where no time has passed.
pub fn rate(bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return "-".into();
    }
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

/// A time in nanoseconds since the Unix epoch, in the local zone: `2026-11-01 14:30:05`.
pub fn local_time(at_ns: i64) -> String {
    zoned_time(at_ns, TimeZone::system())
}

fn zoned_time(at_ns: i64, zone: TimeZone) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at_ns)) {
        Ok(at) => at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{at_ns} ns"),
    }
}

/// A time in nanoseconds since the Unix epoch for JSON: RFC 3339 in UTC, `2026-11-01T13:30:05.25Z`.
pub fn json_time(at_ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at_ns)) {
        Ok(at) => at.to_string(),
        Err(_) => format!("{at_ns} ns"),
    }
}

/// A file's time, in the local zone to the second, or in UTC for JSON; one outside the years -9999 to
/// 9999 as seconds since the Unix epoch: `@-1000000000000`.
pub fn file_time(at: Timestamp, json: bool) -> String {
    match jiff::Timestamp::new(at.seconds, i32::try_from(at.nanoseconds).unwrap_or(0)) {
        Ok(at) if json => at.to_string(),
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("@{}", at.seconds),
    }
}

/// The ten characters that `ls -l` shows: kind and permissions, `-rwsr-xr-x`.
pub fn mode(kind: &NodeKind, mode: u32) -> String {
    let kind = match kind {
        NodeKind::File { .. } => '-',
        NodeKind::Directory { .. } => 'd',
        NodeKind::Symlink { .. } => 'l',
        NodeKind::CharacterDevice { .. } => 'c',
        NodeKind::BlockDevice { .. } => 'b',
        NodeKind::Fifo => 'p',
    };
    let mut out = String::with_capacity(10);
    out.push(kind);
    for (shift, special_bit, special, special_only) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special_bit != 0, bits & 1 != 0) {
            (true, true) => special,
            (true, false) => special_only,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// On which side a table's column is filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings, columns two spaces apart. Put free text into the last column: it is not
/// filled up, so wide characters in it push nothing out of line.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell a column, already escaped.
    ///
    /// # Panics
    /// When the number of cells isn't the number of columns.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "one cell for each column");
        self.rows.push(cells.into());
    }

    /// True when no row was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The headings and rows as lines, without trailing spaces.
    pub fn lines(&self) -> Vec<String> {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (self.columns.iter().enumerate())
            .map(|(index, (heading, _))| {
                self.rows.iter().map(|row| width(&row[index])).chain([width(heading)]).max().unwrap_or(0)
            })
            .collect();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        std::iter::once(&headings)
            .chain(&self.rows)
            .map(|cells| {
                let mut line = String::new();
                for ((cell, (_, align)), column) in cells.iter().zip(&self.columns).zip(&widths) {
                    let fill = " ".repeat(column - width(cell));
                    match align {
                        Align::Left => line.extend([cell, fill.as_str(), "  "]),
                        Align::Right => line.extend([fill.as_str(), cell, "  "]),
                    }
                }
                line.truncate(line.trim_end_matches(' ').len());
                line
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Align, JsonPath, Table, count, counted, duration, escape, json_time, mode, percent, printable};
    use super::{size, zoned_time};
    use crate::format::node::NodeKind;
    use jiff::tz::TimeZone;
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    #[test]
    fn plain_paths_stay_as_they_are() {
        assert_eq!(escape("/home/ä b/日本.txt".as_bytes()), "/home/ä b/日本.txt");
    }

    #[test]
    fn terminal_escapes_and_foreign_bytes_are_shown_not_acted_on() {
        assert_eq!(escape(b"a\x1b]0;owned\x07b"), "a\\x1b]0;owned\\x07b");
        assert_eq!(escape(b"two\nlines\r\t"), "two\\nlines\\r\\t");
        assert_eq!(escape(b"latin\xe9"), "latin\\xe9");
        assert_eq!(escape("c1\u{9b}31m".as_bytes()), "c1\\u{9b}31m");
        assert_eq!(escape("exe\u{202e}gpj.".as_bytes()), "exe\\u{202e}gpj.");
        assert_eq!(escape(b"back\\slash"), "back\\\\slash");
        assert_eq!(escape(b"\x7f"), "\\x7f");
    }

    #[test]
    fn messages_keep_their_lines() {
        assert_eq!(printable("a\nb\\c\x1b"), "a\nb\\c\\x1b");
    }

    proptest! {
        #[test]
        fn escaping_is_safe_and_reversible(bytes in any::<Vec<u8>>()) {
            let text = escape(&bytes);
            assert!(!text.chars().any(char::is_control));
            assert_eq!(unescape(&text), bytes);
        }
    }

    /// The inverse of [`escape`], to show that no two names look alike.
    fn unescape(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let mut utf8 = [0; 4];
            if c != '\\' {
                out.extend(c.encode_utf8(&mut utf8).bytes());
                continue;
            }
            match rest.next().unwrap() {
                '\\' => out.push(b'\\'),
                'n' => out.push(b'\n'),
                'r' => out.push(b'\r'),
                't' => out.push(b'\t'),
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                'u' => {
                    let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    let c = char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap();
                    out.extend(c.encode_utf8(&mut utf8).bytes());
                }
                other => panic!("unknown escape {other:?}"),
            }
        }
        out
    }

    #[test]
    fn json_paths_are_exact() {
        let json = |bytes: &[u8]| serde_json::to_string(&JsonPath::from(bytes)).unwrap();
        assert_eq!(json(b"a/b"), r#"{"path":"a/b"}"#);
        assert_eq!(json(b"a\xff"), "{\"path\":\"a\u{fffd}\",\"path_hex\":\"61ff\"}");
    }

    #[test]
    fn sizes_have_about_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 << 20, "10.0 MiB"),
            (256 << 20, "256 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_percents_durations() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(1000, "file"), "1,000 files");
        assert_eq!(percent(999_999, 1_000_000), "99.9%");
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0%");
        assert_eq!(duration(Duration::from_millis(250)), "0.25 s");
        assert_eq!(duration(Duration::from_secs(245)), "4m 05s");
        assert_eq!(duration(Duration::from_secs(7620)), "2h 07m");
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 4 * 3600)), "3d 04h");
    }

    #[test]
    fn times_are_local_for_people_and_utc_for_programs() {
        let at = 1_793_539_805_250_000_000;
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(zoned_time(at, zone), "2026-11-01 14:30:05");
        assert_eq!(json_time(at), "2026-11-01T13:30:05.25Z");
    }

    #[test]
    fn modes_look_like_ls() {
        assert_eq!(mode(&NodeKind::Fifo, 0o640), "prw-r-----");
        assert_eq!(mode(&NodeKind::Symlink { target: Vec::new() }, 0o4755), "lrwsr-xr-x");
        assert_eq!(mode(&NodeKind::Directory { tree: Default::default() }, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(&NodeKind::Fifo, 0o6000), "p--S--S---");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&[("ID", Align::Left), ("Size", Align::Right), ("Tags", Align::Left)]);
        table.row(["abcd".into(), "5 B".into(), "x".into()]);
        table.row(["ef".into(), "10 KiB".into(), String::new()]);
        assert_eq!(table.lines(), ["ID      Size  Tags", "abcd     5 B  x", "ef    10 KiB"]);
    }
}
