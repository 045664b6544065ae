//! What nearly every command begins with: settings, regions, an open repository, the local index.

use super::args::Global;
use super::choice::Choice;
use super::config::{Environment, Settings, load};
use super::exit::{Class, CliError};
use super::failure::FEWER_THREADS;
use super::progress::Progress;
use super::secret::{Passphrases, Terminal, read_identities};
use super::{known_objects, opened_slots, output, parse, render, seen_roster};
use crate::crypto::slot::Unlock;
use crate::env::{SystemClock, SystemRandom, can_begin_threads};
use crate::format::ids::{Digest, RegionId};
use crate::format::roster::Role;
use crate::index::{Index, IndexError, RocksIndex};
use crate::replicate::Replicated;
use crate::repo::RepoError;
use crate::repo::audit::NoRoom;
use crate::repo::fetch::{FetchError, Fetcher};
use crate::repo::known::KnownObjects;
use crate::repo::open::{Located, RegionSpec, Repository};
use crate::repo::presence::{self, Lacking};
use crate::repo::snapshots::{self, LOG_REMEDY, Listing, Selector, SnapshotInfo};
use crate::repo::sync::sync;
use crate::report::{Issue, IssueKind, Monitor};
use crate::store::open::{local_path, open_store};
use crate::store::remote::client::RemoteStore;
use crate::store::{StoreError, StoreErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Threads beside the workers that a command begins at most: for the index, the regions, the walk and the progress.
/// Where one of them is refused later, libraries end the process.
const THREADS_BESIDE: usize = 20;

/// The settings of this run.
///
/// # Errors
/// When the configuration can't be used.
pub fn settings(global: &Global, may_create: bool) -> Result<Settings, CliError> {
    let settings = load(global, &Environment::process(), may_create)?;
    if !global.quiet {
        settings.warnings.iter().for_each(|warning| output::notice(global.json, warning));
    }
    Ok(settings)
}

/// A path's directory as the system knows it, also of one that isn't made yet.
fn resolved(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return path.strip_prefix(ancestor).map_or(real.clone(), |rest| real.join(rest));
        }
    }
    path.to_owned()
}

/// Local regions that lie inside another one, and a cache directory that lies inside a region.
pub fn nested(settings: &Settings) -> Vec<String> {
    let regions: Vec<(&str, PathBuf)> = settings
        .regions
        .iter()
        .filter_map(|region| Some((region.name.as_str(), resolved(&local_path(&region.url)?))))
        .collect();
    let inside = |path: &Path, directory: &Path| path != directory && path.starts_with(directory);
    let mut found = Vec::new();
    for (outer, directory) in &regions {
        for (inner, _) in regions.iter().filter(|(_, path)| inside(path, directory)) {
            found.push(format!("region '{inner}' lies inside region '{outer}': what destroys one destroys both"));
        }
        let cache = resolved(&settings.cache_dir);
        if cache == *directory || inside(&cache, directory) {
            found.push(format!("the cache directory {} lies inside region '{outer}'", render::path(&cache)));
        }
    }
    found
}

/// Refuses to make a region where [`nested`] finds something.
///
/// # Errors
/// What it finds.
pub fn refuse_nested(settings: &Settings) -> Result<(), CliError> {
    match nested(settings).into_iter().next() {
        None => Ok(()),
        Some(found) => Err(CliError::usage(found)
            .hint("give each region a directory of its own, on a disk of its own, and the cache another: --cache-dir")),
    }
}

/// Regions whose store can't be opened, by name, and why.
pub type Unopened = Vec<(String, CliError)>;

/// Opens the regions' stores. One that can't be opened is left for the caller to report, unless none can.
///
/// # Errors
/// For an unusable address or option; when no store opens.
pub fn stores(settings: &Settings, create: bool) -> Result<(Vec<RegionSpec>, Unopened), CliError> {
    let (mut specs, mut failed) = (Vec::new(), Vec::new());
    for region in &settings.regions {
        match open_store(&region.url, &settings.store_options(region), create) {
            Ok(store) => specs.push(RegionSpec { name: region.name.clone(), store }),
            Err(error) => {
                // What is wrong here is to be corrected here; what another machine answers may change by itself.
                let remote = RemoteStore::is_address(&region.url, &settings.store_options(region));
                let unusable = error.kind == StoreErrorKind::Invalid && !remote;
                let error = CliError::from(error).in_region(&region.name);
                if unusable {
                    return Err(error);
                }
                failed.push((region.name.clone(), error));
            }
        }
    }
    match (specs.is_empty(), failed.is_empty()) {
        (true, false) => Err(failed.remove(0).1),
        _ => Ok((specs, failed)),
    }
}

