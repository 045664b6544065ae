//! Tests of the walk: order, faithfulness and every kind of omission and failure.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags, XattrFlags, mkdirat, mkfifoat, openat};

use super::{Entry, Event, FileReader, SourceError, Walk, WalkOptions};
use crate::format::node::NodeKind;
use crate::report::IssueKind;

fn touch(path: impl AsRef<Path>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, path.as_os_str().as_bytes()).unwrap();
}

/// A directory in memory where there is one: a hundred thousand files are slow to make and remove on a disk.
fn large_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// One line an event: `>` enter, `<` leave, a leaf's path, `-` omitted, `!` failed.
fn script(walk: Walk) -> Vec<String> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    walk.map(|event| match event {
        Event::Enter(entry) => format!(">{}", text(&entry.path)),
        Event::Leave => "<".into(),
        Event::Leaf(entry) => text(&entry.path),
        Event::Omitted { path, why } => format!("-{} {}", text(&path), why.name()),
        Event::Failed(issue) => format!("!{} {}", text(&issue.subject), issue.kind.name()),
    })
    .collect()
}

fn walk(path: &Path, options: WalkOptions) -> Walk {
    Walk::new(&[path.to_path_buf()], options).unwrap()
}

fn walked(path: &Path, options: WalkOptions) -> Vec<String> {
    let mut ahead = walk(path, options.clone());
    ahead.read_ahead(2);
    let alone = script(walk(path, options));
    assert_eq!(script(ahead), alone, "the same with directories read ahead");
    alone
}

