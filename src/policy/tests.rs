//! Retention as properties over many groups, and by examples for what the calendar does.

use super::calendar::{Period, bucket, cutoff};
use super::{Candidate, GroupBy, Keep, Log, Policy, Reason, Standing, broken_floors, plan};
use crate::format::ids::{SlotId, SnapshotId};
use jiff::tz::{self, TimeZone};
use jiff::{Span, Timestamp};
use proptest::prelude::{Strategy, any, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};
use std::collections::BTreeSet;

const DAY: i64 = 86_400_000_000_000;
const HOUR: i64 = DAY / 24;
const NOW: i64 = 20_000 * DAY + 12 * HOUR;

fn id(number: usize) -> SnapshotId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    SnapshotId(bytes)
}

/// A good snapshot, so many hours old.
fn aged(number: usize, hours: i64) -> Candidate {
    let started_at = NOW - hours * HOUR;
    Candidate {
        id: id(number),
        dataset: "d".into(),
        host: "h".into(),
        slot: SlotId([1; 16]),
        tags: BTreeSet::new(),
        started_at,
        finished_at: started_at + HOUR / 60,
        files: 100,
        bytes: 1000,
        partial: false,
        regions: 2,
        held: false,
        considered: true,
        seen: Vec::new(),
    }
}

fn keep_last(last: u32) -> Policy {
    Policy { keep: Keep { last, ..Keep::default() }, regions: 2, ..Policy::default() }
}

fn stays(policy: &Policy, candidates: &[Candidate], logs: &[Log]) -> BTreeSet<SnapshotId> {
    let decisions = plan(policy, candidates, logs, NOW).into_iter().flat_map(|group| group.decisions);
    decisions.filter(super::Decision::stays).map(|decision| decision.id).collect()
}

fn standing(policy: &Policy, candidates: &[Candidate], logs: &[Log], number: usize) -> Standing {
    let mut decisions = plan(policy, candidates, logs, NOW).into_iter().flat_map(|group| group.decisions);
    decisions.find(|decision| decision.id == id(number)).unwrap().standing
}

fn ids(numbers: &[usize]) -> BTreeSet<SnapshotId> {
    numbers.iter().map(|number| id(*number)).collect()
}

#[test]
fn the_newest_stay() {
    let candidates: Vec<_> = (0..10).map(|at| aged(at, at as i64 * 24)).collect();
    assert_eq!(stays(&keep_last(3), &candidates, &[]), ids(&[0, 1, 2]));
    let mut policy = keep_last(0);
    policy.keep.weekly = 2;
    // NOW is a Wednesday (2024-10-04 + …): whatever it is, two buckets give two snapshots.
    assert_eq!(stays(&policy, &candidates, &[]).len(), 2);
    policy.keep.weekly = 0;
    policy.keep.within = Some(Span::new().days(4));
    // 5 is what stood when the four days began.
    assert_eq!(stays(&policy, &candidates, &[]), ids(&[0, 1, 2, 3, 4, 5]));
    let mut tagged = candidates.clone();
    tagged[9].tags.insert("keep".into());
    tagged[8].held = true;
    policy.keep.tags.insert("keep".into());
    assert_eq!(stays(&policy, &tagged, &[]), ids(&[0, 1, 2, 3, 4, 5, 8, 9]));
}

