//! Reads a file's content front to back.
//!
//! Guarantees: every byte was compared with its ChunkId before it is handed out, in order, one chunk in
//! memory at a time. Called by `cli::cat`.

use super::fetch::{FetchError, Fetcher};
use super::walk::Extents;
use crate::format::ids::ChunkKind;
use crate::format::node::{Content, Extent};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Hands a file's bytes to `each`, in order; holes as zeros. Gives their number.
///
/// # Errors
/// What `each` gives; when a chunk can't be read, or isn't as long as the file states.
pub fn read_content<E: From<FetchError>>(
    fetcher: &Fetcher<'_>,
    content: &Content,
    each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut extents = Extents::of(fetcher, content);
    let mut total = 0u64;
    while let Some(extent) = extents.next()? {
        match extent {
            Extent::Chunk { id, length } => {
                let bytes = fetcher.chunk(ChunkKind::Data, id)?;
                if bytes.len() as u64 != u64::from(length) {
                    let reasons =
                        format!("it has {} bytes, and the file that it is part of states {length}", bytes.len());
                    return Err(FetchError::Unreadable { id, reasons, kind: None }.into());
                }
                each(&bytes)?;
            }
            Extent::Hole { length } => {
                let mut left = length;
                while left > 0 {
                    let some = left.min(ZEROS.len() as u64) as usize;
                    each(&ZEROS[..some])?;
                    left -= some as u64;
                }
            }
        }
        total += extent.length();
    }
    Ok(total)
}