fn entries(walk: Walk) -> Vec<Entry> {
    walk.filter_map(|event| match event {
        Event::Enter(entry) | Event::Leaf(entry) => Some(entry),
        Event::Leave => None,
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn names_come_depth_first_in_raw_byte_order() {
    let root = tempfile::tempdir().unwrap();
    for path in ["b", "a/z", "a/b/c", "a.b", "a-b/x", "ab"] {
        touch(root.path().join(path));
    }
    let long = OsString::from_vec(vec![0xfe; 255]);
    touch(root.path().join(&long));
    let expected =
        [">", ">a", ">a/b", "a/b/c", "<", "a/z", "<", ">a-b", "a-b/x", "<", "a.b", "ab", "b"].map(String::from);
    let events = walked(root.path(), WalkOptions::default());
    assert_eq!(events[..13], expected);
    assert_eq!(events[14..], ["<"]);
    let all = entries(walk(root.path(), WalkOptions::default()));
    assert_eq!(all.last().unwrap().node.name, long.as_bytes());
    assert_eq!(all[0].node.name, b"");
}

#[test]
fn walks_and_readers_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Walk>();
    is_send::<FileReader>();
    is_send::<super::SeenReader>();
    is_send::<super::CommandStream>();
}

#[test]
fn metadata_is_as_the_file_system_has_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    touch(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let before_1970 = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    file.set_modified(before_1970).unwrap();
    let truth = fs::metadata(&path).unwrap();
    let all = entries(walk(root.path(), WalkOptions::default()));
    let (node, identity) = (&all[1].node, &all[1].identity);
    assert_eq!((node.mode, node.uid, node.gid), (0o4751, truth.uid(), truth.gid()));
    assert_eq!((node.modified_at.seconds, node.modified_at.nanoseconds), (-2, 500_000_000));
    assert_eq!((identity.inode, identity.size, identity.device), (truth.ino(), truth.len(), truth.dev()));
    assert_eq!((identity.changed_at.seconds, identity.modified_at), (truth.ctime(), node.modified_at));
    assert!(!is_root() || (node.user == b"root" && node.group == b"root"));
    assert!(matches!(node.kind, NodeKind::File { size, .. } if size == truth.len()));
    assert_eq!(node.link_group, None);
}

#[test]
fn many_directories_come_out_the_same_when_read_ahead() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    // More than are held at a time, side by side, nested, and deeper than any that is read ahead.
    for number in 0..300 {
        fs::create_dir_all(at(&format!("wide/{number:03}/deeper"))).unwrap();
        touch(at(&format!("wide/{number:03}/file")));
        touch(at(&format!("wide/{number:03}/deeper/{number}")));
    }
    let mut deep = "deep".to_owned();
    for number in 0..80 {
        deep.push_str(&format!("/{number}"));
        fs::create_dir_all(at(&format!("{deep}/beside"))).unwrap();
        touch(at(&format!("{deep}/file")));
    }
    // And one of more entries than are read ahead.
    fs::create_dir(at("large")).unwrap();
    for number in 0..2500 {
        touch(at(&format!("large/{number:04}")));
    }
    for number in 0..3 {
        fs::create_dir(at(&format!("large/9{number}"))).unwrap();
        touch(at(&format!("large/9{number}/file")));
    }
    fs::write(at("wide/.ignore"), "2*\n!deeper/25\n").unwrap();
    fs::write(at("wide/007/deeper/.nobackup"), "").unwrap();
    let all = walked(root.path(), WalkOptions::default());
    assert_eq!(all.iter().filter(|line| line.starts_with('>')).count(), 1 + 1 + 600 + 161 + 4);
    let some = walked(
        root.path(),
        WalkOptions {
            excludes: vec!["beside/".into(), "01*".into()],
            ignore_files: vec![".ignore".into()],
            exclude_if_present: vec![(".nobackup".into(), None)],
            ..WalkOptions::default()
        },
    );
    assert!(some.contains(&"-wide/010 excluded".to_owned()) && some.contains(&"-wide/299 excluded".to_owned()));
    assert!(some.len() < all.len());
    // A walk that is given up leaves no thread behind that waits.
    let mut walk = walk(root.path(), WalkOptions::default());
    walk.read_ahead(3);
    assert_eq!(walk.by_ref().take(20).count(), 20);
    drop(walk);
}

#[test]
fn links_fifos_and_sockets_are_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path().join("d/file"));
    symlink("d", root.path().join("to-directory")).unwrap();
    symlink(OsStr::from_bytes(b"nowhere \xff"), root.path().join("dangling")).unwrap();
    mkfifoat(CWD, root.path().join("fifo"), Mode::RUSR).unwrap();
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    assert_eq!(
        walked(root.path(), WalkOptions::default()),
        [">", ">d", "d/file", "<", "dangling", "fifo", "-socket socket", "to-directory", "<"]
    );
    let kinds: Vec<NodeKind> = walk(root.path(), WalkOptions::default())
        .filter_map(|event| match event {
            Event::Leaf(entry) => Some(entry.node.kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds[1], NodeKind::Symlink { target: b"nowhere \xff".to_vec() });
    assert_eq!(kinds[2], NodeKind::Fifo);
    assert_eq!(kinds[3], NodeKind::Symlink { target: b"d".to_vec() });

    let devices = Walk::new(&["/dev/null".into()], WalkOptions::default()).unwrap();
    assert_eq!(devices.root(), Path::new("/dev"));
    assert_eq!(entries(devices)[1].node.kind, NodeKind::CharacterDevice { major: 1, minor: 3 });
}

#[test]
fn hard_links_are_grouped_by_their_first_path() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir_in(root.path().parent().unwrap()).unwrap();
    let at = |name: &str| root.path().join(name);
    touch(at("b/one"));
    fs::create_dir(at("a")).unwrap();
    fs::hard_link(at("b/one"), at("a/two")).unwrap();
    fs::hard_link(at("b/one"), at("c")).unwrap();
    touch(at("z"));
    fs::hard_link(at("z"), outside.path().join("elsewhere")).unwrap();
    symlink("target", at("s1")).unwrap();
    fs::hard_link(at("s1"), at("s2")).unwrap();
    let groups: Vec<(Vec<u8>, Option<Vec<u8>>)> = entries(walk(root.path(), WalkOptions::default()))
        .into_iter()
        .filter(|entry| !matches!(entry.node.kind, NodeKind::Directory { .. }))
        .map(|entry| (entry.path, entry.node.link_group))
        .collect();
    let expected = [("a/two", "a/two"), ("b/one", "a/two"), ("c", "a/two"), ("s1", "s1"), ("s2", "s1"), ("z", "z")];
    assert_eq!(groups, expected.map(|(path, group)| (path.into(), Some(group.into()))));
}