/// Runs that find nothing changed save nothing: the present state is as old as its first run, and the first one that
/// differs from it, perhaps by a disaster, mustn't make it go.
#[test]
fn what_stood_when_a_span_began_stays() {
    let reasons = |policy: &Policy, all: &[Candidate], logs: &[Log], number: usize| {
        let decisions = plan(policy, all, logs, NOW).remove(0).decisions;
        let decision = decisions.into_iter().find(|decision| decision.id == id(number)).unwrap();
        decision.reasons.union(&decision.broken).cloned().collect::<Vec<_>>()
    };
    // The last good state was saved 45 days ago and stood until an hour ago.
    let mut all = vec![aged(1, 1), aged(2, 45 * 24), aged(3, 46 * 24)];
    let mut policy = keep_last(0);
    policy.keep.within = Some(Span::new().days(30));
    assert_eq!(stays(&policy, &all, &[]), ids(&[1, 2]));
    assert_eq!(reasons(&policy, &all, &[], 2), [Reason::BeforeWithin]);
    // A partial one that is newer still is what a restore would give, and takes nothing from the good one.
    all.extend([Candidate { partial: true, ..aged(4, 40 * 24) }, Candidate { partial: true, ..aged(5, 47 * 24) }]);
    assert_eq!(stays(&policy, &all, &[]), ids(&[1, 2, 4]));
    assert_eq!(reasons(&policy, &all, &[], 4), [Reason::BeforeWithin]);
    // What wasn't asked about stands for nothing.
    all[1].considered = false;
    assert_eq!(reasons(&policy, &all, &[], 3), [Reason::BeforeWithin]);

    // The floor does the same, against ids too.
    let all = vec![aged(1, 1), aged(2, 45 * 24), aged(3, 46 * 24)];
    let mut policy = Policy { minimum_age: Some(Span::new().days(7)), ..keep_last(1) };
    assert_eq!(stays(&policy, &all, &[]), ids(&[1, 2]));
    assert_eq!(reasons(&policy, &all, &[], 2), [Reason::BeforeYoung]);
    let broken = |forgotten: &[usize]| {
        let broken = broken_floors(&policy, &all, &ids(forgotten), &[], NOW);
        broken.into_iter().map(|broken| (broken.id, broken.floor)).collect::<Vec<_>>()
    };
    assert_eq!((broken(&[3]), broken(&[2])), (vec![], vec![(id(2), Reason::BeforeYoung)]));
    // What no collection is known to have seen that long ago is young, whatever it says: the one before it stays, too.
    let dated: Vec<_> = [(1, None), (2, None), (3, Some(1))]
        .into_iter()
        .zip(&all)
        .map(|((_, by), one)| seen(one.clone(), by))
        .collect();
    assert_eq!(reasons(&policy, &dated, &[log(1, &[(1, NOW - 8 * DAY)])], 3), [Reason::BeforeYoung]);
    policy.break_floors = true;
    assert_eq!(stays(&policy, &all, &[]), ids(&[1]));
}

#[test]
fn groups_are_judged_by_themselves() {
    let mut candidates: Vec<_> = (0..8).map(|at| aged(at, at as i64 * 24)).collect();
    candidates[1].host = "other".into();
    candidates[2].slot = SlotId([2; 16]);
    candidates[3].dataset = "other".into();
    candidates[4].tags.insert("t".into());
    assert_eq!(stays(&keep_last(1), &candidates, &[]), ids(&[0, 1, 2, 3]));
    let all = GroupBy { dataset: false, host: false, slot: false, tags: false };
    assert_eq!(stays(&Policy { group_by: all, ..keep_last(1) }, &candidates, &[]), ids(&[0]));
    let by_tags = GroupBy { tags: true, ..all };
    assert_eq!(stays(&Policy { group_by: by_tags, ..keep_last(1) }, &candidates, &[]), ids(&[0, 4]));
}

/// RETAIN-7: days are the time zone's, and UTC's where none is named.
#[test]
fn days_are_those_of_the_time_zone() {
    let at = |text: &str| i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap();
    let (late, early) = (at("2026-06-01T23:30:00Z"), at("2026-06-02T00:30:00Z"));
    assert_ne!(bucket(Period::Day, late, &TimeZone::UTC), bucket(Period::Day, early, &TimeZone::UTC));
    let east = TimeZone::fixed(tz::offset(2));
    assert_eq!(bucket(Period::Day, late, &east), bucket(Period::Day, early, &east));
    for period in [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year] {
        for moment in [i64::MIN, i64::MIN + 1, 0, i64::MAX] {
            assert_eq!(bucket(period, moment, &east), bucket(period, moment, &east));
        }
    }
    // A Sunday belongs to the week before, also across a year's end.
    let (sunday, monday) = (at("2028-01-02T12:00:00Z"), at("2028-01-03T12:00:00Z"));
    assert_eq!(bucket(Period::Week, sunday, &TimeZone::UTC), bucket(Period::Week, sunday - 5 * DAY, &TimeZone::UTC));
    assert_ne!(bucket(Period::Week, sunday, &TimeZone::UTC), bucket(Period::Week, monday, &TimeZone::UTC));
    assert_eq!(cutoff(i64::MIN, &Span::new().years(500), &TimeZone::UTC), i64::MIN);
}

