//! The settings of a run: command line over environment over configuration file over defaults.
//!
//! Guarantees: an unknown key, a value that can't be used and a file that can't be read are errors
//! that name them, never a silent default; an empty environment variable counts as unset. The file
//! is `--config` or `KEEPSTONE_CONFIG`, else the user's `keepstone/keepstone.toml` under
//! `$XDG_CONFIG_HOME` (`~/.config`), else `/etc/keepstone/keepstone.toml`: the first that exists.
//! Called by every command that opens a repository.

mod backup;
mod file;
mod pin;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub use backup::{BackupSettings, BackupSource};
pub use file::{BackupSection, ConfigFile, DedupTrust};
pub use pin::{PinWritten, write_pin};
pub use retention::RetentionSection;

use super::args::Global;
use super::exit::{Class, CliError};
use super::parse::{self, ParseError, RegionArg};
use super::{render, secret};
use crate::env::host_name;
use crate::format::ids::Digest;
use crate::limits;

/// Where the configuration file is looked for last.
const SYSTEM_CONFIG: &str = "/etc/keepstone/keepstone.toml";

const VARIABLE_REGIONS: &str = "KEEPSTONE_REGIONS";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read or written.
    #[error("can't {verb} the configuration file {path}: {error}")]
    File {
        /// `read`, `write`.
        verb: &'static str,
        /// The file, escaped.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The file isn't what it should be.
    #[error("the configuration file {path} can't be used\n{detail}")]
    Syntax {
        /// The file, escaped.
        path: String,
        /// Where and why.
        detail: String,
    },
    /// A value can't be used.
    #[error("{origin}: '{value}' can't be used: {error}")]
    Value {
        /// The argument, variable or file that holds it.
        origin: String,
        /// The value.
        value: String,
        /// Why, and what to write instead.
        error: ParseError,
    },
    /// A region can't be used; the address may have credentials in it and is not repeated.
    #[error("{origin}: {error}")]
    Region {
        /// The argument, variable or file that holds it.
        origin: String,
        /// Why, and what to write instead.
        error: ParseError,
    },
    /// An environment variable is not text.
    #[error("the environment variable {name} is not UTF-8")]
    NotText {
        /// The variable.
        name: &'static str,
    },
    /// A region was chosen that isn't configured.
    #[error("there is no region named '{name}'; configured: {known}")]
    UnknownRegion {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Two regions of one name.
    #[error("{origin}: region '{name}' is there twice")]
    RegionTwice {
        /// The argument, variable or file that holds it.
        origin: String,
        /// The name.
        name: String,
    },
    /// A directory of the user's can't be found.
    #[error("can't tell where your home directory is")]
    NoHome,
    /// The file pins another repository.
    #[error("{path} already pins another root key: {found}, not {wanted}")]
    PinDiffers {
        /// The file, escaped.
        path: String,
        /// The pin in the file.
        found: Digest,
        /// The pin to write.
        wanted: Digest,
    },
    /// The pin can't be inserted without changing the rest of the file.
    #[error("can't add the pin to {path} without changing the rest of it")]
    PinNotInserted {
        /// The file, escaped.
        path: String,
        /// The pin to write.
        wanted: Digest,
    },
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        match error {
            ConfigError::File { error, .. } => {
                let class = match error.kind() {
                    io::ErrorKind::NotFound => Class::Missing,
                    io::ErrorKind::PermissionDenied => Class::Access,
                    io::ErrorKind::IsADirectory => Class::Usage,
                    _ => Class::Failed,
                };
                CliError::new(class, message).hint(
                    "correct --config or KEEPSTONE_CONFIG, or the file's owner and mode; `keepstone init` makes one",
                )
            }
            ConfigError::Syntax { .. } | ConfigError::Value { .. } | ConfigError::Region { .. } => {
                CliError::usage(message)
            }
            ConfigError::NotText { .. } => CliError::usage(message),
            ConfigError::UnknownRegion { .. } => {
                CliError::usage(message).hint("choose one of these, or give its address: --region NAME=URL")
            }
            ConfigError::RegionTwice { .. } => CliError::usage(message).hint("give each region a name of its own"),
            ConfigError::NoHome => CliError::usage(message).hint("set HOME, or use --config and --cache-dir"),
            ConfigError::PinDiffers { .. } => CliError::new(Class::Access, message)
                .hint("use another --config for another repository; remove the pin only if you know why it differs"),
            ConfigError::PinNotInserted { wanted, .. } => CliError::new(Class::Failed, message)
                .hint(format!("add this line at its beginning: pin = \"{wanted}\"")),
        }
    }
}

