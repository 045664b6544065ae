//! Decisions over a snapshot that are made at the same time: of verdicts and tags that were put and returned well, none
//! is lost. Rules: `format-spec/verdict.md`.

use crate::fixture::{World, write};
use keepstone::crypto::object::build_sealed;
use keepstone::format::envelope::ObjectKind;
use keepstone::format::ids::{SnapshotId, number_name};
use keepstone::format::verdict::{Ruling, Tags, Verdict};
use keepstone::repo::snapshots::list_all;
use keepstone::repo::tags::set_tags;
use keepstone::repo::verdicts::{Decree, put};
use keepstone::repo::{RepoError, Repository};
use keepstone::store::list_sorted;
use std::collections::BTreeSet;

fn world(regions: usize) -> (World, SnapshotId) {
    let world = World::new(regions);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "file", b"a file");
    let id = world.backup(&world.all(), source.path(), 0).unwrap().snapshot.unwrap();
    (world, id)
}

fn open(world: &World) -> Repository {
    world.open(&world.all()).unwrap()
}

fn set(tags: &[&str]) -> BTreeSet<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

/// The numbers of what lies there under this prefix.
fn numbers(world: &World, prefix: &str) -> Vec<u64> {
    let listed = list_sorted(&*world.stores[0], prefix).unwrap();
    listed.iter().map(|at| u64::from_str_radix(&at.name.split('/').nth(2).unwrap()[..16], 16).unwrap()).collect()
}

fn put_object(repository: &Repository, kind: ObjectKind, payload: Vec<u8>, name: impl Fn(String) -> String) {
    let (bytes, digest) =
        build_sealed(kind, &repository.keyring, &repository.signer(), payload, &*repository.random).unwrap();
    for region in &repository.regions {
        region.store.put_new(&name(digest.to_string()), &bytes.clone().into()).unwrap();
    }
}

fn put_tags(repository: &Repository, id: SnapshotId, number: u64, tags: &[&str]) {
    let payload = Tags { snapshot: id, number, tags: set(tags).into_iter().collect() }.encode();
    put_object(repository, ObjectKind::Tags, payload, |digest| format!("tags/{id}/{}-{digest}", number_name(number)));
}

fn put_verdict(repository: &Repository, id: SnapshotId, number: u64, ruling: Ruling) {
    let verdict = Verdict { snapshot: id, number, ruling, decided_at: 0, reason: "raced".into(), until: None };
    put_object(repository, ObjectKind::Verdict, verdict.encode(), |digest| {
        format!("verdicts/{id}/{}-{digest}", number_name(number))
    });
}

fn tags_of(world: &World, id: SnapshotId) -> BTreeSet<String> {
    let all = list_all(&open(world)).unwrap().snapshots;
    all.into_iter().find(|info| info.id == id).unwrap().tags.into_iter().collect()
}

fn ruling_of(world: &World, id: SnapshotId) -> Option<Ruling> {
    let all = list_all(&open(world)).unwrap().snapshots;
    all.into_iter().find(|info| info.id == id).unwrap().verdict.map(|verdict| verdict.ruling)
}

fn change(world: &World, id: SnapshotId, before: &[&str], after: &[&str]) -> Result<BTreeSet<String>, RepoError> {
    set_tags(&open(world), id, &set(before), set(after)).map(|tagged| tagged.tags)
}

fn say(repository: &Repository, id: SnapshotId, ruling: Ruling) -> Result<(), RepoError> {
    put(repository, &BTreeSet::from([id]), &Decree::new(ruling, "a test")).map(drop)
}

/// How many calls it takes in the world as it is.
fn calls_of(world: &World, run: impl FnOnce(&Repository)) -> u64 {
    let world = world.fork();
    let repository = open(&world);
    world.calls_of(|| run(&repository))
}

fn calls_of_change(world: &World, id: SnapshotId) -> u64 {
    calls_of(world, |repository| drop(set_tags(repository, id, &set(&[]), set(&["a"])).unwrap()))
}

