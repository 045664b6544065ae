//! The index on disk, in RocksDB: memory stays flat however large the repository.
//!
//! It is written by ingesting sorted files only, one process at a time; between changes it is held
//! read-only, so that processes don't wait for one another. Whatever is wrong with it (damage, a
//! foreign repository, an unknown layout), it is emptied and filled again from the regions, though never
//! below another process that relies on it.

use self::change::{Change, Record, in_order};
use self::holder::{HOLDER_FILE, HoldProblem, Holder};
use self::options::{database_options, options};
use super::memory::places_of;
use super::record::{PackEntry, Place, Replaced, decode_ordinals, decode_places, encode_ordinals, settle_places};
use super::{Arrival, Detached, EachPack, Index, IndexError};
use crate::crypto::listing::listings;
use crate::env::{SystemRandom, random_bytes};
use crate::format::ids::{ChunkId, Digest, PackId, RegionId, RepositoryId, SegmentId};
use crate::format::segment::Segment;
use rocksdb::{
    BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    IngestExternalFileOptions, LiveFile, SstFileWriter,
};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

const LAYOUT: &[u8] = b"keepstone index 5";
const KEY_STAMP: &[u8] = b"stamp";
const KEY_INCARNATION: &[u8] = b"incarnation";
const KEY_NUMBERING: &[u8] = b"numbering";
const KEY_UNLISTED: &[u8] = b"unlisted";
const KEY_PACKS: &[u8] = b"packs";
const KEY_CHUNKS: &[u8] = b"chunks";
const KEY_CHUNK_BYTES: &[u8] = b"chunk bytes";
const FAMILIES: [&str; 5] = ["chunks", "packs", "ordinals", "segments", "meta"];
const PACK_CACHE_ENTRIES: usize = 2048;
/// Chunks that are looked up together while they are taken in.
const LOOKUPS_AT_ONCE: usize = 4096;
/// Files in level 0 from which on compaction begins and is waited for; RocksDB slows writers down at 20.
const LEVEL_0_FILES_MAX: u64 = 8;

/// Files that are smaller than this are joined once a family has so many of them: records that lie side by side with
/// the others', as those of packs and segments do, come to rest in the lowest level at once, a file each, where nothing
/// compacts them.
const SMALL_FILE_BYTES: usize = 256 << 10;
const SMALL_FILES_MAX: usize = 32;

/// What is known of one chunk after another, of places in the order of ids.
fn by_chunk(sorted: &[(ChunkId, Place)]) -> impl Iterator<Item = &[(ChunkId, Place)]> {
    sorted.chunk_by(|one, next| one.0 == next.0)
}

/// Takes a key and its value.
type EachRecord<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), IndexError> + 'a;
/// Takes a segment, its size, and its packs' ordinals as they are kept.
type EachSegment<'a> = dyn FnMut(SegmentId, u64, &[u8]) -> Result<(), IndexError> + 'a;
/// A segment on its way in: id, size, content, regions.
type Arriving<'a> = (SegmentId, u64, &'a Segment, &'a [RegionId]);

/// A RocksDB database in a directory of its own.
pub struct RocksIndex {
    path: PathBuf,
    repository: RepositoryId,
    cache_bytes: usize,
    state: RwLock<State>,
    packs: Mutex<HashMap<u32, Arc<PackEntry>>>,
    /// Locked by every process that relies on the index, so that none makes it anew meanwhile; `None` where
    /// nothing can be locked.
    users: Mutex<Option<File>>,
    /// Nothing about it is changed.
    inspected: bool,
}

struct State {
    db: Option<DB>,
    pack_count: u32,
    chunk_count: u64,
    incarnation: Option<Vec<u8>>,
    /// Changes whenever the index is made anew, and with it the meaning of every ordinal.
    numbering: Option<Vec<u8>>,
    chunk_bytes: u64,
    /// The packs that no region has any more.
    unlisted: HashSet<u32>,
}

/// What taking something out of a region changes.
struct Detaching {
    packs: BTreeMap<u32, PackEntry>,
    segments: Vec<SegmentId>,
    /// Something of it was false.
    disproved: bool,
}

impl State {
    fn closed() -> State {
        State {
            db: None,
            pack_count: 0,
            chunk_count: 0,
            chunk_bytes: 0,
            incarnation: None,
            numbering: None,
            unlisted: HashSet::new(),
        }
    }
}