#[test]
fn extended_attributes_of_every_kind_of_entry_are_read() {
    let root = tempfile::tempdir().unwrap();
    let (file, directory) = (root.path().join("file"), root.path().join("sub"));
    touch(&file);
    fs::create_dir(&directory).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
    if set(&file, "user.z", b"").is_err() {
        eprintln!("skipped: the file system has no user attributes");
        return;
    }
    let long = vec![0xa5; 3000];
    set(&file, "user.a", &long).unwrap();
    set(&directory, "user.d", b"1").unwrap();
    set(root.path(), "user.r", b"2").unwrap();
    symlink("file", root.path().join("link")).unwrap();
    let trusted = set(&root.path().join("link"), "trusted.l", b"3").is_ok();
    // Version 2, then owner, a named user, group, mask and others.
    let acl: Vec<u8> = [2u32.to_le_bytes().to_vec()]
        .into_iter()
        .chain([(1, 6, u32::MAX), (2, 7, 1234), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)].map(
            |(tag, permissions, id): (u16, u16, u32)| {
                [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
            },
        ))
        .flatten()
        .collect();
    let has_acl = set(&file, "system.posix_acl_access", &acl).is_ok();

    let all = entries(walk(root.path(), WalkOptions::default()));
    let xattrs = |path: &[u8]| &all.iter().find(|entry| entry.path == path).unwrap().node.xattrs;
    let mut expected = vec![(b"user.a".to_vec(), long), (b"user.z".to_vec(), vec![])];
    if has_acl {
        expected.insert(0, (b"system.posix_acl_access".to_vec(), acl));
    }
    assert_eq!(*xattrs(b"file"), expected);
    assert_eq!(*xattrs(b"sub"), [(b"user.d".to_vec(), b"1".to_vec())]);
    assert_eq!(*xattrs(b""), [(b"user.r".to_vec(), b"2".to_vec())]);
    assert_eq!(xattrs(b"link").len(), usize::from(trusted));
    let without = entries(walk(root.path(), WalkOptions { xattrs: false, ..WalkOptions::default() }));
    assert!(without.iter().all(|entry| entry.node.xattrs.is_empty()));
}

