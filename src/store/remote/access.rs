//! What each role may do through a server, by the names of a region's objects. Page:
//! `format-spec/serve.md`; the names are `format-spec/layout.md`'s.

use crate::format::ids::{Digest, SessionId, SlotId, SnapshotId, number_from_name};
use crate::format::roster::Role;
use crate::limits::{KEY_FILE_BYTES_MAX, OBJECT_BYTES_MAX, PACK_BYTES_MAX, SEGMENT_BYTES_MAX};

/// The kinds of names in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `config`, `region`.
    Root,
    /// `keys/`.
    KeyFile,
    /// `roster/`.
    Roster,
    /// `ring/`.
    Ring,
    /// `packs/`.
    Pack,
    /// `index/`.
    Segment,
    /// `sessions/`.
    Session,
    /// `snapshots/`.
    Snapshot,
    /// `commits/`.
    Commit,
    /// `verdicts/`.
    Verdict,
    /// `tags/`.
    Tags,
    /// `gc/`.
    Log,
    /// `audit/`.
    Audit,
    /// `attest/`.
    Attestation,
    /// Reserved and unknown prefixes, and the probe's.
    Other,
}

/// What a client wants to do with an object. Everyone may ask for sizes and list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make it.
    Put,
    /// Put its right bytes in the place of damaged ones.
    Heal,
    /// Read it.
    Get,
    /// Remove it.
    Delete,
}

/// What a well-formed name says of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The bytes end in the digest of those before.
    pub digest: bool,
    /// The digest that the name states.
    pub named: Option<Digest>,
    /// Most bytes that the object may have.
    pub bytes_max: u64,
}

/// The family of a name, by its first part alone.
pub fn family(name: &str) -> Family {
    match name.split_once('/') {
        None if matches!(name, "config" | "region") => Family::Root,
        Some(("keys", _)) => Family::KeyFile,
        Some(("roster", _)) => Family::Roster,
        Some(("ring", _)) => Family::Ring,
        Some(("packs", _)) => Family::Pack,
        Some(("index", _)) => Family::Segment,
        Some(("sessions", _)) => Family::Session,
        Some(("snapshots", _)) => Family::Snapshot,
        Some(("commits", _)) => Family::Commit,
        Some(("verdicts", _)) => Family::Verdict,
        Some(("tags", _)) => Family::Tags,
        Some(("gc", _)) => Family::Log,
        Some(("audit", _)) => Family::Audit,
        Some(("attest", _)) => Family::Attestation,
        _ => Family::Other,
    }
}

fn allowed(role: Role, act: Act, family: Family) -> bool {
    // Every slot may add to its own audit chain.
    let backs_up = matches!(
        family,
        Family::Pack | Family::Segment | Family::Session | Family::Snapshot | Family::Commit | Family::Audit
    );
    match (role, act) {
        (Role::Owner, _) => true,
        (Role::Writer, Act::Put) => backs_up,
        (Role::Writer, Act::Get) => !matches!(family, Family::Pack | Family::Other),
        (Role::Writer, Act::Heal | Act::Delete) => false,
        (Role::Maintainer, Act::Put) => backs_up || matches!(family, Family::Verdict | Family::Tags | Family::Log),
        (Role::Maintainer, Act::Get) => true,
        (Role::Maintainer, Act::Heal) => matches!(family, Family::Pack | Family::Segment | Family::Snapshot),
        (Role::Maintainer, Act::Delete) => {
            matches!(family, Family::Pack | Family::Segment | Family::Session | Family::Commit)
        }
    }
}

/// Refuses what the role may not do; the refusal is for a person.
///
/// # Errors
/// `SERVE-3`, with who may.
pub fn permit(role: Role, act: Act, name: &str) -> Result<(), String> {
    let family = family(name);
    if allowed(role, act, family) {
        return Ok(());
    }
    let verb = match act {
        Act::Put => "put this",
        Act::Heal => "replace this",
        Act::Get => "read this",
        Act::Delete => "delete this",
    };
    let who = match allowed(Role::Maintainer, act, family) {
        true => "a maintainer's or an owner's",
        false => "an owner's",
    };
    let role = role.name();
    Err(format!("SERVE-3: the server gives this access the role of a {role}, which may not {verb}; use {who} access"))
}