/// RETAIN-7: a day of 23 or 25 hours is one day, and the hour that comes twice is two.
#[test]
fn summer_time_changes_no_day() {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let at = |text: &str| i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap();
    // 2026-10-25: 25 hours, from 22:00Z to 23:00Z; 02:30 comes at 00:30Z and at 01:30Z.
    let day = |text: &str| bucket(Period::Day, at(text), &berlin);
    assert_eq!(day("2026-10-24T22:00:00Z"), day("2026-10-25T22:59:59Z"));
    assert_ne!(day("2026-10-24T21:59:59Z"), day("2026-10-24T22:00:00Z"));
    assert_ne!(day("2026-10-25T22:59:59Z"), day("2026-10-25T23:00:00Z"));
    let hour = |text: &str| bucket(Period::Hour, at(text), &berlin);
    assert_ne!(hour("2026-10-25T00:30:00Z"), hour("2026-10-25T01:30:00Z"));
    assert_eq!(hour("2026-10-25T00:05:00Z"), hour("2026-10-25T00:55:00Z"));
    // 2026-03-29: 23 hours, and none of them twice or lost.
    assert_eq!(day("2026-03-28T23:00:00Z"), day("2026-03-29T21:59:59Z"));
    let hours: Vec<_> =
        (0..23).map(|hour| bucket(Period::Hour, at("2026-03-28T23:00:00Z") + hour * HOUR, &berlin)).collect();
    assert!(hours.windows(2).all(|pair| pair[0] != pair[1]));
    // Two days before noon is noon.
    assert_eq!(cutoff(at("2026-10-26T11:00:00Z"), &Span::new().days(2), &berlin), at("2026-10-24T10:00:00Z"));
}

/// RETAIN-2: partial and small ones compete with their like; the rest is set aside.
#[test]
fn what_is_not_good_takes_no_slot() {
    let mut policy = Policy { least_bytes: 10, least_files: 2, greatest_shrink_percent: Some(50), ..keep_last(2) };
    let mut candidates: Vec<_> = (0..4).map(|at| aged(at + 10, 1000 + at as i64)).collect();
    candidates.extend((0..7).map(|at| aged(at, at as i64)));
    candidates[4].partial = true;
    candidates[5].bytes = 9;
    candidates[6].files = 1;
    candidates[7].partial = true;
    candidates[8].bytes = 499;
    candidates[9].regions = 1;
    candidates[10].started_at = NOW + 2 * HOUR;
    // 10 and 11 are the good ones, 0 and 1 the newest that aren't whole, 4, 5 and 6 are set aside.
    assert_eq!(stays(&policy, &candidates, &[]), ids(&[0, 1, 4, 5, 6, 10, 11]));
    for (number, name) in [(0, "partial"), (1, "small"), (2, "small"), (4, "shrunk"), (5, "pending"), (6, "suspect")] {
        assert_eq!(standing(&policy, &candidates, &[], number).name(), name);
    }
    // Somebody looked at it.
    policy.accepted.insert(id(4));
    assert_eq!(standing(&policy, &candidates, &[], 4), Standing::Good);
    assert_eq!(stays(&policy, &candidates, &[]), ids(&[0, 1, 4, 5, 6, 10]));
}

fn log(newest: u64, ended_at: &[(u64, i64)]) -> Log {
    Log { newest, ended_at: ended_at.iter().copied().collect() }
}

fn seen(mut candidate: Candidate, generation: Option<u64>) -> Candidate {
    candidate.seen.push((0, generation));
    candidate
}