impl RocksIndex {
    /// Opens the index of a repository in `path`, making it anew when it is absent, damaged, of
    /// another layout or of another repository. `cache_bytes` bounds its block cache.
    ///
    /// # Errors
    /// When even a new one can't be made there.
    pub fn open(path: &Path, repository: RepositoryId, cache_bytes: usize) -> Result<Self, IndexError> {
        let index = Self::closed(path, repository, cache_bytes);
        for _ in 0..OPEN_ATTEMPTS {
            if index.join() && index.reopen_sound().is_ok() {
                return Ok(index);
            }
            std::fs::create_dir_all(path).map_err(|e| index.fail(e))?;
            if index.claim() {
                // Another process may have been in the middle of an ingest: wait for it, then look again.
                let again = index.hold().and_then(|_holder| index.reopen_sound());
                match again {
                    Ok(()) => {}
                    // Neither would be had by that.
                    Err(error @ (IndexError::Full { .. } | IndexError::Limited { .. })) => return Err(error),
                    Err(error) => {
                        tracing::info!(%error, "the local index is made anew");
                        index.make_anew()?;
                    }
                }
                index.join();
                return Ok(index);
            }
            std::thread::sleep(PAUSE);
        }
        Err(index.in_use())
    }

    /// Opens the index as it is, and changes nothing.
    ///
    /// # Errors
    /// When it is absent, damaged, of another layout or of another repository.
    pub fn inspect(path: &Path, repository: RepositoryId, cache_bytes: usize) -> Result<Self, IndexError> {
        let index = RocksIndex { inspected: true, ..Self::closed(path, repository, cache_bytes) };
        index.reopen_sound()?;
        Ok(index)
    }

    /// Makes an empty index in the place of whatever is there, which is not opened.
    ///
    /// # Errors
    /// When it can't be made there.
    pub fn create(path: &Path, repository: RepositoryId, cache_bytes: usize) -> Result<Self, IndexError> {
        let index = Self::closed(path, repository, cache_bytes);
        index.clear()?;
        Ok(index)
    }

    fn closed(path: &Path, repository: RepositoryId, cache_bytes: usize) -> Self {
        RocksIndex {
            path: path.to_owned(),
            repository,
            cache_bytes,
            state: RwLock::new(State::closed()),
            packs: Mutex::new(HashMap::new()),
            users: Mutex::new(None),
            inspected: false,
        }
    }

    fn fail(&self, detail: impl ToString) -> IndexError {
        let (path, detail) = (self.path.display().to_string(), detail.to_string());
        // The database hands the system's errors on as text.
        let says = |texts: &[&str]| texts.iter().any(|text| detail.contains(text));
        if says(&["No space left on device", "Disk quota exceeded", "File too large"]) {
            IndexError::Full { path, detail }
        } else if says(&["Too many open files", "Cannot allocate memory"]) {
            IndexError::Limited { path, detail }
        } else {
            IndexError::Database { path, detail }
        }
    }

    fn in_use(&self) -> IndexError {
        let holder = "another run, which relies on it".to_owned();
        IndexError::Busy { path: self.path.display().to_string(), holder }
    }

    /// Says that this process relies on the index; false while another one makes it anew.
    fn join(&self) -> bool {
        self.lock_users(FlockOperation::NonBlockingLockShared)
    }

