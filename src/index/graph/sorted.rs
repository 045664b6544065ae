//! Records of one size, sorted, each once, however many: in memory up to a budget, then as sorted runs in a
//! spool that are merged.

use super::GraphError;
use super::pages::{PAYLOAD_BYTES, Pages};
use crate::pack::spool::SpoolSpace;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::marker::PhantomData;

/// Most runs that are merged at once.
const RUNS_MERGED_MAX: usize = 512;
/// What a run should get of the budget while it is merged.
const RUN_BYTES_MIN: usize = 64 << 10;
/// Most pages of a run that are read at once.
const RUN_PAGES_MAX: usize = 256;
/// Records that a sorter holds at least before it makes a run.
const RECORDS_MIN: usize = 16;

/// What can be sorted.
pub(super) trait Record: Copy + Ord {
    /// Bytes in a spool.
    const BYTES: usize;
    /// What records are looked up by; ascends with the order.
    fn key(&self) -> u64;
    /// Appends the record's bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads [`Record::BYTES`] bytes.
    fn decode(bytes: &[u8]) -> Self;
}

const fn records_a_page<R: Record>() -> usize {
    PAYLOAD_BYTES / R::BYTES
}

/// Adds to a vector that is not to grow past `limit` items, also not in what it reserves.
pub(super) fn push_within<T>(items: &mut Vec<T>, item: T, limit: usize) {
    if items.len() == items.capacity() {
        let more = items.len().max(1024).min(limit.saturating_sub(items.len())).max(1);
        items.reserve_exact(more);
    }
    items.push(item);
}

/// Takes records in any order.
pub(super) struct Sorter<R> {
    space: Option<SpoolSpace>,
    budget_bytes: usize,
    buffer: Vec<R>,
    pages: Option<Pages>,
    runs: Vec<Run>,
}

/// A sorted stretch of pages.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    records: u64,
}

impl<R: Record> Sorter<R> {
    /// Spills into `space` what passes the budget; without a space nothing is spilled.
    pub(super) fn new(space: Option<SpoolSpace>, budget_bytes: usize) -> Self {
        Sorter { space, budget_bytes, buffer: Vec::new(), pages: None, runs: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.runs.is_empty()
    }

    pub(super) fn push(&mut self, record: R) -> Result<(), GraphError> {
        let limit = match self.space {
            Some(_) => (self.budget_bytes / size_of::<R>()).max(RECORDS_MIN),
            None => usize::MAX,
        };
        if self.buffer.len() >= limit {
            self.spill()?;
        }
        push_within(&mut self.buffer, record, limit);
        Ok(())
    }

    fn sort(&mut self) {
        self.buffer.sort_unstable();
        self.buffer.dedup();
    }

    /// Writes the buffer as a run.
    fn spill(&mut self) -> Result<(), GraphError> {
        let Some(space) = &self.space else { return Ok(()) };
        let mut pages = match self.pages.take() {
            Some(pages) => pages,
            None => Pages::create(space)?,
        };
        self.sort();
        let mut writer = RunWriter::begin(&mut pages);
        self.buffer.iter().try_for_each(|record| writer.push(record))?;
        self.runs.push(writer.end()?);
        self.pages = Some(pages);
        self.buffer.clear();
        Ok(())
    }

    /// The last run is written, and runs are merged until few enough are left to be merged at once.
    fn merge_down(&mut self, space: &SpoolSpace) -> Result<(), GraphError> {
        self.spill()?;
        self.buffer = Vec::new();
        let at_once = (self.budget_bytes / RUN_BYTES_MIN).clamp(2, RUNS_MERGED_MAX);
        while self.runs.len() > at_once {
            let Some(pages) = &mut self.pages else { break };
            pages.flush()?;
            let mut merged = Pages::create(space)?;
            let mut runs = Vec::new();
            for group in self.runs.chunks(at_once) {
                let mut merge = Merge::<R>::begin(pages, group, self.budget_bytes)?;
                let mut writer = RunWriter::begin(&mut merged);
                while let Some(record) = merge.next(pages)? {
                    writer.push(&record)?;
                }
                runs.push(writer.end()?);
            }
            (self.pages, self.runs) = (Some(merged), runs);
        }
        self.pages.as_mut().map_or(Ok(()), Pages::flush)
    }

    /// The records, to be looked up.
    pub(super) fn finish(mut self) -> Result<Sorted<R>, GraphError> {
        let Some(space) = self.space.clone().filter(|_| !self.runs.is_empty()) else {
            self.sort();
            self.buffer.shrink_to_fit();
            return Ok(Sorted::Memory(self.buffer));
        };
        self.merge_down(&space)?;
        let mut merged = Pages::create(&space)?;
        let mut first_keys = Vec::new();
        let mut writer = RunWriter::begin(&mut merged);
        if let Some(pages) = &self.pages {
            let mut merge = Merge::<R>::begin(pages, &self.runs, self.budget_bytes)?;
            while let Some(record) = merge.next(pages)? {
                if writer.run.records.is_multiple_of(records_a_page::<R>() as u64) {
                    first_keys.push(record.key());
                }
                writer.push(&record)?;
            }
        }
        let records = writer.end()?.records;
        merged.flush()?;
        first_keys.shrink_to_fit();
        Ok(Sorted::Spilled { pages: merged, first_keys, records })
    }

    /// The records, to be gone through once.
    pub(super) fn stream(mut self) -> Result<Stream<R>, GraphError> {
        let Some(space) = self.space.clone().filter(|_| !self.runs.is_empty()) else {
            self.sort();
            return Ok(Stream::Memory(self.buffer.into_iter()));
        };
        self.merge_down(&space)?;
        match self.pages {
            Some(pages) => Ok(Stream::Spilled { merge: Merge::begin(&pages, &self.runs, self.budget_bytes)?, pages }),
            None => Ok(Stream::Memory(Vec::new().into_iter())),
        }
    }
}

/// Writes one run.
struct RunWriter<'a> {
    pages: &'a mut Pages,
    payload: Vec<u8>,
    run: Run,
}