#[test]
fn paths_longer_than_the_kernel_takes_are_walked_and_read() {
    let root = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    // Deeper than the directories that stay open, too.
    let depth = 150;
    let mut at: OwnedFd = File::open(root.path()).unwrap().into();
    let mut path = root.path().to_path_buf();
    for level in 0..depth {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        path.push(&name);
        for (sibling, content) in [("a", "before"), ("z", "behind")] {
            let fd = openat(&at, sibling, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            rustix::io::write(&fd, format!("{content} {level}").as_bytes()).unwrap();
        }
        at = openat(&at, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let mut found = walk(root.path(), WalkOptions::default());
    let (mut files, mut longest) = (0, 0);
    while let Some(event) = found.next() {
        match event {
            Event::Leaf(entry) => {
                let directory = found.directory().unwrap();
                let mut reader = FileReader::open(&directory, &entry.node.name, &entry.identity).unwrap();
                let mut buffer = [0u8; 100];
                reader.next_span().unwrap();
                let length = reader.read(&mut buffer).unwrap();
                let level = entry.path.iter().filter(|byte| **byte == b'/').count();
                let word = if entry.node.name == b"a" { "before" } else { "behind" };
                assert_eq!(buffer[..length], *format!("{word} {level}").as_bytes());
                files += 1;
                longest = longest.max(entry.path.len());
            }
            Event::Enter(_) | Event::Leave => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((files, longest > 25_000), (2 * depth, true));
    // As a source and as a root, too.
    let deep = Walk::new(&[path.clone()], WalkOptions::default()).unwrap();
    assert_eq!(deep.root(), path);
    assert_eq!(script(deep), [">", "<"]);
}

#[test]
fn a_directory_moved_during_the_walk_leads_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..100).map(|level| format!("{level:03}")).collect();
    let mut path = root.path().to_path_buf();
    for name in &names {
        path.push(name);
    }
    touch(path.join("bottom"));
    touch(root.path().join("000/001/z"));
    touch(root.path().join("z"));
    let mut found = walk(root.path(), WalkOptions::default());
    for _ in &names {
        found.next().unwrap();
    }
    // The closed directory 000/001 goes elsewhere, and its child goes out of it.
    fs::rename(root.path().join("000/001/002"), root.path().join("y")).unwrap();
    fs::rename(root.path().join("000/001"), root.path().join("x")).unwrap();
    let rest = script(found);
    assert!(rest.contains(&"!000/001 vanished".to_string()), "{rest:?}");
    assert!(rest.contains(&"z".to_string()));
    assert_eq!(rest.iter().filter(|event| *event == "<").count(), names.len() + 1);
    assert!(!rest.iter().any(|event| event.starts_with("000/001/z")));
}

#[test]
fn several_sources_share_their_deepest_common_directory() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for path in ["etc/conf", "home/u/docs/a", "home/u/docs/deep/b", "home/u/secret", "home/v/x", "other"] {
        touch(at(path));
    }
    symlink("home", at("linked")).unwrap();
    let two = Walk::new(&[at("home/u/docs/./deep"), at("etc/conf"), at("etc/conf")], WalkOptions::default()).unwrap();
    assert_eq!(two.root(), base.path());
    assert_eq!(
        script(two),
        [">", ">etc", "etc/conf", "<", ">home", ">home/u", ">home/u/docs", ">home/u/docs/deep"]
            .iter()
            .chain(&["home/u/docs/deep/b", "<", "<", "<", "<", "<"])
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    );

    let file = Walk::new(&[at("home/u/secret")], WalkOptions::default()).unwrap();
    assert_eq!(file.root(), at("home/u"));
    assert_eq!(script(file), [">", "secret", "<"]);

    let nested = Walk::new(&[at("home/u/docs/deep"), at("home/u")], WalkOptions::default()).unwrap();
    assert_eq!(nested.root(), at("home/u"));
    assert_eq!(script(nested), [">", ">docs", "docs/a", ">docs/deep", "docs/deep/b", "<", "<", "secret", "<"]);

    // A link as the only source is followed; as one of several, it is a link.
    let linked = Walk::new(&[at("linked")], WalkOptions::default()).unwrap();
    assert_eq!(linked.root(), at("linked"));
    assert_eq!(script(linked)[..3], [">", ">u", ">u/docs"]);
    let link = Walk::new(&[at("linked"), at("other")], WalkOptions::default()).unwrap();
    assert_eq!(script(link), [">", "linked", "other", "<"]);
    // A path through a link above a source leads there.
    let through = Walk::new(&[at("linked/v"), at("other")], WalkOptions::default()).unwrap();
    assert_eq!(script(through), [">", ">linked", ">linked/v", "linked/v/x", "<", "<", "other", "<"]);

    let relative = Walk::new(&["src".into()], WalkOptions::default()).unwrap();
    assert_eq!(relative.root(), std::env::current_dir().unwrap().join("src"));
}

#[test]
fn sources_that_cannot_be_walked_as_asked_are_refused_by_name() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    touch(at("a/b/file"));
    touch(at("file"));
    symlink(at("a/b"), at("link")).unwrap();
    let refused = |paths: &[PathBuf]| Walk::new(paths, WalkOptions::default()).unwrap_err();
    assert!(matches!(refused(&[]), SourceError::NoSources));
    assert!(matches!(refused(&[at("file"), at("gone")]), SourceError::Missing { path } if path == at("gone")));
    assert!(matches!(refused(&[at("file/below")]), SourceError::Missing { .. }));
    assert!(matches!(refused(&[PathBuf::new()]), SourceError::Missing { .. }));
    assert!(matches!(refused(&[at("link/../file")]), SourceError::Missing { .. } | SourceError::Ambiguous { .. }));
    touch(at("a/file"));
    assert!(matches!(refused(&[at("link/../file")]), SourceError::Ambiguous { .. }));
    assert!(Walk::new(&[at("a/../file")], WalkOptions::default()).is_ok());
    let behind = refused(&[base.path().to_path_buf(), at("link/file")]);
    assert!(matches!(behind, SourceError::BehindSymlink { link, .. } if link == at("link")));
    let pattern =
        |pattern: &[u8]| WalkOptions { excludes: vec![OsString::from_vec(pattern.to_vec())], ..WalkOptions::default() };
    for bad in [&b"[z-a]"[..], b"\xff"] {
        let refused = Walk::new(&[at("a")], pattern(bad)).unwrap_err();
        assert!(matches!(refused, SourceError::Pattern { .. }), "{refused}");
    }
    let options = WalkOptions { exclude_from: vec![at("gone")], ..WalkOptions::default() };
    assert!(matches!(Walk::new(&[at("a")], options), Err(SourceError::PatternFile { .. })));
}

#[test]
fn an_empty_source_is_told() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    touch(at("full/file"));
    let two = Walk::new(&[at("full"), at("empty")], WalkOptions::default()).unwrap();
    assert_eq!(two.empty_sources(), [at("empty")]);
    assert_eq!(script(two), [">", ">empty", "<", ">full", "full/file", "<", "<"]);
}

