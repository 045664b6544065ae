//! The project's structure and style, as a test: who may import whom, and what may stand only where it is
//! accounted for. `ARCHITECTURE.md` explains the rooms; the table here is the one that holds.
//!
//! A violation is mended in the code. An exception is added here only with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A room of `src/`: its layer, and the rooms of its own layer that it may use. Lower layers are open to
/// it, higher ones and the rest of its own are not.
struct Room {
    name: &'static str,
    layer: u8,
    beside: &'static [&'static str],
}

const fn room(layer: u8, name: &'static str, beside: &'static [&'static str]) -> Room {
    Room { name, layer, beside }
}

const ROOMS: &[Room] = &[
    room(0, "limits", &[]),
    room(0, "timing", &[]),
    room(0, "report", &["timing"]),
    room(0, "env", &[]),
    // The stored objects are what everything of this layer speaks of.
    room(1, "format", &[]),
    room(1, "chunker", &[]),
    room(1, "compress", &["format"]),
    room(1, "crypto", &["format"]),
    room(1, "policy", &["format"]),
    room(2, "store", &[]),
    room(2, "source", &[]),
    // pack → index → ship → repo: each may use those before it. A segment lists finished packs.
    room(3, "pack", &[]),
    room(3, "index", &["pack"]),
    room(3, "ship", &["pack", "index"]),
    room(3, "repo", &["pack", "index", "ship"]),
    // Operations don't know of one another; what two of them need belongs to layer 3.
    room(4, "backup", &[]),
    room(4, "restore", &[]),
    room(4, "check", &[]),
    room(4, "scrub", &[]),
    room(4, "diff", &[]),
    room(4, "find", &[]),
    room(4, "stats", &[]),
    room(4, "gc", &[]),
    room(4, "replicate", &[]),
    room(5, "cli", &[]),
];

/// Where the file system may be touched, and why there.
const FILE_SYSTEM: &[(&str, &str)] = &[
    ("src/source/", "reads what is backed up"),
    ("src/restore/target", "writes what is restored"),
    ("src/store/local", "a region in a directory"),
    ("src/store/mod.rs", "a payload may be an open spool file"),
    ("src/store/contract.rs", "makes such a payload in memory, for the contract of all stores"),
    ("src/store/object/aws.rs", "reads the profile files of AWS's own tools"),
    ("src/pack/spool.rs", "open packs, and what exceeds memory of a graph of chunks, live in unlinked files"),
    ("src/index/rocks.rs", "the index's directory, its marker and its lock"),
    ("src/index/rocks/holder.rs", "the file that says who writes the index"),
    ("src/cli/", "configuration, passphrase and identity files, the cache directory"),
];

/// Where a clock may be read or random bytes drawn.
const CLOCKS: &[(&str, &str)] =
    &[("src/env.rs", "the only source of both"), ("src/cli/progress.rs", "how often to draw and what speed to show")];

/// Where non-test code may panic: how often, and why it can't be caused by data from outside.
const PANICS: &[(&str, usize, &str)] = &[
    ("src/backup/file.rs", 1, "a loop of two passes returns in the second"),
    ("src/crypto/aead.rs", 3, "keys have their fixed length, and frames are far below the ciphers' bound"),
    ("src/crypto/keyring.rs", 1, "every 32 bytes are a private key's seed"),
    ("src/env.rs", 2, "without random bytes no key may be made; the test generator's lock"),
    ("src/format/wire.rs", 1, "writing CBOR to memory can't fail"),
    ("src/restore/target.rs", 2, "a lock is poisoned only by a panic, after which nothing may be written"),
    ("src/restore/target/directory.rs", 4, "as above"),
    ("src/restore/target/metadata.rs", 2, "as above"),
    ("src/restore/target/special.rs", 3, "as above"),
    ("src/ship.rs", 1, "the loop returns at its last attempt"),
];

/// Where text may be printed.
const PRINTERS: &[&str] = &["src/cli/"];

/// Lines that a file may have, tests aside.
const LINES_MAX: usize = 900;

/// Asked for at run time: a binary built from another checkout, in the same target directory, would look there.
fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> =
        LazyLock::new(|| PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")));
    &ROOT
}

fn collect(directory: &Path, out: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 8] = [".git", "target", "corpus", "artifacts", "venv", ".venv", "__pycache__", "vectors"];
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                collect(&path, out);
            }
        } else if name != "Cargo.lock" && name != ".git" {
            out.push(path);
        }
    }
    out.sort();
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// A source file without its tests.
struct Source {
    /// From the project's root.
    path: String,
    /// Comments and string contents blanked, lines kept.
    code: String,
    /// Comments blanked, strings kept.
    with_strings: String,
    /// The whole file's lines.
    lines: usize,
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root().join("src"), &mut paths);
    let mut sources = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let path_text = relative(path);
        if is_test_file(&path_text) {
            continue;
        }
        let text = fs::read_to_string(path).expect("UTF-8");
        let (code, with_strings) = blanked(&text);
        let tests = test_modules(&code);
        sources.push(Source {
            path: path_text,
            code: without(&code, &tests),
            with_strings: without(&with_strings, &tests),
            lines: text.lines().count(),
        });
    }
    assert!(sources.len() > 50, "the sources are found");
    sources
}

