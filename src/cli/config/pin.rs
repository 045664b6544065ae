//! Writes the pin into the configuration file, and leaves every other byte of it as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::{ConfigError, Region};
use crate::cli::render;
use crate::format::ids::Digest;

/// What [`write_pin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinWritten {
    /// Made the file, with the regions in it.
    Created,
    /// Added the pin to the file.
    Inserted,
    /// The file had this pin already.
    AlreadyThere,
}

/// Writes the root key's fingerprint into the configuration file at `path`; where there is none, makes
/// it with `regions` in it. The file is replaced atomically, with its mode and owner kept; a symbolic
/// link is followed.
///
/// # Errors
/// When the file has another pin, is not a configuration, or can't be read or written. Then it is
/// as it was.
pub fn write_pin(path: &Path, pin: &Digest, regions: &[Region]) -> Result<PinWritten, ConfigError> {
    let failed = |error| ConfigError::File { verb: "write", path: render::path(path).into_owned(), error };
    let Some(before) = ConfigFile::read(path)? else {
        create(path, &new_file(pin, regions)).map_err(failed)?;
        return Ok(PinWritten::Created);
    };
    match before.pin {
        Some(found) if found == *pin => return Ok(PinWritten::AlreadyThere),
        Some(found) => {
            return Err(ConfigError::PinDiffers { path: render::path(path).into_owned(), found, wanted: *pin });
        }
        None => {}
    }
    let target = fs::canonicalize(path).map_err(failed)?;
    let text = fs::read_to_string(&target).map_err(failed)?;
    let text = insert(&text, pin);
    // The insertion is by text; that it means what it should is what the parser says.
    if ConfigFile::decode(&text).ok() != Some(ConfigFile { pin: Some(*pin), ..before }) {
        return Err(ConfigError::PinNotInserted { path: render::path(path).into_owned(), wanted: *pin });
    }
    replace(&target, &text).map_err(failed)?;
    Ok(PinWritten::Inserted)
}

/// Puts the line behind the file's opening comment, if a blank line ends that, else first of all: both
/// come before any table and lie outside any value.
fn insert(text: &str, pin: &Digest) -> String {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        if line.trim().is_empty() && at > 0 {
            at = end;
            break;
        }
        if !line.starts_with('#') {
            at = 0;
            break;
        }
        at = end;
    }
    // A comment that the end of the file ends is not ended by a blank line.
    if at == text.len() && !text.ends_with("\n\n") {
        at = 0;
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    format!("{}pin = \"{pin}\"{ending}{}", &text[..at], &text[at..])
}

fn new_file(pin: &Digest, regions: &[Region]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut out = String::from(
        "# keepstone's configuration; `keepstone --help` names what else can stand here.\n\n\
         # The root key's fingerprint: another repository in this one's place is refused.\n",
    );
    out.push_str(&format!("pin = \"{pin}\"\n"));
    for region in regions {
        out.push_str(&format!("\n[[regions]]\nname = {}\nurl = {}\n", quoted(&region.name), quoted(&region.url)));
        for (name, value) in &region.options {
            out.push_str(&format!("{} = {}\n", quoted(name), quoted(value)));
        }
    }
    out
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let dir = directory(path);
    fs::create_dir_all(dir)?;
    let temporary = Temporary::write(path, text, 0o600)?;
    // A link, unlike a rename, leaves a file alone that appeared meanwhile.
    fs::hard_link(&temporary.path, path)?;
    drop(temporary);
    File::open(dir)?.sync_all()
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let temporary = Temporary::write(path, text, 0o600)?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if (old.uid(), old.gid()) != (uid, gid) {
        fchown(&temporary.file, Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner, since a change of owner may clear mode bits.
    temporary.file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    fs::rename(&temporary.path, path)?;
    File::open(directory(path))?.sync_all()
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A synced file beside its destination, removed when dropped unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn write(destination: &Path, text: &str, mode: u32) -> io::Result<Self> {
        let name = destination.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let path = directory(destination).join(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        let mut temporary = Temporary { path, file };
        temporary.file.write_all(text.as_bytes())?;
        temporary.file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename; otherwise there is nobody left to tell.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigFile, PinWritten, insert, write_pin};
    use crate::cli::config::{ConfigError, Region};
    use crate::format::ids::Digest;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const PIN: Digest = Digest([7; 32]);

    #[test]
    fn the_pin_goes_before_any_table_and_nothing_else_changes() {
        let line = format!("pin = \"{PIN}\"\n");
        for (before, expected) in [
            ("", line.clone()),
            ("[backup]\n", format!("{line}[backup]\n")),
            ("# about\n# this\n\n[backup]\n", format!("# about\n# this\n\n{line}[backup]\n")),
            ("# of memory\nmemory = 1\n", format!("{line}# of memory\nmemory = 1\n")),
            ("# only this", format!("{line}# only this")),
            ("\n# x\n\n[a]\n", format!("{line}\n# x\n\n[a]\n")),
            ("passphrase_command = '''\n[x]\n'''\n", format!("{line}passphrase_command = '''\n[x]\n'''\n")),
        ] {
            assert_eq!(insert(before, &PIN), expected);
        }
        assert_eq!(insert("# a\r\n\r\n[b]\r\n", &PIN), format!("# a\r\n\r\n{}\r\n[b]\r\n", line.trim_end()));
    }

    #[test]
    fn an_existing_file_keeps_its_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("real.toml"), dir.path().join("keepstone.toml"));
        fs::write(&target, "# mine\n\n[[regions]]\nname = \"a\"\nurl = \"/a\" # there\n").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();

        assert_eq!(write_pin(&link, &PIN, &[]).unwrap(), PinWritten::Inserted);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o640);
        let text = fs::read_to_string(&target).unwrap();
        assert!(text.starts_with("# mine\n\npin = ") && text.ends_with("url = \"/a\" # there\n"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

        assert_eq!(write_pin(&link, &PIN, &[]).unwrap(), PinWritten::AlreadyThere);
        let error = write_pin(&link, &Digest([8; 32]), &[]).unwrap_err();
        assert!(matches!(error, ConfigError::PinDiffers { found: PIN, .. }));
        assert_eq!(fs::read_to_string(&target).unwrap(), text);
    }

    #[test]
    fn a_new_file_holds_the_regions_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/keepstone.toml");
        let options = [("endpoint".to_owned(), "http://x:1".to_owned())].into();
        let region = Region { name: "here".into(), url: "/mnt/\"q\"\\n".into(), options };
        assert_eq!(write_pin(&path, &PIN, std::slice::from_ref(&region)).unwrap(), PinWritten::Created);
        let file = ConfigFile::read(&path).unwrap().unwrap();
        assert_eq!(file.pin, Some(PIN));
        assert_eq!((&file.regions[0].url, file.regions[0].options()), (&region.url, region.options));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keepstone.toml");
        fs::write(&path, "pinn = 3\n").unwrap();
        assert!(matches!(write_pin(&path, &PIN, &[]), Err(ConfigError::Syntax { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "pinn = 3\n");
    }
}