#[test]
fn patterns_leave_out_what_gitignore_would() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for path in ["a.o", "keep.o", "build/x", "src/build/y", "src/a.o", "src/abs", "src/b", "top"] {
        touch(at(path));
    }
    let raw = OsString::from_vec(b"src/\xff.o".to_vec());
    touch(base.path().join(&raw));
    let list = at("list");
    fs::write(&list, "# comment\r\n\r\n/top\r\n/list\r\n").unwrap();
    let excludes = ["*.o".into(), "!keep.o".into(), "/build/".into(), at("src/abs").into_os_string()].to_vec();
    let options = WalkOptions { excludes, exclude_from: vec![list], ..WalkOptions::default() };
    assert_eq!(
        walked(base.path(), options.clone()),
        [
            ">",
            "-a.o excluded",
            "-build excluded",
            "keep.o",
            "-list excluded",
            ">src",
            "-src/a.o excluded",
            "-src/abs excluded",
            "src/b",
            ">src/build",
            "src/build/y",
            "<",
            "-src/\u{fffd}.o excluded",
            "<",
            "-top excluded",
            "<"
        ]
    );
    // What is named as a source is captured whatever the patterns say.
    let named = Walk::new(&[at("a.o"), at("build")], options.clone()).unwrap();
    assert_eq!(script(named), [">", "a.o", ">build", "build/x", "<", "<"]);
    // A source inside what a pattern leaves out, too.
    let nested = Walk::new(&[base.path().to_path_buf(), at("build/x")], options).unwrap();
    assert_eq!(script(nested)[2..6], [">build", "-build excluded", "build/x", "<"]);
}

#[test]
fn ignore_files_hold_below_their_directory() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for path in ["x.log", "a/x.log", "a/keep.log", "a/only", "b/only"] {
        touch(at(path));
    }
    fs::write(at(".ignore"), "*.log\n").unwrap();
    fs::write(at("a/.ignore"), b"!keep.log\n/only\nbad \xff line\n").unwrap();
    let options = WalkOptions { ignore_files: vec![".ignore".into()], ..WalkOptions::default() };
    assert_eq!(
        walked(base.path(), options.clone()),
        [
            ">",
            ".ignore",
            ">a",
            "a/.ignore",
            "a/keep.log",
            "-a/only excluded",
            "-a/x.log excluded",
            "<",
            ">b",
            "b/only",
            "<",
            "-x.log excluded",
            "<"
        ]
    );
    let options = WalkOptions { excludes: vec!["keep.log".into()], ..options };
    assert!(walked(base.path(), options).contains(&"-a/keep.log excluded".to_string()));
    assert!(walked(base.path(), WalkOptions::default()).contains(&"x.log".to_string()));
}

