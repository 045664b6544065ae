//! The writer's side of collection: what a backup observes of a region's log, when, and what it does when a
//! collector was quicker.

use crate::fixture::{noise, write};
use crate::stage::{Answer, AtFile, FILE_BYTES, Stage, plain, source, watching};
use keepstone::backup::{Backup, BackupError, BackupSummary};
use keepstone::format::ids::{PackId, SegmentId, SessionId, SnapshotId, number_name};
use keepstone::format::verdict::Ruling;
use keepstone::repo::sync::read_segment;
use keepstone::report::{Monitor, Silent};
use keepstone::store::Store;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

#[test]
fn order_4_needs_are_durable_before_the_log_is_listed_again() {
    let (stage, source) = (Stage::new(2), source());
    let packs = stage.forgotten(source.path());
    let condemned = packs.clone();
    let collector = Arc::clone(&stage.collector);
    let monitor = AtFile(move |path: &str| {
        if path == "file3" {
            collector.condemn(1, 1, &condemned);
        }
    });
    let summary = stage.backup_with(source.path(), &watching(), &monitor).unwrap();
    assert!(!summary.pending());

    let session = stage.collector.commits(1).into_iter().find(|sid| stage.collector.states(1, *sid).len() > 1).unwrap();
    let states = stage.collector.states(1, session);
    let data: Vec<_> = states.iter().map(|state| (state.observed, state.needs.len())).collect();
    assert_eq!(data[0], (0, 0));
    assert_eq!(data[1], (1, 1), "the data pack was relied on, the trees' not yet");
    assert!(packs.contains(&states[1].needs[0]));
    assert_eq!(stage.collector.states(0, session).len(), 1, "the other region's log says nothing");

    let condemn = stage.place(0, 1, "get", "gc/");
    let state = stage.place(0, 1, "put", &format!("sessions/{session}/{}", number_name(1)));
    let next = stage.place(state, 1, "list", "gc/");
    assert!(condemn < state && state < next);
    let commit = stage.place(0, 1, "put", "commits/");
    assert!(next < commit);
    // What came after the condemn is stored again, with the trees.
    assert!(summary.new_chunks > 0);

    // A collector that keeps its word rescues what is needed; the rest goes.
    let gone: Vec<PackId> = packs.iter().filter(|pack| !states[1].needs.contains(pack)).copied().collect();
    stage.collector.fence(1, 1, &[], &[]);
    stage.collector.finish(1, 1, &gone, &states[1].needs, &[]);
    let to = tempfile::tempdir().unwrap();
    assert_eq!(gone.len(), 1);
    // The segment lists the pack that is gone too, so a reader may look there first, and say so.
    stage.world.restore(&[1], summary.snapshot.unwrap(), &to.path().join("t"), 0).unwrap();
    crate::facts::assert_same(source.path(), &to.path().join("t"));
}

#[test]
fn order_4_needs_behind_the_fence_come_too_late_and_what_is_lost_is_stored_again() {
    let (stage, source) = (Stage::new(2), source());
    let packs = stage.forgotten(source.path());
    let (collector, condemned) = (Arc::clone(&stage.collector), packs.clone());
    let first: Arc<Mutex<Vec<SessionId>>> = Arc::default();
    let (fenced, passes) = (Arc::clone(&first), AtomicU32::new(0));
    let monitor = AtFile(move |path: &str| match path {
        "file0" if passes.fetch_add(1, Ordering::Relaxed) == 1 => {
            // The source is read again: nothing of the old packs is needed any more.
            collector.finish(1, 1, &condemned, &[], &fenced.lock().unwrap());
        }
        "file3" if passes.load(Ordering::Relaxed) == 1 => {
            *fenced.lock().unwrap() = collector.open_sessions(1);
            collector.condemn(1, 1, &condemned);
            collector.fence(1, 1, &fenced.lock().unwrap(), &[]);
        }
        _ => {}
    });
    let summary = stage.backup_with(source.path(), &watching(), &monitor).unwrap();
    assert!(!summary.pending());
    let fenced = first.lock().unwrap().clone();
    assert_eq!(fenced.len(), 1);
    for at in 0..2 {
        let commits = stage.collector.commits(at);
        assert!(!commits.contains(&fenced[0]), "the fenced session commits nowhere");
        let session = *commits.iter().find(|sid| !stage.collector.states(at, **sid)[0].adopts.is_empty()).unwrap();
        assert_eq!(stage.collector.states(at, session)[0].adopts, fenced, "region {at}");
    }
    // Its packs are gone for real, in one region; each region alone gives everything back.
    assert!(packs.iter().all(|pack| !stage.collector.packs(1).contains(pack)));
    stage.assert_restores(&[0, 1], summary.snapshot.unwrap(), source.path());
    assert_eq!(stage.collector.open_sessions(0), [], "it isn't left open in region 0");
}