/// Environment variables, by name; a parameter so that tests have their own.
pub struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Environment<'a> {
    /// Variables as `lookup` gives them.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Environment { lookup }
    }

    /// The process's own.
    pub fn process() -> Environment<'static> {
        Environment { lookup: &|name| std::env::var_os(name) }
    }

    fn os(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.os(name).map(PathBuf::from)
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, ConfigError> {
        self.os(name).map(|value| value.into_string().map_err(|_| ConfigError::NotText { name })).transpose()
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        parse(&value).map(Some).map_err(|error| ConfigError::Value { origin: name.to_owned(), value, error })
    }

    fn home(&self) -> Result<PathBuf, ConfigError> {
        let home = self.path("HOME").or_else(|| etcetera::home_dir().ok());
        home.filter(|home| home.is_absolute()).ok_or(ConfigError::NoHome)
    }

    /// `$XDG_…` where it is set and absolute, as its specification says, else `~/fallback`.
    fn xdg(&self, name: &str, fallback: &str) -> Result<PathBuf, ConfigError> {
        match self.path(name).filter(|path| path.is_absolute()) {
            Some(path) => Ok(path),
            None => Ok(self.home()?.join(fallback)),
        }
    }

    /// `~/…` in the user's home directory, since shells don't expand it within `NAME=~/…`; any other
    /// relative path below `base`.
    fn expand(&self, path: &Path, base: &Path) -> Result<PathBuf, ConfigError> {
        match path.strip_prefix("~") {
            Ok(below) => Ok(self.home()?.join(below)),
            Err(_) => Ok(base.join(path)),
        }
    }
}

/// One region, as this host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The local name.
    pub name: String,
    /// An absolute directory, or a URL.
    pub url: String,
    /// Options for the store, such as `endpoint`.
    pub options: BTreeMap<String, String>,
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file that was read, or the one that `init` makes.
    pub config_path: PathBuf,
    /// The root key's fingerprint that the repository must have.
    pub pin: Option<Digest>,
    /// The regions of this run, in order; names are distinct.
    pub regions: Vec<Region>,
    /// Configured regions that `--region` or `KEEPSTONE_REGIONS` left out of this run.
    pub regions_left_out: Vec<String>,
    /// Which of the two did.
    pub left_out_by: &'static str,
    /// The addresses of these.
    pub addresses_left_out: Vec<String>,
    /// The local index's directory.
    pub cache_dir: PathBuf,
    /// Ceiling for all buffers and caches.
    pub memory_bytes: usize,
    /// Threads that compute at once, where [`Settings::workers`] finds room for them.
    pub threads: usize,
    /// age identity files.
    pub identities: Vec<PathBuf>,
    /// Where the passphrase comes from.
    pub passphrase: secret::Source,
    /// Whose chunks a backup counts as present.
    pub dedup_trust: DedupTrust,
    /// Defaults for `backup`.
    pub backup: BackupSection,
    /// What `forget` keeps.
    pub retention: RetentionSection,
    /// What a person should know about the configuration.
    pub warnings: Vec<String>,
    /// Runs in the place of `ssh`, for every region at an `ssh://` address.
    ssh_command: Option<String>,
    host: Option<String>,
    new_passphrase: Option<secret::Passphrase>,
}