#[test]
fn sizes_markers_and_cache_tags_leave_out_what_they_say() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for path in ["cache/data", "false-cache/data", "marked/data", "marked/sub/x", "wrong/data"] {
        touch(at(path));
    }
    fs::write(at("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# more").unwrap();
    fs::write(at("false-cache/CACHEDIR.TAG"), "Signature: something else").unwrap();
    fs::write(at("marked/.skip"), "yes, really").unwrap();
    fs::write(at("wrong/.skip"), "no").unwrap();
    fs::write(at("large"), vec![0; 1001]).unwrap();
    fs::write(at("limit"), vec![0; 1000]).unwrap();
    let options = WalkOptions {
        exclude_caches: true,
        exclude_if_present: vec![(".skip".into(), Some(b"yes".to_vec()))],
        exclude_larger_than: Some(1000),
        ..WalkOptions::default()
    };
    assert_eq!(
        walked(base.path(), options.clone()),
        [
            ">",
            ">cache",
            "-cache cache-directory",
            "cache/CACHEDIR.TAG",
            "<",
            ">false-cache",
            "false-cache/CACHEDIR.TAG",
            "false-cache/data",
            "<",
            "-large too-large",
            "limit",
            ">marked",
            "-marked marker-present",
            "marked/.skip",
            "<",
            ">wrong",
            "wrong/.skip",
            "wrong/data",
            "<",
            "<"
        ]
    );
    assert_eq!(walked(&at("marked"), options)[1..3], [".skip", "data"]);
}

#[test]
fn a_directory_that_the_backup_writes_to_is_kept_empty_unless_it_is_named() {
    let base = tempfile::tempdir().unwrap();
    let at = |path: &str| base.path().join(path);
    for path in ["disk/region/packs/p", "disk/region/config", "file"] {
        touch(at(path));
    }
    // By whichever path: the inode counts.
    symlink(at("disk/region"), at("link")).unwrap();
    let spared = |sources: &[PathBuf]| {
        let mut walk = Walk::new(sources, WalkOptions::default()).unwrap();
        walk.leave_out_own(vec![at("link"), at("not/there")]);
        let again = walk.again().unwrap();
        let events = script(walk);
        assert_eq!(script(again), events, "a repeated walk leaves out the same");
        events
    };
    let omitted = "-disk/region own-repository";
    let all = spared(&[base.path().to_path_buf()]);
    assert_eq!(all, [">", ">disk", ">disk/region", omitted, "<", "<", "file", "link", "<"]);
    let named = [">", ">disk", ">disk/region", "disk/region/config", ">disk/region/packs", "disk/region/packs/p"];
    assert_eq!(spared(&[base.path().to_path_buf(), at("disk/region")])[..6], named);
    assert_eq!(spared(&[at("disk/region")]), [">", "config", ">packs", "packs/p", "<", "<"]);
    assert_eq!(spared(&[at("disk/region/packs")]), [">", "p", "<"]);
    // Of what lies in it, only what is named.
    let inside = spared(&[base.path().to_path_buf(), at("disk/region/packs")]);
    assert_eq!(inside[2..6], [">disk/region", omitted, ">disk/region/packs", "disk/region/packs/p"]);
    assert!(!inside.contains(&"disk/region/config".to_owned()));
}

/// A region that a server writes to is known by what it holds, not by where it is.
#[test]
fn a_directory_that_is_marked_as_a_region_is_kept_empty_unless_it_is_named() {
    let base = tempfile::tempdir().unwrap();
    let at = |path: &str| base.path().join(path);
    for path in ["disk/region/packs/p", "other/config", "short/config", "z"] {
        touch(at(path));
    }
    fs::write(at("disk/region/config"), b"KSTN ours and more").unwrap();
    fs::write(at("other/config"), b"KSTN others").unwrap();
    fs::create_dir(at("odd")).unwrap();
    fs::create_dir(at("odd/config")).unwrap();
    let walked = |sources: &[PathBuf]| {
        let options = WalkOptions { exclude_if_present: vec![("config".into(), None)], ..WalkOptions::default() };
        for options in [WalkOptions::default(), options] {
            let mut walk = Walk::new(sources, options).unwrap();
            walk.leave_out_regions(b"config", b"KSTN ours");
            let again = walk.again().unwrap();
            let events = script(walk);
            assert_eq!(script(again), events, "a repeated walk leaves out the same");
            if sources.len() == 1 {
                assert_eq!(events[1..5], [">disk", ">disk/region", "-disk/region own-repository", "<"]);
            }
        }
        let mut walk = Walk::new(sources, WalkOptions::default()).unwrap();
        walk.leave_out_regions(b"config", b"KSTN ours");
        script(walk)
    };
    let all = walked(&[base.path().to_path_buf()]);
    let others =
        [">odd", ">odd/config", "<", "<", ">other", "other/config", "<", ">short", "short/config", "<", "z", "<"];
    assert_eq!(all[6..], others);
    let named = walked(&[base.path().to_path_buf(), at("disk/region")]);
    assert_eq!(named[2..5], [">disk/region", "disk/region/config", ">disk/region/packs"]);
}