/// TAGS-2: of two changes at the same time none is lost, and what one removed doesn't come back by the other, whichever
/// call the second one comes between.
#[test]
fn tags_that_are_changed_at_once_are_all_changed() {
    let (world, id) = world(2);
    change(&world, id, &[], &["old"]).unwrap();
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&["old", "a"], &["old", "b"], &["old", "a", "b"]),
        (&[], &["old", "b"], &["b"]),
        (&["old", "a"], &[], &["a"]),
        (&["a"], &["b"], &["a", "b"]),
    ];
    let calls = calls_of_change(&world, id);
    for (mine, theirs, both) in cases {
        for call in 1..=calls {
            let world = world.fork();
            let repository = open(&world);
            let theirs: Vec<String> = theirs.iter().map(|tag| (*tag).to_owned()).collect();
            world.visit_at(call, move |other| {
                let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
                change(other, id, &["old"], &theirs).unwrap();
            });
            let tagged = set_tags(&repository, id, &set(&["old"]), set(mine)).unwrap();
            assert_eq!(tags_of(&world, id), set(both), "{mine:?}, and {both:?} at call {call}");
            assert_eq!(tagged.tags, set(both), "{mine:?}, and {both:?} at call {call}");
        }
    }
}

/// TAGS-2: the first tags of all unite as later ones do, and what the snapshot was born with can be removed beside them.
#[test]
fn first_tags_at_once_unite() {
    let (world, id) = world(1);
    for call in 1..=calls_of_change(&world, id) {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| drop(change(other, id, &["born"], &["born", "b"]).unwrap()));
        let tagged = set_tags(&repository, id, &set(&["born"]), set(&["a"])).unwrap();
        assert_eq!((tagged.tags, tags_of(&world, id)), (set(&["a", "b"]), set(&["a", "b"])), "call {call}");
    }
}

/// TAGS-2: what somebody put beside a change, and somebody else may have followed, gets the change on top of it; so does
/// what was put beside that which the change followed.
#[test]
fn a_change_goes_on_top_of_what_was_put_beside_it() {
    let (world, id) = world(1);
    change(&world, id, &[], &["old"]).unwrap();
    let calls = calls_of_change(&world, id);
    // Beside the change alone; and with somebody who followed that and not the change.
    for followed in [false, true] {
        for call in 1..=calls {
            let world = world.fork();
            let repository = open(&world);
            world.visit_at(call, move |other| {
                put_tags(&open(other), id, 1, &["old", "b"]);
                if followed {
                    put_tags(&open(other), id, 2, &["old", "b", "c"]);
                }
            });
            set_tags(&repository, id, &set(&["old"]), set(&["old", "mine"])).unwrap();
            let after = tags_of(&world, id);
            let all: &[&str] = if followed { &["old", "b", "c", "mine"] } else { &["old", "b", "mine"] };
            assert_eq!(after, set(all), "call {call}");
            // Nothing stands beside it that somebody could follow alone.
            let numbers = numbers(&world, "tags/");
            assert_eq!(numbers.iter().filter(|number| Some(*number) == numbers.last()).count(), 1, "call {call}");
        }
    }
    // Beside what the change followed: it was read by one of the two only.
    for call in 1..=calls {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| put_tags(&open(other), id, 0, &["old", "late"]));
        set_tags(&repository, id, &set(&["old"]), set(&["old", "mine"])).unwrap();
        let after = tags_of(&world, id);
        assert!(after == set(&["old", "late", "mine"]), "call {call}: {after:?}");
    }
}

/// Three at a time, each in the middle of another.
#[test]
fn three_changes_of_tags_at_once_are_all_made() {
    let (world, id) = world(1);
    change(&world, id, &[], &["old", "x"]).unwrap();
    let calls = calls_of_change(&world, id);
    for call in 1..=calls {
        for second in [1, calls / 2, calls - 1, calls] {
            let world = world.fork();
            let repository = open(&world);
            world.visit_at(call, move |other| {
                let repository = open(other);
                other.visit_at(second, move |third| drop(change(third, id, &["old", "x"], &["old"]).unwrap()));
                set_tags(&repository, id, &set(&["old", "x"]), set(&["old", "x", "b"])).unwrap();
            });
            set_tags(&repository, id, &set(&["old", "x"]), set(&["old", "x", "a"])).unwrap();
            assert_eq!(tags_of(&world, id), set(&["old", "a", "b"]), "calls {call} and {second}");
        }
    }
}

