//! Forgetting, holding and bringing back: verdicts in the repository, and the commands that give them.
//! Rules: `format-spec/verdict.md`, `format-spec/retention.md`; the policy itself is tested in `src/policy`.

use crate::fixture::{World, options, write};
use crate::program::{Program, id};
use keepstone::backup::backup_tree;
use keepstone::crypto::object::{build_sealed, build_signed};
use keepstone::crypto::slot::Unlock;
use keepstone::env::{StepClock, SystemRandom};
use keepstone::format::audit::Action;
use keepstone::format::envelope::ObjectKind;
use keepstone::format::gc::{Condemn, Fence, Final};
use keepstone::format::ids::{SessionId, SnapshotId, number_name};
use keepstone::format::roster::Role;
use keepstone::format::verdict::{Ruling, Verdict};
use keepstone::index::MemoryIndex;
use keepstone::policy::{Keep, Policy, plan};
use keepstone::replicate::{Depth, replicate};
use keepstone::repo::audit::{Act, FindingKind, read, record};
use keepstone::repo::session::commit_name;
use keepstone::repo::snapshots::{SnapshotInfo, list, list_all};
use keepstone::repo::sync::sync;
use keepstone::repo::unrecorded::unrecorded;
use keepstone::repo::verdicts::{Decree, Unforgotten, put, unforgotten};
use keepstone::repo::{Located, RegionSpec, RepoError, Repository, retention};
use keepstone::report::Silent;
use keepstone::store::local::LocalStore;
use keepstone::store::{Store, list_sorted};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// A repository with so many snapshots, oldest first.
fn world(regions: usize, snapshots: usize) -> (World, Vec<SnapshotId>) {
    let world = World::new(regions);
    let source = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for at in 0..snapshots {
        write(source.path(), "file", format!("day {at}").as_bytes());
        ids.push(world.backup(&world.all(), source.path(), 0).unwrap().snapshot.unwrap());
    }
    (world, ids)
}

fn open(world: &World) -> Repository {
    world.open(&world.all()).unwrap()
}

fn say(world: &World, id: SnapshotId, ruling: Ruling) -> Result<(), RepoError> {
    put(&open(world), &BTreeSet::from([id]), &Decree::new(ruling, "a test")).map(drop)
}

fn verdicts(world: &World, id: SnapshotId) -> Vec<u64> {
    let listed = list_sorted(&*world.stores[0], &format!("verdicts/{id}/")).unwrap();
    listed.iter().map(|at| u64::from_str_radix(&at.name.split('/').nth(2).unwrap()[..16], 16).unwrap()).collect()
}

/// VERDICT-2: each verdict's number is above those before it, and the last one decides.
#[test]
fn the_last_verdict_decides() {
    let (world, ids) = world(2, 2);
    for (ruling, counts) in
        [(Ruling::Forget, false), (Ruling::Unforget, true), (Ruling::Hold, true), (Ruling::Release, true)]
    {
        say(&world, ids[0], ruling).unwrap();
        assert_eq!(world.ids(&[0, 1]).contains(&ids[0]), counts, "{ruling:?}");
        assert!(world.ids(&[1]).contains(&ids[1]));
    }
    assert_eq!(verdicts(&world, ids[0]), [1, 2, 3, 4]);
    let all = list_all(&open(&world)).unwrap().snapshots;
    let verdict = all[0].verdict.as_ref().unwrap();
    assert_eq!((verdict.number, verdict.ruling, verdict.reason.as_str()), (4, Ruling::Release, "a test"));
    assert!(all[1].verdict.is_none());
    // What a region that was away doesn't know yet, the other one says.
    put(&world.open(&[1]).unwrap(), &BTreeSet::from([ids[0]]), &Decree::new(Ruling::Forget, "")).unwrap();
    assert_eq!(world.ids(&[0, 1]), [ids[1]]);
    assert_eq!(world.ids(&[0]), ids);
}

/// VERDICT-4: what is on hold isn't forgotten, until it is released or the hold has ended.
#[test]
fn what_is_held_cannot_be_forgotten() {
    let (world, ids) = world(1, 2);
    say(&world, ids[0], Ruling::Hold).unwrap();
    let both: BTreeSet<_> = ids.iter().copied().collect();
    let forget = || put(&open(&world), &both, &Decree::new(Ruling::Forget, ""));
    let error = forget().unwrap_err();
    assert!(matches!(&error, RepoError::Held { id, reason, .. } if *id == ids[0] && reason == "a test"), "{error}");
    // None of them: everything is checked before anything is said.
    assert_eq!(world.ids(&[0]), ids);
    say(&world, ids[0], Ruling::Release).unwrap();
    forget().unwrap();
    assert_eq!(world.ids(&[0]), []);

    say(&world, ids[1], Ruling::Unforget).unwrap();
    let now = world.open(&[0]).unwrap().clock.now_ns();
    let hold = |until| {
        let decree = Decree { until: Some(until), ..Decree::new(Ruling::Hold, "until") };
        put(&open(&world), &BTreeSet::from([ids[1]]), &decree).unwrap();
    };
    hold(now + 1_000_000_000_000);
    assert!(matches!(say(&world, ids[1], Ruling::Forget), Err(RepoError::Held { until: Some(_), .. })));
    hold(now + 1);
    say(&world, ids[1], Ruling::Forget).unwrap();
    // VERDICT-7: nothing but a hold ends by itself.
    let decree = Decree { until: Some(1), ..Decree::new(Ruling::Release, "") };
    assert!(matches!(put(&open(&world), &BTreeSet::from([ids[1]]), &decree), Err(RepoError::Verdict(_))));
}