#[test]
fn listed_sources_that_are_gone_are_told_and_the_others_captured() {
    let base = tempfile::tempdir().unwrap();
    let at = |path: &str| base.path().join(path);
    for path in ["a/f", "a/g", "b/h"] {
        touch(at(path));
    }
    let listed = |paths: &[&str], listed: &[&str]| {
        let all = |paths: &[&str]| paths.iter().map(|path| at(path)).collect::<Vec<_>>();
        Walk::new(&all(paths), WalkOptions { listed: all(listed), ..WalkOptions::default() })
    };
    let walk = listed(&[], &["a/f", "a/gone", "a/g", "c/elsewhere"]).unwrap();
    let failed = |walk: Walk| -> Vec<_> {
        let issue = |event| match event {
            Event::Failed(issue) => Some((issue.kind, issue.subject)),
            _ => None,
        };
        walk.filter_map(issue).collect()
    };
    let elsewhere = at("c/elsewhere").into_os_string().into_encoded_bytes();
    let wanted = vec![(IssueKind::Vanished, b"gone".to_vec()), (IssueKind::Vanished, elsewhere)];
    assert_eq!(failed(walk.again().unwrap()), wanted);
    assert_eq!(failed(walk), wanted);
    let walk = listed(&["b"], &["a/f", "a/gone"]).unwrap();
    assert_eq!(failed(walk), [(IssueKind::Vanished, b"a/gone".to_vec())]);
    // Named ones must be there, and any at all.
    assert!(matches!(listed(&["b", "gone"], &["a/f"]), Err(SourceError::Missing { .. })));
    assert!(matches!(listed(&[], &["gone", "gone too"]), Err(SourceError::Missing { path }) if path == at("gone")));
}

#[test]
fn another_file_system_is_kept_as_its_empty_mount_point() {
    let base = tempfile::tempdir().unwrap();
    let mount = base.path().join("mount");
    fs::create_dir(&mount).unwrap();
    touch(base.path().join("z"));
    let target = CString::new(mount.as_os_str().as_bytes()).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(OsStr::from_bytes(target.as_bytes()))
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: nothing can be mounted");
        return;
    }
    touch(mount.join("inside"));
    let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
    let kept = walked(base.path(), options.clone());
    let crossed = walked(base.path(), WalkOptions::default());
    let named = script(Walk::new(&[base.path().to_path_buf(), mount.clone()], options).unwrap());
    std::process::Command::new("umount").arg(&mount).status().unwrap();
    assert_eq!(kept, [">", ">mount", "-mount other-file-system", "<", "z", "<"]);
    assert_eq!(crossed, [">", ">mount", "mount/inside", "<", "z", "<"]);
    assert_eq!(named, crossed);
}

#[test]
fn what_disappears_or_changes_its_kind_is_told() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    for path in ["a", "b", "c/x", "d/x"] {
        touch(at(path));
    }
    let mut found = walk(base.path(), WalkOptions::default());
    found.next().unwrap();
    fs::remove_file(at("b")).unwrap();
    fs::remove_dir_all(at("c")).unwrap();
    fs::remove_dir_all(at("d")).unwrap();
    touch(at("d"));
    assert_eq!(script(found), ["a", "!b vanished", "!c vanished", "d", "<"]);

    touch(at("e/file"));
    let mut found = Walk::new(&[at("e/file"), at("a")], WalkOptions::default()).unwrap();
    found.next().unwrap();
    fs::remove_dir_all(at("e")).unwrap();
    touch(at("e"));
    assert_eq!(script(found), ["a", "!e vanished", "<"]);
}

#[test]
fn an_unreadable_directory_is_entered_and_told() {
    // A directory that can be opened and not listed: of a process that is gone.
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let directory = PathBuf::from(format!("/proc/{}/task", child.id()));
    let mut found = walk(&directory, WalkOptions::default());
    child.kill().unwrap();
    child.wait().unwrap();
    match found.next() {
        Some(Event::Enter(_)) => {
            let Some(Event::Failed(issue)) = found.next() else { panic!("taken for an empty directory") };
            assert_eq!((issue.kind, &issue.subject[..]), (IssueKind::Unreadable, directory.as_os_str().as_bytes()));
        }
        other => assert!(matches!(other, Some(Event::Failed(_))), "{other:?}"),
    }
}