    /// Has the index for this process alone, unless another one relies on it. What was said by [`Self::join`] is
    /// lost either way, and said again by it.
    fn claim(&self) -> bool {
        self.lock_users(FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_users(&self, operation: FlockOperation) -> bool {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.is_none() {
            let path = self.path.join(USERS_FILE);
            let made = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            // A cache that can only be read is used all the same.
            *users = made.or_else(|_| File::open(&path)).ok();
        }
        match &*users {
            Some(file) => flock(file, operation) != Err(Errno::WOULDBLOCK),
            None => true,
        }
    }

    fn damaged(&self, detail: impl ToString) -> IndexError {
        IndexError::Damaged { path: self.path.display().to_string(), detail: detail.to_string() }
    }

    fn descriptors(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.cache_bytes);
        FAMILIES.iter().map(|name| ColumnFamilyDescriptor::new(*name, options(name, &cache))).collect()
    }

    /// As [`Self::reopen`], unless a run before met damage in what this doesn't read.
    fn reopen_sound(&self) -> Result<(), IndexError> {
        match self.path.join(DAMAGE_MARKER).exists() {
            true => Err(self.damaged("a run before found it so")),
            false => self.reopen(),
        }
    }

    /// Has the next run make the index anew if this says that it is damaged: blocks of its files are read when they
    /// are needed, so damage may show long after it was opened.
    fn noted<T>(&self, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
        let detail = match outcome {
            Err(IndexError::Database { detail, .. }) if detail.starts_with(CORRUPTION) => detail,
            Err(IndexError::Damaged { detail, .. }) => detail,
            other => return other,
        };
        if !self.inspected
            && let Err(error) = std::fs::write(self.path.join(DAMAGE_MARKER), b"")
        {
            tracing::warn!(%error, "it could not be noted that the local index is damaged");
        }
        Err(self.damaged(detail))
    }

    /// Opens read-only and reads the counts; everything about it must be as expected.
    fn reopen(&self) -> Result<(), IndexError> {
        self.reopen_into(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// With the lock held: readers wait instead of finding it closed.
    fn reopen_into(&self, state: &mut State) -> Result<(), IndexError> {
        state.db = None;
        // An ingest that didn't end may have left chunks of packs that got no ordinal.
        if self.path.join(INGEST_MARKER).exists() {
            return Err(self.damaged("an ingest did not end"));
        }
        let mut options = database_options();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let db = DB::open_cf_descriptors_read_only(&options, &self.path, self.descriptors(), false)
            .map_err(|e| self.fail(e))?;
        let meta = self.family(&db, "meta")?;
        let mut stamp = LAYOUT.to_vec();
        stamp.extend_from_slice(&self.repository.0);
        if db.get_cf(meta, KEY_STAMP).map_err(|e| self.fail(e))?.as_deref() != Some(&stamp[..]) {
            return Err(self.damaged("it belongs to another repository or layout"));
        }
        let get = |key| db.get_cf(meta, key).map_err(|e| self.fail(e));
        let (incarnation, numbering) = (get(KEY_INCARNATION)?, get(KEY_NUMBERING)?);
        if state.numbering.is_some() && state.numbering != numbering {
            // What this process remembers of packs by their ordinals no longer holds.
            return Err(IndexError::Remade { path: self.path.display().to_string() });
        }
        let unlisted = decode_ordinals(&get(KEY_UNLISTED)?.unwrap_or_default()).map_err(|e| self.damaged(e))?;
        let number = |key| -> Result<u64, IndexError> {
            match get(key)? {
                None => Ok(0),
                Some(bytes) => Ok(u64::from_le_bytes(bytes[..].try_into().map_err(|_| self.damaged("a count"))?)),
            }
        };
        let (packs, chunks, chunk_bytes) = (number(KEY_PACKS)?, number(KEY_CHUNKS)?, number(KEY_CHUNK_BYTES)?);
        state.pack_count = u32::try_from(packs).map_err(|_| self.damaged("the pack count"))?;
        state.chunk_count = chunks;
        (state.incarnation, state.numbering) = (incarnation, numbering);
        state.chunk_bytes = chunk_bytes;
        state.unlisted = unlisted.into_iter().collect();
        state.db = Some(db);
        // Another process may have changed them.
        self.packs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn family<'a>(&self, db: &'a DB, name: &str) -> Result<&'a ColumnFamily, IndexError> {
        db.cf_handle(name).ok_or_else(|| self.damaged(format!("no column family '{name}'")))
    }

    /// Reads; when that fails, opens the database again and reads once more: another process may have
    /// compacted it since, and with that removed files that this one had not opened yet.
    fn retried<T>(&self, mut read: impl FnMut() -> Result<T, IndexError>) -> Result<T, IndexError> {
        read().or_else(|error| match error {
            IndexError::Database { .. } => self.reopen().and_then(|()| read()),
            error => Err(error),
        })
    }

    fn get(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.retried(|| {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let db = state.db.as_ref().ok_or_else(|| self.fail("it is closed"))?;
            db.get_cf(self.family(db, name)?, key).map_err(|e| self.fail(e))
        })
    }

    /// Every place that is recorded, those in packs without a region among them.
    fn places_now(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, IndexError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let db = state.db.as_ref().ok_or_else(|| self.fail("it is closed"))?;
        if state.chunk_count == 0 {
            return Ok(vec![Vec::new(); ids.len()]);
        }
        let family = self.family(db, "chunks")?;
        if let [id] = ids {
            // Half the time of a batch of one.
            let found = db.get_pinned_cf(family, id.0).map_err(|e| self.fail(e))?;
            let places = found.map_or(Ok(Vec::new()), |bytes| decode_places(&bytes).map_err(|e| self.damaged(e)));
            return Ok(vec![places?]);
        }
        let found = db.batched_multi_get_cf(family, ids.iter().map(|id| &id.0[..]), false);
        found
            .into_iter()
            .map(|value| match value.map_err(|e| self.fail(e))? {
                None => Ok(Vec::new()),
                Some(bytes) => decode_places(&bytes).map_err(|e| self.damaged(e)),
            })
            .collect()
    }

    /// Each key of a family that begins so, with its value, in order.
    fn each(&self, name: &str, prefix: &[u8], each: &mut EachRecord<'_>) -> Result<(), IndexError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let db = state.db.as_ref().ok_or_else(|| self.fail("it is closed"))?;
        let from = rocksdb::IteratorMode::From(prefix, rocksdb::Direction::Forward);
        for item in db.iterator_cf(self.family(db, name)?, from) {
            let (key, value) = item.map_err(|e| self.fail(e))?;
            if !key.starts_with(prefix) {
                break;
            }
            each(&key, &value)?;
        }
        Ok(())
    }

    /// The segments of a region with their sizes and the ordinals that each lists.
    fn each_segment(&self, region: RegionId, each: &mut EachSegment<'_>) -> Result<(), IndexError> {
        self.each("segments", &region.0, &mut |key, value| {
            let id = key[region.0.len()..].try_into().map_err(|_| self.damaged("a segment's key"))?;
            let (size, ordinals) = value.split_first_chunk().ok_or_else(|| self.damaged("a segment's size"))?;
            each(SegmentId(id), u64::from_le_bytes(*size), ordinals)
        })
    }

    /// What [`Index::detach`] would change; the pack that can't be explained where there is one.
    fn detaching(
        &self,
        region: RegionId,
        vanished: &HashSet<SegmentId>,
        dead: &HashSet<PackId>,
        attested: &HashSet<Digest>,
    ) -> Result<Result<Detaching, PackId>, IndexError> {
        let ordinals = |value: &[u8]| decode_ordinals(value).map_err(|e| self.damaged(e));
        let (mut segments, mut lost) = (Vec::new(), HashSet::new());
        if !vanished.is_empty() {
            self.each_segment(region, &mut |id, _, value| {
                if vanished.contains(&id) {
                    segments.push(id);
                    lost.extend(ordinals(value)?);
                }
                Ok(())
            })?;
        }
        if !lost.is_empty() {
            self.each_segment(region, &mut |id, _, value| {
                if !vanished.contains(&id) {
                    for ordinal in ordinals(value)? {
                        lost.remove(&ordinal);
                    }
                }
                Ok(())
            })?;
        }
        // Of each pack that isn't dead, everything that is known to be stated of it, and what of that stands there.
        let mut alternatives: HashMap<u32, Vec<u32>> = HashMap::new();
        for ordinal in &lost {
            let entry = self.pack(*ordinal)?;
            if !dead.contains(&entry.id) {
                alternatives.insert(*ordinal, self.ordinals(&entry.id)?);
            }
        }
        let candidates: HashSet<u32> = alternatives.values().flatten().copied().collect();
        let mut standing = HashSet::new();
        if candidates.len() > alternatives.len() && !attested.is_empty() {
            self.each_segment(region, &mut |id, _, value| {
                if !vanished.contains(&id) {
                    standing.extend(ordinals(value)?.into_iter().filter(|ordinal| candidates.contains(ordinal)));
                }
                Ok(())
            })?;
        }
        let mut packs = BTreeMap::new();
        let mut take = |ordinal: u32, entry: &PackEntry| {
            let mut entry = entry.clone();
            if entry.remove_region(region) {
                packs.insert(ordinal, entry);
            }
        };
        let mut disproved = false;
        for ordinal in lost {
            let entry = self.pack(ordinal)?;
            if let Some(alternatives) = alternatives.get(&ordinal) {
                let beside = alternatives.iter().filter(|other| standing.contains(other));
                let beside = beside.map(|other| self.pack(*other)).collect::<Result<Vec<_>, _>>()?;
                match entry.replaced_by(beside.iter().map(|other| &**other), attested) {
                    Some(replaced) => disproved |= replaced == Replaced::Disproved,
                    None => return Ok(Err(entry.id)),
                }
            }
            take(ordinal, &entry);
        }
        for pack in dead {
            for ordinal in self.ordinals(pack)? {
                take(ordinal, &*self.pack(ordinal)?);
            }
        }
        Ok(Ok(Detaching { packs, segments, disproved }))
    }

    /// Writes a change, all or nothing: while it is under way a marker says so, and a marker that is found makes
    /// the index anew. The caller holds the writer's place.
    fn write(&self, change: &Change) -> Result<(), IndexError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.db = None;
        let marker = self.path.join(INGEST_MARKER);
        std::fs::write(&marker, b"").map_err(|e| self.fail(e))?;
        let db =
            DB::open_cf_descriptors(&database_options(), &self.path, self.descriptors()).map_err(|e| self.fail(e))?;
        self.ingest_sorted(&db, "chunks", change.chunks.iter())?;
        self.ingest_sorted(&db, "ordinals", in_order(&change.ordinals))?;
        self.ingest_sorted(&db, "packs", in_order(&change.packs))?;
        self.ingest_sorted(&db, "meta", in_order(&change.meta))?;
        self.ingest_sorted(&db, "segments", in_order(&change.segments))?;
        self.settle(&db)?;
        drop(db);
        std::fs::remove_file(&marker).map_err(|e| self.fail(e))?;
        self.reopen_into(&mut state)
    }

    /// Takes segments in, all or none.
    fn take_in(&self, arriving: &[Arriving<'_>]) -> Result<(), IndexError> {
        if arriving.is_empty() {
            return Ok(());
        }
        let _holder = self.hold()?;
        // Another process may have ingested since this one last looked.
        self.reopen()?;
        let mut change = Change::default();
        let mut fresh: Vec<(ChunkId, Place)> = Vec::new();
        // What is changed or new: an earlier segment may list the same pack.
        let mut entries: BTreeMap<u32, Arc<PackEntry>> = BTreeMap::new();
        let mut ordinals: HashMap<PackId, Vec<u32>> = HashMap::new();
        let mut unlisted = self.unlisted();
        let mut relisted = false;
        let mut pack_count = self.pack_count();
        for (id, size, segment, regions) in arriving {
            let mut listing_packs = Vec::with_capacity(segment.packs.len());
            for (listed, listing) in segment.packs.iter().zip(listings(segment)) {
                let mut known = match ordinals.get(&listed.pack) {
                    Some(known) => known.clone(),
                    None => self.ordinals(&listed.pack)?,
                };
                let mut same = None;
                for ordinal in &known {
                    let entry = match entries.get(ordinal) {
                        Some(entry) => Arc::clone(entry),
                        None => self.pack(*ordinal)?,
                    };
                    same = same.or(entry.says(listed, &listing).then_some((*ordinal, entry)));
                }
                if let Some((ordinal, entry)) = same {
                    listing_packs.push(ordinal);
                    let mut entry = (*entry).clone();
                    if entry.add_regions(regions) {
                        relisted |= unlisted.remove(&ordinal);
                        entries.insert(ordinal, Arc::new(entry));
                    }
                    continue;
                }
                let entry = PackEntry::from_segment(listed, listing, regions);
                if entry.regions.is_empty() {
                    relisted |= unlisted.insert(pack_count);
                }
                entries.insert(pack_count, Arc::new(entry));
                known.push(pack_count);
                ordinals.insert(listed.pack, known);
                listing_packs.push(pack_count);
                fresh.extend(places_of(pack_count, listed));
                pack_count += 1;
            }
            let listing_packs = [&size.to_le_bytes()[..], &encode_ordinals(listing_packs)].concat();
            for region in *regions {
                change.segments.insert([&region.0[..], &id.0[..]].concat(), Some(listing_packs.clone()));
            }
        }
        let packs = entries.iter().map(|(ordinal, entry)| (ordinal.to_be_bytes().to_vec(), Some(entry.encode())));
        change.packs = packs.collect();
        let listed = ordinals.into_iter().map(|(pack, known)| (pack.0.to_vec(), Some(encode_ordinals(known))));
        change.ordinals = listed.collect();
        // A chunk that is in several packs keeps all its places.
        let (mut chunk_count, mut chunk_bytes) = (self.chunk_count(), self.chunk_bytes());
        fresh.sort_unstable();
        let mut rest = &fresh[..];
        let mut places = Vec::new();
        while !rest.is_empty() {
            let ids: Vec<ChunkId> = by_chunk(rest).take(LOOKUPS_AT_ONCE).map(|new| new[0].0).collect();
            let mut taken = 0;
            for (new, known) in by_chunk(rest).zip(self.retried(|| self.places_now(&ids))?) {
                if known.is_empty() {
                    chunk_count += 1;
                    chunk_bytes += u64::from(new[0].1.length);
                }
                places.clear();
                places.extend(known);
                places.extend(new.iter().map(|(_, place)| *place));
                settle_places(&mut places);
                change.chunks.push(new[0].0, &places);
                taken += new.len();
            }
            rest = &rest[taken..];
        }
        let mut stamp = LAYOUT.to_vec();
        stamp.extend_from_slice(&self.repository.0);
        change.meta = BTreeMap::from([
            (KEY_PACKS.to_vec(), Some(u64::from(pack_count).to_le_bytes().to_vec())),
            (KEY_CHUNKS.to_vec(), Some(chunk_count.to_le_bytes().to_vec())),
            (KEY_CHUNK_BYTES.to_vec(), Some(chunk_bytes.to_le_bytes().to_vec())),
            (KEY_STAMP.to_vec(), Some(stamp)),
        ]);
        if relisted {
            change.meta.insert(KEY_UNLISTED.to_vec(), Some(encode_ordinals(unlisted)));
        }
        self.write(&change)
    }

    fn unlisted(&self) -> HashSet<u32> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).unlisted.clone()
    }

