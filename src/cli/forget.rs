//! `forget`: by id, or by the retention policy; with floors that hold unless their dataset's name is typed.

use super::args::{ForgetArgs, Global};
use super::exit::{Class, CliError};
use super::output::{Lazily, Output};
use super::parse::IdPrefix;
use super::render::{self, short};
use super::workspace::Workspace;
use crate::format::ids::SnapshotId;
use crate::format::verdict::Ruling;
use crate::policy::{Candidate, Group, GroupKey, Keep, Log, Policy, Reason, broken_floors, plan, window};
use crate::repo::open::DECIDERS;
use crate::repo::snapshots::{self, Listing, SnapshotInfo};
use crate::repo::verdicts::{Decree, Effective, may_be_held, put};
use crate::repo::{RepoError, retention};
use crate::report::{Issue, Monitor};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{IsTerminal, Write};

/// Runs the command.
///
/// # Errors
/// When nothing says what to keep, a snapshot isn't there or is on hold, a floor would be broken, this slot
/// may not decide, or a region can't be read or written.
pub fn run(args: &ForgetArgs, global: &Global) -> Result<Class, CliError> {
    let mut workspace = Workspace::open(global)?;
    if !args.dry_run {
        workspace.repository.require(&DECIDERS, "forget snapshots")?;
    }
    let rules = rules(args, &workspace)?;
    let (mut listing, read_class) = workspace.everything()?;
    let mut snapshots = std::mem::take(&mut listing.snapshots);
    let forgotten_before: Vec<SnapshotInfo> = snapshots.iter().filter(|info| info.is_forgotten()).cloned().collect();
    snapshots.retain(|info| !info.is_forgotten());
    for tag in rules.tags.iter().filter(|tag| !snapshots.iter().any(|info| info.tags.contains(*tag))) {
        workspace.progress.notice(&format!("no snapshot has the tag '{tag}', so that no one is kept for it"));
    }
    let policy = policy(args, &workspace, rules, &snapshots)?;
    let (mut candidates, logs) = retention::known(&workspace.repository, &snapshots)?;
    let now = workspace.repository.clock.now_ns();

    if args.ids.is_empty() {
        // One damaged object keeps its snapshot, and no more than that.
        let unread = may_be_held(&workspace.repository)?;
        for candidate in &mut candidates {
            if let Some(why) = unread.get(&candidate.id) {
                workspace.progress.notice(&format!("it stays: {why}"));
                candidate.held = true;
            }
        }
    }
    let (groups, forgotten, broken) = match args.ids.is_empty() {
        true => by_policy(args, &policy, &mut candidates, &logs, now),
        false => {
            let forgotten = named(args, &workspace, &snapshots, &forgotten_before, &listing)?;
            let broken = broken_floors(&policy, &candidates, &forgotten, &logs, now);
            let broken = broken.into_iter().map(|broken| (broken.id, broken.floor)).collect();
            (Vec::new(), forgotten, broken)
        }
    };
    if !broken.is_empty() && !args.break_floor && !args.dry_run {
        return Err(floor_error(&broken));
    }
    workspace.progress.finish();
    let below: BTreeSet<SnapshotId> = broken.iter().map(|(id, _)| *id).collect();
    if !args.dry_run && !forgotten.is_empty() {
        if !below.is_empty() {
            confirm(args, &snapshots, &below)?;
        }
        let default = if args.ids.is_empty() { "retention policy" } else { "" };
        let mut decree = Decree::new(Ruling::Forget, args.reason.as_deref().unwrap_or(default));
        decree.below_floors = below;
        let no_room = put(&workspace.repository, &forgotten, &decree)?;
        workspace.without_room(no_room);
    }
    let given_up: BTreeSet<SnapshotId> =
        forgotten.iter().filter(|id| listing.unreadable.contains_key(id)).copied().collect();
    let until = window::ends_at(now, &workspace.settings.retention.window());
    let begun: Begun = candidates.iter().map(|candidate| (candidate.id, candidate.started_at)).collect();
    let shown = shown(&groups);
    let set_aside = shown.iter().flat_map(|(_, decisions)| decisions).filter(|at| at.standing.is_set_aside()).count();
    let document = Lazily(|| {
        json!({
            "by": if args.ids.is_empty() { "policy" } else { "id" }, "dry_run": args.dry_run,
            "forgotten": forgotten.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "kept": snapshots.iter().filter(|info| !forgotten.contains(&info.id)).count(), "set_aside": set_aside,
            "floors_broken": broken.iter()
                .map(|(id, floor)| json!({ "id": id.to_string(), "floor": reason_name(floor) })).collect::<Vec<_>>(),
            "unforget_until": render::json_time(until),
            "groups": shown.iter().map(|group| group_document(group, &begun)).collect::<Vec<_>>(),
        })
    });
    Output { json: global.json }.result(&document, |out| {
        for group in &shown {
            write_group(out, &workspace, group, &begun)?;
        }
        for (id, floor) in &broken {
            writeln!(out, "Snapshot {}: floor {} overridden", short(id), reason_name(floor))?;
        }
        let count = render::counted(forgotten.len() as u64, "snapshot");
        match (args.dry_run, forgotten.is_empty()) {
            (_, true) => writeln!(out, "Nothing to forget; {} stay", snapshots.len()),
            (true, _) => writeln!(out, "Would forget {count}; nothing was changed"),
            (false, _) if given_up.len() == forgotten.len() => {
                writeln!(out, "Gave up {count} that no region has whole")
            }
            (false, _) => writeln!(
                out,
                "Forgot {count}; `keepstone unforget ID` brings one back until {}",
                render::local_time(until)
            ),
        }
    })?;
    // What is given up because no region has it whole is settled by that.
    let names: Vec<Vec<u8>> = given_up.iter().map(|id| snapshots::snapshot_name(id).into_bytes()).collect();
    let is_settled = |issue: &Issue| names.iter().any(|name| issue.subject.ends_with(name));
    let read_class = match !args.dry_run && !given_up.is_empty() && listing.issues.iter().all(is_settled) {
        true => Class::Success,
        false => read_class,
    };
    let pending = !args.dry_run && !forgotten.is_empty() && !workspace.absent.is_empty();
    Ok(if pending { Class::Pending.worse(read_class) } else { read_class })
}