#[test]
fn order_5_a_fence_that_comes_with_the_commit_is_answered_by_a_second_session_in_both_regions() {
    let (stage, source) = (Stage::new(2), source());
    let collector = Arc::clone(&stage.collector);
    let mut fenced = false;
    stage.on(move |call| {
        if call.region == 1 && call.after && call.operation == "put" && call.name.starts_with("commits/") && !fenced {
            // The collector read the commits a moment before.
            fenced = true;
            let session = SessionId::from_hex(call.name.strip_prefix("commits/").unwrap()).unwrap();
            collector.condemn(1, 1, &[]);
            collector.fence(1, 1, &[session], &[]);
        }
        Answer::Go
    });
    let summary = stage.backup_with(source.path(), &watching(), &Silent).unwrap();
    assert!(!summary.pending());
    for at in 0..2 {
        assert_eq!(stage.collector.commits(at).len(), 2, "region {at}");
        let commit = stage.place(0, at, "put", "commits/");
        let listed = stage.place(commit, at, "list", "gc/");
        let state = stage.place(commit, at, "put", "sessions/");
        let again = stage.place(commit + 1, at, "put", "commits/");
        let last = stage.place(again, at, "list", "gc/");
        assert!(commit < listed && listed < state && state < again && again < last, "region {at}");
    }
    let puts = stage.calls().iter().filter(|call| call.operation == "put" && call.name.starts_with("packs/")).count();
    assert_eq!(puts, 4, "nothing was lost, so nothing is stored again");
    assert_eq!(stage.collector.names(0, "snapshots/").len(), 1);
    // The first commit is gone with the final, whatever it named; the second one holds.
    let open = stage.collector.commits(1);
    let fenced = open.iter().find(|sid| stage.collector.states(1, **sid)[0].adopts.is_empty()).unwrap();
    stage.collector.finish(1, 1, &[], &[], &[*fenced]);
    stage.assert_restores(&[0, 1], summary.snapshot.unwrap(), source.path());
}

/// The writer sleeps while two generations come and go, at a put of such a name. The first takes what it
/// found stored; with `own` the second takes what it stored itself, since its session was fenced.
fn sleeper(at_put: &'static str, own: bool) {
    let (stage, source) = (Stage::new(1), source());
    let packs = stage.forgotten(source.path());
    write(source.path(), "new", &noise(77, 20_000));
    let collector = Arc::clone(&stage.collector);
    let mut slept = false;
    stage.on(move |call| {
        // A commit that is there before the fence is admitted; this one comes after.
        let moment = call.after != (at_put == "commits/");
        if moment && call.operation == "put" && call.name.starts_with(at_put) && !slept {
            slept = true;
            collector.collect(0, 1, &packs);
            let rest = if own { collector.packs(0) } else { Vec::new() };
            collector.collect(0, 2, &rest);
        }
        Answer::Go
    });
    let summary = stage.backup_with(source.path(), &plain(), &Silent).unwrap();
    assert!(!summary.pending());
    let id = summary.snapshot.unwrap();
    // Whatever else is shown restores as well: a commit that was fenced for good is nobody's.
    assert_eq!(stage.world.ids(&[0]), [id], "at {at_put}");
    stage.assert_restores(&[0], id, source.path());
}