/// RETAIN-3: dated ahead, and seen by a generation that ended before that date.
#[test]
fn a_date_ahead_stays_suspect_when_its_time_has_come() {
    let good: Vec<_> = (1..=7).map(|at| seen(aged(at, at as i64 * 24), Some(2))).collect();
    // Planted ten days ago, dated three days ago.
    let planted = seen(aged(20, 72 - 1), Some(1));
    let logs = [log(2, &[(1, NOW - 10 * DAY), (2, NOW - HOUR)])];
    let mut all = good.clone();
    all.push(planted);
    assert_eq!(standing(&keep_last(7), &all, &logs, 20).name(), "suspect");
    assert_eq!(stays(&keep_last(7), &all, &logs), ids(&[1, 2, 3, 4, 5, 6, 7, 20]));
    // Without a time of generation 1 nobody knows which of them lies: all of them stay, and take no slot.
    let logs = [log(2, &[])];
    assert_eq!(standing(&keep_last(1), &all, &logs, 20).name(), "suspect");
    assert_eq!(stays(&keep_last(1), &all, &logs), ids(&[1, 4, 5, 6, 7, 20]).into_iter().collect());
}

/// RETAIN-3: dated back, and seen only by a later generation than younger ones.
#[test]
fn a_date_in_the_past_is_suspect_when_younger_ones_were_seen_before() {
    let mut all: Vec<_> = (1..=5).map(|at| seen(aged(at, at as i64 * 24), Some(1))).collect();
    // Each a little later than a good one on the same day: the day's newest, if it were believed.
    all.extend((2..=5).map(|at| seen(aged(at + 10, at as i64 * 24 - 1), None)));
    let logs = [log(1, &[(1, NOW - HOUR)])];
    let mut policy = keep_last(0);
    policy.keep.daily = 5;
    for number in 12..=15 {
        assert_eq!(standing(&policy, &all, &logs, number).name(), "suspect");
    }
    assert_eq!(stays(&policy, &all, &logs).len(), 9);
    // What is new is not suspect for being unseen.
    all.push(seen(aged(30, 0), None));
    assert_eq!(standing(&policy, &all, &logs, 30), Standing::Good);
}

/// RETAIN-3: a region that a snapshot was copied to late doesn't accuse it, when its own region saw it in time.
#[test]
fn late_copies_are_not_suspect() {
    let mut early = aged(1, 100);
    early.seen = vec![(0, Some(1)), (1, Some(7))];
    let mut late = aged(2, 50);
    late.seen = vec![(0, Some(2)), (1, Some(3))];
    let logs = [log(2, &[]), log(7, &[])];
    let all = [early.clone(), late.clone()];
    assert_eq!(standing(&keep_last(1), &all, &logs, 1), Standing::Good);
    // Nor does a log that is still empty vouch for it.
    let logs = [Log::default(), log(7, &[(3, NOW - 40 * HOUR)])];
    let all = [Candidate { seen: vec![(0, None), (1, Some(7))], ..early }, late];
    assert_eq!(standing(&keep_last(1), &all, &logs, 1).name(), "suspect");
}

/// RETAIN-4: nothing younger goes, and a date in the past doesn't make it older.
#[test]
fn the_minimum_age_is_judged_by_collections_too() {
    let mut policy = Policy { minimum_age: Some(Span::new().days(7)), minimum_copies: 0, ..keep_last(1) };
    let all: Vec<_> = (1..=12).map(|at| aged(at, at as i64 * 24)).collect();
    // 7 is no younger than seven days: the newest of those that may go, and so what stood when the seven began.
    assert_eq!(stays(&policy, &all, &[]), ids(&[1, 2, 3, 4, 5, 6, 7]));
    // Where there are collections, one must have seen it, and that long enough ago.
    let mut all = vec![seen(aged(1, 24), None)];
    all.extend((8..=12).map(|at| seen(aged(at, at as i64 * 24), if at == 12 { None } else { Some(at as u64 - 7) })));
    let logs = [log(5, &[(1, NOW - DAY), (2, NOW - 8 * DAY)])];
    policy.clock_slack = Span::new().days(100);
    assert_eq!(stays(&policy, &all, &logs), ids(&[1, 8, 9, 12]));
    policy.break_floors = true;
    let decisions = plan(&policy, &all, &logs, NOW).remove(0).decisions;
    let broken: Vec<_> =
        decisions.iter().filter(|decision| !decision.broken.is_empty()).map(|decision| decision.id).collect();
    assert_eq!(broken, [id(12), id(9), id(8)]);
    assert!(decisions.iter().filter(|decision| decision.stays()).count() == 1);
}

