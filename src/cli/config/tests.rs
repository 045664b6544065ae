use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::{BackupSource, ConfigError, ConfigFile, DedupTrust, Environment, Settings, load};
use crate::cli::args::{Cli, Command};
use crate::cli::exit::{Class, CliError};
use crate::cli::secret::Source;
use crate::compress::Compression;
use crate::format::ids::Digest;

/// A home directory of our own, with a configuration file in the user's place.
struct Home {
    dir: tempfile::TempDir,
    variables: BTreeMap<String, OsString>,
}

impl Home {
    fn new(config: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            fs::create_dir_all(dir.path().join(".config/keepstone")).unwrap();
            fs::write(dir.path().join(".config/keepstone/keepstone.toml"), config).unwrap();
        }
        let variables = [("HOME".to_owned(), dir.path().into())].into();
        Home { dir, variables }
    }

    fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn cli(&self, line: &str) -> (Cli, Result<Settings, ConfigError>) {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let lookup = |name: &str| self.variables.get(name).cloned();
        let settings = load(&cli.global, &Environment::new(&lookup), false);
        (cli, settings)
    }

    fn load(&self, line: &str) -> Result<Settings, CliError> {
        self.cli(line).1.map_err(CliError::from)
    }
}

fn region_pairs(settings: &Settings) -> Vec<(&str, &str)> {
    settings.regions.iter().map(|region| (region.name.as_str(), region.url.as_str())).collect()
}

const TWO_REGIONS: &str = "\
[[regions]]
name = 'here'
url = '/mnt/here'

[[regions]]
name = 'far'
url = 's3://bucket/prefix'
endpoint = 'http://localhost:9000'
allow_http = true
";

#[test]
fn without_anything_there_are_defaults() {
    let home = Home::new(None);
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!(settings.config_path, home.path(".config/keepstone/keepstone.toml"));
    assert_eq!(settings.cache_dir, home.path(".cache/keepstone"));
    assert_eq!(settings.memory_bytes, 256 << 20);
    assert_eq!((settings.pin, settings.passphrase), (None, Source::Prompt));
    assert_eq!(settings.dedup_trust, DedupTrust::Verified);
    assert!(settings.regions.is_empty() && settings.threads >= 1);
}

#[test]
fn there_are_no_more_workers_than_memory_has_room_for() {
    let workers = |memory: &str, threads: &str, each_bytes: usize| {
        let home = Home::new(None).set("KEEPSTONE_MEMORY", memory).set("KEEPSTONE_THREADS", threads);
        home.load("keepstone stats").unwrap().workers(each_bytes)
    };
    assert_eq!(workers("256MiB", "2", 8 << 20), 2);
    assert_eq!(workers("256MiB", "64", 8 << 20), 13);
    assert_eq!(workers("1GiB", "64", 8 << 20), 61);
    // There is always one: what it holds was reckoned in.
    assert_eq!(workers("96MiB", "64", 1 << 30), 1);
}

/// It would stand for the directory that the file is in.
#[test]
fn an_empty_path_is_refused() {
    for name in ["cache_dir", "identity"] {
        let error = Home::new(Some(&format!("{name} = ''"))).load("keepstone stats").unwrap_err().to_string();
        assert!(error.contains("an empty path"), "{error}");
    }
}

#[test]
fn command_line_over_environment_over_file() {
    let file = "memory = '100MiB'\nthreads = 3\ncache_dir = 'c'\nidentity = 'id'\n";
    let home = Home::new(Some(file));
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!((settings.memory_bytes, settings.threads), (100 << 20, 3));
    assert_eq!(settings.cache_dir, home.path(".config/keepstone/c"));
    assert_eq!(settings.identities, [home.path(".config/keepstone/id")]);

    let home = Home::new(Some(file))
        .set("KEEPSTONE_MEMORY", "200M")
        .set("KEEPSTONE_THREADS", "")
        .set("KEEPSTONE_CACHE_DIR", "/env")
        .set("KEEPSTONE_IDENTITY", "/env-id")
        .set("KEEPSTONE_PIN", "07".repeat(32));
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!((settings.memory_bytes, settings.threads), (200 << 20, 3));
    assert_eq!((settings.cache_dir, settings.pin), ("/env".into(), Some(Digest([7; 32]))));
    assert_eq!(settings.identities, [Path::new("/env-id")]);

    let pin = "08".repeat(32);
    let line =
        format!("keepstone stats --memory 1G --threads 5 --cache-dir /arg --identity /a --identity /b --pin {pin}");
    let settings = home.load(&line).unwrap();
    assert_eq!((settings.memory_bytes, settings.threads), (1 << 30, 5));
    assert_eq!((settings.cache_dir, settings.pin), ("/arg".into(), Some(Digest([8; 32]))));
    assert_eq!(settings.identities.len(), 2);
}