/// The rules to keep by: the options', or where there are none those of the file.
fn rules(args: &ForgetArgs, workspace: &Workspace) -> Result<Keep, CliError> {
    let file = &workspace.settings.retention;
    let count = |count: Option<u32>| count.unwrap_or(0);
    let given = Keep {
        last: count(args.keep_last),
        hourly: count(args.keep_hourly),
        daily: count(args.keep_daily),
        weekly: count(args.keep_weekly),
        monthly: count(args.keep_monthly),
        yearly: count(args.keep_yearly),
        within: args.keep_within,
        tags: args.keep_tags.iter().cloned().collect(),
    };
    let configured = Keep {
        last: count(file.keep_last),
        hourly: count(file.keep_hourly),
        daily: count(file.keep_daily),
        weekly: count(file.keep_weekly),
        monthly: count(file.keep_monthly),
        yearly: count(file.keep_yearly),
        within: file.keep_within.map(|span| span.0),
        tags: file.keep_tags.iter().cloned().collect(),
    };
    let named =
        [args.keep_last, args.keep_hourly, args.keep_daily, args.keep_weekly, args.keep_monthly, args.keep_yearly];
    let any_given = named.iter().any(Option::is_some) || !given.is_empty();
    let rules = if any_given { given } else { configured };
    match rules.is_empty() && args.ids.is_empty() {
        true => Err(CliError::usage("nothing says what to keep, and without a rule everything would be forgotten")
            .hint("name snapshots by id, give --keep-daily N and the like, or set keep_daily and the like under [retention]")),
        false => Ok(rules),
    }
}

fn policy(
    args: &ForgetArgs,
    workspace: &Workspace,
    keep: Keep,
    snapshots: &[SnapshotInfo],
) -> Result<Policy, CliError> {
    let file = &workspace.settings.retention;
    let defaults = Policy::default();
    let mut accepted = BTreeSet::new();
    for prefix in &args.accept {
        accepted.insert(one(prefix, snapshots)?);
    }
    // The file may name one that is gone by now.
    accepted.extend(file.accept.iter().filter_map(|prefix| one(prefix, snapshots).ok()));
    Ok(Policy {
        keep,
        group_by: args.group_by.or(file.group_by).unwrap_or(defaults.group_by),
        least_bytes: file.least_bytes.unwrap_or(0),
        least_files: file.least_files.unwrap_or(0),
        greatest_shrink_percent: file.greatest_shrink,
        regions: file.regions.unwrap_or(workspace.settings.regions.len() + workspace.settings.regions_left_out.len()),
        minimum_age: file.minimum_age.map(|span| span.0),
        minimum_copies: file.minimum_copies.unwrap_or(defaults.minimum_copies),
        clock_slack: file.clock_slack.map_or(defaults.clock_slack, |span| span.0),
        time_zone: file.time_zone.clone().unwrap_or(defaults.time_zone),
        accepted,
        break_floors: args.break_floor,
    })
}

