//! From `ssh://[user@]host[:port]/path` and its options to the command that reaches it.
//!
//! Guarantees: neither host nor user can be taken for an option of `ssh`, and the path reaches the
//! other side's shell as one word.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::store::{StoreError, StoreErrorKind};

/// How `ssh` is run: no prompts, since several connections are opened and nobody may be there; a dead
/// network is noticed within two minutes. A configured command that is `ssh` gets these behind its own
/// options, of which ssh takes the first: what it says itself is what holds.
const SSH: &[&str] = &[
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=30",
    "-o",
    "ServerAliveInterval=30",
    "-o",
    "ServerAliveCountMax=3",
];
const OPTIONS: &str = "connections, remote_program, ssh_command, timeout_seconds";
const CONNECTIONS: usize = 4;
const CONNECTIONS_MAX: usize = 64;
/// Silence for so long means that the other side is gone. Syncing a pack to a slow disk must fit.
const TIMEOUT_SECONDS: u64 = 300;

/// A remote region, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// For messages.
    pub(super) text: String,
    /// Program and arguments that give the other side's input and output.
    pub(super) command: Vec<String>,
    /// The directory there; empty for whichever that side has.
    pub(super) path: String,
    /// Most connections at once.
    pub(super) connections: usize,
    /// Longest silence.
    pub(super) timeout: Duration,
}

fn invalid(detail: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, "open", "ssh:", "", detail.into())
}

/// Reads an address and its options.
///
/// # Errors
/// `Invalid`, without repeating any of them: a password may be in it.
pub(super) fn parse(url: &str, options: &BTreeMap<String, String>) -> Result<Address, StoreError> {
    const FORM: &str = "an ssh address is ssh://[user@]host[:port]/path, or ssh://host/~/path for one below the home \
                        directory there";
    let parsed = url::Url::parse(url).ok().filter(|url| url.query().is_none() && url.fragment().is_none());
    let parsed = parsed.ok_or_else(|| invalid(FORM))?;
    if parsed.password().is_some() {
        return Err(invalid("the address has a password in it; ssh takes keys, from its own files or an agent"));
    }
    let user = parsed.username();
    let host = parsed.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let plain = |text: &str| {
        !text.starts_with('-') && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:@+".contains(&byte))
    };
    if host.is_empty() || !plain(host) || host.contains('@') || !plain(user) {
        return Err(invalid(FORM));
    }
    let path = path(&parsed).ok_or_else(|| invalid(FORM))?;
    let mut program = "keepstone".to_owned();
    let mut command = vec!["ssh".to_owned()];
    let (mut connections, mut timeout) = (CONNECTIONS, TIMEOUT_SECONDS);
    for (option, value) in options {
        let number = |max: u64| {
            value
                .parse::<u64>()
                .ok()
                .filter(|number| (1..=max).contains(number))
                .ok_or_else(|| invalid(format!("the option {option} must be a whole number from 1 to {max}")))
        };
        match option.as_str() {
            "ssh_command" => command = words(value)?,
            "remote_program" => program = value.clone(),
            "connections" => connections = number(CONNECTIONS_MAX as u64)? as usize,
            "timeout_seconds" => timeout = number(24 * 60 * 60)?,
            other => return Err(invalid(format!("unknown option {other}; ssh: knows {OPTIONS}"))),
        }
    }
    if program.is_empty() || program.starts_with('-') {
        return Err(invalid("the option remote_program must be a program's name or path"));
    }
    if command.first().is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == "ssh")) {
        command.extend(SSH.iter().map(|&word| word.to_owned()));
    }
    if let Some(port) = parsed.port() {
        command.extend(["-p".to_owned(), port.to_string()]);
    }
    command.push(if user.is_empty() { host.to_owned() } else { format!("{user}@{host}") });
    // A forced command on the other side takes the place of this one; where there is none, whoever may
    // log in may do everything anyway.
    let mut there = format!("{} serve --stdio --role owner", quoted(&program));
    if !path.is_empty() {
        there.push_str(&format!(" --path {}", quoted(&path)));
    }
    command.push(there);
    let at = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
    let user = if user.is_empty() { String::new() } else { format!("{user}@") };
    let shown = parsed.host_str().unwrap_or_default();
    let slash = if path.starts_with('~') { "/" } else { "" };
    Ok(Address {
        text: format!("ssh://{user}{shown}{at}{slash}{path}"),
        command,
        path,
        connections,
        timeout: Duration::from_secs(timeout),
    })
}

/// The decoded path: absolute, or from `~/`, or empty; `None` where it can't be one.
fn path(url: &url::Url) -> Option<String> {
    // What percent signs stand for is the same in every kind of address.
    let file = url::Url::parse(&format!("file://{}", url.path())).ok()?;
    let path = file.to_file_path().ok()?.into_os_string().into_string().ok()?;
    if path.chars().any(char::is_control) || path.len() > super::message::PATH_BYTES_MAX {
        return None;
    }
    match path.strip_prefix("/~") {
        Some(below) if below.len() > 1 && below.starts_with('/') => Some(format!("~{below}")),
        // Nobody else's home directory, and not the whole of one's own.
        Some(_) => None,
        None if path == "/" => Some(String::new()),
        None => Some(path),
    }
}

