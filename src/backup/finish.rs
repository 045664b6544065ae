//! The end of the pipeline: finished packs are shipped, listed in segments, and taken into the index.

use super::BackupError;
use super::usable::UsablePacks;
use crate::format::ids::{PackId, RegionId, SessionId};
use crate::index::segment::{build, seal, segment_name};
use crate::index::{InFlight, Index};
use crate::limits::{SEGMENT_CHUNKS_TARGET, SEGMENT_PACKS_TARGET};
use crate::pack::FinishedPack;
use crate::pack::reader::pack_name;
use crate::repo::Repository;
use crate::report::Counter;
use crate::ship::{Shipment, Shipper};
use crate::timing::{Stage, Timer};
use std::sync::Arc;

/// Ships packs and writes their segments; one a run.
pub struct Finisher<'a> {
    repository: &'a Repository,
    index: &'a dyn Index,
    in_flight: Arc<InFlight>,
    shipper: &'a Shipper,
    usable: &'a UsablePacks<'a>,
    session: SessionId,
    waiting: Vec<FinishedPack>,
    shipments: Vec<Shipment>,
    weight: usize,
    pack_bytes: &'a Counter,
    timer: Timer,
}

impl<'a> Finisher<'a> {
    /// For one session; `pack_bytes` counts the packs shipped, once, not per region.
    pub fn new(
        repository: &'a Repository,
        index: &'a dyn Index,
        in_flight: Arc<InFlight>,
        shipper: &'a Shipper,
        usable: &'a UsablePacks<'a>,
        session: SessionId,
        pack_bytes: &'a Counter,
    ) -> Self {
        Finisher {
            repository,
            index,
            in_flight,
            shipper,
            usable,
            session,
            waiting: Vec::new(),
            shipments: Vec::new(),
            weight: 0,
            pack_bytes,
            timer: Timer::off(),
        }
    }

    /// Takes the times of its stages.
    pub fn timed(self, timer: Timer) -> Self {
        Finisher { timer, ..self }
    }

    /// Ships a pack; writes a segment once enough have come together.
    ///
    /// # Errors
    /// When no region is left or the index can't be written.
    pub fn accept(&mut self, mut pack: FinishedPack) -> Result<(), BackupError> {
        self.shipper.check()?;
        // Relied on from before it is anywhere: a collector may meet it as soon as it is.
        self.usable.shipping(pack.id);
        let ship = || self.shipper.ship(&pack_name(&pack.id), &pack.payload);
        self.shipments.push(self.timer.wait(Stage::Segment, ship));
        self.pack_bytes.add(pack.size);
        self.weight += pack.weight();
        // The upload holds the spool as long as it needs it; the list of chunks is what waits here.
        pack.payload = crate::store::Payload::Bytes(bytes::Bytes::new());
        self.waiting.push(pack);
        if self.weight >= SEGMENT_CHUNKS_TARGET || self.waiting.len() >= SEGMENT_PACKS_TARGET {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the segment of what waits, after its packs are in place, and takes it into the index.
    ///
    /// # Errors
    /// When no region is left or the index can't be written.
    pub fn flush(&mut self) -> Result<(), BackupError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut self.waiting);
        let shipments = std::mem::take(&mut self.shipments);
        self.weight = 0;
        let repository = self.repository;
        let (segment, sealed) = self.timer.run(Stage::Segment, || {
            let segment = build(packs, self.session, repository.secrets.slot);
            let sealed = seal(&segment, &repository.keyring, &repository.signer(), &*repository.random);
            (segment, sealed)
        });
        let (bytes, id) = sealed?;
        self.timer.bytes(Stage::Segment, bytes.len() as u64);
        let size = bytes.len() as u64;
        let ship = || self.shipper.ship_after(&shipments, &segment_name(&id), &bytes.into());
        self.timer.wait(Stage::Segment, ship)?;
        let regions: Vec<RegionId> =
            self.shipper.alive().into_iter().map(|at| self.repository.regions[at].info.region).collect();
        self.timer.run(Stage::Index, || self.index.ingest(id, size, &segment, &regions))?;
        let listed: Vec<PackId> = segment.packs.iter().map(|pack| pack.pack).collect();
        self.usable.listed(&listed)?;
        segment.chunks().for_each(|chunk| self.in_flight.release(&chunk.id));
        Ok(())
    }
}