/// An open repository with everything that commands share.
pub struct Workspace {
    /// The merged settings.
    pub settings: Settings,
    /// The open repository.
    pub repository: Repository,
    /// Regions of the configuration that this run can't use: left out on purpose, or not reached.
    pub absent: Vec<(String, String)>,
    /// Shows progress; begun after the last prompt.
    pub progress: Progress,
}

fn secret(settings: &Settings, json: bool) -> Result<Unlock, CliError> {
    if settings.identities.is_empty() {
        let mut warn = |text: &str| output::notice(json, text);
        let mut passphrases = Passphrases { ask: &mut Terminal, warn: &mut warn };
        let passphrase = passphrases.existing(&settings.passphrase)?;
        return Ok(Unlock::Passphrase(Zeroizing::new(passphrase.expose().to_owned())));
    }
    let mut text = Zeroizing::new(String::new());
    for path in &settings.identities {
        text.push_str(&read_identities(path)?);
        text.push('\n');
    }
    Ok(Unlock::Identities(text))
}

/// Without a pin, a person at a terminal may trust what is found; a script may not.
fn trust(settings: &Settings, found: Digest) -> Result<(), CliError> {
    if settings.pin.is_some() {
        return Ok(());
    }
    let refused = || {
        CliError::new(Class::Access, format!("no pin is configured, and the repository's root fingerprint is {found}"))
            .hint("compare it with the one that `init` printed, then give it with --pin or as `pin` in keepstone.toml")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(refused());
    }
    let mut stderr = std::io::stderr();
    let _ =
        write!(stderr, "The repository's root fingerprint is {found}.\nIs that the one that `init` printed? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|_| refused())?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refused()),
    }
}

/// Tells of a run, and lets the user stop it.
///
/// # Errors
/// When there can't be a thread for it.
pub fn progress(global: &Global) -> Result<Progress, CliError> {
    Progress::start(global).map_err(|error| {
        CliError::new(Class::Limit, format!("a thread for signals and progress can't be begun: {error}"))
            .hint(FEWER_THREADS)
    })
}

type Locate<'a> = dyn Fn(&[RegionSpec], Option<[u8; 32]>) -> Result<Located, RepoError> + 'a;

/// A cache that can't be written stops nothing: the next run knows less, and says so itself if it must.
fn remember_roster(cache_directory: &Path, seen: seen_roster::Seen, repository: &Repository) {
    // What is about to be merged is no roster yet.
    let (number, digest) = (repository.roster.number, repository.roster_digest);
    let known = number < seen.number || number == seen.number && seen.digest.is_some();
    if !known
        && repository.forks.is_empty()
        && let Err(error) = seen_roster::write(cache_directory, number, &digest)
    {
        tracing::warn!(%error, "the key roster's number was not remembered");
    }
}

impl Workspace {
    /// Opens the repository: regions, root, pin, slot, rings.
    ///
    /// # Errors
    /// Whatever stands in the way, with what to do about it.
    pub fn open(global: &Global) -> Result<Self, CliError> {
        Self::open_with(settings(global, false)?, global)
    }