/// RETAIN-5: good ones count first; where there are too few, others do.
#[test]
fn the_minimum_of_copies_holds() {
    let mut policy = keep_last(0);
    policy.keep.within = Some(Span::new().hours(1));
    policy.minimum_copies = 3;
    let mut all: Vec<_> = (2..=9).map(|at| aged(at, at as i64 * 24)).collect();
    assert_eq!(stays(&policy, &all, &[]), ids(&[2, 3, 4]));
    // What is partial counts for none of the copies; it stays for what it is the newest of.
    all[0].partial = true;
    assert_eq!(stays(&policy, &all, &[]), ids(&[2, 3, 4, 5]));
    all.iter_mut().skip(2).for_each(|candidate| candidate.partial = true);
    assert_eq!(stays(&policy, &all, &[]), ids(&[2, 3, 4]));

    let broken = |forgotten: &[usize], all: &[Candidate]| -> BTreeSet<SnapshotId> {
        broken_floors(&policy, all, &ids(forgotten), &[], NOW).into_iter().map(|broken| broken.id).collect()
    };
    let all: Vec<_> = (2..=9).map(|at| aged(at, at as i64 * 24)).collect();
    assert_eq!(broken(&[2, 3, 4, 5, 6], &all), ids(&[]));
    assert_eq!(broken(&[2, 3, 4, 5, 6, 7], &all), ids(&[2]));
    assert_eq!(broken(&[9], &all[5..]), ids(&[9]));
    // With a region away nothing is good, and one of many may go all the same.
    let mut pending = all.clone();
    pending.iter_mut().for_each(|candidate| candidate.regions = 1);
    assert_eq!((broken(&[2], &pending), broken(&[2, 3], &pending[..4])), (ids(&[]), ids(&[2])));
}

/// Hours ago, bytes, flags; the generation that saw it.
type Drawn = (i64, u64, bool, bool, usize, Option<u64>, u8);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let one = (
        -48i64..2000,
        prop::sample::select(vec![0u64, 10, 300, 500, 1000, 2000]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        1usize..=2,
        prop::option::of(1u64..4),
        0u8..3,
    );
    prop::collection::vec(one, 0..24)
}

fn made(from: usize, drawn: &[Drawn]) -> Vec<Candidate> {
    let one = |(at, (hours, bytes, partial, held, regions, generation, slot)): (usize, &Drawn)| {
        let mut candidate = aged(from + at, *hours);
        (candidate.bytes, candidate.partial, candidate.held, candidate.regions) = (*bytes, *partial, *held, *regions);
        candidate.slot = SlotId([*slot; 16]);
        seen(candidate, *generation)
    };
    drawn.iter().enumerate().map(one).collect()
}

fn policies() -> impl Strategy<Value = Policy> {
    let counts = prop::array::uniform6(0u32..4);
    let rest = (prop::option::of(0u8..=100), 0u64..20, prop::option::of(1i64..30), 0u32..4, any::<bool>());
    (counts, prop::option::of(1i64..40), rest).prop_map(|(counts, within, (shrink, least, age, copies, slot))| {
        let [last, hourly, daily, weekly, monthly, yearly] = counts;
        let within = within.map(|days| Span::new().days(days));
        Policy {
            keep: Keep { last, hourly, daily, weekly, monthly, yearly, within, tags: BTreeSet::new() },
            group_by: GroupBy { slot, ..GroupBy::default() },
            least_bytes: least,
            greatest_shrink_percent: shrink,
            regions: 2,
            minimum_age: age.map(|days| Span::new().days(days)),
            minimum_copies: copies,
            ..Policy::default()
        }
    })
}

fn logs(dated: u8) -> Vec<Log> {
    let times = [(1, NOW - 30 * DAY), (2, NOW - 15 * DAY), (3, NOW - DAY)];
    vec![log(3, &times[..usize::from(dated)])]
}

