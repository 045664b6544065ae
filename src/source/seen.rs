use super::Identity;
use crate::format::{
    ids::{RepositoryId, SnapshotId},
    node::Content,
};
use std::path::Path;
pub struct SeenRecord {
    pub path: Vec<u8>,
    pub identity: Identity,
    pub content: Content,
}
pub struct SeenReader;
pub struct SeenWriter;
impl SeenReader {
    pub fn open(_: &Path, _: RepositoryId) -> Result<Self, String> {
        Err("x".into())
    }
    pub fn base(&self) -> SnapshotId {
        SnapshotId::default()
    }
    pub fn scan_started_at(&self) -> i64 {
        0
    }
    pub fn lookup(&mut self, _: &[u8]) -> Option<SeenRecord> {
        None
    }
}
impl SeenWriter {
    pub fn create(_: &Path, _: RepositoryId, _: i64) -> std::io::Result<Self> {
        Ok(SeenWriter)
    }
    pub fn append(&mut self, _: &SeenRecord) -> std::io::Result<()> {
        Ok(())
    }
    pub fn commit(self, _: SnapshotId) -> std::io::Result<()> {
        Ok(())
    }
}
pub fn matches_seen(_: &Identity, _: &Identity, _: i64) -> bool {
    false
}