#[test]
fn order_5_a_writer_that_sleeps_through_two_generations_reports_no_success_that_does_not_restore() {
    for own in [false, true] {
        for at_put in ["sessions/", "packs/", "index/", "snapshots/", "commits/"] {
            sleeper(at_put, own);
        }
    }
}

#[test]
fn order_3_a_session_that_finds_generations_observes_the_newest_and_relies_on_nothing_that_goes() {
    let (stage, source) = (Stage::new(1), source());
    let packs = stage.forgotten(source.path());
    stage.collector.collect(0, 1, &packs[..1]);
    stage.collector.condemn(0, 2, &packs[1..]);
    let summary = stage.backup(source.path());
    let session = *stage.collector.commits(0).iter().find(|sid| stage.collector.states(0, **sid).len() == 2).unwrap();
    let states = stage.collector.states(0, session);
    assert_eq!(states.iter().map(|state| state.observed).collect::<Vec<_>>(), [0, 2]);
    assert!(states[1].needs.is_empty());
    stage.collector.fence(0, 2, &[], &[]);
    stage.collector.finish(0, 2, &packs[1..], &[], &[]);
    stage.collector.names(0, "index/").iter().for_each(|name| {
        let id = SegmentId::from_hex(name.strip_prefix("index/").unwrap()).unwrap();
        let opened = read_segment(&stage.collector.repository, &stage.collector.repository.regions[0], id).unwrap();
        if opened.segment.packs.iter().all(|pack| packs.contains(&pack.pack)) {
            stage.collector.memories[0].delete(name).unwrap();
        }
    });
    stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
}

#[test]
fn order_6_a_rescued_pack_is_relied_on_again() {
    let (stage, source) = (Stage::new(1), source());
    let packs = stage.forgotten(source.path());
    stage.collector.condemn(0, 1, &packs);
    stage.collector.fence(0, 1, &[], &[]);
    stage.collector.finish(0, 1, &[], &packs, &[]);
    assert_eq!(stage.backup(source.path()).new_chunks, 0);
}

#[test]
fn a_collector_that_fences_every_session_is_an_error_and_no_snapshot() {
    let (stage, source) = (Stage::new(1), source());
    let collector = Arc::clone(&stage.collector);
    let mut generation = 0;
    stage.on(move |call| {
        // Each new state is fenced before the writer's next listing.
        if call.after && call.operation == "put" && call.name.starts_with("sessions/") && call.name.ends_with("0") {
            generation += 1;
            collector.collect(0, generation, &[]);
        }
        Answer::Go
    });
    let error = stage.backup_with(source.path(), &watching(), &Silent).unwrap_err();
    assert!(matches!(error, BackupError::Overtaken { .. }), "{error:?}");
    stage.quiet();
    assert_eq!(stage.world.ids(&[0]), []);
    let summary = stage.backup(source.path());
    stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
}

#[test]
fn order_4_a_successor_that_no_collector_has_seen_does_not_trust_a_fence_that_spares_it() {
    // The collector reads the sessions, fences the first one, and doesn't know the second one, whose needs
    // are put behind its back: the fence names it not, and still they came too late.
    let (stage, source) = (Stage::new(1), source());
    let packs = stage.forgotten(source.path());
    let (collector, condemned) = (Arc::clone(&stage.collector), packs.clone());
    let mut step = 0;
    let mut fenced = Vec::new();
    stage.on(move |call| {
        let state = call.after && call.operation == "put" && call.name.starts_with("sessions/");
        match step {
            // All is stored: generation 1 takes nothing and fences the writer, which takes up a new session.
            0 if call.after && call.operation == "put" && call.name.starts_with("index/") => {
                step = 1;
                collector.collect(0, 1, &[]);
            }
            // Before the new session lists the log, generation 2 is condemned by who read the sessions before.
            1 if state => {
                step = 2;
                collector.condemn(0, 2, &condemned);
            }
            // Its needs are there, and now comes the fence.
            2 if state => {
                step = 3;
                collector.fence(0, 2, &[], &[]);
            }
            // The final takes what only those needs would have kept.
            3 if call.operation == "put" && call.name.starts_with("packs/") => {
                step = 4;
                fenced.extend(collector.open_sessions(0));
                collector.finish(0, 2, &condemned, &[], &[]);
            }
            _ => {}
        }
        Answer::Go
    });
    write(source.path(), "new", &noise(78, 20_000));
    let summary = stage.backup_with(source.path(), &plain(), &Silent).unwrap();
    assert!(packs.iter().all(|pack| !stage.collector.packs(0).contains(pack)), "they are gone for real");
    stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
}

