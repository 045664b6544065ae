//! The whole program against a repository in a directory: the commands that look into snapshots, manage
//! keys and look after the local index.

use age::secrecy::ExposeSecret;
use keepstone::limits::TREE_DEPTH_MAX;
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A repository in one region, opened by an age identity, with a source directory beside it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { directory: tempfile::tempdir().expect("a directory") };
        let recipient = place.identity("identity");
        fs::create_dir(place.path("source")).expect("a source");
        let region = place.region_argument();
        place.ok(&["--region", &region, "init", "--recipient", &recipient]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn region_argument(&self) -> String {
        format!("here={}", self.path("region").display())
    }

    /// Makes an identity file; gives its public key.
    fn identity(&self, name: &str) -> String {
        let identity = age::x25519::Identity::generate();
        fs::write(self.path(name), identity.to_string().expose_secret()).expect("an identity file");
        identity.to_public().to_string()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepstone"));
        let kept: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "TMPDIR").collect();
        command.env_clear().envs(kept).env("HOME", self.directory.path()).env("TZ", "UTC");
        command.env("KEEPSTONE_CONFIG", self.path("keepstone.toml")).env("KEEPSTONE_CACHE_DIR", self.path("cache"));
        command.env("KEEPSTONE_IDENTITY", self.path("identity")).stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command().args(args).output().expect("the program runs")
    }

    /// Runs and gives the standard output, as text: it must never hold control characters.
    fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.run(args);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {errors}{text}", output.status);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        text
    }

    fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        let args: Vec<&OsStr> = [OsStr::new("--json")].into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        serde_json::from_str(&self.ok(&args)).expect("one JSON document")
    }

    /// Runs what must fail with this exit code; gives the error as JSON has it.
    fn fails<S: AsRef<OsStr>>(&self, code: i32, args: &[S]) -> Value {
        let args: Vec<&OsStr> = [OsStr::new("--json")].into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        failed(code, &self.run(&args))
    }

    fn backup(&self) -> String {
        let saved = self.json(&[OsStr::new("backup"), self.path("source").as_os_str()]);
        saved["snapshot"].as_str().expect("an id").to_owned()
    }

    fn write(&self, name: impl AsRef<[u8]>, content: &[u8]) {
        let path = self.path("source").join(OsStr::from_bytes(name.as_ref()));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    fn index_directory(&self) -> PathBuf {
        let mut caches = fs::read_dir(self.path("cache")).expect("a cache");
        caches.next().expect("one repository").expect("its entry").path().join("index")
    }
}

fn failed(code: i32, output: &Output) -> Value {
    let errors = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{errors}");
    let last = errors.lines().last().expect("an error");
    let error: Value = serde_json::from_str(last).expect("a JSON error");
    assert!(error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{last}");
    error["error"].clone()
}

fn paths(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|entry| entry["path"].as_str().expect("a path")).collect()
}

fn find<'v>(list: &'v Value, path: &str) -> &'v Value {
    list.as_array().expect("a list").iter().find(|entry| entry["path"] == path).expect("the entry")
}

/// Names that a terminal or a decoder would choke on.
const ESCAPING: &[u8] = b"a\x1b]0;owned\x07\nb";
const LATIN: &[u8] = b"latin\xe9";