impl<'a> RunWriter<'a> {
    fn begin(pages: &'a mut Pages) -> Self {
        let run = Run { first: pages.count(), records: 0 };
        RunWriter { pages, payload: Vec::with_capacity(PAYLOAD_BYTES), run }
    }

    fn push<R: Record>(&mut self, record: &R) -> Result<(), GraphError> {
        record.encode(&mut self.payload);
        self.run.records += 1;
        if self.payload.len() + R::BYTES > PAYLOAD_BYTES {
            self.pages.push(&self.payload)?;
            self.payload.clear();
        }
        Ok(())
    }

    fn end(self) -> Result<Run, GraphError> {
        if !self.payload.is_empty() {
            self.pages.push(&self.payload)?;
        }
        Ok(self.run)
    }
}

/// Reads one run.
struct RunReader<R> {
    next_page: u64,
    /// Records that were not decoded yet, those in `payloads` included.
    left: u64,
    payloads: Vec<u8>,
    /// Of the records in `payloads`.
    at: usize,
    /// Records in `payloads`.
    held: usize,
    record: PhantomData<R>,
}

impl<R: Record> RunReader<R> {
    fn new(run: Run) -> Self {
        RunReader { next_page: run.first, left: run.records, payloads: Vec::new(), at: 0, held: 0, record: PhantomData }
    }

    fn next(&mut self, pages: &Pages, pages_at_once: usize) -> Result<Option<R>, GraphError> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.at == self.held {
            let wanted = self.left.div_ceil(records_a_page::<R>() as u64).min(pages_at_once as u64);
            pages.read(self.next_page, wanted as usize, &mut self.payloads)?;
            self.next_page += wanted;
            (self.at, self.held) = (0, wanted as usize * records_a_page::<R>());
        }
        let record = record_at(&self.payloads, self.at);
        self.at += 1;
        self.left -= 1;
        Ok(Some(record))
    }
}

/// A record of payloads that stand one after the other.
fn record_at<R: Record>(payloads: &[u8], at: usize) -> R {
    let from = at / records_a_page::<R>() * PAYLOAD_BYTES + at % records_a_page::<R>() * R::BYTES;
    R::decode(&payloads[from..from + R::BYTES])
}

/// Gives the records of several runs in order, equal ones once.
pub(super) struct Merge<R> {
    readers: Vec<RunReader<R>>,
    pages_at_once: usize,
    heap: BinaryHeap<Reverse<(R, usize)>>,
    last: Option<R>,
}

impl<R: Record> Merge<R> {
    fn begin(pages: &Pages, runs: &[Run], budget_bytes: usize) -> Result<Self, GraphError> {
        let pages_at_once = (budget_bytes / runs.len().max(1) / PAYLOAD_BYTES).clamp(1, RUN_PAGES_MAX);
        let mut readers: Vec<RunReader<R>> = runs.iter().copied().map(RunReader::new).collect();
        let mut heap = BinaryHeap::with_capacity(readers.len());
        for (at, reader) in readers.iter_mut().enumerate() {
            heap.extend(reader.next(pages, pages_at_once)?.map(|record| Reverse((record, at))));
        }
        Ok(Merge { readers, pages_at_once, heap, last: None })
    }

