//! The second reader, written from the specification alone, against repositories that this program
//! writes: it must find them sound, list what was saved, and restore the same entries.

use crate::fixture::{assert_same, noise};
use crate::program::Program;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

fn reader(program: &Program, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(root.join("tests/reader.sh")).output().expect("tests/reader.sh runs");
    assert!(made.status.success(), "tests/reader.sh: {}", String::from_utf8_lossy(&made.stderr));
    let python = String::from_utf8(made.stdout).expect("a path");
    let configuration = std::fs::read_to_string(program.path("keepstone.toml")).expect("configuration");
    let pin = configuration.lines().find_map(|line| line.strip_prefix("pin = ")).expect("a pin").trim_matches('"');
    let mut command = Command::new(python.trim());
    command.args(["-m", "keepstone_reader"]).args(arguments).args(["--pin", pin, "--identity"]);
    command
        .arg(program.path("identity"))
        .current_dir(root.join("format-spec/reader"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.output().expect("the reader runs")
}

#[track_caller]
fn sound(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn it_verifies_lists_and_restores_what_the_program_wrote() {
    let program = Program::new();
    program.write("plain", b"some text\n");
    program.write("empty", b"");
    program.write("deep/er/big", &noise(3, 5_000_000));
    for number in 0..300 {
        program.write(&format!("many/{number:04}"), format!("file {number}\n").repeat(40).as_bytes());
    }
    let sparse = program.write("sparse", b"begins");
    std::fs::File::options().write(true).open(&sparse).unwrap().set_len(64 << 20).unwrap();
    std::fs::hard_link(program.source().join("plain"), program.source().join("deep/again")).unwrap();
    symlink("../plain", program.source().join("deep/link")).unwrap();
    std::fs::set_permissions(program.source().join("empty"), std::fs::Permissions::from_mode(0o640)).unwrap();
    program.backup(&[]);
    program.write("plain", b"other text\n");
    let second = program.backup(&[]);
    let id = second["snapshot"].as_str().expect("an id").to_owned();

    for region in ["one", "two"] {
        let region = program.path(region).display().to_string();
        sound(reader(&program, &["verify", &region]));
        assert!(sound(reader(&program, &["list", &region])).contains(&id[..12]), "the second snapshot is listed");
        let target = program.path("restored").display().to_string();
        sound(reader(&program, &["restore", &region, &id, &target]));
        assert_same(&program.source(), &program.path("restored"));
        std::fs::remove_dir_all(program.path("restored")).unwrap();
    }
}

#[test]
fn it_finds_a_flipped_bit_in_what_the_program_wrote() {
    let program = Program::new();
    program.write("file", &noise(4, 100_000));
    program.backup(&[]);
    let (pack, _) = program.listing("one/packs").into_iter().max_by_key(|(_, length)| *length).expect("a pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let found = reader(&program, &["verify", &program.path("one").display().to_string()]);
    assert_eq!(found.status.code(), Some(1), "{}", String::from_utf8_lossy(&found.stdout));
    sound(reader(&program, &["verify", &program.path("two").display().to_string()]));
}