impl Settings {
    /// How many threads may work at once when each holds so many bytes: `threads`, if half of what the ceiling leaves
    /// beside the program at rest has room for them. The other half is for the caches and queues that they share.
    pub fn workers(&self, each_bytes: usize) -> usize {
        let room = self.memory_bytes.saturating_sub(limits::MEMORY_BYTES_AT_REST) / 2;
        self.threads.min(room / each_bytes).max(1)
    }

    /// This machine's name in all that is recorded: `KEEPSTONE_HOST`, else the file's, else what it calls itself.
    pub fn host(&self) -> String {
        self.host.as_ref().or(self.backup.host.as_ref()).map_or_else(host_name, String::clone)
    }

    /// What a region's store is opened with: its options, under what the environment says.
    pub fn store_options(&self, region: &Region) -> BTreeMap<String, String> {
        let mut options = region.options.clone();
        if let Some(command) = self.ssh_command.as_ref().filter(|_| region.url.starts_with("ssh://")) {
            options.insert("ssh_command".to_owned(), command.clone());
        }
        options
    }

    /// Where the passphrase of a new or changed slot comes from: the file that the command names, else
    /// `KEEPSTONE_NEW_PASSPHRASE`, else a prompt; when a repository is made, the source of the only
    /// passphrase that there will be comes before the prompt.
    pub fn new_passphrase(&self, file: Option<&Path>, initial: bool) -> secret::Source {
        match (file, &self.new_passphrase) {
            (Some(file), _) => secret::Source::File(file.to_owned()),
            (None, Some(passphrase)) => {
                secret::Source::Variable { name: secret::VARIABLE_NEW, passphrase: passphrase.clone() }
            }
            (None, None) if initial => self.passphrase.clone(),
            (None, None) => secret::Source::Prompt,
        }
    }
}

/// Reads the configuration file and merges it with the environment and the command line.
///
/// # Errors
/// See [`ConfigError`]. A configuration file that was named must exist, unless `may_create`: `init`
/// makes it.
pub fn load(global: &Global, environment: &Environment<'_>, may_create: bool) -> Result<Settings, ConfigError> {
    let (config_path, file) = find(global, environment, may_create)?;
    let base = config_path.parent().unwrap_or(Path::new("/"));
    let in_file = |path: &PathBuf| {
        let origin = || render::path(&config_path).to_string();
        parse::is_given(path).map_err(|error| ConfigError::Value { origin: origin(), value: String::new(), error })?;
        environment.expand(path, base)
    };

    let (regions, left_out) = regions(global, environment, &file, &config_path)?;
    let left_out_by = if global.regions.is_empty() { VARIABLE_REGIONS } else { "--region" };
    let (regions_left_out, addresses_left_out) = left_out.into_iter().map(|region| (region.name, region.url)).unzip();
    let cache_dir = match (&global.cache_dir, environment.path("KEEPSTONE_CACHE_DIR"), &file.cache_dir) {
        (Some(dir), _, _) => dir.clone(),
        (None, Some(dir), _) => dir,
        (None, None, Some(dir)) => in_file(dir)?,
        (None, None, None) => environment.xdg("XDG_CACHE_HOME", ".cache")?.join("keepstone"),
    };
    let memory = match global.memory {
        Some(bytes) => Some(bytes),
        None => environment.parsed("KEEPSTONE_MEMORY", parse::memory)?,
    };
    let threads = match global.threads {
        Some(threads) => Some(threads),
        None => environment.parsed("KEEPSTONE_THREADS", parse::threads)?,
    };
    let pin = match global.pin {
        Some(pin) => Some(pin),
        None => environment.parsed("KEEPSTONE_PIN", parse::fingerprint)?,
    };
    let identities = match (&global.identities[..], environment.path("KEEPSTONE_IDENTITY")) {
        ([], Some(identity)) => vec![identity],
        ([], None) => file.identity.iter().map(in_file).collect::<Result<_, _>>()?,
        (given, _) => given.to_vec(),
    };
    Ok(Settings {
        pin: pin.or(file.pin),
        regions,
        regions_left_out,
        left_out_by,
        addresses_left_out,
        cache_dir,
        memory_bytes: memory.or(file.memory).unwrap_or(limits::MEMORY_BYTES_DEFAULT),
        threads: threads
            .or(file.threads)
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |threads| threads.get())),
        identities,
        passphrase: passphrase(global, environment, &file, base)?,
        dedup_trust: file.dedup_trust,
        warnings: warnings(&config_path, &file),
        ssh_command: environment.text("KEEPSTONE_SSH_COMMAND")?,
        retention: file.retention,
        backup: file.backup.resolved(&in_file)?,
        host: environment.parsed("KEEPSTONE_HOST", parse::label)?,
        new_passphrase: environment.text(secret::VARIABLE_NEW)?.map(secret::Passphrase::from),
        config_path,
    })
}