fn verdict(repository: &Repository, id: SnapshotId, number: u64, ruling: Ruling, until: Option<i64>) {
    let verdict = Verdict { snapshot: id, number, ruling, decided_at: 0, reason: "raced".into(), until };
    let (bytes, digest) = build_sealed(
        ObjectKind::Verdict,
        &repository.keyring,
        &repository.signer(),
        verdict.encode(),
        &*repository.random,
    )
    .unwrap();
    let name = format!("verdicts/{id}/{}-{digest}", number_name(number));
    for region in &repository.regions {
        region.store.put_new(&name, &bytes.clone().into()).unwrap();
    }
}

/// VERDICT-3: verdicts of one number, from two places at once, resolve to keep, and a hold among them holds.
#[test]
fn verdicts_at_once_resolve_to_keep() {
    let (world, ids) = world(1, 2);
    let repository = open(&world);
    verdict(&repository, ids[0], 5, Ruling::Forget, None);
    verdict(&repository, ids[0], 5, Ruling::Release, None);
    assert_eq!(world.ids(&[0]), ids);
    verdict(&repository, ids[0], 5, Ruling::Hold, Some(1));
    verdict(&repository, ids[0], 5, Ruling::Hold, Some(i64::MAX));
    assert!(matches!(say(&world, ids[0], Ruling::Forget), Err(RepoError::Held { .. })));
    verdict(&repository, ids[1], u64::MAX, Ruling::Unforget, None);
    assert!(matches!(say(&world, ids[1], Ruling::Forget), Err(RepoError::Verdict(_))));
}

/// VERDICT-5: a verdict that can't be read may be a hold, so nothing is forgotten past it.
#[test]
fn an_unreadable_verdict_may_be_a_hold() {
    let (world, ids) = world(1, 2);
    say(&world, ids[0], Ruling::Hold).unwrap();
    let name = list_sorted(&*world.stores[0], "verdicts/").unwrap().remove(0).name;
    world.stores[0].inner().memory.heal(&name, &b"damage".to_vec().into()).unwrap();
    let error = say(&world, ids[0], Ruling::Forget).unwrap_err();
    assert!(matches!(&error, RepoError::Verdict(text) if text.contains("may be on hold")), "{error}");
    say(&world, ids[1], Ruling::Forget).unwrap();
    // What stands above it settles it.
    say(&world, ids[0], Ruling::Release).unwrap();
    assert_eq!(verdicts(&world, ids[0]), [1, 2]);
    say(&world, ids[0], Ruling::Forget).unwrap();
}

/// VERDICT-4: and a policy keeps that snapshot, and no other.
#[test]
fn a_policy_passes_over_what_may_be_on_hold() {
    let program = Program::new();
    let mut ids = Vec::new();
    for day in 0..4 {
        program.write("a", format!("day {day}").as_bytes());
        ids.push(program.backup(&[])["snapshot"].as_str().unwrap().to_owned());
    }
    program.run(["hold", &ids[1], "--reason", "a test"]).expect(0);
    for region in ["one", "two"] {
        let directory = program.path(&format!("{region}/verdicts/{}", ids[1]));
        let name = std::fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&name).unwrap();
        bytes[60] ^= 1;
        std::fs::write(name, bytes).unwrap();
    }
    let done = program.run(["--json", "forget", "--keep-last", "1"]).expect(11);
    assert!(done.stderr.contains("may be on hold"), "{}", done.stderr);
    let mut gone = [&ids[0], &ids[2]];
    gone.sort();
    assert_eq!(done.json()["forgotten"], serde_json::json!(gone));
    let refused = program.run(["forget", &ids[1]]).expect(2);
    assert!(refused.stderr.contains("a hold and a release of the snapshot take its place"), "{}", refused.stderr);
    program.run(["hold", &ids[1], "--reason", "a test"]);
    program.run(["release", &ids[1]]);
    let done = program.run(["--json", "forget", "--keep-last", "1"]).expect(11);
    assert_eq!(done.json()["forgotten"], serde_json::json!([ids[1]]));
}

/// VERDICT-11: regions that were apart know only numbers of one another when they meet.
#[test]
fn what_was_held_in_one_region_is_not_forgotten_by_the_other() {
    for (keeping, decides) in [(Ruling::Hold, true), (Ruling::Unforget, true), (Ruling::Hold, false)] {
        let (world, ids) = world(2, 1);
        let alone = |at: usize, ruling| {
            let ids = BTreeSet::from([ids[0]]);
            put(&world.open(&[at]).unwrap(), &ids, &Decree::new(ruling, "apart")).unwrap();
        };
        for ruling in [Ruling::Hold, Ruling::Release, Ruling::Forget] {
            alone(1, ruling);
        }
        if keeping == Ruling::Unforget {
            alone(0, Ruling::Forget);
        }
        alone(0, keeping);
        assert_eq!(world.ids(&world.all()), []);
        let copies = |world: &World| {
            let snapshots = list(&open(world)).unwrap().snapshots;
            replicate(&open(world), &snapshots, Depth::Commits, None, 1 << 20, &Silent).unwrap()
        };
        if !decides {
            // It leaves both as they are.
            let (_, identity) = world.add_slot(Role::Writer, "writer");
            let done = copies(&world.as_slot(&identity));
            assert_eq!((done.decisions, done.issues.len()), (0, 1), "{:?}", done.issues);
            assert!(done.issues[0].detail.contains("that others didn't know of"), "{:?}", done.issues);
        }
        // Nor is it forgotten, or collected, before anybody has settled it.
        assert!(matches!(say(&world, ids[0], Ruling::Forget), Err(RepoError::Verdict(_))));
        for _ in 0..4 {
            crate::gc::collect(&world, &crate::gc::at_once());
        }
        let done = copies(&world);
        assert_eq!(done.issues.len(), 1, "{:?}", done.issues);
        assert!(done.issues[0].detail.contains("it is said again in all regions"), "{:?}", done.issues);
        assert_eq!(world.ids(&world.all()), ids);
        for at in world.all() {
            let left = list(&world.open(&[at]).unwrap()).unwrap().snapshots;
            let verdict = left[0].verdict.as_ref().unwrap();
            assert_eq!((verdict.ruling, verdict.reason.as_str()), (keeping, "apart"));
        }
        // Whoever forgets it now knows of that, also where the other region is away.
        if keeping == Ruling::Hold {
            say(&world, ids[0], Ruling::Release).unwrap();
        }
        say(&world, ids[0], Ruling::Forget).unwrap();
        say(&world, ids[0], Ruling::Unforget).unwrap();
        alone(0, Ruling::Forget);
        assert_eq!(copies(&world).issues, []);
        assert_eq!(world.ids(&world.all()), []);
    }
}