/// The text with comments and the insides of literals blanked, and with comments alone blanked.
fn blanked(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut with_strings = bytes.to_vec();
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        out[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if rest.starts_with(b"//") {
            let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            blank(&mut code, at, end);
            blank(&mut with_strings, at, end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = at + text[at..].find("*/").map_or(rest.len(), |length| length + 2);
            blank(&mut code, at, end);
            blank(&mut with_strings, at, end);
            at = end;
        } else if !in_word && (rest.starts_with(b"r\"") || rest.starts_with(b"r#") || rest.starts_with(b"br")) {
            let open = rest.iter().position(|byte| !matches!(byte, b'b' | b'r' | b'#')).unwrap_or(rest.len());
            if rest.get(open) != Some(&b'"') {
                at += 1;
                continue;
            }
            let hashes = rest[..open].iter().filter(|byte| **byte == b'#').count();
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = at + open + 1;
            let end = inside + text[inside..].find(&close).expect("a raw string ends");
            blank(&mut code, inside, end);
            at = end + close.len();
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            blank(&mut code, at + 1, end);
            at = end + 1;
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || text[at + 1..].chars().nth(1) == Some('\'')) {
            // A character, not a lifetime: skip an escaped one's second character, then find the end.
            let skip = if rest[1] == b'\\' { 3 } else { 1 };
            let end = at + skip + text[at + skip..].find('\'').expect("a character ends");
            blank(&mut code, at + 1, end);
            at = end + 1;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    let utf8 = |bytes| String::from_utf8(bytes).expect("whole characters are blanked");
    (utf8(code), utf8(with_strings))
}

/// The byte ranges of items under `#[cfg(test)]`.
fn test_modules(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|at| at + from) {
        let mut depth = 0usize;
        let mut end = code.len();
        for (offset, byte) in code.bytes().enumerate().skip(at) {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 1 => {
                    end = offset + 1;
                    break;
                }
                b'}' => depth -= 1,
                b';' if depth == 0 => {
                    end = offset + 1;
                    break;
                }
                _ => {}
            }
        }
        found.push((at, end));
        from = end;
    }
    found
}

fn without(text: &str, ranges: &[(usize, usize)]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (from, to) in ranges {
        bytes[*from..*to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `needle`'s places in `text`, with line numbers, where it doesn't continue a word.
fn lines_with<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(needle).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let starts_word = needle.starts_with(|c: char| c.is_alphanumeric());
        let continues = starts_word && before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        (!continues).then(|| text[..at].matches('\n').count() + 1)
    })
}

fn report(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}\n{}", violations.join("\n"));
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The names that follow `crate::` (or as many `super::` as lead to the root), groups opened.
fn first_names(after: &str) -> Vec<&str> {
    if let Some(group) = after.strip_prefix('{') {
        let mut depth = 1usize;
        let mut names = Vec::new();
        let mut expect_name = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expect_name = true,
                c if expect_name && depth == 1 && c.is_alphabetic() => {
                    names.push(identifier(&group[at..]));
                    expect_name = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        return names;
    }
    vec![identifier(after)]
}

/// How many `super::` lead from a file to the crate's root.
fn depth(path: &str) -> usize {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inner.split('/').count()
}

fn room_of(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

#[test]
fn rooms_import_lower_layers_only() {
    let rooms: BTreeMap<&str, &Room> = ROOMS.iter().map(|room| (room.name, room)).collect();
    let mut violations = Vec::new();
    for source in sources() {
        let name = room_of(&source.path);
        if name == "main" || name == "lib" {
            continue;
        }
        let Some(room) = rooms.get(name) else {
            violations.push(format!("{}: room '{name}' is not in the table of tests/tidy.rs", source.path));
            continue;
        };
        let to_root = "super::".repeat(depth(&source.path));
        for prefix in ["crate::", to_root.as_str()] {
            for (at, _) in source.code.match_indices(prefix) {
                let before = source.code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                for used in first_names(&source.code[at + prefix.len()..]) {
                    let Some(other) = rooms.get(used) else { continue };
                    let allowed = used == name || other.layer < room.layer || room.beside.contains(&used);
                    if !allowed {
                        let line = source.code[..at].matches('\n').count() + 1;
                        violations.push(format!(
                            "{}:{line}: {name} (layer {}) uses {used} (layer {})",
                            source.path, room.layer, other.layer
                        ));
                    }
                }
            }
        }
    }
    report("a room uses only lower layers, and of its own those that the table allows", &violations);
}

#[test]
fn the_file_system_is_touched_only_where_it_is_accounted_for() {
    let mut violations = Vec::new();
    for source in sources() {
        if FILE_SYSTEM.iter().any(|(prefix, _)| source.path.starts_with(prefix)) {
            continue;
        }
        for needle in ["std::fs", "rustix::fs", "File::open", "File::create", "OpenOptions"] {
            violations.extend(lines_with(&source.code, needle).map(|line| format!("{}:{line}: {needle}", source.path)));
        }
        for line in lines_with(&source.code, "use std::{") {
            violations.push(format!("{}:{line}: name each module of std in a line of its own", source.path));
        }
    }
    report("the file system is the business of few rooms", &violations);
}

#[test]
fn time_and_randomness_come_through_env() {
    let mut violations = Vec::new();
    for source in sources() {
        if CLOCKS.iter().any(|(path, _)| source.path == *path) {
            continue;
        }
        for needle in ["SystemTime::now", "Instant::now", "getrandom", "OsRng", "thread_rng", "rand::"] {
            violations.extend(lines_with(&source.code, needle).map(|line| format!("{}:{line}: {needle}", source.path)));
        }
    }
    report("only src/env.rs reads clocks and draws random bytes", &violations);
}

#[test]
fn panics_are_accounted_for() {
    let mut violations = Vec::new();
    for source in sources() {
        let mut lines: Vec<usize> = Vec::new();
        for needle in [".unwrap()", ".expect(", "panic!", "unreachable!", "todo!", "unimplemented!"] {
            lines.extend(lines_with(&source.code, needle));
        }
        lines.sort_unstable();
        let allowed = PANICS.iter().find(|(path, ..)| source.path == *path).map_or(0, |(_, count, _)| *count);
        if lines.len() != allowed {
            violations.push(format!("{}: {allowed} allowed, found at lines {lines:?}", source.path));
        }
    }
    for (path, ..) in PANICS {
        if !root().join(path).is_file() {
            violations.push(format!("{path}: allowed, and no such file"));
        }
    }
    report("non-test code panics only where the table says why it can't happen", &violations);
}

#[test]
fn only_the_command_line_prints() {
    let mut violations = Vec::new();
    for source in sources() {
        for needle in ["println!", "print!", "eprintln!", "eprint!", "dbg!"] {
            let allowed = needle != "dbg!" && PRINTERS.iter().any(|prefix| source.path.starts_with(prefix));
            let found = lines_with(&source.code, needle).filter(|_| !allowed);
            violations.extend(found.map(|line| format!("{}:{line}: {needle}", source.path)));
        }
    }
    report("the library reports through a Monitor and prints nothing", &violations);
}

#[test]
fn bytes_are_never_in_native_order() {
    let mut violations = Vec::new();
    for source in sources() {
        for needle in ["to_ne_bytes", "from_ne_bytes"] {
            violations.extend(lines_with(&source.code, needle).map(|line| format!("{}:{line}", source.path)));
        }
    }
    report("the format is little-endian on every machine", &violations);
}

#[test]
fn imports_are_named_one_by_one() {
    let mut violations = Vec::new();
    for source in sources() {
        for needle in ["::*;", "::*,", "::*}"] {
            violations.extend(lines_with(&source.code, needle).map(|line| format!("{}:{line}", source.path)));
        }
    }
    report("no glob imports", &violations);
}

#[test]
fn files_are_named_for_what_they_hold_and_stay_readable() {
    let mut violations = Vec::new();
    for source in sources() {
        let vague = ["util", "utils", "misc", "common", "helper", "helpers", "shared", "stuff"];
        let parts = source.path.trim_end_matches(".rs").split('/');
        violations.extend(
            parts
                .filter(|part| vague.contains(part))
                .map(|part| format!("{}: '{part}' says nothing of what is in it", source.path)),
        );
        if source.lines > LINES_MAX {
            violations.push(format!("{}: {} lines, at most {LINES_MAX}", source.path, source.lines));
        }
        let text = fs::read_to_string(root().join(&source.path)).expect("UTF-8");
        if !text.starts_with("//!") {
            violations.push(format!("{}: begins without saying what it is", source.path));
        }
    }
    report("one concept a file, named after it", &violations);
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    // Put together here, so that this file doesn't hold what it looks for.
    let words: Vec<String> = [
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["deb.debian", ".org"],
        ["registry.npm", "js"],
    ]
    .map(|[first, second]| format!("{first}{second}"))
    .to_vec();
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    let mut violations = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for word in &words {
            violations.extend(lines_with(&text, word).map(|line| format!("{}:{line}: {word}", relative(&path))));
        }
    }
    report("no path of a developer's machine and no registry's host", &violations);
}

/// Rule ids such as `PACK-3` that begin a string in the code: each is what a reader will look up.
fn rules_in(text: &str) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for (at, _) in text.match_indices('"') {
        let rest = &text[at + 1..];
        let letters = rest.bytes().take_while(u8::is_ascii_uppercase).count();
        let Some(after) = rest[letters..].strip_prefix('-') else { continue };
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let ends = after[digits..].starts_with(['"', ':']);
        if letters >= 2 && digits >= 1 && ends {
            rules.insert(rest[..letters + 1 + digits].to_owned());
        }
    }
    rules
}

#[test]
fn every_rule_that_code_names_is_in_the_specification() {
    let spec = root().join("format-spec");
    if !spec.is_dir() {
        return;
    }
    let mut paths = Vec::new();
    collect(&spec, &mut paths);
    let pages: String = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect();
    let mut violations = Vec::new();
    let mut count = 0;
    for source in sources() {
        for rule in rules_in(&source.with_strings) {
            count += 1;
            // A rule is defined where it stands in bold.
            if !pages.contains(&format!("**{rule}**")) {
                violations.push(format!("{}: {rule}", source.path));
            }
        }
    }
    assert!(count > 50, "rules are found in the code");
    report("each rule is defined in a page of format-spec/", &violations);
}

/// The tests above see what they are meant to see.
#[test]
fn the_scanner_tells_code_from_text() {
    let text = "let a = \"x.unwrap() \\\" // no\"; // .unwrap()\n/* panic! */ let c = '\"'; fn f<'a>() {}\n\
                #[cfg(test)]\nmod tests { fn g() { h().unwrap() } }\nlet r = r#\"todo!\"#; use crate::{a::{b}, c};\n\
                let d = x.y().unwrap(); DecodeError::new(\"PACK-3\", \"UTF-8 \")";
    let (code, with_strings) = blanked(text);
    let code = without(&code, &test_modules(&code));
    assert_eq!(lines_with(&code, ".unwrap()").collect::<Vec<_>>(), [6]);
    assert_eq!(lines_with(&code, "panic!").count() + lines_with(&code, "todo!").count(), 0);
    assert_eq!(first_names("{a::{b}, c}"), ["a", "c"]);
    assert_eq!(first_names("format::ids::ChunkId"), ["format"]);
    assert_eq!(rules_in(&with_strings), BTreeSet::from(["PACK-3".to_owned()]));
    assert_eq!((depth("src/ship.rs"), depth("src/repo/mod.rs"), depth("src/repo/open.rs")), (1, 1, 2));
    assert_eq!((room_of("src/ship.rs"), room_of("src/cli/args/mod.rs")), ("ship", "cli"));
}