#[test]
fn ls_shows_every_name_exactly_and_no_control_characters() {
    let place = Place::new();
    place.write("plain.txt", b"hello");
    place.write("sub/deep/file", b"x");
    place.write(ESCAPING, b"1");
    place.write(LATIN, b"2");
    symlink("plain.txt", place.path("source/link")).expect("a link");
    fs::hard_link(place.path("source/plain.txt"), place.path("source/sub/hard")).expect("a hard link");
    fs::set_permissions(place.path("source/plain.txt"), fs::Permissions::from_mode(0o4750)).expect("a mode");
    let id = place.backup();

    let text = place.ok(&["ls", "latest"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["a\\x1b]0;owned\\x07\\nb", "latin\\xe9", "link", "plain.txt", "sub"]);
    assert_eq!(place.ok(&["ls", &id[..8], "/sub/", "-r"]), "sub/deep\nsub/deep/file\nsub/hard\n");
    let long = place.ok(&["ls", "latest", "-l"]);
    assert!(long.contains("-rwsr-x---") && long.contains("link -> plain.txt"), "{long}");
    assert_eq!(place.ok(&["ls", "latest", "plain.txt"]), "plain.txt\n");

    let listed = place.json(&["ls", "latest", "-r"]);
    assert_eq!(listed["snapshot"], id.as_str());
    let entries = &listed["entries"];
    assert_eq!(entries.as_array().expect("a list").len(), 8);
    let file = find(entries, "plain.txt");
    assert_eq!((&file["type"], &file["size"], &file["mode"]), (&"file".into(), &5.into(), &0o4750.into()));
    assert_eq!((&file["link_group"], &file["inconsistent"]), (&"plain.txt".into(), &false.into()));
    assert!(file["mtime"].as_str().is_some_and(|time| time.ends_with('Z')) && file["uid"].is_u64());
    assert_eq!(find(entries, "link")["target"], "plain.txt");
    assert_eq!(find(entries, "sub/deep")["type"], "directory");
    let inexact = find(entries, "latin\u{fffd}");
    assert_eq!(inexact["path_hex"], "6c6174696ee9");
    assert_eq!(find(entries, "a\u{1b}]0;owned\u{7}\nb")["path_hex"], Value::Null);

    assert_eq!(place.fails(12, &["ls", "dead"])["class"], "missing");
    assert_eq!(place.fails(12, &["ls", "latest~7"])["class"], "missing");
    let missing = place.fails(12, &[OsStr::new("ls"), OsStr::new("latest"), OsStr::from_bytes(b"no\x1b")]);
    assert_eq!(missing["message"], "the snapshot holds no 'no\\x1b'");
    place.fails(2, &["ls", "xyz"]);
}

#[test]
fn cat_gives_the_bytes_and_stops_quietly_with_its_reader() {
    let place = Place::new();
    // Larger than a pipe's buffer and than one chunk, with a hole.
    let mut content: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    content.truncate(5_000_000);
    let path = place.path("source/big");
    let mut file = fs::File::create(&path).expect("a file");
    file.write_all(&content).expect("content");
    file.set_len(9_000_000).expect("a hole");
    drop(file);
    content.resize(9_000_000, 0);
    place.write("empty", b"");
    place.write("directory/x", b"x");
    place.write(LATIN, b"latin");
    place.backup();

    let output = place.run(&["cat", "latest", "big"]);
    assert!(output.status.success() && output.stdout == content);
    assert!(place.run(&["cat", "latest", "empty"]).stdout.is_empty());
    let latin = place.run(&[OsStr::new("cat"), OsStr::new("latest"), OsStr::from_bytes(LATIN)]);
    assert_eq!(latin.stdout, b"latin");
    let refused = place.fails(2, &["cat", "latest", "directory"]);
    assert_eq!(refused["message"], "'directory' is no file but a directory");
    place.fails(12, &["cat", "latest", "nothing"]);

    let mut child = (place.command().args(["cat", "latest", "big", "-q"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn cat_never_gives_bytes_of_a_damaged_pack() {
    let place = Place::new();
    place.write("file", &[7; 100_000]);
    place.backup();
    let mut damaged = 0;
    for shard in fs::read_dir(place.path("region/packs")).expect("packs") {
        for pack in fs::read_dir(shard.expect("a shard").path()).expect("a shard") {
            let path = pack.expect("a pack").path();
            let mut bytes = fs::read(&path).expect("a pack");
            // Behind the header: the frames, the directory, the footer.
            let end = bytes.len() - 32;
            bytes[1400..end].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
            fs::write(&path, bytes).expect("a damaged pack");
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let output = place.run(&["--json", "cat", "latest", "file"]);
    assert_eq!(failed(11, &output)["class"], "corrupt");
    assert!(output.stdout.is_empty());
}

#[test]
fn diff_names_each_kind_of_change() {
    let place = Place::new();
    for (name, content) in [("same", "1"), ("changed", "old"), ("touched", "1"), ("gone/a", "12"), ("kind", "123")] {
        place.write(name, content.as_bytes());
    }
    place.write("deep/er/same", b"x");
    let before = place.backup();
    place.write("changed", b"newer");
    fs::set_permissions(place.path("source/touched"), fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::remove_dir_all(place.path("source/gone")).expect("removed");
    fs::remove_file(place.path("source/kind")).expect("removed");
    place.write("kind/below", b"7");
    place.write(ESCAPING, b"added");
    let after = place.backup();

    let text = place.ok(&["diff", "latest~1", "latest"]);
    let lines: Vec<&str> = text.lines().collect();
    let expected = ["+  a\\x1b]0;owned\\x07\\nb", "M  changed", "-  gone", "-  gone/a", "T  kind", "+  kind/below"];
    assert_eq!(lines[..6], expected);
    assert!(lines[6].starts_with("2 added, 2 removed, 1 modified, 1 of another type"), "{text}");
    assert!(place.ok(&["diff", "latest~1", "latest", "-m"]).contains("\nU  touched\n"));
    assert_eq!(place.ok(&["diff", "latest~1", "latest", "deep"]).lines().count(), 2);

    let document = place.json(&["diff", &before[..10], &after[..10], "--metadata"]);
    assert_eq!((&document["before"], &document["after"]), (&before.as_str().into(), &after.as_str().into()));
    let changes = &document["changes"];
    let changed = find(changes, "changed");
    assert_eq!(
        (&changed["change"], &changed["before"]["size"], &changed["after"]["size"]),
        (&"modified".into(), &3.into(), &5.into())
    );
    assert_eq!(find(changes, "gone/a")["after"], Value::Null);
    assert_eq!(find(changes, "touched")["change"], "metadata");
    let summary = &document["summary"];
    assert_eq!((&summary["added"], &summary["removed"], &summary["type"]), (&2.into(), &2.into(), &1.into()));
    // New: `changed` 5, the escaping name 5, `kind/below` 1. Old: `changed` 3, `gone/a` 2, `kind` 3.
    assert_eq!((&summary["bytes_after"], &summary["bytes_before"]), (&11.into(), &8.into()));

    assert_eq!(place.json(&["diff", "latest", "latest"])["changes"], Value::Array(Vec::new()));
    let one_sided = place.json(&["diff", "latest~1", "latest", "gone"]);
    assert_eq!(paths(&one_sided["changes"]), ["gone", "gone/a"]);
    place.fails(12, &["diff", "latest~1", "latest", "nowhere"]);
    place.fails(12, &["diff", "latest", "beef"]);
}

#[test]
fn find_groups_versions_over_snapshots() {
    let place = Place::new();
    place.write("shared/report.odt", b"1");
    place.write("home/anna/Thesis.odt", b"1");
    place.write(ESCAPING, b"1");
    let first = place.backup();
    place.write("home/anna/Thesis.odt", b"second");
    let second = place.backup();
    fs::remove_dir_all(place.path("source/shared")).expect("removed");
    let third = place.backup();

    let found = place.json(&["find", "*.odt"]);
    assert_eq!(found["searched"], 3);
    assert_eq!(paths(&found["entries"]), ["home/anna/Thesis.odt", "home/anna/Thesis.odt", "shared/report.odt"]);
    let snapshots = |at: usize| found["entries"][at]["snapshots"].clone();
    assert_eq!(snapshots(0), serde_json::json!([first]));
    assert_eq!(snapshots(1), serde_json::json!([second, third]));
    assert_eq!(snapshots(2), serde_json::json!([first, second]));

    assert!(place.json(&["find", "thesis*"])["entries"].as_array().expect("a list").is_empty());
    assert_eq!(paths(&place.json(&["find", "-i", "thesis*", "latest"])["entries"]), ["home/anna/Thesis.odt"]);
    assert_eq!(place.json(&["find", "home/**/*.odt", &third[..8]])["searched"], 1);
    assert_eq!(paths(&place.json(&["find", "home/*/"])["entries"]), ["home/anna"]);
    let text = place.ok(&["find", "a*b"]);
    assert!(text.contains("a\\x1b]0;owned\\x07\\nb\n") && text.contains(&first[..12]), "{text}");
    assert!(text.ends_with("1 entry found in 3 snapshots\n"), "{text}");
    place.fails(2, &["find", "[z-a]"]);
    place.fails(12, &["find", "*", "dead"]);
    assert_eq!(place.json(&["find", "*", "--tag", "none"])["searched"], 0);
}

#[test]
fn tags_are_added_removed_and_set() {
    let place = Place::new();
    place.write("a", b"1");
    let id = place.backup();
    let tags = |document: Value| document["tags"].as_array().expect("tags").clone();
    let added = place.json(&["tag", "latest", "--add", "b", "--add", "a"]);
    assert_eq!((&added["snapshot"], &added["changed"]), (&id.as_str().into(), &true.into()));
    assert_eq!(tags(added), ["a", "b"]);
    assert_eq!(tags(place.json(&["tag", &id[..6], "--remove", "a", "--add", "c"])), ["b", "c"]);
    assert_eq!(place.json(&["tag", "latest", "--add", "c"])["changed"], false);
    assert_eq!(tags(place.json(&["tag", "latest", "--set", "only"])), ["only"]);
    assert_eq!(tags(place.json(&["snapshots", "--tag", "only"])[0].clone()), ["only"]);
    assert!(tags(place.json(&["tag", "latest", "--remove", "only"])).is_empty());
    place.fails(12, &["tag", "beef", "--add", "x"]);
    place.fails(2, &["tag", "latest"]);
}

#[test]
fn the_newest_snapshots_are_those_of_each_dataset() {
    let place = Place::new();
    place.write("a", b"1");
    let source = place.path("source").into_os_string();
    for dataset in ["one", "two", "one"] {
        place.ok(&["-q".as_ref(), "backup".as_ref(), "--dataset".as_ref(), dataset.as_ref(), source.as_os_str()]);
    }
    let listed = place.json(&["snapshots", "--latest"]);
    let datasets: Vec<&str> =
        listed.as_array().expect("a list").iter().map(|info| info["dataset"].as_str().expect("text")).collect();
    assert_eq!(datasets, ["two", "one"]);
    assert_eq!(place.json(&["snapshots", "--latest", "2"]).as_array().expect("a list").len(), 3);
}

#[test]
fn a_key_opens_from_when_it_is_added_until_it_is_removed() {
    let place = Place::new();
    place.write("a", b"1");
    place.backup();
    let recipient = place.identity("second");
    let refused = |code| {
        let mut command = place.command();
        command.env("KEEPSTONE_IDENTITY", place.path("second")).args(["--json", "ls", "latest"]);
        failed(code, &command.output().expect("the program runs"))
    };
    assert_eq!(refused(10)["class"], "access");

    let output = place.run(&["--json", "key", "add", "--recipient", &recipient, "--label", "spare"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("isn't post-quantum"));
    let added: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let slot = added["slot"].as_str().expect("a slot").to_owned();
    assert_eq!((&added["label"], &added["post_quantum"]), (&"spare".into(), &false.into()));

    let as_second =
        place.command().env("KEEPSTONE_IDENTITY", place.path("second")).args(["cat", "latest", "a"]).output();
    assert_eq!(as_second.expect("the program runs").stdout, b"1");
    let listed = place.json(&["key", "list"]);
    let slots = listed["slots"].as_array().expect("slots");
    assert_eq!((slots.len(), slots.iter().filter(|slot| slot["in_use"] == true).count()), (2, 1));
    let first = slots.iter().find(|slot| slot["in_use"] == true).expect("one in use")["slot"].clone();
    let first = first.as_str().expect("an id");

    place.fails(12, &["key", "remove", &"0".repeat(32)]);
    assert_eq!(place.fails(2, &["key", "remove", first])["class"], "usage");
    assert_eq!(place.fails(2, &["key", "passwd", first])["class"], "usage");
    assert_eq!(place.json(&["key", "remove", &slot[..8]])["removed"], true);
    assert_eq!(refused(10)["class"], "access");
    assert!(!place.path("region/keys").join(&slot).join("0000000000000001.age").exists());
    let text = place.ok(&["key", "list"]);
    assert!(text.contains("removed") && text.contains("spare"), "{text}");
    place.fails(12, &["key", "remove", &slot[..8]]);
    assert!(place.fails(2, &["key", "remove", first])["message"].as_str().expect("text").contains("last owner"));
}

#[test]
fn a_passphrase_is_added_and_changed() {
    let place = Place::new();
    let add = place
        .command()
        .env("KEEPSTONE_NEW_PASSPHRASE", "first long passphrase")
        .args(["--json", "key", "add"])
        .output();
    let added: Value = serde_json::from_slice(&add.expect("the program runs").stdout).expect("JSON");
    assert_eq!((&added["wrapping"], &added["post_quantum"]), (&"passphrase".into(), &true.into()));
    let slot = added["slot"].as_str().expect("a slot").to_owned();
    let with = |passphrase: &str, args: &[&str]| {
        let mut command = place.command();
        command.env_remove("KEEPSTONE_IDENTITY").env("KEEPSTONE_PASSPHRASE", passphrase);
        command.env("KEEPSTONE_NEW_PASSPHRASE", "second long passphrase").arg("--json").args(args);
        command.output().expect("the program runs")
    };
    // The identity opens another slot: that can't change this one.
    place.fails(2, &["key", "passwd", &slot]);
    assert!(with("first long passphrase", &["key", "passwd", &slot[..8]]).status.success());
    failed(10, &with("first long passphrase", &["key", "list"]));
    let listed = with("second long passphrase", &["key", "list"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let used = listed["slots"].as_array().expect("slots").iter().find(|entry| entry["in_use"] == true);
    assert_eq!(used.expect("one in use")["slot"], slot.as_str());
}

#[test]
fn keys_change_in_all_regions_or_in_none() {
    let place = Place::new();
    let config = fs::read_to_string(place.path("keepstone.toml")).expect("a configuration");
    let far = format!("{config}\n[[regions]]\nname = \"far\"\nurl = \"{}\"\n", place.path("absent").display());
    fs::write(place.path("keepstone.toml"), far).expect("a configuration");
    let recipient = place.identity("second");
    let refused = place.run(&["--json", "--region", "here", "key", "add", "--recipient", &recipient]);
    assert!(failed(14, &refused)["message"].as_str().expect("text").contains("'far' takes no part"));
}

#[test]
fn the_emergency_sheet_brings_a_lost_key_file_back() {
    let place = Place::new();
    place.write("a", b"1");
    place.backup();
    let document = place.json(&["key", "export"]);
    let sheet = place.ok(&["key", "export", &document["slot"].as_str().expect("a slot")[..6]]);
    for field in ["repository", "fingerprint", "slot", "key_file_name", "key_file"] {
        assert!(sheet.contains(document[field].as_str().expect("text")), "{field}: {sheet}");
    }
    assert!(sheet.contains(&place.path("region").display().to_string()) && !sheet.contains("SECRET"));
    assert!(sheet.lines().all(|line| line.len() <= 90), "{sheet}");

    let key_file = place.path("region").join(document["key_file_name"].as_str().expect("a name"));
    let original = fs::read(&key_file).expect("a key file");
    fs::remove_file(&key_file).expect("removed");
    place.fails(12, &["ls", "latest"]);
    // Exactly what the sheet says to do.
    fs::write(place.path("sheet.txt"), &sheet).expect("a sheet");
    let script = "sed -n '/^-----BEGIN/,/^-----END/p' sheet.txt | grep -v -e ----- |\n base64 -d > key.age";
    let decoded = Command::new("sh").arg("-c").arg(script).current_dir(place.directory.path()).status();
    assert!(decoded.expect("sh runs").success());
    assert_eq!(fs::read(place.path("key.age")).expect("a file"), original);
    fs::copy(place.path("key.age"), &key_file).expect("copied");
    assert_eq!(place.ok(&["ls", "latest"]), "a\n");
}

/// A region behind plain http or another ssh can't be reached by its address alone.
#[test]
fn the_emergency_sheet_says_how_regions_are_reached_and_no_secret() {
    let place = Place::new();
    place.write("a", b"1");
    place.backup();
    let config = fs::read_to_string(place.path("keepstone.toml")).expect("a configuration");
    let far = "\n[[regions]]\nname = \"far\"\nurl = \"s3://bucket/p\"\nendpoint = \"http://127.0.0.1:1\"\nregion = \"eu\"\n\
               allow_http = true\nvirtual_hosted_style = false\nput_if_absent = false\n\
               access_key_id = \"SECRET\"\nsecret_access_key = \"SECRET\"\n\
               [[regions]]\nname = \"nas\"\nurl = \"ssh://anna@nas:2222/~/p\"\nssh_command = [\"false\", \"-i\", \"/a b\"]\n\
               remote_program = \"/opt/keepstone\"\n";
    fs::write(place.path("keepstone.toml"), format!("{config}{far}")).expect("a configuration");
    let sheet = place.ok(&["key", "export"]);
    assert!(!sheet.contains("SECRET"), "{sheet}");
    // The lines that it says to write are the file that the regions were read from, but for credentials.
    let written: String = sheet
        .lines()
        .skip_while(|line| !line.contains("pin = "))
        .take_while(|line| !line.trim().is_empty())
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    let of = |text: &str| text.parse::<toml::Table>().expect("TOML")["regions"].as_array().expect("regions").clone();
    let mut regions = of(&format!("{config}{far}"));
    for region in &mut regions {
        region.as_table_mut().expect("a table").retain(|name, _| !name.contains("access_key"));
    }
    assert_eq!(of(&written), regions, "{sheet}");
    // And they are a configuration.
    fs::write(place.path("keepstone.toml"), written).expect("a configuration");
    assert_eq!(place.ok(&["--region", "here", "ls", "latest"]), "a\n");
}

#[test]
fn stats_add_up() {
    let place = Place::new();
    place.write("a", &[1; 50_000]);
    place.write("b", &[1; 50_000]);
    place.backup();
    place.write("c", b"new");
    place.backup();
    let stats = place.json(&["stats"]);
    assert_eq!((&stats["snapshots"], &stats["logical_bytes"]), (&2.into(), &200_003.into()));
    let number = |value: &Value| value.as_u64().expect("a number");
    assert!(number(&stats["chunk_bytes"]) > 50_003 && number(&stats["chunk_bytes"]) < 60_000, "{stats}");
    assert_eq!(
        number(&stats["data"]["raw_bytes"]) + number(&stats["metadata"]["raw_bytes"]),
        number(&stats["chunk_bytes"])
    );
    assert!(stats["dedup_ratio"].as_f64().expect("a ratio") > 3.0);
    let region = &stats["regions"][0];
    assert_eq!(region["kinds"]["packs"]["bytes"], stats["stored_bytes"]);
    assert_eq!(region["kinds"]["packs"]["objects"], stats["packs"]);
    let on_disk: u64 =
        files_below(&place.path("region")).iter().map(|path| path.metadata().expect("a size").len()).sum();
    assert_eq!(number(&region["bytes"]), on_disk);
    assert_eq!(stats["datasets"][0]["snapshots"], 2);
    assert_eq!(stats["datasets"][0]["newest_bytes"], 100_003);
    assert!(place.ok(&["stats"]).starts_with("2 snapshots of 195 KiB together"));
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn the_cache_is_told_of_and_rebuilt() {
    let place = Place::new();
    assert_eq!(place.json(&["cache", "info"])["state"], "absent");
    place.write("a", b"1");
    place.backup();
    let info = place.json(&["cache", "info"]);
    assert_eq!((&info["state"], &info["current"], &info["rebuilt"]), (&"usable".into(), &true.into(), &false.into()));
    assert_eq!(info["regions"][0]["segments_listed"], info["regions"][0]["segments_known"]);
    let known = |info: &Value| (info["packs"].clone(), info["chunks"].clone(), info["chunk_bytes"].clone());

    fs::remove_dir_all(place.index_directory()).expect("removed");
    assert_eq!(place.json(&["cache", "info"])["state"], "absent");
    let rebuilt = place.json(&["cache", "rebuild"]);
    assert_eq!((known(&rebuilt), &rebuilt["rebuilt"]), (known(&info), &true.into()));

    for file in files_below(&place.index_directory()) {
        fs::write(file, b"garbage").expect("damage");
    }
    fs::create_dir(place.index_directory().join("directory")).expect("a directory");
    let damaged = place.json(&["cache", "info"]);
    assert_eq!((&damaged["state"], &damaged["current"]), (&"unusable".into(), &false.into()));
    assert!(damaged["problem"].as_str().expect("text").contains("keepstone cache rebuild"));
    assert!(place.ok(&["cache", "info"]).contains("It can't be used"));
    assert_eq!(known(&place.json(&["cache", "rebuild"])), known(&info));
    assert_eq!(place.run(&["cat", "latest", "a"]).stdout, b"1");
}

/// Reproducible numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn garbage_in_the_index_never_makes_a_wrong_backup_or_restore() {
    let place = Place::new();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for number in 0..200usize {
        place.write(format!("directory{}/file{number}", number % 7), format!("content {number}").repeat(50).as_bytes());
    }
    place.backup();
    let accepted = |output: &Output| {
        let errors = String::from_utf8_lossy(&output.stderr);
        output.status.success() || errors.contains("keepstone cache rebuild")
    };
    for round in 0..12usize {
        let files = files_below(&place.index_directory());
        for _ in 0..=numbers.below(2) {
            let file = &files[numbers.below(files.len())];
            let Ok(mut bytes) = fs::read(file) else { continue };
            match numbers.below(4) {
                0 => drop(fs::remove_file(file)),
                1 => {
                    bytes.truncate(numbers.below(bytes.len() + 1));
                    fs::write(file, bytes).expect("truncated");
                }
                2 => fs::write(file, (0..4096).map(|_| numbers.below(256) as u8).collect::<Vec<_>>()).expect("garbage"),
                _ => {
                    for _ in 0..8 {
                        let at = numbers.below(bytes.len().max(1));
                        bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << numbers.below(8));
                    }
                    fs::write(file, bytes).expect("flipped bits");
                }
            }
        }
        place.write("changing", format!("round {round}").repeat(100).as_bytes());
        let args = [OsString::from("-q"), "backup".into(), place.path("source").into_os_string()];
        let backup = place.run(&args);
        assert!(accepted(&backup), "round {round}: {:?} {}", backup.status, String::from_utf8_lossy(&backup.stderr));
        let target = place.path(&format!("restored{round}"));
        let args: [&OsStr; 5] =
            ["-q".as_ref(), "restore".as_ref(), "latest".as_ref(), "--to".as_ref(), target.as_ref()];
        let mut restore = place.run(&args);
        assert!(accepted(&restore), "round {round}: {:?} {}", restore.status, String::from_utf8_lossy(&restore.stderr));
        if !restore.status.success() || !backup.status.success() {
            // The remedy that the error named.
            place.ok(&["-q", "cache", "rebuild"]);

            assert!(
                place
                    .run(&[OsString::from("-q"), "backup".into(), place.path("source").into_os_string()])
                    .status
                    .success()
            );
            let _ = fs::remove_dir_all(&target);
            restore = place.run(&args);
        }
        assert!(restore.status.success(), "round {round}: {}", String::from_utf8_lossy(&restore.stderr));
        for file in files_below(&place.path("source")) {
            let below = file.strip_prefix(place.path("source")).expect("below").to_owned();
            assert_eq!(fs::read(target.join(&below)).ok(), fs::read(&file).ok(), "round {round}: {below:?}");
        }
        fs::remove_dir_all(&target).expect("removed");
    }
}

#[test]
fn snapshots_tell_on_request_what_they_lack_and_why() {
    let program = crate::program::Program::new();
    program.write("kept", b"x");
    program.write("left.tmp", b"x");
    program.backup(&["--exclude", "*.tmp"]);
    let snapshots = program.snapshots(&["--details"]);
    let omitted = &snapshots[0]["details"]["omitted"];
    assert_eq!((&omitted[0]["path"], &omitted[0]["why"]), (&"left.tmp".into(), &"excluded".into()), "{omitted}");
    let text = program.run(["snapshots", "--details"]).expect(0).stdout;
    assert!(text.contains("excluded") && text.contains("left.tmp"), "{text}");
    assert!(program.snapshots(&[])[0].get("details").is_none());
}

/// As deep as a backup goes.
#[test]
fn the_deepest_directory_is_listed_and_searched() {
    let place = Place::new();
    let source = place.path("source");
    let mut directory = open(&source, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("opened");
    for _ in 0..TREE_DEPTH_MAX {
        mkdirat(&directory, "d", Mode::from_raw_mode(0o755)).expect("made");
        directory = openat(&directory, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("opened");
    }
    drop(directory);
    place.backup();
    let listed = place.ok(&["ls", "latest", "--recursive"]);
    let found = place.ok(&["find", "d"]);
    // Deeper than the temporary directory's own removal follows.
    assert!(Command::new("rm").arg("-r").arg(source.join("d")).status().expect("it runs").success());
    assert_eq!(listed.lines().count(), TREE_DEPTH_MAX);
    assert!(found.lines().count() >= TREE_DEPTH_MAX, "{}", found.lines().count());
}