/// Stops the run once this file is begun.
struct Stop(&'static [u8], Mutex<bool>);

impl Monitor for Stop {
    fn current(&self, path: &[u8]) {
        *self.1.lock().unwrap() |= path == self.0;
    }
    fn cancelled(&self) -> bool {
        *self.1.lock().unwrap()
    }
}

/// Small files are read together: those of them that were not come to are no failure of the walk.
#[test]
fn a_stop_among_small_files_is_told_as_one() {
    for threads in [0, 2] {
        for file in [b"0", b"4", b"9"] {
            let (stage, source) = (Stage::new(1), tempfile::tempdir().unwrap());
            for at in 0..10 {
                write(source.path(), &at.to_string(), &noise(at, 300));
            }
            let options = Backup { threads, ..plain() };
            let error = stage.backup_with(source.path(), &options, &Stop(file, Mutex::new(false))).unwrap_err();
            assert!(matches!(error, BackupError::Cancelled), "{error}");
        }
    }
}

#[test]
fn an_interrupted_session_of_this_slot_is_adopted_from_the_first_state_on() {
    let ((stage, identity), source) = (Stage::with_writer(2), source());
    let error = stage.backup_with(source.path(), &watching(), &Stop(b"file4", Mutex::new(false))).unwrap_err();
    assert!(matches!(error, BackupError::Cancelled));
    let left = stage.collector.open_sessions(0);
    assert_eq!((left.len(), stage.collector.packs(0).len()), (1, 1));
    // Another slot's open session is none of ours.
    drop(keepstone::repo::Session::open(&stage.open_as(Some(&identity))).unwrap());
    let summary = stage.backup(source.path());
    for at in 0..2 {
        let session = stage.collector.commits(at)[0];
        assert_eq!(stage.collector.states(at, session)[0].adopts, left, "region {at}");
        let looked = stage.place(0, at, "list", "sessions/");
        assert!(looked < stage.place(0, at, "put", "sessions/"));
    }
    assert!(summary.new_bytes < 6 * FILE_BYTES as u64, "what was stored is used");
    // Nothing is left to adopt for who comes after, but the one that is open still.
    stage.backup(source.path());
    let last = stage.collector.commits(0);
    assert!(last.iter().all(|sid| stage.collector.states(0, *sid)[0].adopts == left));
}

#[test]
fn a_log_that_cannot_be_listed_for_a_while_costs_nothing_and_at_the_end_the_commit() {
    for (nth, pending) in [(2, false), (u32::MAX, true)] {
        let (stage, source) = (Stage::new(2), source());
        let mut lists = 0;
        stage.on(move |call| {
            let mine = call.region == 1 && !call.after && call.operation == "list" && call.name == "gc/";
            lists += u32::from(mine);
            // The index, the repository's snapshots and the session come first.
            match mine && lists > 3 && lists <= nth.saturating_add(3) {
                true => Answer::Fail,
                false => Answer::Go,
            }
        });
        let summary = stage.backup_with(source.path(), &watching(), &Silent).unwrap();
        assert_eq!(summary.pending(), pending);
        assert!(summary.regions[0].committed && summary.regions[1].committed != pending);
        stage.quiet();
        assert_eq!(stage.world.ids(&[1]).is_empty(), pending);
        stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
    }
}

#[test]
fn gc_4_a_log_that_is_damaged_while_a_backup_runs_leaves_its_region_out() {
    let (stage, source) = (Stage::new(2), source());
    let memory = stage.collector.memories[1].clone();
    let monitor = AtFile(move |path: &str| {
        if path == "file2" {
            memory.put_new(&format!("gc/{}/condemn", number_name(1)), &vec![1, 2, 3].into()).unwrap();
        }
    });
    let summary = stage.backup_with(source.path(), &watching(), &monitor).unwrap();
    assert!(summary.regions[0].committed && !summary.regions[1].committed);
    assert_eq!(stage.collector.commits(1), []);
    stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
}

#[test]
fn gc_3_a_listing_that_shows_the_fence_without_its_condemn_is_made_again() {
    let (stage, source) = (Stage::new(1), source());
    stage.collector.condemn(0, 1, &[]);
    stage.collector.fence(0, 1, &[], &[]);
    let condemn = format!("gc/{}/condemn", number_name(1));
    let mut hidden = 0;
    stage.on(move |call| {
        let lists = !call.after && call.operation == "list" && call.name == "gc/";
        hidden += u32::from(lists);
        match lists && hidden % 3 != 0 {
            true => Answer::Hide(condemn.clone()),
            false => Answer::Go,
        }
    });
    let summary = stage.backup(source.path());
    stage.quiet();
    stage.assert_restores(&[0], summary.snapshot.unwrap(), source.path());
    // An entry that stays away is damage, not patience.
    stage.collector.memories[0].delete(&format!("gc/{}/condemn", number_name(1))).unwrap();
    let (repository, _) = (stage.open_as(None), ());
    let error = keepstone::repo::gclog::read(&repository, &repository.regions[0]).unwrap_err();
    assert!(error.to_string().contains("GC-3"), "{error}");
}

#[test]
fn a_dry_run_writes_nothing_whatever_the_log_says() {
    let (stage, source) = (Stage::new(2), source());
    let packs = stage.forgotten(source.path());
    stage.collector.condemn(0, 1, &packs);
    let summary = stage.backup_with(source.path(), &Backup { dry_run: true, ..watching() }, &Silent).unwrap();
    assert!(summary.new_chunks > 0, "what goes isn't counted as stored");
    assert!(stage.calls().iter().all(|call| call.operation != "put"), "{:#?}", stage.calls());
}

#[test]
fn order_4_threads_observe_a_condemn_while_files_are_read() {
    let (stage, source) = (Stage::new(1), source());
    let packs = stage.forgotten(source.path());
    let collector = Arc::clone(&stage.collector);
    let monitor = AtFile(move |path: &str| {
        if path == "file5" {
            collector.condemn(0, 1, &packs);
            // The watch has a thread of its own: this one goes on once it has spoken.
            let observed = || {
                let open = collector.open_sessions(0);
                open.iter().any(|sid| collector.states(0, *sid).last().is_some_and(|state| state.observed == 1))
            };
            for _ in 0..6000 {
                if observed() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("nobody observed the condemn");
        }
    });
    let options = Backup { threads: 3, ..watching() };
    let summary = stage.backup_with(source.path(), &options, &monitor).unwrap();
    assert!(!summary.pending());
}

/// A world in which the change-detection cache of a source is filled, and one generation has deleted
/// something already: the log isn't empty any more.
struct Remembering {
    stage: Stage,
    source: TempDir,
    cache: TempDir,
    base: SnapshotId,
}

impl Remembering {
    fn new(regions: usize) -> Self {
        let (stage, source) = (Stage::new(regions), source());
        let other = tempfile::tempdir().unwrap();
        write(other.path(), "elsewhere", &noise(99, 9000));
        let old = stage.forgotten(other.path());
        for at in 0..regions {
            stage.collector.collect(at, 1, &old);
        }
        let cache = tempfile::tempdir().unwrap();
        // A file's times must lie before the scan that sees it, by the run's clock.
        for at in 0..6 {
            let file = std::fs::File::open(source.path().join(format!("file{at}"))).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        }
        let mut made = Remembering { stage, source, cache, base: SnapshotId::default() };
        made.stage.world.clock = Arc::new(keepstone::env::StepClock::starting_at(4_000_000_000));
        made.base = made.backup(&Silent).unwrap().snapshot.unwrap();
        made
    }

    fn options(&self) -> Backup {
        Backup { seen_directory: Some(self.cache.path().to_owned()), ..watching() }
    }

    fn backup(&self, monitor: &dyn Monitor) -> Result<BackupSummary, BackupError> {
        self.stage.backup_with(self.source.path(), &self.options(), monitor)
    }

    /// The session of the last run's commit in a region.
    fn last_session(&self, at: usize) -> SessionId {
        let put = self.stage.calls();
        let commit = put.iter().rev().find(|call| {
            call.region == at && call.operation == "put" && !call.after && call.name.starts_with("commits/")
        });
        SessionId::from_hex(commit.unwrap().name.strip_prefix("commits/").unwrap()).unwrap()
    }
}

#[test]
fn order_7_a_base_is_named_before_log_and_verdicts_are_listed_and_unchanged_files_stay_closed() {
    let set = Remembering::new(2);
    // An open generation, condemning what the base doesn't reach, is no reason to read anything.
    set.stage.collector.condemn(0, 2, &[PackId([3; 32])]);
    let summary = set.backup(&Silent).unwrap();
    assert_eq!((summary.files_unmodified, summary.new_chunks), (6, 0));
    for at in 0..2 {
        let states = set.stage.collector.states(at, set.last_session(at));
        assert!(states.iter().all(|state| state.bases == [set.base]), "region {at}: {states:?}");
        let named = set.stage.place(0, at, "put", "sessions/");
        let log = set.stage.place(named, at, "list", "gc/");
        let verdicts = set.stage.place(named, at, "list", &format!("verdicts/{}/", set.base));
        assert!(named < log && log < verdicts, "region {at}");
    }
    set.stage.assert_restores(&[0, 1], summary.snapshot.unwrap(), set.source.path());
    // The next run rests on this one.
    assert_eq!(set.backup(&Silent).unwrap().files_unmodified, 6);
    let states = set.stage.collector.states(0, set.last_session(0));
    assert_eq!(states[0].bases, [summary.snapshot.unwrap()]);
}

#[test]
fn order_7_a_base_that_goes_while_the_session_opens_is_not_taken_over() {
    for case in 0..4 {
        let set = Remembering::new(2);
        let (collector, base) = (Arc::clone(&set.stage.collector), set.base);
        let committed = set.last_session(1);
        let mut done = false;
        // The snapshots were listed before; this is the last moment at which the base can go unseen.
        set.stage.on(move |call| {
            if !done && call.region == 1 && call.operation == "put" && call.name.starts_with("sessions/") {
                done = true;
                match case {
                    // The other region's verdicts count here too.
                    0 => collector.rule(0, base, 0, Ruling::Forget),
                    1 => {
                        collector.condemn(1, 2, &[]);
                        collector.fence(1, 2, &[], &[base]);
                    }
                    2 => {
                        collector.condemn(1, 2, &[]);
                        collector.fence(1, 2, &[committed], &[]);
                    }
                    _ => {
                        collector.condemn(1, 2, &[]);
                        collector.fence(1, 2, &[committed], &[]);
                        collector.finish(1, 2, &[], &[], &[committed]);
                    }
                }
            }
            Answer::Go
        });
        let summary = set.backup(&Silent).unwrap();
        assert_eq!(summary.files_unmodified, 0, "case {case}");
        let states = set.stage.collector.states(1, set.last_session(1));
        assert!(states.last().unwrap().bases.is_empty(), "case {case}: a collector isn't sent after what is gone");
        set.stage.assert_restores(&[0, 1], summary.snapshot.unwrap(), set.source.path());
    }
}

#[test]
fn order_7_a_base_that_goes_with_its_fenced_session_is_read_again() {
    for at_put in ["snapshots/", "commits/"] {
        let set = Remembering::new(1);
        let (collector, base) = (Arc::clone(&set.stage.collector), set.base);
        let packs = collector.packs(0);
        let mut slept = false;
        set.stage.on(move |call| {
            if !slept && !call.after && call.operation == "put" && call.name.starts_with(at_put) {
                slept = true;
                let open = collector.open_sessions(0);
                collector.rule(0, base, 0, Ruling::Forget);
                collector.condemn(0, 2, &packs);
                collector.fence(0, 2, &open, &[base]);
                collector.finish(0, 2, &packs, &[], &open);
            }
            Answer::Go
        });
        let summary = set.backup(&Silent).unwrap();
        assert_eq!(summary.files_unmodified, 0, "at {at_put}: counted in the pass that was saved");
        assert!(summary.new_bytes >= 6 * FILE_BYTES as u64);
        set.stage.assert_restores(&[0], summary.snapshot.unwrap(), set.source.path());
    }
}

#[test]
fn order_7_a_dry_run_takes_over_what_counts_and_names_nothing() {
    let set = Remembering::new(2);
    let options = Backup { dry_run: true, ..set.options() };
    let summary = set.stage.backup_with(set.source.path(), &options, &Silent).unwrap();
    assert_eq!((summary.files_unmodified, summary.new_chunks), (6, 0));
    assert!(set.stage.calls().iter().all(|call| call.operation != "put"));
}

#[test]
fn an_unchanged_source_is_not_saved_again_after_a_collection() {
    let set = Remembering::new(2);
    let options = Backup { skip_if_unchanged: true, ..set.options() };
    let summary = set.stage.backup_with(set.source.path(), &options, &Silent).unwrap();
    assert!(summary.unchanged && summary.snapshot.is_none() && !summary.pending());
    assert_eq!((summary.files_unmodified, set.stage.collector.open_sessions(0)), (6, Vec::new()));
}

#[test]
fn an_unchanged_source_is_saved_again_when_the_last_snapshot_goes_meanwhile() {
    let set = Remembering::new(1);
    let (collector, base) = (Arc::clone(&set.stage.collector), set.base);
    let packs = collector.packs(0);
    let passes = AtomicU32::new(0);
    let monitor = AtFile(move |path: &str| {
        if path == "file5" && passes.fetch_add(1, Ordering::Relaxed) == 0 {
            let open = collector.open_sessions(0);
            collector.rule(0, base, 0, Ruling::Forget);
            collector.condemn(0, 2, &packs);
            collector.fence(0, 2, &open, &[base]);
            collector.finish(0, 2, &packs, &[], &open);
        }
    });
    // Without the cache every file is read, and the watch sleeps until the end.
    let options = Backup { skip_if_unchanged: true, ..plain() };
    let summary = set.stage.backup_with(set.source.path(), &options, &monitor).unwrap();
    assert!(!summary.unchanged);
    set.stage.assert_restores(&[0], summary.snapshot.unwrap(), set.source.path());
}

/// A stream that calls a test back after so many bytes.
struct Interrupted<F> {
    bytes: Vec<u8>,
    at: usize,
    after: usize,
    then: Option<F>,
}

impl<F: FnOnce()> Read for Interrupted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.after
            && let Some(then) = self.then.take()
        {
            then();
        }
        let some = buffer.len().min(self.bytes.len() - self.at).min(1 << 20);
        buffer[..some].copy_from_slice(&self.bytes[self.at..self.at + some]);
        self.at += some;
        Ok(some)
    }
}