proptest! {
    /// RETAIN-1: what stays, stays when the same is asked again of what is left.
    #[test]
    fn what_is_left_is_left_alone(drawn in drawn(), policy in policies(), dated in 0u8..=3) {
        let (all, logs) = (made(0, &drawn), logs(dated));
        let first = stays(&policy, &all, &logs);
        let left: Vec<_> = all.into_iter().filter(|candidate| first.contains(&candidate.id)).collect();
        prop_assert_eq!(stays(&policy, &left, &logs), first);
    }

    /// RETAIN-2: whatever is added that isn't good, no good one goes because of it.
    #[test]
    fn nothing_bad_pushes_out_anything_good(
        drawn in drawn(), more in drawn(), policy in policies(), dated in 0u8..=3, kind in 0u8..5,
    ) {
        let logs = logs(dated);
        let base = made(0, &drawn);
        let mut added = made(1000, &more);
        for candidate in &mut added {
            match kind {
                0 => candidate.partial = true,
                1 => candidate.regions = 1,
                2 => candidate.started_at = NOW + 30 * DAY,
                3 => candidate.bytes = 0,
                _ => {}
            }
        }
        let mut all = base.clone();
        all.extend(added);
        let after = plan(&policy, &all, &logs, NOW);
        let bad: BTreeSet<_> = after
            .iter()
            .flat_map(|group| &group.decisions)
            .filter(|decision| !decision.standing.is_good())
            .map(|decision| decision.id)
            .collect();
        // Only what turned out bad is added: the rest may compete as it likes.
        let with: Vec<_> = all.iter().filter(|candidate| candidate.id < id(1000) || bad.contains(&candidate.id)).cloned().collect();
        let good: BTreeSet<_> = plan(&policy, &base, &logs, NOW)
            .into_iter()
            .flat_map(|group| group.decisions)
            // One that stays for what it proves alone may be relieved by another that proves the same.
            .filter(|decision| decision.standing.is_good() && decision.reasons.iter().any(|why| *why != Reason::Witness))
            .map(|decision| decision.id)
            .collect();
        let convicted: BTreeSet<_> = plan(&policy, &with, &logs, NOW)
            .into_iter()
            .flat_map(|group| group.decisions)
            .filter(|decision| decision.id >= id(1000) && decision.standing.is_good())
            .map(|decision| decision.id)
            .collect();
        let with: Vec<_> = with.into_iter().filter(|candidate| !convicted.contains(&candidate.id)).collect();
        let stay = stays(&policy, &with, &logs);
        let still_bad = plan(&policy, &with, &logs, NOW)
            .iter()
            .flat_map(|group| &group.decisions)
            .all(|decision| decision.id < id(1000) || !decision.standing.is_good());
        if still_bad {
            prop_assert!(good.is_subset(&stay), "gone: {:?}", good.difference(&stay).collect::<Vec<_>>());
        }
    }

    /// RETAIN-6: one slot's snapshots, however many and however good, don't touch another's.
    #[test]
    fn another_slot_changes_nothing(drawn in drawn(), more in drawn(), policy in policies(), dated in 0u8..=3) {
        let policy = Policy { group_by: GroupBy::default(), ..policy };
        let (base, logs) = (made(0, &drawn), logs(dated));
        let mut all = base.clone();
        all.extend(made(1000, &more).into_iter().map(|candidate| Candidate { slot: SlotId([9; 16]), ..candidate }));
        let own = stays(&policy, &all, &logs).into_iter().filter(|stays| *stays < id(1000)).collect::<BTreeSet<_>>();
        prop_assert_eq!(own, stays(&policy, &base, &logs));
    }

    /// RETAIN-4, RETAIN-5: a floor holds whatever the rules are.
    #[test]
    fn floors_hold(drawn in drawn(), policy in policies(), dated in 0u8..=3) {
        let (all, logs) = (made(0, &drawn), logs(dated));
        let stay = stays(&policy, &all, &logs);
        let gone: BTreeSet<_> = all.iter().map(|candidate| candidate.id).filter(|id| !stay.contains(id)).collect();
        prop_assert_eq!(broken_floors(&policy, &all, &gone, &logs, NOW), vec![]);
        for group in plan(&policy, &all, &logs, NOW) {
            let good = |stays: bool| group.decisions.iter().filter(|decision| decision.standing.is_good() && (!stays || decision.stays())).count();
            prop_assert!(good(true) >= good(false).min(policy.minimum_copies as usize));
            prop_assert!(group.decisions.iter().all(|decision| decision.stays() || !decision.standing.is_set_aside()));
        }
        for candidate in &all {
            let held = candidate.held && !stay.contains(&candidate.id);
            let young = policy.minimum_age.is_some_and(|age| candidate.started_at > cutoff(NOW, &age, &TimeZone::UTC));
            prop_assert!(!held && (!young || stay.contains(&candidate.id)));
        }
    }

    /// RETAIN-4: for each moment of the spans of `keep_within` and `minimum_age`, the good one that stood then stays.
    #[test]
    fn each_state_of_a_span_stays(drawn in drawn(), policy in policies(), dated in 0u8..=3, back in 0i64..40) {
        let (all, logs) = (made(0, &drawn), logs(dated));
        let longest = [policy.keep.within, policy.minimum_age].into_iter().flatten();
        let since = longest.map(|span| cutoff(NOW, &span, &TimeZone::UTC)).min().unwrap_or(NOW);
        let moment = (NOW - back * DAY).max(since);
        let is_spanned = policy.keep.within.is_some() || policy.minimum_age.is_some();
        for group in plan(&policy, &all, &logs, NOW) {
            let begun = |wanted: SnapshotId| all.iter().find(|candidate| candidate.id == wanted).unwrap().started_at;
            let mut decisions = group.decisions.iter();
            let stood = decisions.rfind(|decision| decision.standing.is_good() && begun(decision.id) < moment);
            prop_assert!(!is_spanned || stood.is_none_or(super::Decision::stays), "{stood:?}");
        }
    }

    /// RETAIN-1: the order of the input is no matter, and a larger policy keeps no less.
    #[test]
    fn more_rules_keep_more(drawn in drawn(), policy in policies(), other in policies(), dated in 0u8..=3) {
        let (mut all, logs) = (made(0, &drawn), logs(dated));
        let kept = stays(&policy, &all, &logs);
        all.reverse();
        prop_assert_eq!(&stays(&policy, &all, &logs), &kept);
        let mut larger = policy.clone();
        larger.keep.last += other.keep.last;
        larger.keep.daily += other.keep.daily;
        larger.keep.monthly += other.keep.monthly;
        prop_assert!(kept.is_subset(&stays(&larger, &all, &logs)) || policy.minimum_copies > 0);
    }
}