#[test]
fn passphrases_come_from_the_first_place_that_has_one() {
    let home = Home::new(Some("passphrase_command = 'from file'"));
    let source = |home: &Home, line: &str| home.load(line).unwrap().passphrase;
    assert_eq!(source(&home, "keepstone stats"), Source::Command("from file".into()));
    let home = home.set("KEEPSTONE_PASSPHRASE_COMMAND", "env");
    assert_eq!(source(&home, "keepstone stats"), Source::Command("env".into()));
    let home = home.set("KEEPSTONE_PASSPHRASE_FILE", "/env");
    assert_eq!(source(&home, "keepstone stats"), Source::File("/env".into()));
    let home = home.set("KEEPSTONE_PASSPHRASE", "words");
    assert!(matches!(source(&home, "keepstone stats"), Source::Variable { name: "KEEPSTONE_PASSPHRASE", .. }));
    assert_eq!(source(&home, "keepstone stats --passphrase-file /arg"), Source::File("/arg".into()));

    // A repository's first passphrase may come from there; another slot's must be given as new.
    let settings = home.load("keepstone stats").unwrap();
    assert!(matches!(settings.new_passphrase(None, true), Source::Variable { name: "KEEPSTONE_PASSPHRASE", .. }));
    assert_eq!(settings.new_passphrase(None, false), Source::Prompt);
    assert_eq!(settings.new_passphrase(Some(Path::new("/n")), false), Source::File("/n".into()));
    let settings = home.set("KEEPSTONE_NEW_PASSPHRASE", "more words").load("keepstone stats").unwrap();
    assert!(matches!(settings.new_passphrase(None, false), Source::Variable { name: "KEEPSTONE_NEW_PASSPHRASE", .. }));
    assert!(!format!("{settings:?}").contains("words"));
}

#[test]
fn the_named_file_must_exist_and_the_users_comes_first() {
    let home = Home::new(Some("threads = 3"));
    fs::write(home.path("other.toml"), "threads = 4").unwrap();
    let other = home.path("other.toml");
    assert_eq!(home.load(&format!("keepstone stats --config {}", other.display())).unwrap().threads, 4);
    let home = home.set("KEEPSTONE_CONFIG", other.as_os_str());
    assert_eq!(home.load("keepstone stats").unwrap().threads, 4);
    let error = home.load("keepstone stats --config /nonexistent/x.toml").unwrap_err();
    assert_eq!(error.class, Class::Missing);
    assert!(error.message.contains("/nonexistent/x.toml") && error.hint.is_some());

    // Only `init` may name a file that isn't there yet.
    let cli = Cli::try_parse_from(["keepstone", "init", "--config", "/nonexistent/x.toml"]).unwrap();
    let lookup = |name: &str| (name == "HOME").then(|| OsString::from("/h"));
    let settings = load(&cli.global, &Environment::new(&lookup), true).unwrap();
    assert_eq!(settings.config_path, Path::new("/nonexistent/x.toml"));

    fs::create_dir(home.path("directory")).unwrap();
    let line = format!("keepstone stats --config {}", home.path("directory").display());
    let error = home.load(&line).unwrap_err();
    assert!(error.class == Class::Usage && error.message.contains("can't read"), "{error}");
}

#[test]
fn xdg_directories_count_when_absolute() {
    let home = Home::new(None).set("XDG_CACHE_HOME", "/x/cache").set("XDG_CONFIG_HOME", "relative");
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!(settings.cache_dir, Path::new("/x/cache/keepstone"));
    assert_eq!(settings.config_path, home.path(".config/keepstone/keepstone.toml"));
}