/// VERDICT-11: of several that keep apart a hold counts, also against a release, and junk above hides none.
#[test]
fn of_what_keeps_apart_a_hold_is_said_again() {
    for (others, junk) in [
        (&[Ruling::Hold, Ruling::Release, Ruling::Forget][..], false),
        (&[Ruling::Hold, Ruling::Release, Ruling::Forget], true),
        (&[Ruling::Hold, Ruling::Release], false),
    ] {
        let (world, ids) = world(3, 1);
        let alone = |at: usize, ruling| {
            let ids = BTreeSet::from([ids[0]]);
            put(&world.open(&[at]).unwrap(), &ids, &Decree::new(ruling, "apart")).unwrap();
        };
        others.iter().for_each(|ruling| alone(1, *ruling));
        alone(0, Ruling::Forget);
        alone(0, Ruling::Unforget);
        alone(2, Ruling::Hold);
        if junk {
            let name = format!("verdicts/{}/{}-{}", ids[0], number_name(9), "ab".repeat(32));
            world.stores[1].put_new(&name, &b"junk".to_vec().into()).unwrap();
        }
        let snapshots = list(&open(&world)).unwrap().snapshots;
        replicate(&open(&world), &snapshots, Depth::Commits, None, 1 << 20, &Silent).unwrap();
        for at in world.all() {
            let left = list(&world.open(&[at]).unwrap()).unwrap().snapshots;
            assert_eq!(left[0].verdict.as_ref().unwrap().ruling, Ruling::Hold, "{others:?}, {junk}");
        }
    }
}

/// AUDIT-6: a verdict is recorded before it is given; one that can't be recorded isn't given.
#[test]
fn verdicts_are_recorded_first() {
    let (world, ids) = world(2, 1);
    world.forget_history();
    say(&world, ids[0], Ruling::Forget).unwrap();
    for store in &world.stores {
        let written = store.written();
        let first = |prefix: &str| written.iter().position(|name| name.starts_with(prefix)).unwrap();
        assert!(first("audit/") < first("verdicts/"), "{written:?}");
    }
    let repository = open(&world);
    let calls = world.calls_of(|| drop(list_all(&repository)));
    for after in calls..calls + 8 {
        let fork = world.fork();
        let repository = open(&fork);
        fork.die_after(after);
        let died = put(&repository, &BTreeSet::from([ids[0]]), &Decree::new(Ruling::Unforget, "")).is_err();
        fork.live_again();
        let repository = open(&fork);
        let chains = read(&repository).unwrap();
        assert_eq!(unrecorded(&repository, &chains).unwrap(), [], "after {after}, died: {died}");
    }
    let entry = &read(&repository).unwrap().timeline[1].entry;
    assert_eq!((entry.action, entry.subjects.as_slice()), (Action::Forget, &[ids[0].0.to_vec()][..]));
}

/// AUDIT-10: a verdict that nobody recorded is told, with whose it is.
#[test]
fn a_verdict_without_an_entry_is_told() {
    let (world, ids) = world(1, 2);
    let repository = open(&world);
    say(&world, ids[0], Ruling::Hold).unwrap();
    assert_eq!(unrecorded(&repository, &read(&repository).unwrap()).unwrap(), []);
    verdict(&repository, ids[1], 1, Ruling::Forget, None);
    let found = unrecorded(&repository, &read(&repository).unwrap()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].slot), (FindingKind::Unrecorded, Some(repository.secrets.slot)));
    assert!(found[0].detail.contains(&ids[1].to_string()) && found[0].kind.breaks());
}

/// Only owners and maintainers decide (SIGN-2); the program says so before it writes.
#[test]
fn a_writer_decides_nothing() {
    let (world, ids) = world(1, 1);
    let mut repository = open(&world);
    repository.roster.slots[0].role = Role::Writer;
    world.forget_history();
    let denied = put(&repository, &BTreeSet::from([ids[0]]), &Decree::new(Ruling::Forget, ""));
    assert!(matches!(denied, Err(RepoError::NotPermitted { role: Role::Writer, .. })));
    assert!(world.stores[0].written().is_empty());
}

fn session_of(world: &World, at: usize) -> SessionId {
    let name = list_sorted(&*world.stores[at], "commits/").unwrap().remove(0).name;
    SessionId::from_hex(name.strip_prefix("commits/").unwrap()).unwrap()
}

