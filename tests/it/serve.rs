//! Regions behind `keepstone serve`, with the built program on both sides and a shell in ssh's place.

use crate::fixture::{assert_same, noise};
use crate::program::{Ended, Program, id};
use keepstone::env::SeededRandom;
use keepstone::store::contract::check_contract;
use keepstone::store::open::open_store;
use keepstone::store::remote::message::{Reply, Request, read_frame, write_frame};
use keepstone::store::{Put, Store, StoreErrorKind, list_sorted};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const BINARY: &str = env!("CARGO_BIN_EXE_keepstone");

/// A command that runs a script where ssh would run: what ssh would be told stands in `$0` (the host)
/// and `$1` (the command there).
fn shell(script: &str) -> String {
    serde_json::json!(["sh", "-c", script]).to_string()
}

/// As sshd does with a forced command: what the client asks for is not looked at.
fn forced(program: &Program, region: &str, more: &str) -> String {
    shell(&format!("exec '{BINARY}' serve --stdio --path '{}' {more}", program.path(region).display()))
}

fn run(program: &Program, ssh: &str, arguments: &[&str]) -> Ended {
    Ended::new(program.command(arguments).env("KEEPSTONE_SSH_COMMAND", ssh).output().unwrap())
}

fn store(ssh: &str) -> Arc<dyn Store> {
    let options = BTreeMap::from([("ssh_command".to_owned(), ssh.to_owned())]);
    open_store("ssh://host/", &options, false).unwrap()
}

/// A home with a repository in one region, made through a server.
fn served() -> Program {
    let program = Program::bare();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let owner = forced(&program, "far", "--role owner");
    run(&program, &owner, &["--region", "far=ssh://host/", "init", "--recipient", &recipient]).expect(0);
    program
}

fn packs(program: &Program) -> Vec<PathBuf> {
    program.listing("far").into_keys().filter(|path| path.to_string_lossy().contains("/packs/")).collect()
}