/// Reads a name that something is put under.
///
/// # Errors
/// `SERVE-4` for a name under a known prefix in another form than its own.
pub fn form(name: &str) -> Result<Form, String> {
    let object = |named| Some(Form { digest: true, named, bytes_max: OBJECT_BYTES_MAX as u64 });
    let parts: Vec<&str> = name.split('/').collect();
    let number = |text: &str| number_from_name(text).is_some();
    let numbered = |text: &str| {
        let (at, digest) = text.split_once('-')?;
        number_from_name(at)?;
        Digest::from_hex(digest)
    };
    let found = match (family(name), &parts[..]) {
        (Family::Other, _) => Some(Form { digest: false, named: None, bytes_max: PACK_BYTES_MAX }),
        (Family::Root, _) => object(None),
        (Family::KeyFile, [_, slot, file]) => {
            let fits = SlotId::from_hex(slot).is_some() && file.strip_suffix(".age").is_some_and(number);
            fits.then_some(Form { digest: false, named: None, bytes_max: KEY_FILE_BYTES_MAX as u64 })
        }
        (Family::Roster, [_, "accepted", slot, part]) if SlotId::from_hex(slot).is_some() && number(part) => {
            object(None)
        }
        (Family::Audit, [_, slot, entry]) if SlotId::from_hex(slot).is_some() => match number(entry) {
            true => object(None),
            false => numbered(entry).and_then(|digest| object(Some(digest))),
        },
        (Family::Attestation, [_, digest]) => Digest::from_hex(digest).and_then(|digest| object(Some(digest))),
        (Family::Roster, [_, entry]) => numbered(entry).and_then(|digest| object(Some(digest))),
        (Family::Ring, [_, epoch, slot]) if number(epoch) => match slot.split_once('-') {
            None => SlotId::from_hex(slot).and_then(|_| object(None)),
            Some((slot, digest)) => {
                SlotId::from_hex(slot).and_then(|_| Digest::from_hex(digest)).and_then(|digest| object(Some(digest)))
            }
        },
        (Family::Pack, [_, first, digest]) if digest.starts_with(first) && first.len() == 2 => {
            let named = Digest::from_hex(digest);
            named.map(|named| Form { digest: true, named: Some(named), bytes_max: PACK_BYTES_MAX })
        }
        (Family::Segment, [_, digest]) => {
            let named = Digest::from_hex(digest);
            named.map(|named| Form { digest: true, named: Some(named), bytes_max: SEGMENT_BYTES_MAX as u64 })
        }
        (Family::Session, [_, session, state])
            if SessionId::from_hex(session).is_some() && (*state == "end" || number(state)) =>
        {
            object(None)
        }
        (Family::Snapshot, [_, digest]) => Digest::from_hex(digest).and_then(|digest| object(Some(digest))),
        (Family::Commit, [_, session]) if SessionId::from_hex(session).is_some() => object(None),
        (Family::Verdict | Family::Tags, [_, snapshot, entry]) if SnapshotId::from_hex(snapshot).is_some() => {
            numbered(entry).and_then(|digest| object(Some(digest)))
        }
        (Family::Log, [_, generation, "condemn" | "fence" | "final"]) if number(generation) => object(None),
        _ => None,
    };
    found.ok_or_else(|| "SERVE-4: the name doesn't have the form that its prefix asks for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX64: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const HEX32: &str = "00112233445566778899aabbccddeeff";
    const HEX16: &str = "0011223344556677";

    /// One good name of every family, in the order of the table.
    fn names() -> Vec<(Family, String)> {
        vec![
            (Family::Root, "config".to_owned()),
            (Family::Root, "region".to_owned()),
            (Family::KeyFile, format!("keys/{HEX32}/{HEX16}.age")),
            (Family::Roster, format!("roster/{HEX16}-{HEX64}")),
            (Family::Ring, format!("ring/{HEX16}/{HEX32}")),
            (Family::Pack, format!("packs/00/{HEX64}")),
            (Family::Segment, format!("index/{HEX64}")),
            (Family::Session, format!("sessions/{HEX32}/{HEX16}")),
            (Family::Session, format!("sessions/{HEX32}/end")),
            (Family::Snapshot, format!("snapshots/{HEX64}")),
            (Family::Commit, format!("commits/{HEX32}")),
            (Family::Verdict, format!("verdicts/{HEX64}/{HEX16}-{HEX64}")),
            (Family::Tags, format!("tags/{HEX64}/{HEX16}-{HEX64}")),
            (Family::Log, format!("gc/{HEX16}/condemn")),
            (Family::Log, format!("gc/{HEX16}/final")),
            (Family::Other, "probe/00/object".to_owned()),
            (Family::Other, "parity/x".to_owned()),
            (Family::Roster, format!("roster/accepted/{HEX32}/{HEX16}")),
            (Family::Audit, format!("audit/{HEX32}/{HEX16}")),
            (Family::Audit, format!("audit/{HEX32}/{HEX16}-{HEX64}")),
            (Family::Attestation, format!("attest/{HEX64}")),
            (Family::Ring, format!("ring/{HEX16}/{HEX32}-{HEX64}")),
        ]
    }

    // SERVE-3
    #[test]
    fn serve_3_the_table_of_roles() {
        use Family::{
            Attestation, Audit, Commit, KeyFile, Log, Other, Pack, Ring, Root, Roster, Segment, Session, Snapshot,
            Tags, Verdict,
        };
        let writer_puts = [Pack, Segment, Session, Snapshot, Commit, Audit];
        let writer_gets =
            [Root, KeyFile, Roster, Ring, Segment, Session, Snapshot, Commit, Verdict, Tags, Log, Audit, Attestation];
        let maintainer_puts = [Pack, Segment, Session, Snapshot, Commit, Verdict, Tags, Log, Audit];
        let maintainer_heals = [Pack, Segment, Snapshot];
        let maintainer_deletes = [Pack, Segment, Session, Commit];
        for (family, name) in names() {
            let may = |role, act| permit(role, act, &name).is_ok();
            for act in [Act::Put, Act::Heal, Act::Get, Act::Delete] {
                assert!(may(Role::Owner, act), "{name}");
            }
            assert_eq!(may(Role::Writer, Act::Put), writer_puts.contains(&family), "{name}");
            assert_eq!(may(Role::Writer, Act::Get), writer_gets.contains(&family), "{name}");
            assert!(!may(Role::Writer, Act::Heal) && !may(Role::Writer, Act::Delete), "{name}");
            assert_eq!(may(Role::Maintainer, Act::Put), maintainer_puts.contains(&family), "{name}");
            assert!(may(Role::Maintainer, Act::Get), "{name}");
            assert_eq!(may(Role::Maintainer, Act::Heal), maintainer_heals.contains(&family), "{name}");
            assert_eq!(may(Role::Maintainer, Act::Delete), maintainer_deletes.contains(&family), "{name}");
            assert_ne!(family == Other, writer_gets.contains(&family) || writer_puts.contains(&family), "{name}");
        }
        let refusal = permit(Role::Writer, Act::Delete, &names()[5].1).unwrap_err();
        assert!(refusal.contains("SERVE-3") && refusal.contains("a maintainer's or an owner's"), "{refusal}");
        let refusal = permit(Role::Maintainer, Act::Delete, "config").unwrap_err();
        assert!(refusal.contains("maintainer") && refusal.ends_with("use an owner's access"), "{refusal}");
    }

    // SERVE-3
    #[test]
    fn serve_3_a_prefix_decides_before_the_form_does() {
        // A pack's file under a name that no pack has stays unreadable for a writer.
        for name in ["packs/x", "packs/00/ABCDEF", "packs/a/b/c"] {
            assert!(permit(Role::Writer, Act::Get, name).is_err(), "{name}");
        }
        assert!(permit(Role::Writer, Act::Put, "configuration").is_err());
    }

    // SERVE-4
    #[test]
    fn serve_4_a_known_prefix_asks_for_its_form() {
        for (family, name) in names() {
            let form = form(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(form.digest, !matches!(family, Family::KeyFile | Family::Other), "{name}");
            // Those whose last part ends in a digest.
            let named = name.ends_with(HEX64);
            assert_eq!(form.named, named.then(|| Digest::from_hex(HEX64).unwrap()), "{name}");
        }
        let upper = HEX64.to_uppercase();
        for name in [
            format!("packs/11/{HEX64}"),
            format!("packs/{HEX64}"),
            format!("packs/0/{HEX64}"),
            format!("packs/00/{upper}"),
            format!("packs/00/{HEX64}/x"),
            format!("index/{HEX64}0"),
            format!("index/{HEX32}"),
            format!("index/{upper}"),
            format!("snapshots/{HEX32}"),
            format!("commits/{HEX64}"),
            format!("sessions/{HEX32}"),
            format!("sessions/{HEX32}/ended"),
            format!("sessions/{HEX32}/1"),
            format!("keys/{HEX32}/{HEX16}"),
            format!("keys/{HEX32}/{HEX16}.age.age"),
            format!("roster/{HEX16}"),
            format!("ring/{HEX32}/{HEX16}"),
            format!("ring/{HEX16}/{HEX32}-{HEX32}"),
            format!("verdicts/{HEX64}/{HEX64}"),
            format!("tags/{HEX64}/1-{HEX64}"),
            format!("gc/{HEX16}/finale"),
            "gc/1/condemn".to_owned(),
        ] {
            assert!(form(&name).is_err_and(|error| error.starts_with("SERVE-4")), "{name}");
        }
    }
}
