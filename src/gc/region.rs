//! One run in one region: finishes what is open, begins the next generation, and where asked to finishes that.

use super::claims::Memory;
use super::generation::Run;
use super::repack::Repacked;
use super::{GcError, GcOptions, OBSERVE_TIME, POLL, RegionReport};
use crate::policy::window::Witness;
use crate::repo::designation;
use crate::repo::gclog::{self, GcLog, OpenGeneration};
use crate::repo::open::Repository;
use crate::report::Monitor;
use std::collections::{BTreeSet, HashSet};

/// How often a run begins anew because another collector was at work.
const ATTEMPTS: usize = 4;

/// Collects in one region.
///
/// # Errors
/// What stops it; nothing was deleted then that an earlier final doesn't list.
pub fn collect(
    repository: &Repository,
    at: usize,
    options: &GcOptions,
    monitor: &dyn Monitor,
    report: &mut RegionReport,
) -> Result<(), GcError> {
    designation::require(repository, &repository.regions[at])?;
    let error = match settle(repository, at, options, monitor, report) {
        Err(error) if error.is_lack_of_room() && !options.dry_run => error,
        ended => return ended,
    };
    // What earlier finals list may go without anything being put. If that makes room, the rest is done, too.
    let (objects, packs) = (report.objects_deleted, report.deleted.packs);
    let freed = gclog::read(repository, &repository.regions[at])
        .map_err(GcError::from)
        .and_then(|log| Run::new(repository, at, options, monitor, report, log).delete_again());
    match freed {
        Err(GcError::Cancelled) => Err(GcError::Cancelled),
        Ok(()) if report.objects_deleted > objects || report.deleted.packs > packs => {
            let before = std::mem::take(report);
            let ended = settle(repository, at, options, monitor, report);
            report.follow(before);
            ended
        }
        _ => Err(error),
    }
}

fn settle(
    repository: &Repository,
    at: usize,
    options: &GcOptions,
    monitor: &dyn Monitor,
    report: &mut RegionReport,
) -> Result<(), GcError> {
    let region = &repository.regions[at];
    // What looks like damage may be another collector's work: it is damage only if the log stands still.
    for _ in 1..ATTEMPTS {
        let log = gclog::read(repository, region)?;
        let began = (log.newest, log.open.is_some());
        *report = RegionReport { name: region.name.clone(), ..RegionReport::default() };
        match attempt(repository, at, options, monitor, report, log) {
            Err(error @ GcError::Incomplete { .. }) => {
                let log = gclog::read(repository, region)?;
                if (log.newest, log.open.is_some()) == began {
                    return Err(error);
                }
            }
            ended => return ended,
        }
    }
    attempt(repository, at, options, monitor, report, gclog::read(repository, region)?)
}

fn attempt(
    repository: &Repository,
    at: usize,
    options: &GcOptions,
    monitor: &dyn Monitor,
    report: &mut RegionReport,
    log: GcLog,
) -> Result<(), GcError> {
    let mut run = Run::new(repository, at, options, monitor, report, log);
    let view = match run.log.open.clone() {
        Some(open) => {
            run.stay_open(open.number);
            if open.fence.is_none() && !run.is_seen(open.number, true)? {
                run.delete_again()?;
                return Ok(());
            }
            run.stop_if_cancelled()?;
            run.finish(&open)?
        }
        None => run.look()?,
    };
    run.report.open = None;
    run.report.noticed = None;
    run.stop_if_cancelled()?;
    run.sweep(&view)?;
    let number = run.log.newest + 1;
    let repacked = match run.repack(&view, at) {
        // What is dead as a whole makes room without being moved.
        Err(error) if error.is_lack_of_room() => {
            run.report.notices.push(format!("nothing was taken out of packs that are mostly dead: {error}"));
            Repacked::default()
        }
        repacked => repacked?,
    };
    let condemned = run.condemn(&view, number, &repacked.emptied);
    repacked.end(&run);
    let Some(open) = condemned? else { return Ok(()) };
    drop(view);
    run.stay_open(number);
    run.log.newest = number;
    run.log.open = Some(open.clone());
    if !options.now {
        return Ok(());
    }
    run.is_seen(number, false)?;
    run.finish_now(&open)
}

impl<'a> Run<'a> {
    /// Begins a run in the region of this index, whose log is this.
    fn new(
        repository: &'a Repository,
        at: usize,
        options: &'a GcOptions,
        monitor: &'a dyn Monitor,
        report: &'a mut RegionReport,
        log: GcLog,
    ) -> Self {
        Run {
            repository,
            region: &repository.regions[at],
            options,
            monitor,
            memory: Memory::default(),
            log,
            begun: None,
            witness: Witness::TRUSTED,
            report,
            emptied: BTreeSet::new(),
            told: HashSet::new(),
        }
    }

    /// Says that a generation stays open unless this run finishes it, and since when this host knows of it.
    fn stay_open(&mut self, number: u64) {
        let (id, now) = (self.region.info.region, self.repository.clock.now_ns());
        let known = self.options.noticed.get(&id).filter(|(known, _)| *known == number);
        // A time in the future is that of a clock that was put back since: the waiting begins anew.
        let at = known.map(|(_, at)| *at).filter(|at| *at <= now).unwrap_or(now);
        self.report.open = Some(number);
        self.report.noticed = Some((id, number, at));
    }

    /// True once every open session has observed the generation, or had the time to. Waits for it where the
    /// run is to finish at once.
    fn is_seen(&mut self, number: u64, may_be_old: bool) -> Result<bool, GcError> {
        let began_at = match self.report.noticed {
            Some((_, _, at)) if may_be_old => at,
            _ => self.repository.clock.now_ns(),
        };
        loop {
            self.stop_if_cancelled()?;
            let claims = self.claims()?;
            let late: Vec<_> = claims.open(&self.log).filter(|(_, record)| record.observed < number).collect();
            let waited = u128::try_from(self.repository.clock.now_ns().saturating_sub(began_at)).unwrap_or(0);
            if late.is_empty() || waited >= OBSERVE_TIME.as_nanos() || self.options.dry_run {
                self.report.waiting_for.clear();
                return Ok(true);
            }
            let told = self.report.waiting_for.len();
            self.report.waiting_for = late.iter().map(|(id, _)| claims.describe(self.repository, id)).collect();
            if !self.options.now {
                return Ok(false);
            }
            // Once, and whenever some of them have seen it.
            if told != late.len() {
                self.monitor.notice(&format!(
                    "region '{}': waiting for {} open sessions to see that generation {number} was condemned",
                    self.region.name,
                    late.len()
                ));
            }
            self.repository.clock.sleep(POLL);
        }
    }

    /// Finishes the generation that this run began.
    fn finish_now(&mut self, open: &OpenGeneration) -> Result<(), GcError> {
        // What was told of the region is told anew once it is finished.
        self.report.forget_view();
        let view = self.finish(open)?;
        self.report.open = None;
        self.report.noticed = None;
        self.stop_if_cancelled()?;
        self.sweep(&view)?;
        self.account(&view)
    }
}