#[test]
fn regions_are_configured_chosen_or_replaced() {
    let home = Home::new(Some(TWO_REGIONS));
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!(region_pairs(&settings), [("here", "/mnt/here"), ("far", "s3://bucket/prefix")]);
    assert_eq!(settings.regions[1].options["allow_http"], "true");
    assert!(settings.regions_left_out.is_empty());

    let settings = home.load("keepstone check --region far").unwrap();
    assert_eq!(region_pairs(&settings), [("far", "s3://bucket/prefix")]);
    assert_eq!(settings.regions_left_out, ["here"]);

    let settings = home.load("keepstone check --region far=s3://bucket/prefix --region new=~/n").unwrap();
    let new = home.path("n");
    assert_eq!(region_pairs(&settings), [("far", "s3://bucket/prefix"), ("new", new.to_str().unwrap())]);
    assert_eq!(settings.regions[0].options.len(), 2);
    // Options stay with the address that they were written for.
    let settings = home.load("keepstone check --region far=s3://elsewhere").unwrap();
    assert!(settings.regions[0].options.is_empty());
    // A relative directory on the command line is relative to the working directory.
    let settings = home.load("keepstone check --region a=b/c").unwrap();
    assert_eq!(Path::new(&settings.regions[0].url), std::env::current_dir().unwrap().join("b/c"));

    let home = home.set("KEEPSTONE_REGIONS", "a=/a, b=/b far");
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!(region_pairs(&settings), [("a", "/a"), ("b", "/b"), ("far", "s3://bucket/prefix")]);
    // What the file lists and the variable doesn't is left out, as by --region, not forgotten.
    assert_eq!((&settings.regions_left_out[..], settings.left_out_by), (&["here".to_owned()][..], "KEEPSTONE_REGIONS"));
    assert_eq!(settings.addresses_left_out, ["/mnt/here"]);
    let settings = home.load("keepstone stats --region b").unwrap();
    assert_eq!(region_pairs(&settings), [("b", "/b")]);
    assert_eq!((settings.regions_left_out.join(" "), settings.left_out_by), ("a far here".to_owned(), "--region"));
    assert_eq!(region_pairs(&home.load("keepstone stats --region here").unwrap()), [("here", "/mnt/here")]);
    // Another address for a configured name stands in its place.
    let home = Home::new(Some(TWO_REGIONS)).set("KEEPSTONE_REGIONS", "far=/moved");
    let settings = home.load("keepstone stats").unwrap();
    assert_eq!(region_pairs(&settings), [("far", "/moved")]);
    assert_eq!(settings.regions_left_out, ["here"]);
    let home = Home::new(Some(TWO_REGIONS)).set("KEEPSTONE_REGIONS", "here far");
    assert!(home.load("keepstone stats").unwrap().regions_left_out.is_empty());
}

#[test]
fn wrong_regions_are_refused_by_name() {
    let home = Home::new(Some(TWO_REGIONS));
    let error = home.load("keepstone stats --region fra").unwrap_err();
    assert!(error.message.contains("'fra'") && error.message.contains("here, far"), "{error}");
    assert!(home.load("keepstone stats --region far --region far").unwrap_err().message.contains("twice"));
    let error = home.load("keepstone stats --region a=s3://key:hunter2@bucket").unwrap_err();
    assert!(error.message.contains("credentials") && !error.message.contains("hunter2"), "{error}");

    let relative = Home::new(Some("[[regions]]\nname = 'a'\nurl = 'b/c'"));
    let error = relative.load("keepstone stats").unwrap_err();
    assert!(error.message.contains("'b/c'") && error.message.contains("absolute"), "{error}");
    let twice = Home::new(Some("[[regions]]\nname = 'a'\nurl = '/b'\n[[regions]]\nname = 'a'\nurl = '/c'"));
    assert!(twice.load("keepstone stats").unwrap_err().message.contains("twice"));
}

#[test]
fn errors_in_variables_name_them() {
    let error = Home::new(None).set("KEEPSTONE_MEMORY", "lots").load("keepstone stats").unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("KEEPSTONE_MEMORY") && error.message.contains("'lots'"), "{error}");
}

#[test]
fn errors_in_the_file_name_place_key_and_remedy() {
    for (text, parts) in [
        ("memmory = '1G'", &["line 1", "memmory", "memory"][..]),
        ("[backup]\ndatset = 'x'", &["line 2", "datset", "dataset"]),
        ("memory = '12Q'", &["line 1", "'12Q'", "256M"]),
        ("memory = true", &["line 1", "boolean", "64KiB"]),
        ("pin = 'abc'", &["line 1", "'abc'", "64 hexadecimal"]),
        ("dedup_trust = 'some'", &["line 1", "some", "verified"]),
        ("[[regions]]\nname = 'a'", &["url"]),
        ("[[regions]]\nname = 'a'\nurl = '/b'\nregion = [1]", &["options must be strings"]),
        ("identity = 3", &["path or a list"]),
        ("passphrase_file = 'a'\npassphrase_command = 'b'", &["keep one"]),
        ("threads = ", &["line 1"]),
    ] {
        let detail = ConfigFile::decode(text).unwrap_err();
        for part in parts {
            assert!(detail.contains(part), "{text}: {part} not in {detail}");
        }
    }
}

#[test]
fn a_whole_file_is_understood() {
    let file = ConfigFile::decode(&format!(
        "pin = '{}'\nmemory = 134217728\nidentity = ['a', 'b']\ndedup_trust = 'all'\npassphrase_file = '/p'\n\
         {TWO_REGIONS}\n[backup]\npaths = ['/home']\ndataset = 'd'\nhost = 'h'\ntags = ['t']\nchunk_size = '16KiB'\n\
         compression = 'off'\nexclude = ['*.o']\nexclude_from = ['x']\nignore_files = ['.gitignore']\nexclude_larger_than = '1GiB'\n\
         exclude_if_present = ['.nobackup', 'TAG:Sig']\nexclude_caches = true\none_file_system = true\n\
         skip_if_unchanged = true\n",
        "ab".repeat(32)
    ))
    .unwrap();
    assert_eq!((file.memory, file.identity.len(), file.dedup_trust), (Some(128 << 20), 2, DedupTrust::All));
    assert_eq!(file.backup.exclude_larger_than, Some(1 << 30));
    assert_eq!(file.backup.exclude_if_present[1].header.as_deref(), Some("Sig"));
}