#[test]
fn what_is_forbidden_is_told_and_the_rest_captured() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    for path in ["closed/x", "listed/x", "open", "passed/x", "secret"] {
        touch(at(path));
    }
    let has_xattrs = rustix::fs::lsetxattr(at("secret"), "user.s", b"1", XattrFlags::empty()).is_ok();
    mode("", 0o755);
    mode("closed", 0);
    mode("listed", 0o744);
    mode("passed", 0o711);
    mode("secret", 0o200);
    let path = base.path().to_path_buf();
    let (whole, secret, through) = std::thread::spawn(move || {
        if is_root() {
            // This thread's user alone, and with it root's powers.
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        let refused = Walk::new(&[path.join("secret")], WalkOptions::default()).unwrap_err();
        let both = [path.join("passed/x"), path.join("open")];
        let through = Walk::new(&both, WalkOptions::default()).unwrap();
        (walked(&path, WalkOptions::default()), refused, script(through))
    })
    .join()
    .unwrap();
    mode("closed", 0o700);
    mode("listed", 0o700);
    let mut expected = vec![">", ">closed", "!closed unreadable", "<", ">listed"];
    // The owner may search what others may only list.
    expected.push(if is_root() { "!listed/x unreadable" } else { "listed/x" });
    expected.extend(["<", "open"]);
    assert_eq!(whole[..8], expected);
    assert_eq!(whole.contains(&"!secret metadata-unreadable".to_string()), has_xattrs);
    assert!(matches!(secret, SourceError::Unreadable { .. }), "{secret}");
    assert_eq!(through, [">", "open", ">passed", "passed/x", "<", "<"]);
}

#[test]
fn what_lies_too_deep_for_the_format_is_told() {
    let root = large_directory();
    let mut at: OwnedFd = File::open(root.path()).unwrap().into();
    let levels = crate::limits::TREE_DEPTH_MAX + 3;
    for _ in 0..levels {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let (mut entered, mut left, mut failed) = (0, 0, 0);
    for event in walk(root.path(), WalkOptions::default()) {
        match event {
            Event::Enter(_) => entered += 1,
            Event::Leave => left += 1,
            Event::Failed(issue) if issue.detail.contains("limit") => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((entered, left, failed), (crate::limits::TREE_DEPTH_MAX + 1, crate::limits::TREE_DEPTH_MAX + 1, 1));
}

#[test]
fn a_hundred_thousand_files_cost_no_more_than_their_names() {
    let root = large_directory();
    let directories = 100;
    for directory in 0..directories {
        let path = root.path().join(format!("{directory:03}"));
        fs::create_dir(&path).unwrap();
        for file in 0..1000 {
            File::create(path.join(format!("a file of a directory {file:04}"))).unwrap();
        }
    }
    let started = Instant::now();
    let before = resident_kib();
    let (mut leaves, mut peak) = (0u32, 0);
    let mut last = Vec::new();
    for event in walk(root.path(), WalkOptions::default()) {
        if let Event::Leaf(entry) = event {
            assert!(entry.path > last);
            last = entry.path;
            leaves += 1;
            if leaves.is_multiple_of(1000) {
                peak = peak.max(resident_kib());
            }
        }
    }
    println!("{leaves} files in {:?}", started.elapsed());
    assert_eq!(leaves, directories * 1000);
    // Other tests run beside this one; all the entries together would take more than 30 MiB.
    assert!(peak.saturating_sub(before) < 24 << 10, "{before} to {peak} KiB");
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Prints the speed over `KEEPSTONE_WALK`, a directory; run alone, optimized.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_walk() {
    let Some(path) = std::env::var_os("KEEPSTONE_WALK") else { return };
    for _ in 0..3 {
        let started = Instant::now();
        let events = walk(Path::new(&path), WalkOptions::default()).count();
        println!("{events} events in {:?}", started.elapsed());
    }
}