    /// As [`Workspace::open`], for what an owner or a writer may and a maintainer may not: where the secret opens slots
    /// of both, the writer's is meant.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_as_author(global: &Global) -> Result<Self, CliError> {
        let locate = |specs: &[RegionSpec], pin| Ok(Located { preferred: Role::Writer, ..Located::open(specs, pin)? });
        Self::open_by(settings(global, false)?, global, &locate)
    }

    /// Whether a secret that this run was given opens what is wrapped for a recipient; asks for nothing.
    ///
    /// # Errors
    /// When an identity file can't be read any more.
    pub fn opens(&self, recipient: &str) -> Result<bool, CliError> {
        Ok(!self.settings.identities.is_empty() && secret(&self.settings, true)?.opens(recipient))
    }

    /// As [`Workspace::open`], with settings that a command has changed.
    ///
    /// # Errors
    /// As [`Workspace::open`].
    pub fn open_with(settings: Settings, global: &Global) -> Result<Self, CliError> {
        Self::open_by(settings, global, &|specs, pin| Located::open(specs, pin))
    }

    /// As [`Workspace::open`], where two rosters stand at the highest number.
    ///
    /// # Errors
    /// As [`Workspace::open`]; when there is only one roster, or they can't be brought together.
    pub fn open_to_merge(global: &Global, take: Option<&str>) -> Result<Self, CliError> {
        Self::open_by(settings(global, false)?, global, &|specs, pin| Located::open_to_merge(specs, pin, take))
    }

    fn open_by(settings: Settings, global: &Global, locate: &Locate<'_>) -> Result<Self, CliError> {
        let (specs, failed) = stores(&settings, false)?;
        let located = locate(&specs, settings.pin.map(|pin| pin.0))?;
        trust(&settings, located.fingerprint())?;
        let cache_directory = settings.cache_dir.join(located.config.repository.to_string());
        let seen = seen_roster::read(&cache_directory)?;
        located.require_roster(seen.number, seen.digest)?;
        let unlock = secret(&settings, global.json)?;
        let roster = located.roster.clone();
        let mut repository = located
            .unlock(&unlock, Arc::new(SystemClock), Arc::new(SystemRandom))
            .map_err(|error| opened_slots::explain(error, &opened_slots::read(&cache_directory), &roster))?;
        repository.host = settings.host();
        remember_roster(&cache_directory, seen, &repository);
        if let Err(error) = opened_slots::remember(&cache_directory, repository.secrets.slot) {
            tracing::warn!(%error, "which slot was opened was not remembered");
        }
        let left_out = format!("left out by {}", settings.left_out_by);
        let mut absent: Vec<(String, String)> =
            settings.regions_left_out.iter().map(|name| (name.clone(), left_out.clone())).collect();
        absent.extend(failed.into_iter().map(|(name, error)| (name, error.message)));
        for (name, error) in &repository.unreachable {
            absent.push((name.clone(), error.to_string()));
        }
        let count = settings.threads + THREADS_BESIDE;
        can_begin_threads(count).map_err(|error| {
            CliError::new(Class::Limit, format!("{count} threads can't be begun: {error}")).hint(FEWER_THREADS)
        })?;
        let progress = progress(global)?;
        for (name, why) in &absent {
            progress.notice(&format!("region '{name}' takes no part: {why}"));
        }
        for found in nested(&settings) {
            progress.notice(&found);
        }
        Ok(Workspace { settings, repository, absent, progress })
    }

    /// Has regions that could not be brought up take no part in the run, and says so; true when there are any.
    pub fn set_aside(&mut self, failures: BTreeMap<usize, StoreError>) -> bool {
        self.leave_out(failures, "it lacks earlier snapshots and doesn't take them: ")
    }

    /// Has a region that broke since it was opened take no part in the run, as one that isn't reached, unless it is
    /// the only one or the failure another one's.
    ///
    /// # Errors
    /// The failure, where the run can't go on without the region.
    pub fn go_on_without(&mut self, failure: RepoError) -> Result<(), CliError> {
        let RepoError::Store { region, source } = failure else { return Err(failure.into()) };
        match self.repository.regions.iter().position(|other| other.name == region) {
            Some(at) if self.repository.regions.len() > 1 => {
                self.leave_out(BTreeMap::from([(at, source)]), "");
                Ok(())
            }
            _ => Err(RepoError::Store { region, source }.into()),
        }
    }

    /// For whoever writes or decides: regions whose collection log is damaged take no part (`GC-4`). True when there are
    /// any; what was listed before is to be listed again then.
    ///
    /// # Errors
    /// When it is so in every region.
    pub fn leave_out_damaged_logs(&mut self, listing: &Listing) -> Result<bool, CliError> {
        let regions = &self.repository.regions;
        if let Some(detail) =
            listing.damaged_logs.values().next().filter(|_| listing.damaged_logs.len() == regions.len())
        {
            return Err(
                CliError::new(Class::Corrupt, format!("the collection log is damaged: {detail}")).hint(LOG_REMEDY)
            );
        }
        let failure = |(at, detail): (&usize, &String)| {
            let store = regions[*at].store.address();
            (*at, StoreError::new(StoreErrorKind::Other, "read", store, "gc/", detail.clone()))
        };
        let failures: BTreeMap<usize, StoreError> = listing.damaged_logs.iter().map(failure).collect();
        Ok(!failures.is_empty() && self.leave_out(failures, "its collection log is damaged: "))
    }

    fn leave_out(&mut self, failures: BTreeMap<usize, StoreError>, what: &str) -> bool {
        let mut reasons: BTreeMap<String, String> =
            failures.iter().map(|(at, error)| (self.repository.regions[*at].name.clone(), error.to_string())).collect();
        let aside = self.repository.set_aside(failures);
        for name in &aside {
            let why = format!("{what}{}", reasons.remove(name).unwrap_or_default());
            self.progress.notice(&format!("region '{name}' takes no part: {why}"));
            self.absent.push((name.clone(), why));
        }
        !aside.is_empty()
    }

    /// Says which regions have no room for what a command decided; a replication levels them later, as those that
    /// weren't reached.
    pub fn without_room(&mut self, no_room: NoRoom) {
        for (at, error) in no_room {
            let name = self.repository.regions[at].name.clone();
            let why = format!("it has no room for what was decided: {error}");
            self.progress.notice(&format!(
                "region '{name}' takes no part: {why}; make room there or raise its quota, then run `keepstone replicate`"
            ));
            self.absent.push((name, why));
        }
    }

    /// Remembers the roster that a change of keys has published.
    pub fn remember_roster(&self) {
        remember_roster(&self.cache_directory(), seen_roster::Seen::default(), &self.repository);
    }

    /// The directory of this repository's caches.
    pub fn cache_directory(&self) -> PathBuf {
        self.settings.cache_dir.join(self.repository.config.repository.to_string())
    }

    /// The local directories that a run writes to: regions, those that were left out of it too, and the cache.
    pub fn own_directories(&self) -> Vec<PathBuf> {
        let addresses = self.settings.regions.iter().map(|region| &region.url);
        let addresses = addresses.chain(&self.settings.addresses_left_out);
        addresses.filter_map(|url| local_path(url)).chain([self.cache_directory()]).collect()
    }

    /// The local index, brought up to what the regions list. Damaged segments are reported and make the
    /// outcome partial at best.
    ///
    /// # Errors
    /// When the index can't be made or a region can't be listed.
    pub fn index(&mut self) -> Result<(RocksIndex, Class), CliError> {
        let directory = self.cache_directory();
        std::fs::create_dir_all(&directory).map_err(|error| {
            let error = CliError::file("make", &directory, &error);
            match error.class {
                Class::Storage => error.hint("make room there, or name another place with --cache-dir"),
                _ => error,
            }
        })?;
        let cache_bytes = self.settings.memory_bytes / 8;
        let index = RocksIndex::open(&self.index_directory(), self.repository.config.repository, cache_bytes)?;
        let class = self.bring_up(&index)?;
        Ok((index, class))
    }

    /// Brings the index up to what the regions list, as [`Workspace::index`] did.
    ///
    /// # Errors
    /// When a region can't be listed or the index can't be written.
    pub fn bring_up(&mut self, index: &RocksIndex) -> Result<Class, CliError> {
        let issues = loop {
            let synced = match sync(&self.repository, index, &self.progress) {
                Err(RepoError::Index(error @ (IndexError::Database { .. } | IndexError::Damaged { .. }))) => {
                    self.progress.notice(&format!("{error}: that is done now"));
                    index.clear()?;
                    sync(&self.repository, index, &self.progress)
                }
                outcome => outcome,
            };
            match synced {
                Ok(issues) => break issues,
                Err(error) => self.go_on_without(error)?,
            }
        };
        Ok(if issues.is_empty() { Class::Success } else { Class::Corrupt })
    }

    /// What the regions' segments list and the regions lack, told of.
    ///
    /// # Errors
    /// When a region can't be listed, and the run can't go on without it.
    pub fn lacking(&mut self, index: &RocksIndex) -> Result<Lacking, CliError> {
        let lacking = loop {
            match presence::look(&self.repository, index) {
                Ok(lacking) => break lacking,
                Err(error) => self.go_on_without(error)?,
            }
        };
        lacking.tell(&self.repository, &self.progress);
        Ok(lacking)
    }

    /// The reached regions that lost segments, told of: those that this index or an earlier one saw losing some, and
    /// those that don't list the roots of snapshots which count there. They stay in doubt until a replication
    /// that looks at their content finds them whole ([`Workspace::losses`]).
    ///
    /// # Errors
    /// When the index can't be brought up to the regions once more.
    pub fn doubts(
        &self,
        index: &RocksIndex,
        snapshots: &[SnapshotInfo],
        lacking: &mut Lacking,
    ) -> Result<BTreeSet<RegionId>, CliError> {
        let mut unlisted = presence::unlisted_roots(&self.repository, index, snapshots)?;
        if !unlisted.is_empty() {
            // Another backup may have ended since the segments were listed.
            sync(&self.repository, index, &self.progress)?;
            // The index may have been made anew, and what is lacking is told by its numbers.
            *lacking = presence::look(&self.repository, index)?;
            unlisted = presence::unlisted_roots(&self.repository, index, snapshots)?;
        }
        unlisted.iter().try_for_each(|region| index.doubt(*region, true))?;
        let doubted = index.doubted()?;
        let mut found = BTreeSet::new();
        for region in self.repository.regions.iter().filter(|region| doubted.contains(&region.info.region)) {
            found.insert(region.info.region);
            let detail = "this region lost segments, or was found to lack something: whether it has what its snapshots need \
                          has to be looked at";
            let subject = format!("{}:index/", region.name).into_bytes();
            self.progress.issue(&Issue { kind: IssueKind::Missing, subject, detail: detail.to_owned() });
        }
        Ok(found)
    }

    /// What it comes to that regions lost something, after a replication looked at their content or where none did:
    /// corrupt while a snapshot that counts in a region may lack something there. Remembers which regions are in
    /// doubt.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn losses(
        &self,
        index: &RocksIndex,
        lacking: &Lacking,
        looked: Option<&Replicated>,
    ) -> Result<Class, CliError> {
        let (mut whole, mut class) = (BTreeSet::new(), Class::Success);
        if let Some(done) = looked {
            // Who saw segments vanish in every region knows that a slot's own listings may have been among them, where
            // other slots' word is all that there is.
            let before = index.doubted()?;
            let sound = done.by_word.keys().any(|region| !before.contains(region));
            for region in &done.whole {
                match done.by_word.get(region).filter(|_| !sound && before.contains(region)) {
                    None => index.doubt(*region, false)?,
                    Some(chunks) => self.tell_word(region, *chunks),
                }
            }
            done.lost.iter().try_for_each(|region| index.doubt(*region, true))?;
            whole.extend(done.whole.iter().copied());
        }
        let doubted = index.doubted()?;
        for region in &self.repository.regions {
            let id = region.info.region;
            let lacks = lacking.lost(&id).next().is_some();
            if doubted.contains(&id) || lacks && !whole.contains(&id) {
                class = Class::Corrupt;
            } else if lacks {
                self.progress.notice(&format!(
                    "no snapshot needs what region '{}' lost any more: `keepstone gc` takes it off the lists",
                    region.name
                ));
            }
        }
        Ok(class)
    }

    fn tell_word(&self, id: &RegionId, chunks: u64) {
        for region in self.repository.regions.iter().filter(|region| region.info.region == *id) {
            let detail = format!(
                "{chunks} chunks that are needed are held by the word of other slots alone, and every reached region lost \
                 segments, which may have listed what the slot stored itself that backed them up: `keepstone check \
                 --read-data` with an owner's key tells whether these are what they claim"
            );
            let subject = format!("{}:packs/", region.name).into_bytes();
            self.progress.issue(&Issue { kind: IssueKind::Missing, subject, detail });
        }
    }

    /// The directory of the local index.
    pub fn index_directory(&self) -> PathBuf {
        self.cache_directory().join("index")
    }

    /// The snapshot that the arguments name, and the class of a run that relies on it: see [`doubt`].
    ///
    /// # Errors
    /// When none or several fit, or a region can't be listed.
    pub fn snapshot(
        &mut self,
        reference: &parse::SnapshotRef,
        filter: &super::args::Filter,
    ) -> Result<(SnapshotInfo, Class), CliError> {
        let (listing, class) = self.snapshots()?;
        let info = Choice::new(self, listing.snapshots, listing.forgotten, filter).one(self, reference)?.clone();
        Ok((info, doubt(reference, class)))
    }

    /// The one of `snapshots` (oldest first) that the reference names; tells of those that `latest` passes by.
    ///
    /// # Errors
    /// When none or several fit.
    pub fn select<'a>(
        &self,
        snapshots: &'a [SnapshotInfo],
        reference: &parse::SnapshotRef,
    ) -> Result<&'a SnapshotInfo, RepoError> {
        let now_ns = self.repository.clock.now_ns();
        let wanted = match reference {
            parse::SnapshotRef::Latest { back } => Selector::Latest { back: *back as usize, now_ns },
            parse::SnapshotRef::Prefix(prefix) => Selector::Prefix(prefix.as_str().to_owned()),
        };
        let found = snapshots::select(snapshots, &wanted)?;
        if let Selector::Latest { .. } = wanted {
            let future = |info: &&SnapshotInfo| snapshots::is_from_the_future(info, now_ns);
            if future(&found) {
                let notice = "every snapshot claims to be from the future: is this host's clock right?";
                self.progress.notice(notice);
            } else if let Some(last) = snapshots.iter().rfind(future) {
                self.progress.notice(&format!(
                    "snapshot {} claims to be from the future and is not taken for the latest: a clock was wrong. \
                     Its id restores it",
                    render::short(&last.id)
                ));
            }
        }
        Ok(found)
    }

    /// As [`Workspace::open`], for a command that reads content or names: a slot that can't is refused before
    /// anything is brought up to date for it.
    ///
    /// # Errors
    /// As [`Workspace::open`]; when this slot can't read payloads.
    pub fn open_to_read(global: &Global) -> Result<Self, CliError> {
        let workspace = Self::open(global)?;
        match workspace.repository.keyring.can_open_payloads() {
            true => Ok(workspace),
            false => Err(FetchError::NotPermitted.into()),
        }
    }

    /// Reads chunks with this run's share of memory.
    ///
    /// # Errors
    /// When this slot can't read payloads.
    pub fn fetcher<'a>(&'a self, index: &'a RocksIndex) -> Result<Fetcher<'a>, CliError> {
        if !self.repository.keyring.can_open_payloads() {
            return Err(FetchError::NotPermitted.into());
        }
        Ok(Fetcher::new(&self.repository, index, &self.progress, self.settings.memory_bytes / 8))
    }

    /// For whoever decides: everything that counts or is forgotten, in the regions that can take part. What is damaged
    /// is shown, and makes the outcome corrupt.
    ///
    /// # Errors
    /// When a region can't be listed, or every collection log is damaged.
    pub fn everything(&mut self) -> Result<(Listing, Class), CliError> {
        let mut listing = self.listed(snapshots::list_all)?;
        listing.issues.iter().for_each(|issue| self.progress.issue(issue));
        let class = if listing.issues.is_empty() { Class::Success } else { Class::Corrupt };
        if self.leave_out_damaged_logs(&listing)? {
            let told = listing.issues;
            listing = snapshots::list_all(&self.repository)?;
            listing.issues = told;
        }
        listing.lost_and_forgotten().for_each(|text| self.progress.notice(&text));
        Ok((listing, class))
    }

    /// All snapshots that count. What is damaged is shown and makes the outcome corrupt. What this client verified in
    /// an earlier run isn't read again.
    ///
    /// # Errors
    /// When a region can't be listed.
    pub fn snapshots(&mut self) -> Result<(Listing, Class), CliError> {
        let directory = self.cache_directory();
        let known = known_objects::read(&directory, &self.repository);
        let listed = self.listing(Some(&known))?;
        known_objects::write(&directory, &self.repository, &known);
        Ok(listed)
    }

    /// As [`Workspace::snapshots`], from what the regions hold and nothing else.
    ///
    /// # Errors
    /// As [`Workspace::snapshots`].
    pub fn snapshots_as_stored(&mut self) -> Result<(Listing, Class), CliError> {
        self.listing(None)
    }

    /// Lists, without the regions that fail at it.
    fn listed(&mut self, list: impl Fn(&Repository) -> Result<Listing, RepoError>) -> Result<Listing, CliError> {
        loop {
            match list(&self.repository) {
                Ok(listing) => return Ok(listing),
                Err(error) => self.go_on_without(error)?,
            }
        }
    }

    fn listing(&mut self, known: Option<&KnownObjects>) -> Result<(Listing, Class), CliError> {
        let listing = self.listed(|repository| match known {
            Some(known) => snapshots::list_knowing(repository, known),
            None => snapshots::list(repository),
        })?;
        listing.issues.iter().for_each(|issue| self.progress.issue(issue));
        listing.lost_and_forgotten().for_each(|text| self.progress.notice(&text));
        let class = if listing.issues.is_empty() { Class::Success } else { Class::Corrupt };
        Ok((listing, class))
    }
}

/// What a damaged listing makes of a run: one that counts from the newest snapshot may have met an older
/// one, which whoever reads the result must not take for the newest.
pub fn doubt(reference: &parse::SnapshotRef, listing: Class) -> Class {
    match reference {
        parse::SnapshotRef::Latest { .. } => listing,
        parse::SnapshotRef::Prefix(_) => Class::Success,
    }
}
