//! Which names an object may have, the same for every store so that regions can be copied between them.
//!
//! Guarantees: an accepted name has one spelling, stays inside its region and is never a temporary
//! file. Called by every store before it touches anything.

use super::{StoreError, StoreErrorKind};

/// Longest name in bytes; S3 allows 1024 for region prefix and name together.
const NAME_BYTES_MAX: usize = 512;
/// Longest component in bytes, the limit of common file systems.
const COMPONENT_BYTES_MAX: usize = 255;

/// True for one `/`-free part of a name: letters, digits, `.`, `_`, `-`, not starting with a dot.
pub(super) fn is_component(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= COMPONENT_BYTES_MAX
        && !part.starts_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// True for an object's name: components joined by single slashes.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.split('/').all(is_component)
}

/// Refuses a name that no object can have.
pub(super) fn check(operation: &'static str, store: &str, name: &str) -> Result<(), StoreError> {
    if is_name(name) {
        return Ok(());
    }
    let detail = "not an object's name: components of 0-9 A-Z a-z . _ - that don't start with a dot".to_owned();
    Err(StoreError::new(StoreErrorKind::Invalid, operation, store, name, detail))
}

/// Refuses a prefix that is neither empty nor a name followed by `/`.
pub(super) fn check_prefix(store: &str, prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() || prefix.strip_suffix('/').is_some_and(is_name) {
        return Ok(());
    }
    let detail = "not a prefix: empty, or components followed by a slash".to_owned();
    Err(StoreError::new(StoreErrorKind::Invalid, "list", store, prefix, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_plain_and_visible() {
        for good in ["config", "packs/00/ab", "gc/0000000000000001/final", "keys/a/1.age", "A_-.z"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(COMPONENT_BYTES_MAX + 1);
        let deep = "a/".repeat(NAME_BYTES_MAX) + "a";
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".tmp/x", "a b", "a\\b", "a\0", "é", "a%2fb", &long,
            &deep,
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_end_in_a_slash() {
        assert!(check_prefix("s", "").is_ok());
        assert!(check_prefix("s", "packs/").is_ok());
        for bad in ["/", "packs", "../", "a//"] {
            assert_eq!(check_prefix("s", bad).map_err(|error| error.kind), Err(StoreErrorKind::Invalid), "{bad}");
        }
    }
}