fn log(repository: &Repository, at: usize, kind: ObjectKind, part: &str, payload: &[u8]) {
    let (bytes, _) = build_signed(kind, repository.config.repository, &repository.signer(), payload);
    let name = format!("gc/{}/{part}", number_name(1));
    repository.regions[at].store.put_new(&name, &bytes.into()).unwrap();
}

fn generation(repository: &Repository, at: usize) -> (Condemn, Fence, Final) {
    let region = repository.regions[at].info.region;
    let condemn = Condemn { generation: 1, region, packs: Vec::new(), forgotten: Vec::new() };
    let fence = Fence { generation: 1, region, sessions: Vec::new(), snapshots: Vec::new() };
    let (deleted, rescued, fenced, collected, seen) = Default::default();
    (condemn, fence, Final { generation: 1, region, deleted, rescued, fenced, collected, seen })
}

/// VERDICT-6: named by an open fence, an unforgotten snapshot is promised only by the final.
#[test]
fn an_unforget_after_the_fence_is_in_doubt() {
    let (world, ids) = world(2, 1);
    let repository = open(&world);
    say(&world, ids[0], Ruling::Forget).unwrap();
    let (condemn, mut fence, mut entry) = generation(&repository, 0);
    fence.snapshots = vec![ids[0]];
    log(&repository, 0, ObjectKind::Condemn, "condemn", &condemn.encode());
    log(&repository, 0, ObjectKind::Fence, "fence", &fence.encode());
    say(&world, ids[0], Ruling::Unforget).unwrap();
    assert_eq!(unforgotten(&repository, ids[0]).unwrap(), [Unforgotten::InDoubt(1), Unforgotten::Counts]);
    let fork = world.fork();
    log(&open(&fork), 0, ObjectKind::Final, "final", &entry.encode());
    assert_eq!(unforgotten(&open(&fork), ids[0]).unwrap(), [Unforgotten::Counts, Unforgotten::Counts]);
    entry.collected = vec![session_of(&world, 0)];
    log(&repository, 0, ObjectKind::Final, "final", &entry.encode());
    assert_eq!(unforgotten(&repository, ids[0]).unwrap(), [Unforgotten::Absent, Unforgotten::Counts]);
}

fn standings(repository: &Repository, policy: &Policy) -> Vec<(SnapshotId, &'static str, bool)> {
    let snapshots: Vec<SnapshotInfo> = list(repository).unwrap().snapshots;
    let (candidates, logs) = retention::known(repository, &snapshots).unwrap();
    let groups = plan(policy, &candidates, &logs, repository.clock.now_ns());
    let decisions = groups.into_iter().flat_map(|group| group.decisions);
    decisions.map(|decision| (decision.id, decision.standing.name(), decision.stays())).collect()
}

/// RETAIN-3: what collections saw reaches the policy, and only who may collect says when.
#[test]
fn collections_vouch_for_times() {
    let (world, ids) = world(1, 3);
    let repository = open(&world);
    let policy = Policy { keep: Keep { last: 3, ..Keep::default() }, ..Policy::default() };
    assert_eq!(standings(&repository, &policy), ids.iter().map(|id| (*id, "good", true)).collect::<Vec<_>>());
    let (condemn, fence, mut entry) = generation(&repository, 0);
    // The youngest was seen, the others came later: the youngest's date can't be checked without a time.
    entry.seen = vec![ids[2]];
    log(&repository, 0, ObjectKind::Condemn, "condemn", &condemn.encode());
    log(&repository, 0, ObjectKind::Fence, "fence", &fence.encode());
    log(&repository, 0, ObjectKind::Final, "final", &entry.encode());
    let exact = Policy { clock_slack: jiff::Span::new().nanoseconds(1), ..policy.clone() };
    let suspects = |repository: &Repository, policy: &Policy| -> Vec<SnapshotId> {
        let all = standings(repository, policy).into_iter();
        all.filter(|(_, name, stays)| *name == "suspect" && *stays).map(|(id, ..)| id).collect()
    };
    assert_eq!(suspects(&repository, &exact), ids);
    assert_eq!(suspects(&repository, &policy), []);
    let end = Act::new(Action::GcFinal).on(&repository.regions[0].info.region.0).figure(retention::GENERATION, 1);
    record(&repository, &end).unwrap();
    assert_eq!(suspects(&repository, &exact), ids[..2]);
    // A writer's word on when a collection ended counts for nothing.
    let mut demoted = open(&world);
    demoted.roster.slots[0].role = Role::Writer;
    let (_, logs) = retention::known(&repository, &[]).unwrap();
    assert_eq!((logs[0].newest, logs[0].ended_at.len()), (1, 1));
    // Demoted in memory only: the log itself is then no longer acceptable, so its times aren't read at all.
    assert!(retention::known(&demoted, &[]).is_err());
}

fn configure(program: &Program, text: &str) {
    let path = program.path("keepstone.toml");
    let mut file = std::fs::read_to_string(&path).unwrap();
    file.truncate(file.find("\n[retention]").unwrap_or(file.len()));
    std::fs::write(&path, format!("{file}\n[retention]\n{text}\n")).unwrap();
}

fn backups(program: &Program, count: usize) -> Vec<String> {
    (0..count)
        .map(|at| {
            program.write("file", format!("day {at}").as_bytes());
            id(&program.backup(&[]))
        })
        .collect()
}

