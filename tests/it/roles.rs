//! What each role can do, and what it is refused: through the library, and the program from the outside.

use crate::fixture::{World, noise, write};
use crate::program::Program;
use keepstone::format::roster::Role;
use keepstone::repo::snapshots::details;
use keepstone::repo::tags::set_tags;

#[test]
fn a_ring_holds_what_its_role_may_have() {
    let world = World::new(2);
    for (role, parts) in [
        (Role::Owner, [true, true, true, true]),
        (Role::Writer, [true, true, true, false]),
        (Role::Maintainer, [false, false, false, false]),
    ] {
        let (slot, identity) = world.add_slot(role, role.name());
        let repository = world.as_slot(&identity).open(&[1]).unwrap();
        assert_eq!((repository.role(), repository.secrets.slot), (role, slot));
        assert_eq!(repository.secrets.root_private.is_some(), role == Role::Owner);
        let ring = &repository.keyring.rings()[&1];
        let held = [ring.id.is_some(), ring.gear.is_some(), ring.seal_public.is_some(), ring.seal_private.is_some()];
        assert_eq!(held, parts, "{role:?}");
    }
}

#[test]
fn a_writer_saves_what_it_cannot_read_again() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a", &noise(1, 300_000));
    let (slot, identity) = world.add_slot(Role::Writer, "host");
    let writer = world.as_slot(&identity);
    let saved = writer.backup(&[0], source.path(), 0).unwrap();
    let id = saved.snapshot.unwrap();
    assert_eq!(writer.backup(&[0], source.path(), 2).unwrap().new_chunks, 0, "it deduplicates");
    let repository = writer.open(&[0]).unwrap();
    let listing = writer.list(&[0]);
    assert_eq!((listing.snapshots[0].id, listing.snapshots[0].slot), (id, slot));
    let refused = details(&repository, &listing.snapshots[0]).unwrap_err();
    assert!(refused.to_string().contains("this key slot can't read payloads"), "{refused}");
    let refused = set_tags(&repository, id, &Default::default(), Default::default()).unwrap_err();
    assert!(
        refused.to_string().contains("a writer slot may not change tags: use the key of an owner or a maintainer"),
        "{refused}"
    );
    let target = tempfile::tempdir().unwrap();
    let refused = writer.restore(&[0], id, &target.path().join("t"), 0).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("this key slot can't read payloads"), "{refused}");
    world.assert_restores(&[0], id, source.path(), 1);
}

#[test]
fn a_maintainer_leaves_no_session_when_it_tries_to_back_up() {
    let world = World::new(1);
    let source = tempfile::tempdir().unwrap();
    let (_, identity) = world.add_slot(Role::Maintainer, "keeper");
    world.forget_history();
    let refused = world.as_slot(&identity).backup(&[0], source.path(), 0).unwrap_err();
    assert!(refused.to_string().contains("a maintainer slot may not back up"), "{refused}");
    assert_eq!(world.stores[0].written(), Vec::<String>::new());
}

#[test]
fn only_an_owner_changes_keys() {
    let world = World::new(1);
    for role in [Role::Writer, Role::Maintainer] {
        let (slot, identity) = world.add_slot(role, "other");
        let mut repository = world.as_slot(&identity).open(&[0]).unwrap();
        let wrapping = keepstone::crypto::slot::Wrapping::Recipient(crate::fixture::identity().1);
        let refused = repository.add_slot(Role::Writer, "more", &wrapping).unwrap_err();
        assert!(
            refused.to_string().contains("slot may not change the key slots: use the key of an owner"),
            "{refused}"
        );
        let refused = repository.remove_slot(slot).unwrap_err();
        assert!(
            refused.to_string().contains("slot may not change the key slots: use the key of an owner"),
            "{refused}"
        );
    }
}

#[test]
fn the_program_refuses_by_role_with_the_access_class() {
    let program = Program::new();
    program.write("file", b"content");
    let added = program.add_slot("writer");
    assert_eq!(
        (&added["role"], &added["state"], &added["post_quantum"]),
        (&"writer".into(), &"active".into(), &false.into())
    );
    program.add_slot("maintainer");
    let source = program.source().display().to_string();
    let saved = program.run_as("writer", ["--json", "backup", &source]).expect(0).json();
    let id = crate::program::id(&saved);
    for slot in ["writer", "maintainer"] {
        for command in [
            &["restore", "latest", "--to", "out"][..],
            &["cat", "latest", "file"],
            &["ls", "latest"],
            &["find", "file"],
            &["diff", &id, &id],
            &["check", "--read-data"],
        ] {
            let refused = program.run_as(slot, [&["--json"], command].concat()).expect(10).error();
            let text = refused["message"].as_str().unwrap();
            assert!(text.contains("this key slot can't read payloads"), "{command:?}: {text}");
            assert_eq!(refused["class"], "access");
        }
        for command in [&["snapshots"][..], &["stats"], &["cache", "rebuild"], &["check"], &["key", "list"]] {
            program.run_as(slot, command).expect(0);
        }
        let refused =
            program.run_as(slot, ["key", "add", "--role", "owner", "--recipient", &crate::fixture::identity().1]);
        assert!(refused.expect(10).stderr.contains("slot may not change the key slots: use the key of an owner"));
    }
    let refused = program.run_as("maintainer", ["--json", "backup", &source]).expect(10).error();
    assert!(refused["message"].as_str().unwrap().contains("a maintainer slot may not back up"), "{refused}");
    let refused = program.run_as("writer", ["tag", &id, "--add", "x"]);
    assert!(refused.expect(10).stderr.contains("a writer slot may not change tags"));
}

/// No role but the owner's may all that another may: where one secret opens several slots, each command takes one that
/// may do what it does.
#[test]
fn of_several_slots_each_command_takes_one_that_may_do_it() {
    let program = Program::new();
    program.write("file", b"content");
    let source = program.source().display().to_string();
    let (secret, recipient) = crate::fixture::identity();
    std::fs::write(program.path("both"), secret).unwrap();
    let add = |role: &str| program.run(["key", "add", "--role", role, "--recipient", &recipient]).expect(0).stderr;
    assert!(!add("writer").contains("opens several slots"));
    program.run_as("both", ["backup", &source]).expect(0);
    program.run_as("both", ["gc"]).expect(10);
    add("maintainer");
    let id = crate::program::id(&program.run_as("both", ["--json", "backup", &source]).expect(0).json());
    program.run_as("both", ["gc"]).expect(0);
    program.run_as("both", ["tag", &id, "--add", "x"]).expect(0);
    program.run_as("both", ["ls", "latest"]).expect(10);
    add("owner");
    program.run_as("both", ["ls", "latest"]).expect(0);
    program.run_as("both", ["backup", &source]).expect(0);
    // Whoever makes a slot for an own identity is told.
    let own = std::fs::read_to_string(program.path("recipient")).unwrap();
    let told = program.run(["key", "add", "--role", "writer", "--recipient", &own]).expect(0).stderr;
    assert!(told.contains("this recipient's identity is one that this run was given"), "{told}");
}
