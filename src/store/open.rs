//! From an address to a store: the one place that knows every scheme.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::local::LocalStore;
use super::memory::MemoryStore;
use super::object::ObjectStore;
use super::remote::client::RemoteStore;
use super::{Store, StoreError, StoreErrorKind};

/// The addresses that [`open_store`] takes, for messages.
pub const ADDRESSES: &str =
    "/path, file:///path, ssh://host/path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, memory:name";

/// Opens the store at `url`; with `create`, a local or remote directory is made if missing (buckets never are).
///
/// Options by scheme: none for a path and for memory; for the others those that the error for an
/// unknown one lists. `put_if_absent = "false"` is for services that ignore conditions on a put.
///
/// # Errors
/// `Invalid` for an unknown scheme or option, else what keeps the store from being used. Neither the
/// address as given nor any option's value is repeated, since they may hold credentials.
pub fn open_store(url: &str, options: &BTreeMap<String, String>, create: bool) -> Result<Arc<dyn Store>, StoreError> {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| is_scheme(scheme));
    match scheme {
        Some("s3" | "gs" | "az") => Ok(Arc::new(ObjectStore::open(url, options)?)),
        Some("ssh") => Ok(Arc::new(RemoteStore::open(url, options, create)?)),
        Some("memory") => {
            no_options("memory:", options)?;
            let name = url.trim_start_matches("memory:").trim_start_matches('/');
            Ok(Arc::new(MemoryStore::named(name)))
        }
        Some("file") => {
            let detail = "a file address is file:///path, with % # ? and spaces percent-encoded";
            let path = local_path(url).ok_or_else(|| invalid("file:", detail.to_owned()))?;
            local(path, options, create)
        }
        Some(scheme) => Err(invalid(&format!("{scheme}:"), format!("unknown kind of address; known are {ADDRESSES}"))),
        None if url.starts_with('/') => local(PathBuf::from(url), options, create),
        None => Err(invalid("", format!("not an address; known are {ADDRESSES} (a path must be absolute)"))),
    }
}

/// The directory that an address stands for; `None` for one that is no local directory's.
pub fn local_path(url: &str) -> Option<PathBuf> {
    if url.starts_with('/') {
        return Some(PathBuf::from(url));
    }
    let parsed = url::Url::parse(url).ok().filter(|url| url.query().is_none() && url.fragment().is_none())?;
    url.starts_with("file:///").then(|| parsed.to_file_path().ok())?
}

// By RFC 3986, so that a path with a colon isn't taken for one.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.'))
}

fn local(path: PathBuf, options: &BTreeMap<String, String>, create: bool) -> Result<Arc<dyn Store>, StoreError> {
    no_options("file:", options)?;
    let store = if create { LocalStore::create(&path) } else { LocalStore::open(&path) };
    Ok(Arc::new(store?))
}

fn no_options(scheme: &str, options: &BTreeMap<String, String>) -> Result<(), StoreError> {
    match options.keys().next() {
        None => Ok(()),
        Some(option) => Err(invalid(scheme, format!("unknown option {option}; {scheme} knows none"))),
    }
}

fn invalid(store: &str, detail: String) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, "open", store, "", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, create: bool) -> Result<Arc<dyn Store>, StoreError> {
        open_store(url, &BTreeMap::new(), create)
    }

    #[test]
    fn paths_and_file_addresses_are_the_same_store() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("with space:and colon");
        let path = path.to_str().expect("text");
        assert_eq!(open(path, false).err().map(|error| error.kind), Some(StoreErrorKind::Unavailable));
        open(path, true).expect("made").put_new("a", &vec![1].into()).expect("put");
        let address = format!("file://{}", path.replace(' ', "%20"));
        assert_eq!(open(&address, false).expect("opened").get("a", 1).expect("get"), [1]);
    }

    #[test]
    fn memory_stores_are_shared_by_name() {
        open("memory:open-test", false).expect("memory").put_new("a", &vec![1].into()).expect("put");
        assert_eq!(open("memory:open-test", false).expect("again").get("a", 1).expect("get"), [1]);
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        for url in ["ftp://user:hunter22@host", "relative/path", "", "file:relative", "file://host/path", "C:\\x"] {
            let error = open(url, true).err().expect("refused");
            assert_eq!(error.kind, StoreErrorKind::Invalid, "{url}");
            assert!(error.detail.contains("file:///path") && !error.to_string().contains("hunter22"), "{error}");
        }
        let options = BTreeMap::from([("fsync".to_owned(), "hunter22".to_owned())]);
        for url in ["/nonexistent", "memory:x", "ssh://host/x", "s3://bucket", "gs://bucket", "az://container"] {
            let error = open_store(url, &options, false).err().expect("refused");
            assert_eq!(error.kind, StoreErrorKind::Invalid, "{url}");
            assert!(error.detail.contains("fsync") && !error.to_string().contains("hunter22"), "{error}");
        }
    }
}