    fn ingest_sorted<'a>(
        &self,
        db: &DB,
        name: &str,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<(), IndexError> {
        let mut records = records.peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let file = self.path.join(format!("ingest-{name}.sst"));
        let cache = Cache::new_lru_cache(1 << 20);
        let options = options(name, &cache);
        let mut writer = SstFileWriter::create(&options);
        writer.open(&file).map_err(|e| self.fail(e))?;
        for (key, value) in records {
            match value {
                Some(value) => writer.put(key, value),
                None => writer.delete(key),
            }
            .map_err(|e| self.fail(e))?;
        }
        writer.finish().map_err(|e| self.fail(e))?;
        let mut ingest = IngestExternalFileOptions::default();
        ingest.set_move_files(true);
        db.ingest_external_file_cf_opts(self.family(db, name)?, &ingest, vec![&file]).map_err(|e| self.fail(e))
    }

    /// Lets compaction catch up before the database is closed: else ingested files pile up in level 0,
    /// each look-up asks every one of them, and at last ingesting stops; or they pile up below it, and each is opened
    /// by every run.
    fn settle(&self, db: &DB) -> Result<(), IndexError> {
        let files = db.live_files().map_err(|e| self.fail(e))?;
        for name in FAMILIES {
            let is_small = |file: &&LiveFile| file.column_family_name == name && file.size < SMALL_FILE_BYTES;
            let small: Vec<&LiveFile> = files.iter().filter(is_small).collect();
            if small.len() > SMALL_FILES_MAX {
                let start = small.iter().filter_map(|file| file.start_key.as_ref()).min();
                let end = small.iter().filter_map(|file| file.end_key.as_ref()).max();
                let mut options = CompactOptions::default();
                options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
                db.compact_range_cf_opt(self.family(db, name)?, start, end, &options);
            }
        }
        for name in FAMILIES {
            let family = self.family(db, name)?;
            let files = db.property_int_value_cf(family, "rocksdb.num-files-at-level0").map_err(|e| self.fail(e))?;
            if files.unwrap_or(0) >= LEVEL_0_FILES_MAX {
                let options = rocksdb::WaitForCompactOptions::default();
                return db.wait_for_compact(&options).map_err(|e| self.fail(e));
            }
        }
        Ok(())
    }