/// Somebody who changes the tags without end doesn't hold a change up without end, and isn't overridden.
#[test]
fn a_change_that_never_settles_is_told() {
    fn nag(world: World, id: SnapshotId) {
        let again = world.as_slot(&world.identity);
        world.visit_at(1, move |other| {
            let highest = numbers(other, "tags/").last().copied().unwrap_or(0);
            put_tags(&open(other), id, highest + 1, &["theirs"]);
            nag(again, id);
        });
    }
    let (world, id) = world(1);
    let repository = open(&world);
    nag(world.as_slot(&world.identity), id);
    let error = set_tags(&repository, id, &set(&[]), set(&["mine"])).unwrap_err();
    assert!(matches!(&error, RepoError::Contended { what } if what.contains(&id.to_string())), "{error}");
    assert!(tags_of(&world.beside(), id).contains("theirs"));
}

/// VERDICT-4, VERDICT-10: a hold that returned well holds, whichever call of a forget it comes between, and whichever
/// call of its own a forget comes between.
#[test]
fn a_hold_beside_a_forget_holds() {
    let (world, id) = world(2);
    let calls = |ruling| calls_of(&world, |repository| say(repository, id, ruling).unwrap());
    for call in 1..=calls(Ruling::Forget) {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| say(&open(other), id, Ruling::Hold).unwrap());
        let forgotten = say(&repository, id, Ruling::Forget);
        assert!(
            matches!(forgotten, Ok(()) | Err(RepoError::Held { .. } | RepoError::Contended { .. })),
            "{forgotten:?}"
        );
        assert_eq!(ruling_of(&world, id), Some(Ruling::Hold), "call {call}: {forgotten:?}");
    }
    for call in 1..=calls(Ruling::Hold) {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| drop(say(&open(other), id, Ruling::Forget)));
        say(&repository, id, Ruling::Hold).unwrap();
        assert_eq!(ruling_of(&world, id), Some(Ruling::Hold), "call {call}");
    }
}

/// VERDICT-10: what keeps a snapshot is said again above a forget that stands beside it, or that somebody put above it
/// without knowing of it; nothing is left beside it that somebody could follow alone.
#[test]
fn what_keeps_goes_above_forgets_at_the_same_time() {
    let (world, id) = world(1);
    say(&open(&world), id, Ruling::Forget).unwrap();
    for keep in [Ruling::Hold, Ruling::Unforget] {
        for above in [false, true] {
            for call in 1..=calls_of(&world, |repository| say(repository, id, keep).unwrap()) {
                let world = world.fork();
                let repository = open(&world);
                world.visit_at(call, move |other| {
                    put_verdict(&open(other), id, 2, Ruling::Forget);
                    if above {
                        put_verdict(&open(other), id, 3, Ruling::Forget);
                    }
                });
                say(&repository, id, keep).unwrap();
                assert_eq!(ruling_of(&world, id), Some(keep), "call {call}");
                let last = if above { 3 } else { 2 };
                assert!(*numbers(&world, "verdicts/").last().unwrap() > last, "call {call}");
            }
        }
    }
}

/// VERDICT-4: an unforget ends no hold, also not one that is put at the same time; a release and a forget that a hold at
/// the same time overrules are told.
#[test]
fn holds_at_the_same_time_are_told() {
    let (world, id) = world(1);
    say(&open(&world), id, Ruling::Forget).unwrap();
    for call in 1..=calls_of(&world, |repository| say(repository, id, Ruling::Unforget).unwrap()) {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| say(&open(other), id, Ruling::Hold).unwrap());
        let unforgotten = say(&repository, id, Ruling::Unforget);
        assert!(matches!(unforgotten, Ok(()) | Err(RepoError::Held { .. })), "{unforgotten:?}");
        assert_eq!(ruling_of(&world, id), Some(Ruling::Hold), "call {call}");
    }
    say(&open(&world), id, Ruling::Hold).unwrap();
    let mut overruled = 0;
    for call in 1..=calls_of(&world, |repository| say(repository, id, Ruling::Release).unwrap()) {
        let world = world.fork();
        let repository = open(&world);
        world.visit_at(call, move |other| say(&open(other), id, Ruling::Hold).unwrap());
        let released = say(&repository, id, Ruling::Release);
        let holds = ruling_of(&world, id) == Some(Ruling::Hold);
        overruled += u32::from(holds);
        assert_eq!(holds, matches!(released, Err(RepoError::Contended { .. })), "call {call}: {released:?}");
    }
    assert!(overruled > 0);
}
