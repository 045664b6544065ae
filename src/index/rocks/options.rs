//! How RocksDB is set up for the index.

use super::LEVEL_0_FILES_MAX;
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, Options};

/// A billion chunks are about 40 GB.
const OPEN_FILES_MAX: i32 = 512;
const OPEN_FILES_MIN: i32 = 16;
/// Twice the default, for half as many files.
const FILE_BYTES: u64 = 128 << 20;

/// A column family's options; `cache` is shared by all.
pub(super) fn options(name: &str, cache: &Cache) -> Options {
    // Best of those measured for 40 million 32-byte keys: two-level index, partitioned ribbon
    // filters of 10 bits, 8 KiB blocks under zstd.
    let mut table = BlockBasedOptions::default();
    table.set_format_version(6);
    table.set_block_cache(cache);
    table.set_block_size(8 << 10);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_ribbon_filter(10.0);
    table.set_partition_filters(true);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Zstd);
    // Sooner, one would begin whenever the database is open for a moment, and be thrown away.
    options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES_MAX as i32);
    // Keys of the chunk family are random and values small: a small write buffer is enough, since
    // everything large is ingested.
    options.set_write_buffer_size(2 << 20);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(FILE_BYTES);
    if name == "chunks" {
        options.set_optimize_filters_for_hits(false);
    }
    options
}

/// The database's own options.
pub(super) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(open_files_max());
    // There are few: threads take longer to begin than files to open.
    options.set_max_file_opening_threads(1);
    options.set_keep_log_file_num(1);
    options.set_max_background_jobs(2);
    options.set_info_log_level_quiet();
    options
}

/// The files that are kept open: look-ups go to all of them in turn, and opening one takes a millisecond. A part of
/// what the process may have open.
fn open_files_max() -> i32 {
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let part = allowed.map_or(i32::MAX, |allowed| i32::try_from(allowed / 4).unwrap_or(i32::MAX));
    part.clamp(OPEN_FILES_MIN, OPEN_FILES_MAX)
}

trait Quiet {
    fn set_info_log_level_quiet(&mut self);
}

impl Quiet for Options {
    fn set_info_log_level_quiet(&mut self) {
        self.set_log_level(rocksdb::LogLevel::Error);
    }
}
