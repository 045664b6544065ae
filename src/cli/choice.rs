//! Which of the listed snapshots a command considers, and what to say where there is none: what was asked, what
//! the oldest is, and what to do. Called by commands that take filters.

use super::args::Filter;
use super::exit::{Class, CliError};
use super::parse::SnapshotRef;
use super::render;
use super::workspace::Workspace;
use crate::policy::window;
use crate::repo::RepoError;
use crate::repo::snapshots::SnapshotInfo;
use crate::report::Monitor;
use std::collections::BTreeSet;

/// The snapshots that a filter admits, oldest first, and the others.
pub struct Choice<'a> {
    /// Those that it admits.
    pub snapshots: Vec<SnapshotInfo>,
    others: Vec<SnapshotInfo>,
    forgotten: Vec<SnapshotInfo>,
    filter: &'a Filter,
    /// Regions that were not asked.
    absent: Vec<&'a str>,
}

/// Whether `--dataset`, `--host` and `--tag` admit a snapshot.
fn names_fit(filter: &Filter, info: &SnapshotInfo) -> bool {
    filter.dataset.as_ref().is_none_or(|dataset| *dataset == info.snapshot.dataset)
        && filter.host.as_ref().is_none_or(|host| *host == info.snapshot.host)
        && filter.tags.iter().all(|tag| info.tags.contains(tag))
}

/// What the names of a filter ask for, as a part of a sentence: ` of dataset 'db' on host 'web1'`.
fn names(filter: &Filter) -> String {
    let quoted = |before: &str, name: &String| format!(" {before} '{}'", name);
    let dataset = filter.dataset.iter().map(|name| quoted("of dataset", name));
    let host = filter.host.iter().map(|name| quoted("made on host", name));
    dataset.chain(host).chain(filter.tags.iter().map(|name| quoted("with tag", name))).collect()
}

/// A snapshot for people: its id, when it was begun, and of what.
fn described(info: &SnapshotInfo) -> String {
    let (dataset, host) = (&info.snapshot.dataset, &info.snapshot.host);
    let begun = render::local_time(info.snapshot.started_at);
    format!("{} of {begun} (dataset '{dataset}', host '{host}')", render::short(&info.id))
}

/// Says that a snapshot is forgotten, and until when that can be taken back.
fn is_forgotten(workspace: &Workspace, info: &SnapshotInfo) -> CliError {
    let id = render::short(&info.id);
    let decided_at = info.verdict.as_ref().map_or(i64::MIN, |verdict| verdict.decided_at);
    let until = window::ends_at(decided_at, &workspace.settings.retention.window());
    let time = render::local_time(until);
    let hint = match until > workspace.repository.clock.now_ns() {
        true => format!("`keepstone unforget {id}` brings it back, until {time}"),
        false => format!(
            "until {time} `keepstone unforget` would have brought it back; as long as no collection has taken it, \
             `keepstone unforget --past-window {id}` does"
        ),
    };
    CliError::new(Class::Missing, format!("snapshot {} is forgotten", described(info))).hint(hint)
}

impl<'a> Choice<'a> {
    /// Applies `--dataset`, `--host`, `--tag` and `--at` (everything begun at or before that time) to what is
    /// listed, oldest first. What is forgotten is never chosen, only told of.
    pub fn new(
        workspace: &'a Workspace,
        listed: Vec<SnapshotInfo>,
        forgotten: Vec<SnapshotInfo>,
        filter: &'a Filter,
    ) -> Self {
        let in_time = |info: &SnapshotInfo| filter.at_ns.is_none_or(|at| info.snapshot.started_at <= at);
        let fits = |info: &SnapshotInfo| names_fit(filter, info) && in_time(info);
        let (snapshots, others) = listed.into_iter().partition(fits);
        let absent = workspace.absent.iter().map(|(name, _)| name.as_str()).collect();
        Choice { snapshots, others, forgotten, filter, absent }
    }

    /// What is asked for, as a part of a sentence.
    fn asked(&self) -> String {
        let at = self.filter.at_ns.map(|at| format!(" begun at or before {}", render::local_time(at)));
        names(self.filter) + &at.unwrap_or_default()
    }