#[test]
fn secrets_in_a_file_for_everybody_are_worth_a_word() {
    let home = Home::new(Some("[[regions]]\nname = 'a'\nurl = 's3://b'\nsecret_access_key = 'x'"));
    let file = home.path(".config/keepstone/keepstone.toml");
    let mode = |mode| fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    assert!(home.load("keepstone stats").unwrap().warnings[0].contains("secret_access_key"));
    mode(0o600);
    assert!(home.load("keepstone stats").unwrap().warnings.is_empty());
}

const BACKUP: &str = "\
[backup]
paths = ['/home', 'relative']
dataset = 'd'
tags = ['t']
exclude = ['*.o']
exclude_caches = true
one_file_system = true
chunk_size = '32KiB'
compression = 'fast'
";

fn backup(home: &Home, line: &str) -> Result<super::BackupSettings, CliError> {
    let (cli, settings) = home.cli(line);
    let Command::Backup(args) = cli.command else { panic!("a backup") };
    settings.map_err(CliError::from)?.backup(&args)
}

#[test]
fn backups_take_defaults_from_the_file() {
    let home = Home::new(Some(BACKUP));
    let merged = backup(&home, "keepstone backup").unwrap();
    let paths = vec!["/home".into(), home.path(".config/keepstone/relative")];
    assert_eq!(merged.source, BackupSource::Paths(paths));
    assert_eq!((merged.dataset.as_str(), merged.chunk_size_bytes), ("d", 32 << 10));
    assert!(merged.exclude_caches && merged.one_file_system && !merged.skip_if_unchanged);
    assert_eq!(merged.compression, Compression::Fast);
    assert!(!merged.host.is_empty());

    let merged = backup(
        &home,
        "keepstone backup /srv --tag u --exclude *.tmp --exclude-caches=false --dataset e --host h --chunk-size 8K \
         --compression max",
    )
    .unwrap();
    assert_eq!(merged.source, BackupSource::Paths(vec!["/srv".into()]));
    assert_eq!((merged.dataset.as_str(), merged.host.as_str(), merged.chunk_size_bytes), ("e", "h", 8 << 10));
    assert_eq!((merged.tags, merged.exclude), (vec!["u".to_owned()], vec!["*.o".to_owned(), "*.tmp".to_owned()]));
    assert!(!merged.exclude_caches && merged.one_file_system);
    assert_eq!(merged.compression, Compression::Max);
}

#[test]
fn backups_know_their_source() {
    let home = Home::new(None).set("KEEPSTONE_HOST", "box");
    let merged = backup(&home, "keepstone backup --as db.sql -- pg_dump app").unwrap();
    let command = vec!["pg_dump".into(), "app".into()];
    assert_eq!(merged.source, BackupSource::Command { name: "db.sql".into(), command });
    assert_eq!((merged.chunk_size_bytes, merged.host.as_str(), merged.dataset.as_str()), (8 << 10, "box", "default"));
    let merged = backup(&home, "keepstone backup /a").unwrap();
    assert_eq!((merged.chunk_size_bytes, merged.compression), (64 << 10, Compression::Default));
    let wrong = backup(&Home::new(Some("[backup]\ncompression = 'best'")), "keepstone backup /a").unwrap_err();
    assert!(wrong.message.contains("off, fast, default or max"), "{}", wrong.message);

    assert_eq!(backup(&home, "keepstone backup").unwrap_err().class, Class::Usage);
    assert!(backup(&home, "keepstone backup --as x").unwrap_err().message.contains("--as"));

    fs::write(home.path("list"), "/b\n/c\n").unwrap();
    let line = format!("keepstone backup /a --files-from {}", home.path("list").display());
    let merged = backup(&home, &line).unwrap();
    assert_eq!(
        (merged.source, merged.listed),
        (BackupSource::Paths(vec!["/a".into()]), vec!["/b".into(), "/c".into()])
    );
}

#[test]
fn an_empty_list_is_not_the_configured_paths() {
    let home = Home::new(Some(BACKUP));
    fs::write(home.path("list"), "").unwrap();
    let line = format!("keepstone backup --files-from0 {}", home.path("list").display());
    assert!(backup(&home, &line).unwrap_err().message.contains("nothing is named"));
}
