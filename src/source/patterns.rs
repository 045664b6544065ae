//! Patterns in the syntax of `.gitignore`, as backup and restore take them alike.
//!
//! Guarantees: a pattern means the same in both. What begins with a slash is taken from the snapshot's root, and, where
//! it leads through a directory that the root is or was, from that one on as well; so a path can be given as it stands
//! in the file system. What is no pattern, or could name nothing wherever it is used, is refused.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Collects patterns.
#[derive(Clone, Debug)]
pub struct PatternBuilder {
    builder: GitignoreBuilder,
    /// The names that lead from `/` to each directory that stands for the snapshot's root.
    roots: Vec<Vec<Vec<u8>>>,
}

/// Why a pattern is refused, for people.
pub type Refusal = String;

impl PatternBuilder {
    /// For patterns in which any of `roots` (absolute, without `..`) stands for the snapshot's root.
    pub fn new<P: AsRef<Path>>(roots: &[P]) -> Self {
        let mut builder = GitignoreBuilder::new("");
        // Taken as it stands, a class that doesn't end would name nothing, and nobody would be told.
        builder.allow_unclosed_class(false);
        let mut all: Vec<Vec<Vec<u8>>> = roots.iter().filter_map(|root| names_of(root.as_ref())).collect();
        all.sort_unstable();
        all.dedup();
        PatternBuilder { builder, roots: all }
    }

    /// Adds a line of a file of patterns, in which empty lines and comments are passed by.
    ///
    /// # Errors
    /// When it is no pattern, or one that can name nothing.
    pub fn add_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if line.starts_with(b"#") || line.trim_ascii().is_empty() {
            return Ok(());
        }
        self.add(line)
    }

    /// Adds a pattern.
    ///
    /// # Errors
    /// When it is none, or one that can name nothing.
    pub fn add(&mut self, pattern: &[u8]) -> Result<(), Refusal> {
        let text = std::str::from_utf8(pattern).map_err(|_| "it isn't valid UTF-8")?;
        if let Some(reason) = names_nothing(text) {
            return Err(reason.to_owned());
        }
        // What is asked for the whole tells of it.
        let mut add = |line: &str| self.builder.add_line(None, line).map(drop).map_err(|error| error.to_string());
        add(text)?;
        let (negation, rest) = split(text);
        for root in &self.roots {
            for inside in inside(rest, root).iter().filter(|inside| **inside != rest) {
                add(&format!("{negation}{inside}"))?;
            }
        }
        Ok(())
    }

    /// Where a pattern leads that has a slash before its end, and, taken for a path in the file system, lies below none of
    /// the roots: its first name. It names nothing unless the snapshot's root holds something of that name. `None` for
    /// all others, and where the first name isn't stated.
    pub fn leads_to<'a>(&self, pattern: &'a str) -> Option<&'a str> {
        let rest = split(pattern).1;
        let names = names(rest);
        let (first, more) = names.split_first()?;
        if is_glob(first) || self.roots.iter().any(|root| !inside(rest, root).is_empty()) {
            return None;
        }
        let covers = |root: &Vec<Vec<u8>>| rest.starts_with('/') && !root.is_empty() && root[0] == first.as_bytes();
        (!more.is_empty() || self.roots.iter().any(covers)).then_some(first)
    }

    /// Whether a pattern can name `path`, something above it or something below it, as names from the snapshot's root.
    /// One without a slash but at its end can name anything.
    pub fn leads_into(&self, pattern: &str, path: &[&[u8]]) -> bool {
        let rest = split(pattern).1;
        let names = names(rest);
        if names.len() < 2 && !rest.starts_with('/') {
            return true;
        }
        let inside: Vec<String> = self.roots.iter().flat_map(|root| inside(rest, root)).collect();
        let mut readings = std::iter::once(names).chain(inside.iter().map(|reading| self::names(reading)));
        readings.any(|names| meets(&names, path))
    }

    /// All of them together.
    ///
    /// # Errors
    /// When they are too many or too large to be matched.
    pub fn build(&self) -> Result<Gitignore, Refusal> {
        self.builder.build().map_err(|error| error.to_string())
    }
}