    fn next(&mut self, pages: &Pages) -> Result<Option<R>, GraphError> {
        while let Some(Reverse((record, at))) = self.heap.pop() {
            let following = self.readers[at].next(pages, self.pages_at_once)?;
            self.heap.extend(following.map(|record| Reverse((record, at))));
            if self.last != Some(record) {
                self.last = Some(record);
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

/// Sorted records, one after the other.
pub(super) enum Stream<R> {
    Memory(std::vec::IntoIter<R>),
    Spilled { merge: Merge<R>, pages: Pages },
}

impl<R: Record> Stream<R> {
    pub(super) fn next(&mut self) -> Result<Option<R>, GraphError> {
        match self {
            Stream::Memory(records) => Ok(records.next()),
            Stream::Spilled { merge, pages } => merge.next(pages),
        }
    }
}

/// Sorted records that can be looked up.
pub(super) enum Sorted<R> {
    Memory(Vec<R>),
    /// In memory is the first key of every page alone: a lookup reads one page, seldom two.
    Spilled {
        pages: Pages,
        first_keys: Vec<u64>,
        records: u64,
    },
}

impl<R: Record> Sorted<R> {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        match self {
            Sorted::Memory(records) => records.len() as u64,
            Sorted::Spilled { records, .. } => *records,
        }
    }

    /// A cursor at the first record.
    pub(super) fn cursor(&self) -> Cursor<'_, R> {
        Cursor { sorted: self, at: 0, page: None, payload: Vec::new() }
    }
}

/// A place in sorted records; cheap to move forward.
pub(super) struct Cursor<'a, R> {
    sorted: &'a Sorted<R>,
    at: u64,
    /// The page that `payload` holds.
    page: Option<u64>,
    payload: Vec<u8>,
}

impl<R: Record> Cursor<'_, R> {
    /// How many records stand before it.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Goes past the record that [`Cursor::peek`] gives.
    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// The record here; `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<R>, GraphError> {
        match self.sorted {
            Sorted::Memory(records) => Ok(records.get(self.at as usize).copied()),
            Sorted::Spilled { records, .. } if self.at >= *records => Ok(None),
            Sorted::Spilled { .. } => {
                let a_page = records_a_page::<R>() as u64;
                self.load(self.at / a_page)?;
                Ok(Some(record_at(&self.payload, (self.at % a_page) as usize)))
            }
        }
    }

    /// Goes to the first record whose key is `key` or greater, forward or back.
    pub(super) fn seek(&mut self, key: u64) -> Result<(), GraphError> {
        match self.sorted {
            Sorted::Memory(records) => self.at = seek_in_memory(records, self.at as usize, key) as u64,
            Sorted::Spilled { first_keys, records, .. } => {
                // The page before the first one that begins with `key` or greater may end with `key`.
                let beyond = |page: u64| first_keys.get(page as usize).is_none_or(|first| *first >= key);
                let page = match self.page {
                    Some(page) if !beyond(page) && beyond(page + 1) => page,
                    _ => first_keys.partition_point(|first| *first < key).saturating_sub(1) as u64,
                };
                self.load(page)?;
                let start = page * records_a_page::<R>() as u64;
                let (mut low, mut high) = (0, (records - start).min(records_a_page::<R>() as u64) as usize);
                while low < high {
                    let middle = (low + high) / 2;
                    match record_at::<R>(&self.payload, middle).key() < key {
                        true => low = middle + 1,
                        false => high = middle,
                    }
                }
                self.at = start + low as u64;
            }
        }
        Ok(())
    }

    fn load(&mut self, page: u64) -> Result<(), GraphError> {
        if let Sorted::Spilled { pages, .. } = self.sorted
            && self.page != Some(page)
        {
            // Nothing is held while the read may fail.
            self.page = None;
            pages.read(page, 1, &mut self.payload)?;
            self.page = Some(page);
        }
        Ok(())
    }
}

/// Steps of doubling width from `at`, so that many lookups in ascending order touch what lies close.
fn seek_in_memory<R: Record>(records: &[R], at: usize, key: u64) -> usize {
    let below = |at: usize| records.get(at).is_some_and(|record| record.key() < key);
    if !below(at) {
        return records[..at.min(records.len())].partition_point(|record| record.key() < key);
    }
    let (mut low, mut step) = (at, 1);
    while below(low + step) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(records.len());
    low + records[low..high].partition_point(|record| record.key() < key)
}