#[test]
fn a_region_behind_a_server_is_a_region_like_any_other() {
    let program = served();
    let owner = forced(&program, "far", "--role owner");
    program.write("a/b", b"content");
    program.write("big", &noise(1, 3_000_000));
    let source = program.source().display().to_string();
    let ask = |arguments: &[&str]| run(&program, &owner, arguments);
    let first = ask(&["--json", "backup", &source]).expect(0).json();
    assert_eq!(first["regions"][0]["committed"], true);
    program.write("big", &noise(2, 2_000_000));
    let second = ask(&["--json", "backup", &source]).expect(0).json();
    assert_eq!(ask(&["--json", "snapshots"]).expect(0).json().as_array().unwrap().len(), 2);
    ask(&["check", "--read-data"]).expect(0);
    ask(&["scrub", "far"]).expect(0);
    ask(&["restore", "latest", "--to", "out", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    ask(&["cat", &id(&first)[..8], "a/b"]).expect(0);
    ask(&["tag", "latest", "--set", "kept"]).expect(0);
    // The directory is a region of its own accord, and nothing but objects is in it.
    let here = format!("here={}", program.path("far").display());
    program.run(["--region", &here, "restore", &id(&second), "--to", "direct", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("direct"));
    let far = program.path("far");
    let odd = |path: &PathBuf| path.strip_prefix(&far).unwrap().to_string_lossy().starts_with('.');
    assert_eq!(program.listing("far").into_keys().find(odd), None);
    // `init` sees that there is one already.
    std::fs::remove_file(program.path("keepstone.toml")).unwrap();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    ask(&["--region", "far=ssh://host/", "init", "--recipient", &recipient]).expect(2);
}

#[test]
fn keeps_the_contract_through_processes() {
    let program = Program::bare();
    std::fs::create_dir(program.path("far")).unwrap();
    let store = store(&forced(&program, "far", "--role owner"));
    check_contract(&store, &SeededRandom::new(1)).unwrap();
    assert_eq!(store.address(), "ssh://host");
}

// SERVE-3
#[test]
fn serve_3_a_writer_backs_up_and_lists_and_can_do_no_harm() {
    let program = served();
    let writer = forced(&program, "far", "--role writer");
    program.write("a", &noise(1, 600_000));
    let source = program.source().display().to_string();
    let ask = |arguments: &[&str]| run(&program, &writer, arguments);
    let first = ask(&["--json", "backup", &source]).expect(0).json();
    program.write("b", &noise(2, 600_000));
    // The second deduplicates by what the region lists, also without a local index.
    std::fs::remove_dir_all(program.path("cache")).unwrap();
    let second = ask(&["--json", "backup", &source]).expect(0).json();
    assert!(second["new_bytes"].as_u64().unwrap() < 700_000, "{second}");
    assert_eq!(ask(&["--json", "snapshots"]).expect(0).json().as_array().unwrap().len(), 2);

    let before = program.listing("far");
    let restored = ask(&["--json", "restore", "latest", "--to", "out"]).expect(10);
    let error = restored.error();
    assert_eq!(error["class"], "access");
    assert!(error["message"].as_str().unwrap().contains("SERVE-3"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("owner's access"), "{error}");
    let tagged = ask(&["--json", "tag", "latest", "--set", "x"]);
    let added = ask(&["--json", "key", "add", "--recipient", &recipient(&program)]);
    for refused in [added, tagged] {
        let error = refused.expect(10).error();
        assert!(error["message"].as_str().unwrap().contains("SERVE-3"), "{error}");
    }
    // Of the slot that would have been added, the attempt stands in the record and nothing else.
    let after = program.listing("far");
    let mut but_the_record = after.clone();
    but_the_record.retain(|path, _| before.contains_key(path) || !path.starts_with(program.path("far/audit")));
    assert_eq!(but_the_record, before);

    // Whoever changes the client gets no further.
    let store = store(&writer);
    let pack = list_sorted(&store, "packs/").unwrap().remove(0);
    let kind = |result: Result<(), keepstone::store::StoreError>| result.map_err(|error| error.kind).unwrap_err();
    assert_eq!(kind(store.get(&pack.name, 1 << 30).map(drop)), StoreErrorKind::Denied);
    assert_eq!(kind(store.get_range(&pack.name, 0, 100).map(drop)), StoreErrorKind::Denied);
    for name in [pack.name.clone(), "config".to_owned(), format!("snapshots/{}", id(&first))] {
        assert_eq!(kind(store.delete(&name)), StoreErrorKind::Denied, "{name}");
        assert_eq!(kind(store.heal(&name, &vec![0; 100].into())), StoreErrorKind::Denied, "{name}");
        assert!(store.put_new(&name, &vec![0; 100].into()).is_err(), "{name}");
    }
    assert_eq!(program.listing("far"), after);
    let owner = forced(&program, "far", "--role owner");
    run(&program, &owner, &["restore", "latest", "--to", "out", "--verify"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

// HEAL-1
#[test]
fn heal_1_a_writer_goes_on_in_a_region_whose_losses_it_may_not_mend() {
    for is_cut in [true, false] {
        let program = Program::bare();
        let home = program.home.path().display().to_string();
        let served = |role| shell(&format!("exec '{BINARY}' serve --stdio --path '{home}'/\"$0\" --role {role}"));
        let (owner, writer) = (served("owner"), served("writer"));
        let regions = ["--region", "left=ssh://left/", "--region", "right=ssh://right/"];
        let recipient = recipient(&program);
        let init = [&regions[..], &["init", "--recipient", &recipient]].concat();
        run(&program, &owner, &init).expect(0);
        let source = program.source().display().to_string();
        program.write("a", &noise(1, 300_000));
        run(&program, &writer, &["backup", &source]).expect(0);
        program.write("b", &noise(2, 300_000));
        run(&program, &writer, &["--region", "left", "backup", &source]).expect(3);
        for path in program.listing("right").into_keys().filter(|path| path.to_string_lossy().contains("/packs/")) {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            if is_cut {
                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        // It can read no pack and replace none, says so, and saves what is new in both.
        program.write("c", &noise(3, 300_000));
        let ended = run(&program, &writer, &["--json", "backup", &source]).expect(11);
        let saved = ended.json();
        for region in saved["regions"].as_array().unwrap() {
            assert_eq!(region["committed"], true, "{saved}");
        }
        assert!(ended.stderr.contains("may not read packs"), "{}", ended.stderr);
        run(&program, &owner, &["--region", "right", "restore", "latest", "--to", "out", "--verify"]).expect(0);
        assert_same(&program.source(), &program.path("out"));
        run(&program, &owner, &["replicate"]).expect(0);
        run(&program, &writer, &["backup", &source]).expect(0);
        let right = run(&program, &owner, &["--json", "--region", "right", "snapshots"]).expect(0).json();
        assert_eq!(right.as_array().unwrap().len(), 4);
        run(&program, &owner, &["--region", "right", "check", "--read-data"]).expect(0);
    }
}

fn recipient(program: &Program) -> String {
    std::fs::read_to_string(program.path("recipient")).unwrap()
}

// SERVE-3
#[test]
fn serve_3_a_writer_makes_no_repository() {
    let program = Program::bare();
    std::fs::create_dir(program.path("far")).unwrap();
    let writer = forced(&program, "far", "--role writer");
    let recipient = recipient(&program);
    let ended = run(&program, &writer, &["--json", "--region", "far=ssh://host/", "init", "--recipient", &recipient]);
    assert!(ended.expect(10).error()["message"].as_str().unwrap().contains("SERVE-3"));
    assert!(program.listing("far").is_empty());
}

// SERVE-8
#[test]
fn serve_8_a_client_keeps_to_the_dataset_it_is_told() {
    let program = served();
    let writer = forced(&program, "far", "--role writer --dataset db");
    program.write("a", b"content");
    let source = program.source().display().to_string();
    let before = program.listing("far");
    let ended = run(&program, &writer, &["--json", "backup", &source, "--dataset", "home"]).expect(10);
    let error = ended.error();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("'far'") && message.contains("'db'") && message.contains("'home'"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--dataset db"), "{error}");
    assert_eq!(program.listing("far"), before, "not even a session");
    run(&program, &writer, &["backup", &source, "--dataset", "db"]).expect(0);
}

/// A client that was tampered with puts what a whole one would not.
// SERVE-8
#[test]
fn serve_8_with_a_key_the_server_holds_clients_to_the_dataset() {
    let program = served();
    let identity = program.path("identity");
    let gated = format!("--role writer --dataset db --identity '{}'", identity.display());
    let gated = forced(&program, "far", &gated);
    program.write("a", b"content");
    let source = program.source().display().to_string();
    run(&program, &gated, &["backup", &source, "--dataset", "db"]).expect(0);

    let owner = forced(&program, "far", "--role owner");
    let foreign = run(&program, &owner, &["--json", "backup", &source, "--dataset", "home"]).expect(0).json();
    let snapshot = format!("snapshots/{}", id(&foreign));
    let direct = open_store(program.path("far").to_str().unwrap(), &BTreeMap::new(), false).unwrap();
    let manifest = direct.get(&snapshot, 1 << 20).unwrap();
    let commits = list_sorted(&direct, "commits/").unwrap();
    let commit = commits
        .iter()
        .map(|commit| (commit.name.clone(), direct.get(&commit.name, 1 << 20).unwrap()))
        .find(|(_, bytes)| bytes.windows(32).any(|part| hex(part) == id(&foreign)))
        .expect("the commit of the foreign snapshot");
    direct.delete(&snapshot).unwrap();
    direct.delete(&commit.0).unwrap();

    let lying = store(&gated);
    let refused = |name: &str, bytes: &[u8]| {
        let error = lying.put_new(name, &bytes.to_vec().into()).expect_err("refused");
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(error.detail.contains("SERVE-8"), "{error}");
        error.detail
    };
    assert!(refused(&snapshot, &manifest).contains("'home'"));
    assert!(refused(&commit.0, &commit.1).contains("can't be looked at"));
    // Nor can it commit what came by another access.
    direct.put_new(&snapshot, &manifest.clone().into()).unwrap();
    assert!(refused(&commit.0, &commit.1).contains("'home'"));
    // What the server can't read it doesn't take.
    let mut garbage = noise(3, 500);
    garbage.extend_from_slice(blake3::hash(&garbage.clone()).as_bytes());
    let name = format!("snapshots/{}", hex(&garbage[500..]));
    assert!(refused(&name, &garbage).contains("no snapshot"));
    assert_eq!(list_sorted(&direct, "commits/").unwrap().len(), 1);
    // Without a key, the server can't tell: the page says so.
    let blind = store(&forced(&program, "far", "--role writer --dataset db"));
    assert_eq!(blind.put_new(&commit.0, &commit.1.into()).unwrap(), Put::Created);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn message(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &request.encode()).unwrap();
    bytes
}

fn hello() -> Vec<u8> {
    message(&Request::Hello { version_min: 1, version_max: 1, create: false, path: "" })
}

fn replies(mut output: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut body = Vec::new();
    while read_frame(&mut output, &mut body).expect("whole messages and nothing else") {
        found.push(format!("{:?}", Reply::decode(&body).unwrap()));
    }
    found
}

fn serve(path: &Path, role: &str) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--stdio", "--role", role, "--path"]).arg(path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

// SERVE-1
#[test]
fn serve_1_garbage_is_answered_by_messages_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let lines = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let other = message(&Request::Hello { version_min: 7, version_max: 9, create: false, path: "" });
    for (input, code) in [
        (Vec::new(), 0),
        (hello(), 0),
        (other, 0),
        (lines.clone(), 1),
        (noise(1, 100_000), 1),
        ([hello(), lines].concat(), 1),
        ([hello(), vec![0xff; 10]].concat(), 1),
        ([hello(), hello()[..20].to_vec()].concat(), 1),
    ] {
        let mut child = serve(home.path(), "owner");
        let mut stdin = child.stdin.take().unwrap();
        // It may have hung up already.
        let _ = stdin.write_all(&input);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        replies(&output.stdout);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}

/// A whole pack under its name.
fn pack(seed: u64, length: usize) -> (String, Vec<u8>) {
    let mut bytes = noise(seed, length);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    let digest = digest.to_hex();
    (format!("packs/{}/{digest}", &digest[..2]), bytes)
}

// SERVE-6
#[test]
fn serve_6_a_client_that_goes_away_leaves_nothing_and_what_is_acknowledged_stays() {
    let home = tempfile::tempdir().unwrap();
    let (name, bytes) = pack(1, 400_000);
    let begun = message(&Request::Put { name: &name, heal: false, length: bytes.len() as u64, first: b"" });
    let pieces: Vec<Vec<u8>> = bytes.chunks(100_000).map(|piece| message(&Request::Piece(piece))).collect();

    let mut child = serve(home.path(), "writer");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[hello(), begun.clone(), pieces[0].clone(), pieces[1][..50].to_vec()].concat()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(replies(&output.stdout)[1..], ["Ready"]);
    let left: Vec<_> = walk(home.path());
    assert_eq!(left, Vec::<PathBuf>::new(), "not even a temporary file");

    let mut child = serve(home.path(), "writer");
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(&[hello(), begun, pieces.concat()].concat()).unwrap();
    let mut body = Vec::new();
    for _ in 0..3 {
        assert!(read_frame(&mut stdout, &mut body).unwrap());
    }
    assert_eq!(Reply::decode(&body).unwrap(), Reply::Done { created: true });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read(home.path().join(&name)).unwrap(), bytes);
    assert_eq!(walk(home.path()).len(), 1);
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

// SERVE-6
#[test]
fn serve_6_a_connection_cut_in_the_middle_of_a_backup_is_made_anew() {
    let program = served();
    program.write("big", &noise(1, 6_000_000));
    let source = program.source().display().to_string();
    // The first connections hear only so much of what the client says.
    let script = format!(
        "n=$(ls '{0}' | wc -l); : > '{0}'/$$; \
         if [ $n -lt 3 ]; then dd bs=65536 count=30 status=none | '{BINARY}' serve --stdio --role writer --path '{1}'; echo $? >> '{2}'; \
         else exec '{BINARY}' serve --stdio --role writer --path '{1}'; fi",
        program.path("connections").display(),
        program.path("far").display(),
        program.path("ended").display()
    );
    std::fs::create_dir(program.path("connections")).unwrap();
    let ended = run(&program, &shell(&script), &["--json", "backup", &source]).expect(0);
    assert_eq!(ended.json()["regions"][0]["committed"], true);
    let ended = std::fs::read_to_string(program.path("ended")).unwrap();
    assert!(ended.lines().any(|status| status == "1"), "a server's input ended in the middle of a put: {ended}");
    assert!(!packs(&program).is_empty());
    let owner = forced(&program, "far", "--role owner");
    run(&program, &owner, &["check", "--read-data"]).expect(0);
    run(&program, &owner, &["restore", "latest", "--to", "out"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
}

#[test]
fn without_a_forced_command_the_address_says_it_all() {
    let program = Program::bare();
    let bin = Path::new(BINARY).parent().unwrap();
    // As a login shell gets it from sshd: the command in one string.
    let login = shell(&format!("PATH='{}':$PATH; eval \"$1\"", bin.display()));
    let recipient = recipient(&program);
    let path = program.path("two words/it's");
    let there = format!("far=ssh://anna@nas{}", path.display().to_string().replace(' ', "%20"));
    run(&program, &login, &["--region", &there, "init", "--recipient", &recipient]).expect(0);
    assert!(path.join("config").is_file());
    program.write("a", b"content");
    let source = program.source().display().to_string();
    run(&program, &login, &["backup", &source]).expect(0);
    let home = "home=ssh://nas/~/two%20words/it's";
    run(&program, &login, &["--region", home, "restore", "latest", "--to", "out"]).expect(0);
    assert_same(&program.source(), &program.path("out"));
    // A forced command serves its own directory and no other.
    let forced = forced(&program, "two words", "--role owner");
    let other = run(&program, &forced, &["--json", "--region", home, "snapshots"]).expect(2).error();
    assert!(other["message"].as_str().unwrap().contains("another directory"), "{other}");
}

#[test]
fn what_is_wrong_with_the_connection_is_told() {
    let program = served();
    let told = |script: &str, code: i32, words: &[&str]| {
        let error = run(&program, &shell(script), &["--json", "snapshots"]).expect(code).error();
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{script}: {text}");
    };
    told("echo 'ssh: connect to host host port 22: No route to host' >&2; exit 255", 14, &["No route to host", "255"]);
    told("echo 'anna@host: Permission denied (publickey).' >&2; exit 255", 10, &["publickey", "not let in"]);
    told("echo 'sh: keepstone: not found' >&2; exit 127", 2, &["not found", "remote_program"]);
    told("echo Welcome to host; echo Mind the gap; cat", 2, &["start-up file", "forced"]);
    told("exit 0", 14, &["the connection ended"]);
    let missing = format!("exec '{BINARY}' serve --stdio --role writer --path /nonexistent/region");
    told(&missing, 14, &["is the disk mounted"]);
    let unusable = format!("exec '{BINARY}' serve --stdio --role writer");
    told(&unusable, 2, &["--path"]);
    let absent = run(&program, "/nonexistent/ssh -4", &["--json", "snapshots"]).expect(2).error();
    assert!(absent["message"].as_str().unwrap().contains("/nonexistent/ssh"), "{absent}");
    for url in ["far=ssh://anna:secret@host/x", "far=ssh://-oProxyCommand=x/y"] {
        let refused = program.run(["--json", "--region", url, "snapshots"]).expect(2);
        assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    }
}

#[test]
fn serve_needs_to_know_what_it_serves_and_to_whom() {
    let program = Program::bare();
    let path = program.home.path().display().to_string();
    for arguments in [
        &["serve", "--role", "writer", "--path", &path][..],
        &["serve", "--stdio", "--path", &path],
        &["serve", "--stdio", "--role", "writer"],
        &["serve", "--stdio", "--role", "root", "--path", &path],
        &["serve", "--stdio", "--role", "writer", "--path", "relative"],
        &["serve", "--stdio", "--role", "writer", "--path", &path, "--identity", "identity"],
    ] {
        let ended = program.run(arguments).expect(2);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
    let absent = ["serve", "--stdio", "--role", "writer", "--path", &path, "--dataset", "db", "--identity", "absent"];
    assert_eq!(program.run(absent).expect(12).stdout, "");
}

/// The options of a region in the file, where nothing is in the environment.
#[test]
fn a_region_in_the_file_has_a_command_of_its_own() {
    let program = served();
    let file = program.path("keepstone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let command = forced(&program, "far", "--role writer");
    let url = "url = \"ssh://host/\"";
    assert!(text.contains(url), "{text}");
    std::fs::write(&file, text.replace(url, &format!("{url}\nssh_command = {command}\nconnections = 2"))).unwrap();
    assert_eq!(program.run(["--json", "snapshots"]).expect(0).json().as_array().unwrap().len(), 0);
}

/// What another machine answers is no mistake in the configuration here: the other regions get the snapshot.
#[test]
fn a_server_that_answers_wrongly_is_a_region_that_is_not_reached() {
    let program = Program::new();
    let file = program.path("keepstone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let near = text.lines().find(|line| line.starts_with("url") && line.contains("/two")).unwrap();
    std::fs::write(&file, text.replace(near, "url = \"ssh://host/\"\ntimeout_seconds = 1")).unwrap();
    let source = program.source().display().to_string();
    let sound = forced(&program, "two", "--role owner");
    program.write("a", &noise(1, 100_000));
    run(&program, &sound, &["backup", &source]).expect(0);
    for (at, script) in [
        "echo 'sh: keepstone: not found' >&2; exit 127",
        "echo Welcome to host; cat",
        "head -c 100000 /dev/urandom; cat >/dev/null",
        "echo usage >&2; exit 2",
        "exec sleep 100",
    ]
    .iter()
    .enumerate()
    {
        program.write("a", &noise(at as u64 + 2, 100_000));
        let saved = run(&program, &shell(script), &["--json", "backup", &source]).expect(3).json();
        let region =
            |name: &str| saved["regions"].as_array().unwrap().iter().find(|region| region["name"] == name).cloned();
        assert_eq!(region("one").unwrap()["committed"], true, "{script}");
        assert_eq!(region("two").unwrap()["committed"], false, "{script}");
        assert!(!region("two").unwrap()["failure"].as_str().unwrap().is_empty(), "{script}");
        run(&program, &shell(script), &["snapshots"]).expect(0);
    }
    // What can't be an address is wrong here.
    run(&program, &sound, &["--region", "x=ssh://anna:secret@host/x", "--region", "one", "snapshots"]).expect(2);
    run(&program, &sound, &["backup", &source]).expect(0);
    run(&program, &sound, &["check"]).expect(0);
}

/// A server's directory on this machine, met by another way than the region's address.
#[test]
fn a_region_inside_the_source_is_left_out_and_spared_by_what_it_holds() {
    let program = Program::bare();
    std::fs::create_dir_all(program.path("source/disk")).unwrap();
    let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
    let owner = forced(&program, "source/disk/far", "--role owner");
    let ask = |arguments: &[&str]| run(&program, &owner, arguments);
    ask(&["--region", "far=ssh://host/", "init", "--recipient", &recipient]).expect(0);
    program.write("file", &noise(1, 300_000));
    // Another repository's is data as any other.
    let other = Program::new();
    let copied = Command::new("cp").arg("-r").args([other.path("one"), program.path("source/other")]).status().unwrap();
    assert!(copied.success());
    let saved = ask(&["--json", "backup", "source"]).expect(0).json();
    assert_eq!(saved["omitted"], 1, "{saved}");
    let listed = ask(&["ls", "latest", "--recursive"]).expect(0).stdout;
    assert!(listed.contains("other/config") && listed.contains("disk/far"), "{listed}");
    assert!(!listed.contains("disk/far/"), "{listed}");

    let arguments =
        ["restore", "latest", "--to", "source", "--overwrite", "if-different", "--delete", "--delete-excluded"];
    let in_place = program.listing("source/disk/far");
    ask(&arguments).expect(0);
    assert_eq!(program.listing("source/disk/far"), in_place);
    std::fs::rename(program.path("source/disk/far"), program.path("source/moved")).unwrap();
    std::fs::create_dir(program.path("source/new")).unwrap();
    let owner = forced(&program, "source/moved", "--role owner");
    let before = program.listing("source/moved");
    let done = run(&program, &owner, &[&["--json"], &arguments[..]].concat()).expect(4);
    assert!(done.stdout.contains("a region or the cache is here"), "{}", done.stdout);
    assert!(!program.path("source/new").exists());
    assert_eq!(program.listing("source/moved"), before);
    run(&program, &owner, &["check", "--read-data"]).expect(0);
}
