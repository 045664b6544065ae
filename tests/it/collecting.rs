//! `gc` as the program runs it: what it says before, what then goes, and a store that refuses to delete.

use crate::attack::set_packs_mode;
use crate::fixture::{assert_same, noise};
use crate::program::{Program, id};
use serde_json::Value;
use std::collections::BTreeSet;

fn packs(program: &Program, region: &str) -> BTreeSet<String> {
    let all = program.listing(&format!("{region}/packs")).into_keys();
    all.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

fn region<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["regions"].as_array().unwrap().iter().find(|region| region["name"] == name).unwrap()
}

fn ids(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// A forgotten snapshot past its window, whose packs go with the next collection or the one after.
fn forgotten(program: &Program) {
    program.write("old", &noise(1, 3_000_000));
    let old = id(&program.backup(&[]));
    std::fs::remove_file(program.source().join("old")).unwrap();
    program.write("new", &noise(2, 300_000));
    program.backup(&[]);
    let path = program.path("keepstone.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{file}\n[retention]\nforget_window = '1ns'\n")).unwrap();
    program.run(["forget", &old]).expect(0);
    program.run(["gc", "--now"]).expect(0);
}

#[test]
fn a_dry_run_names_the_packs_that_then_go() {
    let program = Program::new();
    forgotten(&program);
    let mut gone_total = 0;
    for _ in 0..3 {
        let told = program.run(["--json", "gc", "--now", "--dry-run"]).expect(0).json();
        let before = ["one", "two"].map(|name| packs(&program, name));
        let done = program.run(["--json", "gc", "--now"]).expect(0).json();
        for (name, before) in ["one", "two"].iter().zip(before) {
            let gone: BTreeSet<String> = before.difference(&packs(&program, name)).cloned().collect();
            let (told, done) = (region(&told, name), region(&done, name));
            assert_eq!((ids(&told["deleted_packs"]), ids(&done["deleted_packs"])), (gone.clone(), gone.clone()));
            assert_eq!(told["deleted"], done["deleted"]);
            assert_eq!(told["condemned_packs"], done["condemned_packs"]);
            gone_total += gone.len();
        }
    }
    assert!(gone_total >= 4, "{gone_total} packs");
    program.restore("out", &["latest"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn a_store_that_refuses_deletes_is_told_of_and_collected_later() {
    let program = Program::nobody();
    forgotten(&program);
    let all = packs(&program, "two");
    set_packs_mode(&program, "two", 0o555);
    let mut refused = Value::Null;
    for _ in 0..3 {
        let ended = program.run(["--json", "gc", "--now"]);
        if ended.code != Some(0) {
            refused = ended.expect(4).json();
            break;
        }
    }
    let (one, two) = (region(&refused, "one"), region(&refused, "two"));
    let packs_refused = two["deferred"]["packs"].as_u64().unwrap();
    assert!(packs_refused > 0 && two["deferred"]["bytes"].as_u64().unwrap() > 3_000_000, "{two}");
    assert_eq!(
        (&two["deleted"]["packs"], &two["failure"], &one["deferred"]["packs"]),
        (&0.into(), &Value::Null, &0.into())
    );
    assert!(two["deferred_reason"].as_str().unwrap().contains("denied"), "{two}");
    assert_eq!(one["deleted"]["packs"], packs_refused);
    assert_eq!(packs(&program, "two"), all);
    // Each run says so and does everything else.
    let text = program.run(["gc"]).expect(4).stdout;
    assert!(text.contains("NOT deleted, since the store refuses") && text.contains("each run tries again"), "{text}");
    assert_eq!(program.run(["--json", "gc"]).expect(4).json()["regions"].as_array().unwrap().len(), 2);
    program.run(["--region", "two", "restore", "latest", "--to", "out"]).expect(0);
    assert_eq!(std::fs::read(program.path("out/new")).unwrap(), noise(2, 300_000));
    // Another process, once the store permits it.
    set_packs_mode(&program, "two", 0o755);
    let done = program.run(["--json", "gc"]).expect(0).json();
    let two = region(&done, "two");
    assert_eq!((&two["deleted"]["packs"], &two["deferred"]["packs"]), (&packs_refused.into(), &0.into()));
    assert_eq!(packs(&program, "two"), packs(&program, "one"));
    program.run(["check"]).expect(0);
}