/// The names that lead from `/` to an absolute path; `None` for any other.
fn names_of(path: &Path) -> Option<Vec<Vec<u8>>> {
    use std::path::Component;
    if !path.is_absolute() {
        return None;
    }
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Some(name.as_bytes().to_vec())),
            Component::ParentDir => Some(None),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The negation, if any, and what is negated.
fn split(pattern: &str) -> (&str, &str) {
    pattern.split_at(usize::from(pattern.starts_with('!')))
}

/// Without the spaces at its end, unless they are escaped.
fn trimmed(pattern: &str) -> &str {
    if pattern.ends_with("\\ ") { pattern } else { pattern.trim_end() }
}

/// Why no entry at all can have a name that fits; `None` where one can.
fn names_nothing(text: &str) -> Option<&'static str> {
    let (negation, rest) = split(text);
    let rest = trimmed(rest);
    if negation.is_empty() && rest.starts_with('#') {
        return Some("it is a comment; for a name that begins with # write \\#");
    }
    if rest.is_empty() && !negation.is_empty() {
        return Some("it is no pattern; for a name that begins with ! write \\!");
    }
    if rest.is_empty() {
        return Some("it is empty");
    }
    let names = rest.strip_prefix('/').unwrap_or(rest);
    let names = names.strip_suffix('/').unwrap_or(names);
    if names.is_empty() {
        return Some("it names nothing: the root itself can't be left out; for all that it holds write *");
    }
    if names.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Some(
            "it names nothing: no name is empty, '.' or '..'; write the absolute path, or the one from the snapshot's \
             root with a / before it",
        );
    }
    None
}

/// The parts of a pattern, from the snapshot's root where there are several or a slash is before them.
fn names(pattern: &str) -> Vec<&str> {
    let path = trimmed(pattern);
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path).split('/').collect()
}

fn is_glob(part: &str) -> bool {
    part.contains(['*', '?', '[', '\\'])
}

/// Whether a part of a pattern names this directory.
fn fits(part: &str, name: &[u8]) -> bool {
    if !is_glob(part) {
        return part.as_bytes() == name;
    }
    let mut builder = GitignoreBuilder::new("");
    let added = builder.add_line(None, &format!("/{part}")).is_ok();
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    added && builder.build().is_ok_and(|glob| glob.matched(path, true).is_ignore())
}