/// The configuration file's path and content. Only "there is none" leads on to the next place.
fn find(
    global: &Global,
    environment: &Environment<'_>,
    may_create: bool,
) -> Result<(PathBuf, ConfigFile), ConfigError> {
    let named = global.config.clone().or_else(|| environment.path("KEEPSTONE_CONFIG"));
    if let Some(path) = named {
        return match ConfigFile::read(&path)? {
            Some(file) => Ok((path, file)),
            None if may_create => Ok((path, ConfigFile::default())),
            None => {
                let error = io::ErrorKind::NotFound.into();
                Err(ConfigError::File { verb: "read", path: render::path(&path).into_owned(), error })
            }
        };
    }
    // Without a home directory (some system services), the system's file is the only one.
    let user = match environment.xdg("XDG_CONFIG_HOME", ".config") {
        Ok(config) => config.join("keepstone/keepstone.toml"),
        Err(ConfigError::NoHome) => PathBuf::from(SYSTEM_CONFIG),
        Err(error) => return Err(error),
    };
    let system = PathBuf::from(SYSTEM_CONFIG);
    for path in [&user, &system] {
        if let Some(file) = ConfigFile::read(path)? {
            return Ok((path.clone(), file));
        }
    }
    Ok((user, ConfigFile::default()))
}

/// Those of the run, and those left out of it.
type Regions = (Vec<Region>, Vec<Region>);

fn regions(
    global: &Global,
    environment: &Environment<'_>,
    file: &ConfigFile,
    config_path: &Path,
) -> Result<Regions, ConfigError> {
    let origin = render::path(config_path).into_owned();
    let mut configured = Vec::new();
    for section in &file.regions {
        let refuse = |error| ConfigError::Region { origin: format!("{origin}: region '{}'", section.name), error };
        let name = parse::region_name(&section.name).map_err(refuse)?;
        let url = parse::region_url(&section.url).map_err(refuse)?;
        let url = match url.contains("://") {
            true => url,
            // The file is read from any working directory, so nothing in it can be relative to that.
            false => absolute(environment, &url, None).ok_or_else(|| ConfigError::Value {
                origin: format!("{origin}: region '{name}'"),
                value: url,
                error: parse::not_absolute(),
            })?,
        };
        configured.push(Region { name, url, options: section.options() });
    }
    distinct(&configured, &origin)?;

    let define = |arg: RegionArg, url: String, origin: &str| -> Result<Region, ConfigError> {
        let url = match url.contains("://") {
            true => url,
            false => {
                let here = std::env::current_dir().ok();
                absolute(environment, &url, here.as_deref()).ok_or_else(|| ConfigError::Value {
                    origin: origin.to_owned(),
                    value: url,
                    error: parse::not_absolute(),
                })?
            }
        };
        // Options can hold an endpoint and keys: they belong to the address that they were written for.
        let known = configured.iter().find(|region| region.name == arg.name && region.url == url);
        Ok(Region { options: known.map(|region| region.options.clone()).unwrap_or_default(), name: arg.name, url })
    };

    let mut base = configured.clone();
    if let Some(text) = environment.text(VARIABLE_REGIONS)? {
        let mut defined = Vec::new();
        for word in text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()) {
            let refuse = |error| ConfigError::Region { origin: VARIABLE_REGIONS.to_owned(), error };
            let arg: RegionArg = word.parse().map_err(refuse)?;
            defined.push(match arg.url.clone() {
                Some(url) => define(arg, url, VARIABLE_REGIONS)?,
                None => choose(&configured, &arg.name)?,
            });
        }
        distinct(&defined, VARIABLE_REGIONS)?;
        if !defined.is_empty() {
            base = defined;
        }
    }
    // What the file lists and the variable doesn't is part of the repository all the same: left out, and never forgotten.
    let beside = without(&configured, &base);
    if global.regions.is_empty() {
        return Ok((base, beside));
    }
    let known = [base, beside].concat();
    let mut chosen = Vec::new();
    for text in &global.regions {
        let arg: RegionArg =
            text.parse().map_err(|error| ConfigError::Region { origin: "--region".to_owned(), error })?;
        chosen.push(match arg.url.clone() {
            Some(url) => define(arg, url, "--region")?,
            None => choose(&known, &arg.name)?,
        });
    }
    distinct(&chosen, "--region")?;
    let left_out = without(&known, &chosen);
    Ok((chosen, left_out))
}