/// A command as a list in JSON, as the configuration file's lists come, or as words between spaces.
fn words(text: &str) -> Result<Vec<String>, StoreError> {
    let words: Vec<String> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text)
            .map_err(|_| invalid("the option ssh_command must be a list of strings, program first"))?,
        false => text.split_whitespace().map(str::to_owned).collect(),
    };
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(invalid("the option ssh_command names no program")),
    }
}

/// One word of a POSIX shell.
fn quoted(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &[(&str, &str)]) -> Result<Address, StoreError> {
        parse(url, &options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn tail(address: &Address) -> Vec<&str> {
        address.command.iter().map(String::as_str).skip(1 + SSH.len()).collect()
    }

    #[test]
    fn the_command_names_host_port_and_path() {
        let address = open("ssh://anna@nas.example:2222/srv/my%20backups", &[]).expect("an address");
        assert_eq!(
            tail(&address),
            ["-p", "2222", "anna@nas.example", "keepstone serve --stdio --role owner --path '/srv/my backups'"]
        );
        assert_eq!(address.text, "ssh://anna@nas.example:2222/srv/my backups");
        assert_eq!(address.path, "/srv/my backups");
        assert_eq!(address.command[0], "ssh");
        assert_eq!(address.command[1..=SSH.len()], *SSH);

        let home = open("ssh://nas/~/back'ups", &[]).expect("an address");
        assert_eq!(home.path, "~/back'ups");
        assert_eq!(tail(&home), ["nas", r"keepstone serve --stdio --role owner --path '~/back'\''ups'"]);
        assert_eq!(home.text, "ssh://nas/~/back'ups");

        for url in ["ssh://nas", "ssh://nas/"] {
            let whichever = open(url, &[]).expect("an address");
            assert_eq!((whichever.path.as_str(), whichever.text.as_str()), ("", "ssh://nas"));
            assert_eq!(tail(&whichever), ["nas", "keepstone serve --stdio --role owner"]);
        }
        assert_eq!(tail(&open("ssh://[::1]/x", &[]).expect("an address"))[0], "::1");
    }

    #[test]
    fn options_replace_programs_and_bounds() {
        let options = [("ssh_command", r#"["my ssh", "-i", "key file"]"#), ("remote_program", "/opt/ks/keepstone")];
        let address = open("ssh://nas/x", &options).expect("an address");
        assert_eq!(
            address.command,
            ["my ssh", "-i", "key file", "nas", "/opt/ks/keepstone serve --stdio --role owner --path /x"]
        );
        let plain = open("ssh://nas/x", &[("ssh_command", " ssh  -4 ")]).expect("an address");
        assert_eq!(plain.command[..3], ["ssh", "-4", "-T"]);
        // It asks nothing, whatever options of its own it has.
        assert_eq!(plain.command[2..2 + SSH.len()], *SSH);
        assert_eq!(plain.command[2 + SSH.len()], "nas");
        let elsewhere = open("ssh://nas/x", &[("ssh_command", "/opt/bin/ssh -4")]).expect("an address");
        assert!(elsewhere.command.contains(&"BatchMode=yes".to_owned()));
        let bounds = open("ssh://nas/x", &[("connections", "1"), ("timeout_seconds", "9")]).expect("an address");
        assert_eq!((bounds.connections, bounds.timeout), (1, Duration::from_secs(9)));
        for (option, value) in [
            ("connections", "0"),
            ("connections", "65"),
            ("timeout_seconds", "soon"),
            ("ssh_command", ""),
            ("ssh_command", "[1]"),
            ("ssh_command", "[]"),
            ("remote_program", "-x"),
            ("port", "22"),
        ] {
            let error = open("ssh://nas/x", &[(option, value)]).expect_err("refused");
            assert_eq!(error.kind, StoreErrorKind::Invalid);
            assert!(error.detail.contains(option), "{error}");
        }
    }

    #[test]
    fn what_could_be_an_option_or_a_secret_is_refused() {
        for url in [
            "ssh://-oProxyCommand=evil/x",
            "ssh://-x@host/x",
            "ssh://user:hunter22@host/x",
            "ssh:///x",
            "ssh:host",
            "ssh://host/x?hunter22",
            "ssh://host/x#hunter22",
            "ssh://host/a%00b",
            "ssh://host/a%0ab",
            "ssh://host/a%ffb",
            "ssh://ho st/x",
            "ssh://host/~",
            "ssh://host/~/",
            "ssh://host/~anna/x",
            "ssh://a%20b@host/x",
        ] {
            let error = open(url, &[]).expect_err(url);
            assert_eq!(error.kind, StoreErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("hunter22"), "{error}");
        }
    }
}