/// The one snapshot whose id begins so.
fn one(prefix: &IdPrefix, snapshots: &[SnapshotInfo]) -> Result<SnapshotId, RepoError> {
    let selector = snapshots::Selector::Prefix(prefix.as_str().to_owned());
    snapshots::select(snapshots, &selector).map(|info| info.id)
}

fn named(
    args: &ForgetArgs,
    workspace: &Workspace,
    snapshots: &[SnapshotInfo],
    before: &[SnapshotInfo],
    listing: &Listing,
) -> Result<BTreeSet<SnapshotId>, CliError> {
    let mut ids = BTreeSet::new();
    for prefix in &args.ids {
        // Of one that is lost nothing but its id is known: by all of it, and not by its beginning.
        if let Some((id, verdict)) = listing.unreadable_by(prefix.as_str()) {
            if verdict.is_some_and(Effective::forgets) {
                return Err(CliError::new(Class::Missing, format!("snapshot {} is forgotten already", short(&id)))
                    .hint("nothing was changed; no region that was reached has it whole"));
            }
            // No floor protects what isn't known.
            if let Some((region, _)) = workspace.absent.first() {
                let text = format!("region '{region}' takes no part, and may have snapshot {} whole", short(&id));
                return Err(CliError::new(Class::Storage, text)
                    .hint("nothing was changed; reach every region, or take one that is gone for good out of the configuration"));
            }
            ids.insert(id);
            continue;
        }
        match one(prefix, snapshots) {
            Ok(id) => drop(ids.insert(id)),
            Err(error @ RepoError::NoSnapshot { .. }) => {
                return Err(match one(prefix, before) {
                    Ok(id) => CliError::new(Class::Missing, format!("snapshot {} is forgotten already", short(&id)))
                        .hint("nothing was changed; `keepstone unforget` would bring it back"),
                    Err(_) => error.into(),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ids)
}

type Floors = Vec<(SnapshotId, Reason)>;

fn by_policy(
    args: &ForgetArgs,
    policy: &Policy,
    candidates: &mut [Candidate],
    logs: &[Log],
    now: i64,
) -> (Vec<Group>, BTreeSet<SnapshotId>, Floors) {
    for candidate in candidates.iter_mut() {
        candidate.considered = args.dataset.as_ref().is_none_or(|dataset| *dataset == candidate.dataset)
            && args.host.as_ref().is_none_or(|host| *host == candidate.host)
            && args.tags.iter().all(|tag| candidate.tags.contains(tag));
    }
    let groups = plan(policy, candidates, logs, now);
    let going = || groups.iter().flat_map(|group| &group.decisions).filter(|decision| !decision.stays());
    let forgotten = going().map(|decision| decision.id).collect();
    let broken =
        going().flat_map(|decision| decision.broken.iter().map(|floor| (decision.id, floor.clone()))).collect();
    (groups, forgotten, broken)
}

fn floor_error(broken: &Floors) -> CliError {
    let why = |floor: &Reason| match floor {
        Reason::TooYoung => "is younger than minimum_age, or not known to be older",
        Reason::BeforeYoung => "is the newest that is older than minimum_age: the state when that span began",
        _ => "is one of the last good ones of its group (minimum_copies)",
    };
    let list: Vec<String> = broken.iter().take(5).map(|(id, floor)| format!("{} {}", short(id), why(floor))).collect();
    let more = if broken.len() > 5 { format!("; and {} more", broken.len() - 5) } else { String::new() };
    CliError::usage(format!("a floor forbids it: snapshot {}{more}", list.join("; ")))
        .hint("nothing was changed; --break-floor overrides it once, and asks for the dataset's name")
}

/// The name of each dataset that loses a snapshot below a floor, typed or given.
fn confirm(args: &ForgetArgs, snapshots: &[SnapshotInfo], below: &BTreeSet<SnapshotId>) -> Result<(), CliError> {
    let concerned = snapshots.iter().filter(|info| below.contains(&info.id));
    let datasets: BTreeMap<&str, usize> = concerned.fold(BTreeMap::new(), |mut counts, info| {
        *counts.entry(info.snapshot.dataset.as_str()).or_default() += 1;
        counts
    });
    let refused = |dataset: &str| {
        CliError::usage(format!("floors of dataset '{dataset}' are overridden only with its name"))
            .hint("nothing was changed; type the name, or give it with --confirm")
    };
    if let Some(wrong) = args.confirm.iter().find(|name| !datasets.contains_key(name.as_str())) {
        let names = datasets.keys().copied().collect::<Vec<_>>().join("', '");
        return Err(CliError::usage(format!("--confirm '{wrong}': the dataset concerned is '{names}'"))
            .hint("nothing was changed"));
    }
    for (dataset, count) in datasets {
        if args.confirm.iter().any(|name| name == dataset) {
            continue;
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(refused(dataset));
        }
        let mut stderr = std::io::stderr();
        let _ = write!(
            stderr,
            "{} of dataset '{}' would be forgotten below a floor.\nType the dataset's name to do it: ",
            render::counted(count as u64, "snapshot"),
            render::printable(dataset)
        );
        let _ = stderr.flush();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|_| refused(dataset))?;
        if answer.trim_end_matches(['\n', '\r']) != dataset {
            return Err(refused(dataset));
        }
    }
    Ok(())
}

type Shown<'a> = (&'a GroupKey, Vec<&'a crate::policy::Decision>);

/// Groups without what wasn't asked about.
fn shown(groups: &[Group]) -> Vec<Shown<'_>> {
    let asked = |group: &'_ Group| -> Vec<usize> {
        let not = |reasons: &BTreeSet<Reason>| reasons.contains(&Reason::NotAsked);
        (0..group.decisions.len()).filter(|at| !not(&group.decisions[*at].reasons)).collect()
    };
    groups
        .iter()
        .map(|group| (&group.key, asked(group).into_iter().map(|at| &group.decisions[at]).collect::<Vec<_>>()))
        .filter(|(_, decisions)| !decisions.is_empty())
        .collect()
}

fn reason_name(reason: &Reason) -> String {
    match reason {
        Reason::Held => "held".to_owned(),
        Reason::Last => "last".to_owned(),
        Reason::Newest(period) => period.name().to_owned(),
        Reason::Within => "within".to_owned(),
        Reason::BeforeWithin => "before within".to_owned(),
        Reason::Tag(tag) => format!("tag {tag}"),
        Reason::SetAside => "set aside".to_owned(),
        Reason::TooYoung => "minimum_age".to_owned(),
        Reason::BeforeYoung => "before minimum_age".to_owned(),
        Reason::Copies => "minimum_copies".to_owned(),
        Reason::Witness => "witness".to_owned(),
        Reason::NotAsked => "not asked".to_owned(),
    }
}

/// When each began.
type Begun = HashMap<SnapshotId, i64>;

fn started_at(id: &SnapshotId, begun: &Begun) -> i64 {
    begun.get(id).copied().unwrap_or(0)
}

fn group_document((key, decisions): &Shown<'_>, begun: &Begun) -> Value {
    let snapshots: Vec<Value> = decisions
        .iter()
        .map(|decision| {
            json!({
                "id": decision.id.to_string(),
                "started_at": render::json_time(started_at(&decision.id, begun)),
                "stays": decision.stays(), "standing": decision.standing.name(), "detail": decision.standing.detail(),
                "reasons": decision.reasons.iter().map(reason_name).collect::<Vec<_>>(),
                "broken": decision.broken.iter().map(reason_name).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "dataset": key.dataset, "host": key.host, "slot": key.slot.map(|slot| slot.to_string()), "tags": key.tags,
        "snapshots": snapshots,
    })
}

fn write_group(
    out: &mut dyn Write,
    workspace: &Workspace,
    (key, decisions): &Shown<'_>,
    begun: &Begun,
) -> std::io::Result<()> {
    let mut parts = Vec::new();
    parts.extend(key.dataset.as_ref().map(|dataset| format!("dataset {}", render::printable(dataset))));
    parts.extend(key.host.as_ref().map(|host| format!("host {}", render::printable(host))));
    parts.extend(key.slot.map(|slot| {
        let label = workspace.repository.roster.slot(slot).map_or("", |slot| slot.label.as_str());
        format!("slot {} ({})", &slot.to_string()[..8], render::printable(label))
    }));
    let tags = |tags: &BTreeSet<String>| tags.iter().cloned().collect::<Vec<_>>().join(",");
    parts.extend(key.tags.as_ref().map(|set| format!("tags {}", render::printable(&tags(set)))));
    writeln!(out, "{}", if parts.is_empty() { "all snapshots".to_owned() } else { parts.join(", ") })?;
    for decision in decisions {
        let verb = if decision.stays() { "keep  " } else { "forget" };
        let reasons: Vec<String> = decision.reasons.iter().map(reason_name).collect();
        let why = if reasons.is_empty() { "no rule keeps it".to_owned() } else { reasons.join(", ") };
        let standing = match (decision.standing.is_good(), decision.standing.detail()) {
            (true, _) => String::new(),
            (false, "") => format!("; {}", decision.standing.name()),
            (false, detail) => format!("; {}: {detail}", decision.standing.name()),
        };
        let at = render::local_time(started_at(&decision.id, begun));
        writeln!(out, "  {verb} {} {at}  {}{standing}", short(&decision.id), render::printable(&why))?;
    }
    writeln!(out)
}
