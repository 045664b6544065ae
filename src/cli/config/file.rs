//! The shape of `keepstone.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::ConfigError;
use super::retention::RetentionSection;
use crate::cli::parse::{self, Marker, ParseError};
use crate::cli::render;
use crate::compress::Compression;
use crate::format::ids::Digest;

/// A configuration file. Every key is optional; an unknown one is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The root key's fingerprint.
    #[serde(default, deserialize_with = "fingerprint")]
    pub pin: Option<Digest>,
    /// The repository's regions.
    #[serde(default)]
    pub regions: Vec<RegionSection>,
    /// Defaults for `backup`.
    #[serde(default)]
    pub backup: BackupSection,
    /// What `forget` keeps.
    #[serde(default)]
    pub retention: RetentionSection,
    /// Whose chunks a backup counts as present.
    #[serde(default)]
    pub dedup_trust: DedupTrust,
    /// The local index's directory.
    pub cache_dir: Option<PathBuf>,
    /// Ceiling for all buffers and caches, in bytes.
    #[serde(default, deserialize_with = "memory")]
    pub memory: Option<usize>,
    /// Threads that compute at once.
    #[serde(default, deserialize_with = "threads")]
    pub threads: Option<usize>,
    /// age identity files.
    #[serde(default, deserialize_with = "one_or_many")]
    pub identity: Vec<PathBuf>,
    /// A file with the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// A command whose first line of output is the passphrase.
    pub passphrase_command: Option<String>,
}

/// One `[[regions]]`: a name, an address, and whatever else the store takes as options.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RegionSection {
    /// The local name.
    pub name: String,
    /// A directory or URL.
    pub url: String,
    #[serde(flatten)]
    options: BTreeMap<String, OptionValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a region's options must be strings, lists of strings, whole numbers, or true or false")]
enum OptionValue {
    Flag(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
}

impl RegionSection {
    /// The options as text, lists as JSON.
    pub fn options(&self) -> BTreeMap<String, String> {
        let text = |value: &OptionValue| match value {
            OptionValue::Flag(flag) => flag.to_string(),
            OptionValue::Number(number) => number.to_string(),
            OptionValue::Text(text) => text.clone(),
            OptionValue::List(words) => serde_json::Value::from(words.clone()).to_string(),
        };
        self.options.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    /// The options' names.
    pub fn option_names(&self) -> impl Iterator<Item = &str> {
        self.options.keys().map(String::as_str)
    }
}

/// Whose chunks a backup counts as present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DedupTrust {
    /// Its own, and those that an owner has verified.
    #[default]
    Verified,
    /// Every host's.
    All,
}

/// `[backup]`: defaults for the command of that name. Lists are added to those on the command line,
/// but for `paths` and `tags`, which the command line replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are named after the options that they are defaults for")]
pub struct BackupSection {
    pub paths: Vec<PathBuf>,
    #[serde(deserialize_with = "label")]
    pub dataset: Option<String>,
    #[serde(deserialize_with = "label")]
    pub host: Option<String>,
    #[serde(deserialize_with = "labels")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "chunk_size")]
    pub chunk_size: Option<usize>,
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    pub exclude: Vec<String>,
    pub exclude_from: Vec<PathBuf>,
    #[serde(deserialize_with = "file_names")]
    pub ignore_files: Vec<String>,
    #[serde(deserialize_with = "size")]
    pub exclude_larger_than: Option<u64>,
    #[serde(deserialize_with = "markers")]
    pub exclude_if_present: Vec<Marker>,
    pub exclude_caches: bool,
    pub one_file_system: bool,
    pub skip_if_unchanged: bool,
}

impl BackupSection {
    /// The same with paths made absolute by `in_file`.
    pub(super) fn resolved(
        self,
        in_file: &dyn Fn(&PathBuf) -> Result<PathBuf, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let paths = self.paths.iter().map(in_file).collect::<Result<_, _>>()?;
        let exclude_from = self.exclude_from.iter().map(in_file).collect::<Result<_, _>>()?;
        Ok(BackupSection { paths, exclude_from, ..self })
    }
}

impl ConfigFile {
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read, or is not a configuration.
    pub fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(ConfigError::File { verb: "read", path: render::path(path).into_owned(), error });
            }
        };
        let syntax = |detail: String| ConfigError::Syntax { path: render::path(path).into_owned(), detail };
        let text = String::from_utf8(bytes).map_err(|_| syntax("it is not UTF-8 text".into()))?;
        Self::decode(&text).map(Some).map_err(syntax)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Where and why it is not a configuration.
    pub fn decode(text: &str) -> Result<Self, String> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if file.passphrase_file.is_some() && file.passphrase_command.is_some() {
            return Err("passphrase_file and passphrase_command are both there; keep one".into());
        }
        Ok(file)
    }
}

fn custom<E: serde::de::Error>(value: &str, error: ParseError) -> E {
    E::custom(format!("'{value}' can't be used: {error}"))
}

pub(super) fn one<'de, D: Deserializer<'de>, T>(
    input: D,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(input)?;
    parse(&text).map(Some).map_err(|error| custom(&text, error))
}

pub(super) fn many<'de, D: Deserializer<'de>, T>(
    input: D,
    parse: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(input)?;
    texts.iter().map(|text| parse(text).map_err(|error| custom(text, error))).collect()
}

fn fingerprint<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Digest>, D::Error> {
    one(input, parse::fingerprint)
}

fn label<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    one(input, parse::label)
}

pub(super) fn labels<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    many(input, parse::label)
}

fn file_names<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    many(input, parse::file_name)
}

fn markers<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Marker>, D::Error> {
    many(input, str::parse)
}

fn memory<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::memory)
}

fn threads<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::threads)
}

fn compression<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Compression>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::compression)
}

fn chunk_size<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::chunk_size)
}

pub(super) fn size<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    input.deserialize_any(TextOrNumber)?.parsed(parse::size)
}

fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "this must be a path or a list of paths")]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(input)? {
        Paths::One(path) => vec![path],
        Paths::Many(paths) => paths,
    })
}

/// A string such as `"64KiB"`, or a whole number.
pub(super) struct TextOrNumber;

/// What [`TextOrNumber`] read, as text.
pub(super) struct Text(String);

impl Text {
    pub(super) fn parsed<T, E: serde::de::Error>(
        self,
        parse: fn(&str) -> Result<T, ParseError>,
    ) -> Result<Option<T>, E> {
        parse(&self.0).map(Some).map_err(|error| custom(&self.0, error))
    }
}

impl Visitor<'_> for TextOrNumber {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or a string such as \"64KiB\"")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
        Ok(Text(number.to_string()))
    }
}