fn listed(program: &Program) -> Vec<String> {
    program.snapshots(&[]).iter().map(|at| at["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn forgetting_by_policy() {
    let program = Program::new();
    let ids = backups(&program, 4);
    // Nothing says what to keep.
    let refused = program.run(["--json", "forget"]).expect(2).error();
    assert!(refused["message"].as_str().unwrap().contains("nothing says what to keep"), "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("[retention]"));
    program.run(["forget", "--keep-last", "0"]).expect(2);
    program.run(["forget", "--keep-lst", "2"]).expect(2);

    let dry = program.run(["--json", "forget", "--keep-last", "2", "--dry-run"]).expect(0).json();
    assert_eq!((&dry["by"], &dry["dry_run"], &dry["kept"]), (&"policy".into(), &true.into(), &2.into()));
    assert_eq!(dry["forgotten"], serde_json::json!(ids[..2].iter().collect::<BTreeSet<_>>()));
    let group = &dry["groups"][0];
    assert_eq!((&group["dataset"], &group["tags"]), (&"default".into(), &serde_json::Value::Null));
    let snapshots = group["snapshots"].as_array().unwrap();
    assert_eq!((snapshots.len(), &snapshots[3]["reasons"][0]), (4, &"last".into()));
    assert_eq!((&snapshots[0]["stays"], &snapshots[0]["standing"]), (&false.into(), &"good".into()));
    assert_eq!(listed(&program), ids);
    let text = program.run(["forget", "--keep-daily", "1", "-n"]).expect(0).stdout;
    assert!(text.contains("no rule keeps it") && text.contains("daily") && text.contains("Would forget 3"), "{text}");

    // The newest that is older than a span stands for its beginning.
    let within = program.run(["--json", "forget", "--keep-within", "1 ms", "-n"]).expect(0).json();
    let snapshots = within["groups"][0]["snapshots"].as_array().unwrap();
    assert_eq!(snapshots[3]["reasons"], serde_json::json!(["before within"]), "{within}");
    assert_eq!(within["forgotten"].as_array().unwrap().len(), 3);
    configure(&program, "keep_last = 3\nkeep_within = '1 day'");
    assert_eq!(program.run(["--json", "forget"]).expect(0).json()["forgotten"], serde_json::json!([]));
    configure(&program, "keep_last = 3");
    let done = program.run(["--json", "forget"]).expect(0).json();
    assert_eq!((&done["forgotten"], &done["dry_run"]), (&serde_json::json!([ids[0]]), &false.into()));
    assert!(done["unforget_until"].as_str().unwrap().ends_with('Z'));
    assert_eq!(listed(&program), ids[1..]);
    let audit = program.run(["--json", "audit"]).expect(0).json();
    assert_eq!(
        (&audit["entries"][1]["action"], &audit["entries"][1]["subjects"][0]),
        (&"forget".into(), &ids[0].clone().into())
    );
    assert_eq!(audit["entries"][1]["reason"], "retention policy");
    // Tags and filters.
    program.run(["tag", &ids[1], "--add", "keep"]).expect(0);
    let kept = program.run(["--json", "forget", "--keep-last", "1", "--keep-tag", "keep", "-n"]).expect(0).json();
    assert_eq!(kept["forgotten"], serde_json::json!([ids[2]]));
    let other = program.run(["--json", "forget", "--keep-last", "1", "--dataset", "other"]).expect(0).json();
    assert_eq!((&other["forgotten"], &other["groups"]), (&serde_json::json!([]), &serde_json::json!([])));
    let tagged = program.run(["--json", "forget", "--keep-last", "1", "--tag", "keep", "-n"]).expect(0).json();
    assert_eq!(tagged["forgotten"], serde_json::json!([]));
}

#[test]
fn forgetting_by_id_and_bringing_back() {
    let program = Program::new();
    let ids = backups(&program, 3);
    program.run(["forget", "0000"]).expect(12);
    program.run(["forget", "xyz"]).expect(2);
    program.run(["forget", &ids[0], "--keep-last", "1"]).expect(2);
    let done = program.run(["--json", "forget", &ids[0][..12], &ids[1], "--reason", "wrong host"]).expect(0).json();
    assert_eq!((&done["by"], &done["kept"], done["forgotten"].as_array().unwrap().len()), (&"id".into(), &1.into(), 2));
    assert_eq!(listed(&program), ids[2..]);
    let again = program.run(["--json", "forget", &ids[0]]).expect(12).error();
    assert!(again["message"].as_str().unwrap().contains("forgotten already"), "{again}");

    // Whoever names it is told, whatever for, and how long it can be brought back.
    let named = |hint: &str| {
        for command in [
            &["restore", &ids[0][..], "--to", "out"][..],
            &["tag", &ids[0], "--add", "x"],
            &["ls", &ids[0][..8]],
            &["cat", &ids[0], "x"],
            &["find", "x", &ids[0]],
            &["diff", &ids[0], &ids[2]],
            &["diff", &ids[2], &ids[0]],
            &["hold", &ids[0], "--reason", "x"],
        ] {
            let error = program.run([&["--json"], command].concat()).expect(12).error();
            let expected = format!("snapshot {} of", &ids[0][..12]);
            let (message, told) = (error["message"].as_str().unwrap(), error["hint"].as_str().unwrap());
            assert!(message.starts_with(&expected) && message.ends_with("is forgotten"), "{command:?}: {error}");
            assert!(told.contains(hint) && told.contains(&ids[0][..12]), "{command:?}: {error}");
        }
    };
    named("brings it back, until 20");
    let configured = std::fs::read_to_string(program.path("keepstone.toml")).unwrap();
    configure(&program, "forget_window = '1ns'");
    named("unforget --past-window");
    std::fs::write(program.path("keepstone.toml"), configured).unwrap();

    let back = program.run(["--json", "unforget", &ids[0][..8]]).expect(0).json();
    assert_eq!(back["counts"], serde_json::json!(["one", "two"]));
    assert_eq!((&back["in_doubt"], &back["absent"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!(listed(&program), [&ids[..1], &ids[2..]].concat());
    program.restore("out", &[&ids[0]]).expect(0);
    program.run(["unforget", &ids[0]]).expect(2);
    program.run(["unforget", "0000"]).expect(12);

    configure(&program, "forget_window = '1ns'");
    let late = program.run(["--json", "unforget", &ids[1]]).expect(1).error();
    assert!(late["message"].as_str().unwrap().contains("window"), "{late}");
    assert_eq!(listed(&program).len(), 2);
    program.run(["unforget", &ids[1], "--past-window"]).expect(0);
    assert_eq!(listed(&program), ids);
    // A region that is left out is pending.
    program.run(["--region", "one", "forget", &ids[0]]).expect(3);
    program.run(["--region", "one", "unforget", &ids[0], "--past-window"]).expect(3);
}

#[test]
fn holding_and_releasing() {
    let program = Program::new();
    let ids = backups(&program, 3);
    program.run(["hold", &ids[0]]).expect(2);
    program.run(["hold", &ids[0], "--reason", "x", "--until", "2001-01-01"]).expect(2);
    let held =
        program.run(["--json", "hold", &ids[0], "--reason", "audit 2026", "--until", "90 days"]).expect(0).json();
    assert_eq!((&held["ruling"], &held["reason"]), (&"hold".into(), &"audit 2026".into()));
    assert_eq!(program.snapshots(&[])[0]["held"]["reason"], "audit 2026");
    assert!(program.run(["snapshots"]).expect(0).stdout.contains("HELD"));
    let refused = program.run(["--json", "forget", &ids[0], &ids[1]]).expect(2).error();
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("on hold") && message.contains("audit 2026") && message.contains("until 20"), "{message}");
    assert_eq!(listed(&program), ids);
    // The policy leaves it alone.
    let kept = program.run(["--json", "forget", "--keep-last", "1"]).expect(0).json();
    assert_eq!(kept["forgotten"], serde_json::json!([ids[1]]));
    let missing = program.run(["--json", "hold", &ids[1], "--reason", "x"]).expect(12).error();
    assert!(missing["message"].as_str().unwrap().contains("is forgotten"), "{missing}");

    program.run(["release", &ids[2]]).expect(2);
    program.run(["release", &ids[0], "--reason", "done"]).expect(0);
    assert_eq!(program.snapshots(&[])[0]["held"], serde_json::Value::Null);
    program.run(["forget", &ids[0]]).expect(0);
}

/// RETAIN-4, RETAIN-5: floors hold against ids and policies, and are overridden by name only.
#[test]
fn floors_are_broken_only_by_name() {
    let program = Program::new();
    let ids = backups(&program, 2);
    let refused = program.run(["--json", "forget", &ids[0], &ids[1]]).expect(2).error();
    assert!(refused["message"].as_str().unwrap().contains("minimum_copies"), "{refused}");
    configure(&program, "keep_last = 1\nminimum_age = '7 days'");
    let refused = program.run(["--json", "forget", &ids[0]]).expect(2).error();
    assert!(refused["message"].as_str().unwrap().contains("minimum_age"), "{refused}");
    let kept = program.run(["--json", "forget"]).expect(0).json();
    assert_eq!((&kept["forgotten"], &kept["kept"]), (&serde_json::json!([]), &2.into()));
    assert_eq!(kept["groups"][0]["snapshots"][0]["reasons"], serde_json::json!(["minimum_age"]));

    program.run(["forget", "--confirm", "default"]).expect(2);
    for extra in [&[][..], &["--confirm", "defualt"]] {
        let refused = program.run([&["--json", "forget", "--break-floor"], extra].concat()).expect(2).error();
        assert!(refused["message"].as_str().unwrap().contains("'default'"), "{refused}");
    }
    assert_eq!(listed(&program), ids);
    let broken = program.run(["--json", "forget", "--break-floor", "--confirm", "default"]).expect(0).json();
    assert_eq!(broken["floors_broken"], serde_json::json!([{ "id": ids[0], "floor": "minimum_age" }]));
    assert_eq!(listed(&program), ids[1..]);
    program.run(["forget", &ids[1], "--break-floor", "--confirm", "default", "--reason", "end of it"]).expect(0);
    assert!(listed(&program).is_empty());
    let audit = program.run(["--json", "audit"]).expect(0).json();
    let actions: Vec<&str> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["init", "break-floor", "forget", "break-floor", "forget"]);
}

/// RETAIN-2: partial, small and pending snapshots push nothing out.
#[test]
fn a_failing_backup_evicts_no_good_one() {
    let program = Program::new();
    program.write("a", &[7; 5000]);
    let good = id(&program.backup(&[]));
    program.write("a", b"x");
    let small: Vec<String> = (0..3)
        .map(|at| {
            program.write("b", format!("{at}").as_bytes());
            id(&program.backup(&[]))
        })
        .collect();
    configure(&program, "keep_last = 1\nleast_bytes = '1KiB'");
    let done = program.run(["--json", "forget", "-n"]).expect(0).json();
    assert_eq!(done["forgotten"].as_array().unwrap().len(), 2, "{done}");
    let stays = |done: &serde_json::Value, id: &str| {
        let snapshots = done["groups"][0]["snapshots"].as_array().unwrap();
        snapshots.iter().find(|at| at["id"] == id).unwrap()["stays"].as_bool().unwrap()
    };
    assert!(stays(&done, &good) && stays(&done, &small[2]));
    configure(&program, "keep_last = 1\ngreatest_shrink = '50%'");
    let done = program.run(["--json", "forget"]).expect(0).json();
    assert_eq!((&done["forgotten"], &done["set_aside"]), (&serde_json::json!([]), &3.into()));
    assert_eq!(done["groups"][0]["snapshots"][1]["standing"], "shrunk");
    // Somebody looked: from there on the small ones are what is good.
    let done = program.run(["--json", "forget", "--keep-last", "1", "--accept", &small[0]]).expect(0).json();
    assert_eq!(done["forgotten"].as_array().unwrap().len(), 3, "{done}");
    assert_eq!(listed(&program), small[2..]);
}

/// RETAIN-2: partial snapshots, such as have few files, such as one region lacks, and backups that failed push
/// nothing out, and it is told of each why.
#[test]
fn what_lacks_something_evicts_no_good_one() {
    let program = Program::nobody();
    for at in 0..4 {
        program.write(&format!("{at}"), b"content");
    }
    let good = id(&program.backup(&[]));
    let configured = "keep_last = 1\nleast_files = 3";
    configure(&program, configured);
    let judged = |program: &Program, of: &str| {
        let told = program.run(["--json", "forget", "-n"]).expect(0).json();
        let all = told["groups"][0]["snapshots"].as_array().unwrap().clone();
        let text = |name: &str, at: &serde_json::Value| at[name].as_str().unwrap().to_owned();
        let found = all.iter().find(|at| at["id"] == of).unwrap();
        let kept = all.iter().find(|at| at["id"] == *good).unwrap();
        assert_eq!((&kept["stays"], &kept["reasons"]), (&true.into(), &serde_json::json!(["last"])), "{told}");
        (text("standing", found), text("detail", found), found["stays"].as_bool().unwrap())
    };
    // Not everything could be read.
    let secret = program.write("0", b"changed");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    let partial = id(&program.backup_ending(4, &[]));
    assert_eq!(judged(&program, &partial), ("partial".into(), String::new(), true));
    std::fs::remove_file(&secret).unwrap();
    // Most of it is gone.
    let few: Vec<String> = (1..3)
        .map(|at| {
            std::fs::remove_file(program.source().join(at.to_string())).unwrap();
            id(&program.backup(&[]))
        })
        .collect();
    assert_eq!(judged(&program, &few[0]).0, "small");
    assert_eq!(judged(&program, &few[1]), ("small".into(), "1 files, and 3 are the least".into(), true));
    // Nothing at all.
    let before = program.snapshots(&[]).len();
    program.run(["backup", "/nonexistent/source"]).expect(12);
    assert_eq!(program.snapshots(&[]).len(), before);
    // Whole, and not everywhere yet.
    for at in 0..4 {
        program.write(&format!("{at}"), b"new content");
    }
    std::fs::rename(program.path("two"), program.path("away")).unwrap();
    let pending = id(&program.backup_ending(3, &[]));
    std::fs::rename(program.path("away"), program.path("two")).unwrap();
    assert_eq!(judged(&program, &pending), ("pending".into(), "it counts in 1 of 2 regions".into(), true));
    // What goes is of those that lack something, and each of them counts among its like.
    let done = program.run(["--json", "forget"]).expect(0).json();
    let gone: BTreeSet<&str> = done["forgotten"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!((gone, &done["set_aside"]), (BTreeSet::from([partial.as_str(), few[0].as_str()]), &1.into()));
    program.restore("out", &[&good]).expect(0);
    // Once it is everywhere, it is what is kept.
    program.run(["replicate"]).expect(0);
    let done = program.run(["--json", "forget"]).expect(0).json();
    assert_eq!(done["forgotten"], serde_json::json!([good]), "{done}");
}

/// RETAIN-3: neither dates ahead nor dates back push a good snapshot out, also where slots share a group.
#[test]
fn forged_dates_evict_no_good_one() {
    let program = Program::new();
    program.write("file", b"one");
    let first = id(&program.backup(&["--host", "host"]));
    program.write("file", b"two");
    let second = id(&program.backup(&["--host", "host"]));
    program.run(["gc", "--now"]).expect(0);
    program.add_slot("writer");
    let specs = ["one", "two"].map(|name| RegionSpec {
        name: name.to_owned(),
        store: Arc::new(LocalStore::open(&program.path(name)).unwrap()),
    });
    let forged: Vec<String> = [7_000_000_000u64, 7_100_000_000, 1_000_000_000, 1_100_000_000]
        .iter()
        .map(|seconds| {
            let identity = std::fs::read_to_string(program.path("writer")).unwrap();
            let unlock = Unlock::Identities(zeroize::Zeroizing::new(identity));
            let clock = Arc::new(StepClock::starting_at(*seconds));
            let repository = Located::open(&specs, None).unwrap().unlock(&unlock, clock, Arc::new(SystemRandom));
            let (repository, index) = (repository.unwrap(), MemoryIndex::new());
            sync(&repository, &index, &Silent).unwrap();
            program.write("file", format!("forged {seconds}").as_bytes());
            let paths = [program.source()];
            let walk = keepstone::source::Walk::new(&paths, Default::default()).unwrap();
            let saved = backup_tree(&repository, &index, &options(0), walk, &[], &Silent).unwrap();
            saved.snapshot.unwrap().to_string()
        })
        .collect();
    configure(&program, "keep_last = 1\ngroup_by = 'dataset,host'");
    for collected in [false, true] {
        let told = program.run(["--json", "forget", "-n"]).expect(0).json();
        assert_eq!(told["forgotten"], serde_json::json!([first]), "RETAIN-3: {told}");
        let all = told["groups"][0]["snapshots"].as_array().unwrap();
        assert_eq!((all.len(), told["groups"].as_array().unwrap().len()), (6, 1));
        for at in all {
            let forged = forged.iter().any(|id| at["id"] == **id);
            assert_eq!(at["standing"] == "suspect", forged, "{at}");
            assert!(!forged || (at["stays"] == true && !at["detail"].as_str().unwrap().is_empty()), "{at}");
            assert!(at["id"] != *second || at["reasons"] == serde_json::json!(["last"]), "{at}");
        }
        // A collection that has seen the forged ones makes them no better.
        if !collected {
            program.run(["gc", "--now"]).expect(0);
        }
    }
    // By default no slot's snapshots are judged with another's at all (RETAIN-6).
    configure(&program, "keep_last = 1");
    let told = program.run(["--json", "forget", "-n"]).expect(0).json();
    let own = told["forgotten"].as_array().unwrap().contains(&first.into());
    assert_eq!((told["groups"].as_array().unwrap().len(), own), (2, true), "{told}");
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    let program = Program::new();
    for (text, wanted) in [
        ("keep_dayly = 7", "keep_daily"),
        ("keep_daily = -1", "0 to 100000"),
        ("keep_within = 'soon'", "P30D"),
        ("group_by = 'hots'", "'hots'"),
        ("greatest_shrink = 120", "60%"),
        ("time_zone = 'Mars/Olympus'", "Europe/Berlin"),
        ("minimum_copies = 'two'", "minimum_copies"),
        ("accept = ['xyz']", "accept"),
    ] {
        configure(&program, text);
        let refused = program.run(["forget", "-n"]).expect(2).stderr;
        assert!(refused.contains(wanted), "{text}: {refused}");
    }
    configure(
        &program,
        "keep_daily = 7\nkeep_within = '2 weeks'\ngroup_by = 'dataset,host'\ngreatest_shrink = '60%'\ntime_zone = 'UTC'\nminimum_age = '3d'\nforget_window = '14 days'",
    );
    program.run(["forget"]).expect(0);
}

/// A backup made with a wrong clock would be the latest for years.
#[test]
fn the_latest_is_none_from_the_future() {
    use keepstone::env::Clock;
    use keepstone::repo::snapshots::{Selector, select};
    let (world, source) = (World::new(1), tempfile::tempdir().unwrap());
    write(source.path(), "f", b"old");
    let first = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let now_ns = world.clock.now_ns();
    world.clock.sleep(std::time::Duration::from_secs(10 * 365 * 24 * 3600));
    write(source.path(), "f", b"from a host with a wrong clock");
    let second = world.backup(&[0], source.path(), 0).unwrap().snapshot.unwrap();
    let listing = world.list(&[0]);
    let latest = |snapshots, back, now_ns| select(snapshots, &Selector::Latest { back, now_ns }).map(|info| info.id);
    assert_eq!(latest(&listing.snapshots, 0, now_ns).unwrap(), first);
    assert!(latest(&listing.snapshots, 1, now_ns).is_err());
    assert_eq!(latest(&listing.snapshots, 0, world.clock.now_ns()).unwrap(), second);
    // A host whose clock is at its beginning must be able to restore all the same.
    assert_eq!(latest(&listing.snapshots, 0, 0).unwrap(), second);
    assert_eq!(latest(&listing.snapshots, 1, 0).unwrap(), first);
}

/// More than are read one after the other: what is damaged is told, and everything else is there in order.
#[test]
fn many_snapshots_are_listed_forgotten_and_collected_as_few_are() {
    let (world, ids) = world(2, 70);
    assert_eq!(world.ids(&world.all()), ids);
    let snapshot = |id: &SnapshotId| format!("snapshots/{id}");
    // Of a snapshot that is whole: its commit says that the region is to have it.
    let info = list(&open(&world)).unwrap().snapshots.swap_remove(9);
    let (_, session) = info.commits.into_iter().find(|(region, _)| *region == 1).unwrap();
    let commit = commit_name(session);
    for (store, name) in [(0, snapshot(&ids[7])), (0, snapshot(&ids[50])), (1, snapshot(&ids[50]))] {
        let mut bytes = world.stores[store].get(&name, u64::MAX).unwrap();
        bytes[100] ^= 1;
        world.stores[store].heal(&name, &bytes.into()).unwrap();
    }
    world.stores[1].heal(&commit, &b"no commit".to_vec().into()).unwrap();
    let listing = list(&open(&world)).unwrap();
    let mut whole = ids.clone();
    whole.remove(50);
    assert_eq!(listing.snapshots.iter().map(|info| info.id).collect::<Vec<_>>(), whole);
    let told: Vec<String> =
        listing.issues.iter().map(|issue| String::from_utf8_lossy(&issue.subject).into_owned()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told.iter().filter(|subject| subject.contains(&ids[50].to_string())).count() == 2, "{told:?}");
    assert!(told.iter().any(|subject| subject.ends_with(&commit)), "{told:?}");

    put(&open(&world), &whole[..66].iter().copied().collect(), &Decree::new(Ruling::Forget, "a test")).unwrap();
    let left = list(&open(&world)).unwrap().snapshots;
    assert_eq!(left.iter().map(|info| info.id).collect::<Vec<_>>(), whole[66..]);
    assert!(whole[..66].iter().all(|id| verdicts(&world, *id) == [1]));
}