    /// Takes the writer's place: a file of our own says who holds it, which RocksDB's LOCK doesn't.
    fn hold(&self) -> Result<Holder, IndexError> {
        Holder::acquire(&self.path).map_err(|problem| match problem {
            HoldProblem::Held(holder) => IndexError::Busy { path: self.path.display().to_string(), holder },
            HoldProblem::Failed(error) => self.fail(error),
        })
    }

    /// As [`Index::detach`].
    fn take_out(
        &self,
        region: RegionId,
        vanished: &HashSet<SegmentId>,
        dead: &HashSet<PackId>,
        attested: &HashSet<Digest>,
    ) -> Result<Detached, IndexError> {
        // Most of the time there is nothing to do, and so nothing to hold.
        match self.detaching(region, vanished, dead, attested)? {
            Err(pack) => return Ok(Detached::Unexplained(pack)),
            Ok(found) if found.packs.is_empty() && found.segments.is_empty() => return Ok(Detached::Taken(0)),
            Ok(_) => {}
        }
        let _holder = self.hold()?;
        self.reopen()?;
        let found = match self.detaching(region, vanished, dead, attested)? {
            Err(pack) => return Ok(Detached::Unexplained(pack)),
            Ok(found) => found,
        };
        let mut change = Change::default();
        let mut unlisted = self.unlisted();
        for (ordinal, entry) in &found.packs {
            if entry.regions.is_empty() {
                unlisted.insert(*ordinal);
            }
            change.packs.insert(ordinal.to_be_bytes().to_vec(), Some(entry.encode()));
        }
        for id in found.segments {
            change.segments.insert([&region.0[..], &id.0[..]].concat(), None);
        }
        change.meta.insert(KEY_UNLISTED.to_vec(), Some(encode_ordinals(unlisted)));
        if found.disproved {
            change.meta.insert(KEY_INCARNATION.to_vec(), Some(random_bytes::<16>(&SystemRandom).to_vec()));
        }
        self.write(&change)?;
        Ok(Detached::Taken(found.packs.len() as u64))
    }
}

