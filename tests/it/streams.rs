//! Streams: standard input and commands, saved only when they ended well.

use crate::fixture::noise;
use crate::program::{Ended, Program, signal};
use rustix::process::Signal;
use std::io::Write;
use std::process::Stdio;

fn stdin(program: &Program, arguments: &[&str], bytes: &[u8]) -> Ended {
    let mut child = program.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A program that fails early closes its end.
    let _ = input.write_all(bytes);
    drop(input);
    Ended::new(child.wait_with_output().unwrap())
}

#[test]
fn standard_input_comes_back_as_one_file() {
    let program = Program::new();
    let bytes = noise(1, 5_000_000);
    let saved = stdin(&program, &["--json", "backup", "--stdin", "--as", "data.bin"], &bytes).expect(0).json();
    assert_eq!((&saved["files"], &saved["bytes"]), (&1.into(), &5_000_000.into()));
    program.restore("out", &["latest"]).expect(0);
    assert_eq!(std::fs::read(program.path("out/data.bin")).unwrap(), bytes);
    // The same stream again stores hardly anything, one with a few bytes more little.
    let mut longer = b"inserted".to_vec();
    longer.extend_from_slice(&bytes);
    let again = stdin(&program, &["--json", "backup", "--stdin", "--as", "data.bin"], &longer).expect(0).json();
    assert!(again["new_bytes"].as_u64().unwrap() < 200_000, "{again}");
    program.assert_tidy();
}

#[test]
fn an_empty_stream_is_an_error_unless_it_is_allowed() {
    let program = Program::new();
    stdin(&program, &["backup", "--stdin", "--as", "x"], b"").expect(1);
    assert!(program.snapshots(&[]).is_empty());
    stdin(&program, &["backup", "--stdin", "--as", "x", "--allow-empty"], b"").expect(0);
    program.restore("out", &["latest"]).expect(0);
    assert_eq!(std::fs::read(program.path("out/x")).unwrap(), b"");
}

#[test]
fn a_command_is_saved_only_if_it_succeeds() {
    let program = Program::new();
    let shell =
        |script: &str| program.run(["--json", "backup", "--as", "dump", "--dataset", "db", "--", "sh", "-c", script]);
    for script in ["echo partial; exit 3", "echo partial; kill -9 $$", "exit 1"] {
        let ended = shell(script).expect(1);
        assert_eq!(ended.error()["class"], "failed", "{}", ended.stderr);
    }
    program.run(["backup", "--as", "dump", "--", "no-such-program"]).expect(1);
    assert!(program.snapshots(&[]).is_empty());
    shell("seq 1 300000").expect(0);
    program.restore("out", &["latest", "--dataset", "db"]).expect(0);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(std::fs::read_to_string(program.path("out/dump")).unwrap() == expected);
}

#[test]
fn a_stream_needs_a_usable_name() {
    let program = Program::new();
    for name in ["", ".", "..", "a/b"] {
        stdin(&program, &["backup", "--stdin", "--as", name], b"x").expect(2);
    }
    stdin(&program, &["backup", "--stdin"], b"x").expect(2);
}

#[test]
fn a_silent_stream_is_stopped_by_the_first_signal() {
    let program = Program::new();
    let ready = program.path("ready");
    // It writes where it is before it falls silent, so that handlers and reader stand by then.
    let script = format!("echo $$ > '{}'; exec sleep 1000", ready.display());
    let mut silent = program.command(["backup", "--as", "x", "--", "sh", "-c", &script]).spawn().unwrap();
    Program::wait_until(&mut silent, || std::fs::read_to_string(&ready).is_ok_and(|text| text.ends_with('\n')));
    let command = std::fs::read_to_string(&ready).unwrap().trim().to_owned();
    signal(&silent, Signal::TERM);
    assert_eq!(silent.wait().unwrap().code(), Some(130));
    assert!(!std::path::Path::new("/proc").join(command).exists(), "the command is left behind");

    let mut input = program.command(["backup", "--stdin", "--as", "x"]).stdin(Stdio::piped()).spawn().unwrap();
    let held = input.stdin.take();
    let sessions =
        || program.listing("one").keys().filter(|path| path.to_string_lossy().contains("/sessions/")).count();
    let before = sessions();
    Program::wait_until(&mut input, || sessions() > before);
    signal(&input, Signal::INT);
    assert_eq!(input.wait().unwrap().code(), Some(130));
    drop(held);
    assert!(program.snapshots(&[]).is_empty());
}

/// The index isn't made anew below a run that relies on it, and one that it was taken from says what to do.
#[test]
fn a_cache_is_not_rebuilt_below_a_backup() {
    let program = Program::new();
    for removed in [false, true] {
        let (ready, go) = (program.path("ready"), program.path("go"));
        let script = format!(
            "head -c 20000000 /dev/urandom; : > '{}'; while ! [ -e '{}' ]; do sleep 0.05; done; head -c 20000000 /dev/urandom",
            ready.display(),
            go.display()
        );
        let mut running =
            program.command(["--json", "backup", "--as", "x", "--", "sh", "-c", &script]).spawn().unwrap();
        Program::wait_until(&mut running, || ready.exists());
        let refused = program.run(["--json", "cache", "rebuild"]).expect(13).error();
        assert!(refused["message"].as_str().unwrap().contains("relies on it"), "{refused}");
        // Others go on beside it.
        program.run(["snapshots"]).expect(0);
        program.run(["stats"]).expect(0);
        if removed {
            std::fs::remove_dir_all(program.path("cache")).unwrap();
            program.run(["cache", "rebuild"]).expect(0);
        }
        std::fs::write(&go, b"").unwrap();
        let ended = Ended::new(running.wait_with_output().unwrap());
        if removed {
            // Without its spool and index it may have nothing left to do, or fail and say so.
            if ended.code != Some(0) {
                let error = ended.error();
                assert!(!error.to_string().contains("cache rebuild"), "{error}");
            }
        } else {
            ended.expect(0);
        }
        std::fs::remove_file(ready).unwrap();
        std::fs::remove_file(go).unwrap();
    }
    program.run(["cache", "rebuild"]).expect(0);
    program.run(["check", "--read-data"]).expect(0);
}