/// What a pattern that leads through `root` names from there, beginning with a slash. The first name has to be the
/// root's own: what begins with `*` is meant from the snapshot's root, and would leave out too much otherwise.
fn inside(pattern: &str, root: &[Vec<u8>]) -> Vec<String> {
    if !pattern.starts_with('/') {
        return Vec::new();
    }
    let (parts, mut found) = (names(pattern), Vec::new());
    if root.first().is_none_or(|first| first == parts[0].as_bytes()) {
        let end = if trimmed(pattern).ends_with('/') { "/" } else { "" };
        descend(&parts, root, &mut |rest: &[&str]| found.push(format!("/{}{end}", rest.join("/"))));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn descend(parts: &[&str], root: &[Vec<u8>], found: &mut dyn FnMut(&[&str])) {
    let Some((part, rest)) = parts.split_first() else { return };
    let Some((name, below)) = root.split_first() else { return found(parts) };
    if *part == "**" {
        // Any number of directories: none, or this one and perhaps further ones.
        descend(parts, below, found);
        descend(rest, root, found);
    } else if fits(part, name) {
        descend(rest, below, found);
    }
}

/// Whether one of the two leads to the other, or both to the same.
fn meets(parts: &[&str], path: &[&[u8]]) -> bool {
    let (Some((part, rest)), Some((name, below))) = (parts.split_first(), path.split_first()) else { return true };
    match *part {
        "**" => meets(parts, below) || meets(rest, path),
        part => fits(part, name) && meets(rest, below),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> PatternBuilder {
        PatternBuilder::new(&["/home/anna", "/real/a b", "/home/anna/"])
    }

    fn excludes(pattern: &str, path: &str) -> bool {
        let mut builder = builder();
        builder.add(pattern.as_bytes()).unwrap();
        builder.build().unwrap().matched(Path::new(path), true).is_ignore()
    }

    #[test]
    fn a_path_is_taken_from_the_root_that_it_leads_through() {
        for pattern in [
            "/home/anna/cache",
            "/home/anna/cache/",
            "/home/anna/c*e",
            "/home/anna/**/cache",
            "/home/*/cache",
            "/home/**/cache",
            "/home/anna/*",
            "/home/anna/**",
            "/home/**",
            "/real/a b/cache",
            "/real/a\\ b/cache",
            "/cache",
            "cache",
        ] {
            assert!(excludes(pattern, "cache"), "{pattern}");
            assert_eq!(builder().leads_to(pattern), None, "{pattern}");
        }
        for pattern in
            ["/home/bert/cache", "/home/ann/cache", "/home/anna", "/home/annacache", "/*/cache", "/*/*/cache"]
        {
            assert!(!excludes(pattern, "cache"), "{pattern}");
        }
        assert!(excludes("/*/cache", "x/cache") && excludes("/home/anna/cache", "home/anna/cache"));
        assert!(
            excludes("/home/anna/x\\ ", "x ") && excludes("/home/anna/x  ", "x") && excludes("/home/anna/x/ ", "x")
        );
        let mut negated = builder();
        negated.add(b"*.iso").unwrap();
        negated.add(b"!/home/anna/keep.iso").unwrap();
        let negated = negated.build().unwrap();
        assert!(negated.matched(Path::new("keep.iso"), false).is_whitelist());
        assert!(negated.matched(Path::new("sub/keep.iso"), false).is_ignore());
    }

    #[test]
    fn what_lies_below_no_root_is_told() {
        for (pattern, first) in [
            ("/srv/www/x", Some("srv")),
            ("!/srv/www/x", Some("srv")),
            ("/home/bert/x", Some("home")),
            ("/home/anna", Some("home")),
            ("/home", Some("home")),
            ("/srv", None),
            ("srv/www", Some("srv")),
            ("srv/", None),
            ("home/", None),
            ("**/www", None),
            ("/*/x", None),
        ] {
            assert_eq!(builder().leads_to(pattern), first, "{pattern}");
        }
        // Everything lies below `/`.
        assert_eq!(PatternBuilder::new(&["/"]).leads_to("/srv/www/x"), None);
        assert_eq!(PatternBuilder::new(&["relative", "/a/../b"]).leads_to("/a/x"), Some("a"));
    }

    #[test]
    fn what_names_nothing_on_the_way_to_a_path_is_told() {
        let path = [&b"sub"[..], b"dir"];
        for pattern in ["x", "x/", "/sub", "/sub/dir", "sub/dir/x", "/s*/d?r/x", "/**/x", "**/x", "sub/**", "!/sub/d*"]
            .into_iter()
            .chain(["/home/anna/sub/dir/x", "/home/anna/sub", "/home/**/x", "/real/a b/sub/dir"])
        {
            assert!(builder().leads_into(pattern, &path), "{pattern}");
        }
        for pattern in ["/x", "/dir", "dir/x", "/sub/x", "/home/anna/x", "/home/anna/sub/x/**", "!/x"] {
            assert!(!builder().leads_into(pattern, &path), "{pattern}");
            assert!(builder().leads_into(pattern, &[]), "{pattern}");
        }
    }

    #[test]
    fn what_can_name_nothing_is_refused() {
        for pattern in
            ["", " ", "!", "! ", "/", "!/", "//", "#x", "./x", "../x", "a/./b", "a//b", "//a", "[", "a[b", "!["]
        {
            assert!(builder().add(pattern.as_bytes()).is_err(), "{pattern:?}");
        }
        assert!(builder().add(b"\xff").is_err());
        for pattern in ["\\#x", "\\!", "!x", "\\[", ".x", "a/.b", "...", "*", "\\ ", "[a]", "/x/"] {
            assert!(builder().add(pattern.as_bytes()).is_ok(), "{pattern:?}");
        }
        for line in ["", " \t", "# [", "#"] {
            assert!(builder().add_line(line.as_bytes()).is_ok(), "{line:?}");
        }
        assert!(builder().add_line(b"!").is_err());
    }
}