/// Those whose name none of `taken` has.
fn without(regions: &[Region], taken: &[Region]) -> Vec<Region> {
    let names: BTreeSet<&str> = taken.iter().map(|region| region.name.as_str()).collect();
    regions.iter().filter(|region| !names.contains(region.name.as_str())).cloned().collect()
}

fn absolute(environment: &Environment<'_>, path: &str, base: Option<&Path>) -> Option<String> {
    let path = environment.expand(Path::new(path), base.unwrap_or(Path::new(""))).ok()?;
    path.is_absolute().then(|| path.into_os_string().into_string().ok()).flatten()
}

fn choose(known: &[Region], name: &str) -> Result<Region, ConfigError> {
    known.iter().find(|region| region.name == name).cloned().ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|region| region.name.as_str()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        ConfigError::UnknownRegion { name: name.to_owned(), known }
    })
}

fn distinct(regions: &[Region], origin: &str) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    match regions.iter().find(|region| !seen.insert(&region.name)) {
        Some(twice) => Err(ConfigError::RegionTwice { origin: origin.to_owned(), name: twice.name.clone() }),
        None => Ok(()),
    }
}

fn passphrase(
    global: &Global,
    environment: &Environment<'_>,
    file: &ConfigFile,
    base: &Path,
) -> Result<secret::Source, ConfigError> {
    use secret::Source;
    if let Some(path) = &global.passphrase_file {
        return Ok(Source::File(path.clone()));
    }
    if let Some(command) = &global.passphrase_command {
        return Ok(Source::Command(command.clone()));
    }
    if let Some(text) = environment.text(secret::VARIABLE)? {
        return Ok(Source::Variable { name: secret::VARIABLE, passphrase: text.into() });
    }
    if let Some(path) = environment.path("KEEPSTONE_PASSPHRASE_FILE") {
        return Ok(Source::File(path));
    }
    if let Some(command) = environment.text("KEEPSTONE_PASSPHRASE_COMMAND")? {
        return Ok(Source::Command(command));
    }
    Ok(match (&file.passphrase_file, &file.passphrase_command) {
        (Some(path), _) => Source::File(environment.expand(path, base)?),
        (None, Some(command)) => Source::Command(command.clone()),
        (None, None) => Source::Prompt,
    })
}

/// Keys in a file that everybody can read are worth a word.
fn warnings(config_path: &Path, file: &ConfigFile) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let sounds_secret = |name: &str| ["secret", "password", "token", "account_key"].iter().any(|s| name.contains(s));
    let option = file.regions.iter().flat_map(|region| region.option_names()).find(|name| sounds_secret(name));
    let readable = || config_path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    match option {
        Some(option) if readable() => {
            vec![format!("every user of this machine can read {}, which holds '{option}'", render::path(config_path))]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