#[test]
fn reasons_are_told() {
    let decisions = plan(&keep_last(1), &[aged(1, 1), aged(2, 2)], &[], NOW).remove(0).decisions;
    assert_eq!(decisions[1].reasons, BTreeSet::from([Reason::Last]));
    assert!(!decisions[0].stays() && decisions[0].reasons.is_empty());
}

/// RETAIN-1: what convicts a suspect, and what one shrank from, stays with it.
#[test]
fn witnesses_stay() {
    let good = seen(aged(1, 48), Some(1));
    let forged = seen(aged(2, 72), Some(2));
    let newest = seen(aged(3, 1), None);
    let logs = [log(2, &[(1, NOW - DAY), (2, NOW - HOUR)])];
    let all = [good, forged, newest];
    let decisions = plan(&keep_last(1), &all, &logs, NOW).remove(0).decisions;
    let reasons: Vec<_> = decisions.iter().map(|decision| decision.reasons.iter().next().cloned()).collect();
    assert_eq!(reasons, [Some(Reason::SetAside), Some(Reason::Witness), Some(Reason::Last)]);
    let shrunk = Candidate { bytes: 10, ..aged(5, 20) };
    let policy = Policy { greatest_shrink_percent: Some(50), ..keep_last(1) };
    let all = [aged(4, 30), shrunk, aged(6, 10)];
    assert_eq!(stays(&policy, &all, &[]), ids(&[4, 5, 6]));
}