/// A stream whose packs are condemned and fenced while it is read, and gone at `gone`: before it can be
/// mended, or after.
fn stream_overtaken(identity: Option<&str>, stage: &Stage, gone_early: bool) -> Result<BackupSummary, BackupError> {
    let bytes = noise(5, 3 << 20);
    let first = stage.stream(identity, &bytes[..]).unwrap();
    stage.collector.rule(0, first.snapshot.unwrap(), 0, Ruling::Forget);
    let packs = stage.collector.packs(0);
    let (collector, condemned) = (Arc::clone(&stage.collector), packs.clone());
    let fenced: Arc<Mutex<Vec<SessionId>>> = Arc::default();
    let (told, finishing) = (Arc::clone(&fenced), Arc::clone(&stage.collector));
    let (mut left, mut segments) = (packs.clone(), 0);
    stage.on(move |call| {
        segments += u32::from(call.after && call.operation == "put" && call.name.starts_with("index/"));
        // The second one lists what is stored again: now the old packs may go.
        if segments == 2 && !gone_early && !left.is_empty() {
            finishing.finish(0, 1, &std::mem::take(&mut left), &[], &fenced.lock().unwrap());
        }
        Answer::Go
    });
    let then = move || {
        let open = collector.open_sessions(0);
        collector.condemn(0, 1, &condemned);
        collector.fence(0, 1, &open, &[]);
        if gone_early {
            collector.finish(0, 1, &condemned, &[], &open);
        }
        *told.lock().unwrap() = open;
    };
    let outcome = stage.stream(identity, Interrupted { bytes, at: 0, after: 2 << 20, then: Some(then) });
    stage.quiet();
    assert!(packs.iter().all(|pack| !stage.collector.packs(0).contains(pack)) || outcome.is_err());
    outcome
}

