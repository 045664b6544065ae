//! Makes a further region of a repository: a new one, or one in the place of a region that was lost.
//! Page: `format-spec/layout.md`.
//!
//! Guarantees: nothing is written into a store that holds anything of a repository but what an addition of
//! this one left there; `region` and then `config` go last, so that until the end the store is no region, and
//! an interrupted addition can be run again.

use super::RepoError;
use super::attest;
use super::audit::{self, Act, record};
use super::init::{require_empty, root_signer};
use super::open::{RegionHandle, RegionSpec, Repository, read_root_signed};
use crate::crypto::object::build_signed;
use crate::env::random_bytes;
use crate::format::audit::Action;
use crate::format::config::Region;
use crate::format::envelope::ObjectKind;
use crate::format::ids::RegionId;
use crate::limits::OBJECT_BYTES_MAX;
use crate::ship::put_with_retries;
use crate::store::probe::{Probe, probe};
use crate::store::{StoreErrorKind, list_sorted};

fn occupied(spec: &RegionSpec, found: &str) -> RepoError {
    RepoError::AlreadyARepository {
        region: spec.name.clone(),
        address: spec.store.address().to_owned(),
        found: format!("there is {found}; empty it and try again"),
    }
}

impl Repository {
    /// Makes a region of this repository in an empty store, from what the reached regions hold of keys, rings,
    /// roster, attestations and audit chains. Snapshots come with the next replication. Gives its id, and what
    /// its store was found to do; it is the last of [`Repository::regions`] then.
    ///
    /// # Errors
    /// When this slot is no owner's, the store isn't empty, or a store fails.
    pub fn add_region(&mut self, spec: &RegionSpec) -> Result<(RegionId, Probe), RepoError> {
        let root = *self.root_for("add a region")?;
        require_empty(spec)?;
        let left = self.left_over(spec)?;
        let store_error = |source| RepoError::Store { region: spec.name.clone(), source };
        let probe = probe(&*spec.store, &*self.random).map_err(store_error)?;
        let info = match left {
            Some(left) if left.put_if_absent == probe.put_if_absent => left,
            Some(_) => return Err(occupied(spec, "region, which says other things of the store than a probe found")),
            None => Region {
                region: RegionId(random_bytes(&*self.random)),
                put_if_absent: probe.put_if_absent,
                deletes: probe.deletes,
                created_at: self.clock.now_ns(),
            },
        };
        record(self, &Act::new(Action::RegionAdd).on(&info.region.0).because(&spec.name))?;
        let signer = root_signer(&root);
        let (bytes, _) = build_signed(ObjectKind::Region, self.config.repository, &signer, &info.encode());
        let region = info.region;
        self.regions.push(RegionHandle::new(&spec.name, &spec.store, info));
        match self.furnish(self.regions.len() - 1, bytes) {
            Ok(()) => Ok((region, probe)),
            Err(error) => {
                self.regions.pop();
                Err(error)
            }
        }
    }

    /// Brings what opens and vouches into a new region, then makes it one.
    fn furnish(&self, at: usize, region_object: Vec<u8>) -> Result<(), RepoError> {
        let to = &self.regions[at];
        self.level_keys(at)?;
        attest::level(self, at)?;
        let mut no_room = audit::merge(self)?.no_room;
        if let Some(error) = no_room.remove(&at) {
            return Err(to.error(error));
        }
        let contended = || RepoError::Contended { what: format!("region '{}'", to.name) };
        match to.get("region") {
            // An interrupted addition left it.
            Ok(found) if found == region_object => {}
            Ok(_) => return Err(contended()),
            Err(RepoError::Missing { .. }) => match put_with_retries(&*to.store, "region", &region_object.into()) {
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => return Err(contended()),
                put => put.map_err(|e| to.error(e))?,
            },
            Err(error) => return Err(error),
        }
        self.copy_signed(to, ObjectKind::Config, "config").map(drop)
    }

    /// The `region` object of an addition that didn't end. What else it left must be what other regions hold:
    /// keys of another repository, or old ones, would be taken for this one's.
    fn left_over(&self, spec: &RegionSpec) -> Result<Option<Region>, RepoError> {
        let store_error = |source| RepoError::Store { region: spec.name.clone(), source };
        for prefix in ["keys/", "ring/", "roster/"] {
            for listed in list_sorted(&*spec.store, prefix).map_err(store_error)? {
                let bytes = spec.store.get(&listed.name, OBJECT_BYTES_MAX as u64).map_err(store_error)?;
                let mut known = false;
                for region in &self.regions {
                    match region.store.get(&listed.name, OBJECT_BYTES_MAX as u64) {
                        Ok(other) => known |= other == bytes,
                        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Range) => {}
                        Err(error) => return Err(region.error(error)),
                    }
                }
                if !known {
                    return Err(occupied(spec, &format!("{}, which no other region holds so", listed.name)));
                }
            }
        }
        let foreign = "region, damaged or of another repository";
        let left = match read_root_signed(spec, ObjectKind::Region, "region", Some(&self.config)) {
            Ok(None) => return Ok(None),
            Ok(Some((payload, _))) => Region::decode(&payload).map_err(|_| occupied(spec, foreign))?,
            Err(error @ RepoError::Store { .. }) => return Err(error),
            Err(_) => return Err(occupied(spec, foreign)),
        };
        match self.regions.iter().find(|other| other.info.region == left.region) {
            Some(twin) => Err(occupied(spec, &format!("region, copied from region '{}'", twin.name))),
            None => Ok(Some(left)),
        }
    }
}