    /// What to say when the filter admits none of the snapshots that there are, or there is none at all.
    pub fn nothing(&self) -> Option<CliError> {
        if !self.snapshots.is_empty() {
            return None;
        }
        let error = |found: &str| CliError::new(Class::Missing, format!("there is no snapshot{}{found}", self.asked()));
        let named = names(self.filter);
        let (found, hint) = match (self.others.iter().find(|info| names_fit(self.filter, info)), self.others.first()) {
            // The others fit but for the time.
            (Some(oldest), _) => {
                let found = format!("; the oldest{named} is {}", described(oldest));
                (found, "give a later --at, or that snapshot's id".to_owned())
            }
            (None, Some(oldest)) => {
                let found = format!("; the oldest that there is is {}", described(oldest));
                (
                    found,
                    "`keepstone snapshots` lists datasets, hosts and tags; drop the filter or correct it".to_owned(),
                )
            }
            (None, None) => (String::new(), "`keepstone backup` makes one".to_owned()),
        };
        let hint = match self.absent.is_empty() {
            true => hint,
            false => format!("{hint}; what only region '{}' has isn't known in this run", self.absent.join("', '")),
        };
        Some(error(&found).hint(hint))
    }

    /// Says that a filter admits nothing, for a command to which an empty list is an answer, too: what was looked for
    /// may be something else.
    pub fn tell_nothing(&self, workspace: &Workspace) {
        if let Some(error) = self.nothing().filter(|_| *self.filter != Filter::default()) {
            let hint = error.hint.map_or_else(String::new, |hint| format!("; {hint}"));
            workspace.progress.notice(&format!("{}{hint}", error.message));
        }
    }

    /// The datasets and hosts of what the filter admits, where `latest` may be of one or another: each as dataset and
    /// host, in order. Empty where all are of one, or the reference is an id.
    pub fn series(&self, reference: &SnapshotRef) -> Vec<(&str, &str)> {
        let SnapshotRef::Latest { .. } = reference else { return Vec::new() };
        let all: BTreeSet<(&str, &str)> =
            self.snapshots.iter().map(|info| (&info.snapshot.dataset[..], &info.snapshot.host[..])).collect();
        if all.len() > 1 { all.into_iter().collect() } else { Vec::new() }
    }

    /// The one that the reference names; tells of those that `latest` passes by.
    ///
    /// # Errors
    /// When none or several fit.
    pub fn one(&self, workspace: &Workspace, reference: &SnapshotRef) -> Result<&SnapshotInfo, CliError> {
        let error = match workspace.select(&self.snapshots, reference) {
            Err(error @ RepoError::NoSnapshot { .. }) => error,
            found => return Ok(found?),
        };
        match reference {
            SnapshotRef::Latest { back } => Err(self.nothing().unwrap_or_else(|| {
                let (count, asked) = (self.snapshots.len() as u64, self.asked());
                let oldest = self.snapshots.first().map(described).unwrap_or_default();
                let there = render::counted(count, "snapshot");
                let text = format!("there is no latest~{back}: of {there}{asked} the oldest is {oldest}");
                CliError::new(Class::Missing, text).hint("`keepstone snapshots` lists what there is")
            })),
            SnapshotRef::Prefix(prefix) => {
                let hidden = self.others.iter().find(|info| prefix.matches(&info.id.to_string()));
                if let Some(info) = hidden {
                    let text = format!("snapshot {} isn't one{}", described(info), self.asked());
                    return Err(CliError::new(Class::Missing, text).hint("name it without these filters"));
                }
                let mut forgotten = self.forgotten.iter().filter(|info| prefix.matches(&info.id.to_string()));
                Err(match (forgotten.next(), forgotten.count() as u64) {
                    (None, _) => error.into(),
                    (Some(info), 0) => is_forgotten(workspace, info),
                    (Some(_), more) => {
                        let all = render::counted(more + 1, "snapshot");
                        let text = format!("{error}, but for {all} that are forgotten");
                        CliError::new(Class::Missing, text)
                            .hint("`keepstone unforget` brings one back; give more digits")
                    }
                })
            }
        }
    }
}