fn assert_stream(stage: &Stage, id: SnapshotId) {
    let to = tempfile::tempdir().unwrap();
    stage.world.restore(&[0], id, &to.path().join("t"), 0).unwrap();
    assert!(std::fs::read(to.path().join("t/stream")).unwrap() == noise(5, 3 << 20));
}

#[test]
fn order_4_a_stream_is_mended_out_of_what_can_still_be_read() {
    let stage = Stage::new(1);
    let summary = stream_overtaken(None, &stage, false).unwrap();
    assert!(!summary.pending() && summary.new_bytes > 2 << 20);
    assert_stream(&stage, summary.snapshot.unwrap());
}

#[test]
fn order_4_a_stream_that_lost_its_past_for_good_is_an_error_and_no_snapshot() {
    let stage = Stage::new(1);
    let error = stream_overtaken(None, &stage, true).unwrap_err();
    assert!(matches!(error, BackupError::Lost { .. }), "{error:?}");
    assert_eq!(stage.world.ids(&[0]), []);
    let summary = stage.stream(None, &noise(5, 3 << 20)[..]).unwrap();
    assert_stream(&stage, summary.snapshot.unwrap());
}

#[test]
fn order_4_a_stream_of_a_slot_that_cannot_read_is_an_error_and_no_snapshot() {
    let (stage, identity) = Stage::with_writer(1);
    let error = stream_overtaken(Some(&identity), &stage, false).unwrap_err();
    assert!(matches!(&error, BackupError::Lost { detail } if detail.contains("can't read payloads")), "{error:?}");
    assert_eq!(stage.world.ids(&[0]), []);
}

#[test]
fn order_5_a_stream_that_lost_nothing_goes_on_under_a_second_session() {
    let stage = Stage::new(2);
    let bytes = noise(5, 3 << 20);
    let collector = Arc::clone(&stage.collector);
    let then = move || collector.collect(1, 1, &[]);
    let stream = Interrupted { bytes, at: 0, after: 2 << 20, then: Some(then) };
    let summary = stage.stream(None, stream).unwrap();
    assert!(!summary.pending());
    for at in 0..2 {
        let commits = stage.collector.commits(at);
        assert_eq!(commits.len(), 1, "region {at}");
        assert_eq!(stage.collector.states(at, commits[0])[0].adopts.len(), 1, "region {at}");
    }
    assert_stream(&stage, summary.snapshot.unwrap());
}
