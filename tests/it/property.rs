//! Any small tree comes back as it was: names from raw bytes, shared content, holes, hard links.

use crate::fixture::{World, noise};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
enum Thing {
    File {
        parts: Vec<Part>,
        mode: u32,
    },
    Directory {
        below: Vec<(OsString, Thing)>,
        mode: u32,
    },
    Symlink(OsString),
    /// A further name of some earlier file.
    Again(usize),
}

#[derive(Clone, Debug)]
enum Part {
    /// So many bytes from an offset of one of a few streams: many files share them.
    Noise {
        stream: u8,
        from: u16,
        length: u32,
    },
    Zeros(u32),
    Hole(u32),
}

fn name() -> impl Strategy<Value = OsString> {
    let byte = any::<u8>().prop_filter("no separators", |byte| !matches!(byte, 0 | b'/'));
    proptest::collection::vec(byte, 1..12)
        .prop_filter("no dots", |name| !matches!(&name[..], b"." | b".."))
        .prop_map(OsString::from_vec)
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        4 => (0..3u8, 0..2000u16, 1..80_000u32).prop_map(|(stream, from, length)| Part::Noise { stream, from, length }),
        1 => (1..70_000u32).prop_map(Part::Zeros),
        1 => (1..100_000u32).prop_map(Part::Hole),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let file =
        (proptest::collection::vec(part(), 0..5), 0..0o1000u32).prop_map(|(parts, mode)| Thing::File { parts, mode });
    let leaf = prop_oneof![
        6 => file,
        1 => name().prop_map(Thing::Symlink),
        1 => any::<usize>().prop_map(Thing::Again),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        let below = proptest::collection::vec((name(), inner), 0..8);
        (below, prop_oneof![Just(0o755u32), Just(0o700), Just(0o1777), Just(0o555)])
            .prop_map(|(below, mode)| Thing::Directory { below, mode })
    })
}

fn make(path: &Path, thing: &Thing, files: &mut Vec<PathBuf>) {
    if path.symlink_metadata().is_ok() {
        return;
    }
    match thing {
        Thing::File { parts, mode } => {
            let file = std::fs::File::create(path).unwrap();
            let mut at = 0;
            for part in parts {
                let length = match part {
                    Part::Noise { stream, from, length } => {
                        let from = usize::from(*from);
                        let bytes = noise(u64::from(*stream), from + *length as usize);
                        file.write_all_at(&bytes[from..], at).unwrap();
                        *length
                    }
                    Part::Zeros(length) => {
                        file.write_all_at(&vec![0; *length as usize], at).unwrap();
                        *length
                    }
                    Part::Hole(length) => *length,
                };
                at += u64::from(length);
            }
            file.set_len(at).unwrap();
            file.set_permissions(PermissionsExt::from_mode(*mode)).unwrap();
            files.push(path.to_owned());
        }
        Thing::Directory { below, mode } => {
            std::fs::create_dir(path).unwrap();
            below.iter().for_each(|(name, thing)| make(&path.join(name), thing, files));
            std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).unwrap();
        }
        Thing::Symlink(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        Thing::Again(which) => {
            if !files.is_empty() {
                std::fs::hard_link(&files[which % files.len()], path).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(things in proptest::collection::vec((name(), thing()), 0..10), threads in 0..3usize) {
        // What only root may read would be an issue of its own.
        if rustix::process::geteuid().is_root() {
            let source = tempfile::tempdir().unwrap();
            let mut files = Vec::new();
            things.iter().for_each(|(name, thing)| make(&source.path().join(name), thing, &mut files));
            let world = World::new(1);
            let summary = world.backup(&[0], source.path(), threads).unwrap();
            assert_eq!(summary.issues, []);
            world.assert_restores(&[0], summary.snapshot.unwrap(), source.path(), threads);
            let again = world.backup(&[0], source.path(), threads).unwrap();
            assert_eq!(again.new_chunks, 0, "what is known is not stored again");
        }
    }
}