impl Index for RocksIndex {
    fn places(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, IndexError> {
        let mut found = self.noted(self.retried(|| self.places_now(ids)))?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if !state.unlisted.is_empty() {
            found.iter_mut().for_each(|places| places.retain(|place| !state.unlisted.contains(&place.pack)));
        }
        Ok(found)
    }

    fn pack(&self, ordinal: u32) -> Result<Arc<PackEntry>, IndexError> {
        if let Some(entry) = self.packs.lock().unwrap_or_else(PoisonError::into_inner).get(&ordinal) {
            return Ok(Arc::clone(entry));
        }
        let read = || {
            let bytes = self.get("packs", &ordinal.to_be_bytes())?;
            let bytes = bytes.ok_or_else(|| self.damaged(format!("no pack of ordinal {ordinal}")))?;
            PackEntry::decode(&bytes).map_err(|e| self.damaged(e))
        };
        let entry = Arc::new(self.noted(read())?);
        let mut cached = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= PACK_CACHE_ENTRIES {
            cached.clear();
        }
        cached.insert(ordinal, Arc::clone(&entry));
        Ok(entry)
    }

    fn ordinals(&self, pack: &PackId) -> Result<Vec<u32>, IndexError> {
        let found = self.get("ordinals", &pack.0);
        self.noted(found.and_then(|bytes| decode_ordinals(&bytes.unwrap_or_default()).map_err(|e| self.damaged(e))))
    }

    fn each_pack(&self, each: &mut EachPack<'_>) -> Result<(), IndexError> {
        self.noted(self.retried(|| {
            self.each("packs", &[], &mut |key, value| {
                let ordinal = u32::from_be_bytes(key.try_into().map_err(|_| self.damaged("a pack's key"))?);
                let pack = PackEntry::decode(value).map_err(|e| self.damaged(e))?;
                if pack.regions.is_empty() { Ok(()) } else { each(ordinal, &pack) }
            })
        }))
    }

    fn pack_count(&self) -> u32 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).pack_count
    }

    fn unlisted_count(&self) -> u32 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).unlisted.len() as u32
    }

    fn chunk_count(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).chunk_count
    }

    fn chunk_bytes(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).chunk_bytes
    }

    fn chunk_totals(&self) -> Result<(u64, u64), IndexError> {
        let unlisted = self.unlisted();
        if unlisted.is_empty() {
            return Ok((self.chunk_count(), self.chunk_bytes()));
        }
        let (mut count, mut bytes) = (0, 0);
        let told = self.each("chunks", &[], &mut |_, value| {
            let places = decode_places(value).map_err(|e| self.damaged(e))?;
            if let Some(place) = places.iter().find(|place| !unlisted.contains(&place.pack)) {
                (count, bytes) = (count + 1, bytes + u64::from(place.length));
            }
            Ok(())
        });
        self.noted(told)?;
        Ok((count, bytes))
    }

    fn regions(&self) -> Result<BTreeSet<RegionId>, IndexError> {
        self.noted(self.retried(|| {
            let mut found = BTreeSet::new();
            self.each("segments", &[], &mut |key, _| {
                let region = key.first_chunk().ok_or_else(|| self.damaged("a segment's key"))?;
                found.insert(RegionId(*region));
                Ok(())
            })?;
            Ok(found)
        }))
    }

    fn segments(&self, region: RegionId) -> Result<HashMap<SegmentId, u64>, IndexError> {
        self.noted(self.retried(|| {
            let mut found = HashMap::new();
            self.each_segment(region, &mut |id, size, _| {
                found.insert(id, size);
                Ok(())
            })?;
            Ok(found)
        }))
    }

    fn ingest(&self, id: SegmentId, size: u64, segment: &Segment, regions: &[RegionId]) -> Result<(), IndexError> {
        self.noted(self.take_in(&[(id, size, segment, regions)]))
    }

    fn ingest_all(&self, arrivals: &[Arrival]) -> Result<(), IndexError> {
        let arriving =
            arrivals.iter().map(|arrival| (arrival.id, arrival.size, &arrival.segment, &arrival.regions[..]));
        self.noted(self.take_in(&arriving.collect::<Vec<_>>()))
    }

    fn detach(
        &self,
        region: RegionId,
        vanished: &HashSet<SegmentId>,
        dead: &HashSet<PackId>,
        attested: &HashSet<Digest>,
    ) -> Result<Detached, IndexError> {
        self.noted(self.take_out(region, vanished, dead, attested))
    }

    fn resume(&self, incarnation: &[u8]) -> Result<(), IndexError> {
        let _holder = self.hold()?;
        self.reopen()?;
        let meta = BTreeMap::from([(KEY_INCARNATION.to_vec(), Some(incarnation.to_vec()))]);
        self.write(&Change { meta, ..Change::default() })
    }

    fn incarnation(&self) -> Vec<u8> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).incarnation.clone().unwrap_or_default()
    }

    fn clear(&self) -> Result<(), IndexError> {
        std::fs::create_dir_all(&self.path).map_err(|e| self.fail(e))?;
        // Others are done with it in moments, or not before long.
        for _ in 0..CLAIM_ATTEMPTS {
            if self.claim() {
                let cleared = self.make_anew();
                self.join();
                return cleared;
            }
            std::thread::sleep(PAUSE);
        }
        self.join();
        Err(self.in_use())
    }

    fn doubted(&self) -> Result<BTreeSet<RegionId>, IndexError> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| self.fail(e))? {
            let name = entry.map_err(|e| self.fail(e))?.file_name();
            let region = name.to_str().and_then(|name| name.strip_prefix(DOUBT_PREFIX)).and_then(RegionId::from_hex);
            found.extend(region);
        }
        Ok(found)
    }

    fn doubt(&self, region: RegionId, is_doubted: bool) -> Result<(), IndexError> {
        let path = self.path.join(format!("{DOUBT_PREFIX}{region}"));
        let done = match is_doubted {
            true => std::fs::write(path, b""),
            false => std::fs::remove_file(path),
        };
        match done {
            Err(error) if !is_doubted && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| self.fail(e)),
        }
    }
}

impl RocksIndex {
    /// Makes it anew; nobody else relies on it.
    fn make_anew(&self) -> Result<(), IndexError> {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            *state = State::closed();
            std::fs::create_dir_all(&self.path).map_err(|e| self.fail(e))?;
            let _holder = self.hold()?;
            // Until all of it is gone and the new one stands, what is there must not be taken for whole.
            let marker = self.path.join(INGEST_MARKER);
            std::fs::write(&marker, b"").map_err(|e| self.fail(e))?;
            for entry in std::fs::read_dir(&self.path).map_err(|e| self.fail(e))? {
                let entry = entry.map_err(|e| self.fail(e))?;
                let is_directory = entry.file_type().map_err(|e| self.fail(e))?.is_dir();
                match entry.path() {
                    _ if KEPT_FILES.iter().any(|name| entry.file_name() == *name) => Ok(()),
                    // What a region lost it still lacks; a database that is made anew knows nothing of it.
                    _ if entry.file_name().to_string_lossy().starts_with(DOUBT_PREFIX) => Ok(()),
                    directory if is_directory => std::fs::remove_dir_all(directory),
                    file => std::fs::remove_file(file),
                }
                .map_err(|e| self.fail(e))?;
            }
            let db = DB::open_cf_descriptors(&database_options(), &self.path, self.descriptors())
                .map_err(|e| self.fail(e))?;
            let mut stamp = LAYOUT.to_vec();
            stamp.extend_from_slice(&self.repository.0);
            let fresh = || Some(random_bytes::<16>(&SystemRandom).to_vec());
            let meta = BTreeMap::from([
                (KEY_INCARNATION.to_vec(), fresh()),
                (KEY_NUMBERING.to_vec(), fresh()),
                (KEY_STAMP.to_vec(), Some(stamp)),
            ]);
            self.ingest_sorted(&db, "meta", in_order(&meta))?;
            drop(db);
            std::fs::remove_file(&marker).map_err(|e| self.fail(e))?;
            self.reopen_into(&mut state)?;
        }
        Ok(())
    }
}

const INGEST_MARKER: &str = "ingesting";
/// Says that damage was met while the index was in use; goes when it is made anew.
const DAMAGE_MARKER: &str = "damaged";
/// What the database's errors about damaged files begin with.
const CORRUPTION: &str = "Corruption";
const USERS_FILE: &str = "users";
/// What the files' names begin with that say which regions are in doubt; the region follows.
const DOUBT_PREFIX: &str = "doubt-";
/// What stays when the index is made anew.
const KEPT_FILES: [&str; 3] = [HOLDER_FILE, INGEST_MARKER, USERS_FILE];
const PAUSE: Duration = Duration::from_millis(100);
/// A minute, within which whoever makes an index anew or takes something in is done.
const OPEN_ATTEMPTS: u32 = 600;
/// How long others are waited for before the index is made anew below them.
const CLAIM_ATTEMPTS: u32 = 50;

mod change;
mod holder;
mod options;
#[cfg(test)]
mod tests;
