//! Credentials as the AWS tools take them: the shared credentials and config files and their profiles.
//!
//! Read are `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`, `region` and
//! `endpoint_url`. Profiles that only say where keys come from (`role_arn`, `sso_*`,
//! `credential_process`) are refused by name with the command that turns them into keys.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// What a profile says; credentials only as a whole.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) keys: Option<Keys>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// A static set of credentials.
pub(super) struct Keys {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Zeroizing<String>,
    pub(super) session_token: Option<Zeroizing<String>>,
}

/// Why a profile can't be used. Carries no values.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: neither a [section] nor a setting", path.display())]
    Line { path: PathBuf, line: usize },
    #[error("there is no profile {profile} in {} or {}", credentials.display(), config.display())]
    Absent { profile: String, credentials: PathBuf, config: PathBuf },
    #[error("profile {profile} has only one of aws_access_key_id and aws_secret_access_key")]
    Half { profile: String },
    #[error(
        "profile {profile} holds no keys but {setting}, which is not supported; run: \
         eval \"$(aws configure export-credentials --profile {profile} --format env)\""
    )]
    Indirect { profile: String, setting: String },
}

/// Where the two files are.
pub(super) struct Files {
    credentials: PathBuf,
    config: PathBuf,
}

type Sections = BTreeMap<String, BTreeMap<String, Zeroizing<String>>>;

impl Files {
    /// The paths that the environment names, else those below the home directory.
    pub(super) fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = PathBuf::from(variable("HOME").unwrap_or_default());
        let path = |name: &str, file: &str| variable(name).map_or_else(|| home.join(".aws").join(file), PathBuf::from);
        Files {
            credentials: path("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: path("AWS_CONFIG_FILE", "config"),
        }
    }

    /// Looks a profile up; what the credentials file says wins. `None` when neither file has it.
    ///
    /// # Errors
    /// When a file that exists can't be read, or the profile can't be used.
    pub(super) fn profile(&self, name: &str) -> Result<Option<Profile>, ProfileError> {
        let credentials = read(&self.credentials)?.remove(name);
        let mut config = read(&self.config)?;
        // `[default]` needs no "profile" before it, but may have it.
        let section = config.remove(&format!("profile {name}"));
        let config = section.or_else(|| if name == "default" { config.remove(name) } else { None });
        if credentials.is_none() && config.is_none() {
            return Ok(None);
        }
        let (credentials, config) = (credentials.unwrap_or_default(), config.unwrap_or_default());
        let found = match keys(name, &credentials)? {
            Some(keys) => Some(keys),
            // They may stand in the config file too.
            None => keys(name, &config)?,
        };
        if found.is_none() {
            let indirect = |setting: &&String| {
                setting.starts_with("sso_")
                    || matches!(setting.as_str(), "role_arn" | "credential_process" | "login_session")
            };
            if let Some(setting) = credentials.keys().chain(config.keys()).find(indirect) {
                return Err(ProfileError::Indirect { profile: name.to_owned(), setting: setting.clone() });
            }
        }
        let setting = |name: &str| credentials.get(name).or_else(|| config.get(name)).map(|value| value.to_string());
        Ok(Some(Profile { keys: found, region: setting("region"), endpoint: setting("endpoint_url") }))
    }

    /// The error for a profile that was asked for by name.
    pub(super) fn absent(self, profile: &str) -> ProfileError {
        ProfileError::Absent { profile: profile.to_owned(), credentials: self.credentials, config: self.config }
    }
}

fn keys(profile: &str, settings: &BTreeMap<String, Zeroizing<String>>) -> Result<Option<Keys>, ProfileError> {
    match (settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => Ok(Some(Keys {
            access_key_id: id.to_string(),
            secret_access_key: secret.clone(),
            session_token: settings.get("aws_session_token").cloned(),
        })),
        (None, None) => Ok(None),
        _ => Err(ProfileError::Half { profile: profile.to_owned() }),
    }
}

// An absent file has no sections; one that can't be read is an error.
fn read(path: &PathBuf) -> Result<Sections, ProfileError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sections::new()),
        Err(source) => return Err(ProfileError::Read { path: path.clone(), source }),
    };
    parse(&text).map_err(|line| ProfileError::Line { path: path.clone(), line })
}

// The files' format: sections, `name = value`, whole-line comments, and indented lines below an
// empty setting, which belong to services that are not ours. Fails with the number of a bad line.
fn parse(text: &str) -> Result<Sections, usize> {
    let mut sections = Sections::new();
    let mut current: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(section) = trimmed.strip_prefix('[') {
            let (name, _) = section.split_once(']').ok_or(index + 1)?;
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "");
            sections.entry(name.clone()).or_default();
            current = Some(name);
            continue;
        }
        let (name, value) = trimmed.split_once('=').ok_or(index + 1)?;
        let section = current.as_ref().and_then(|section| sections.get_mut(section)).ok_or(index + 1)?;
        let value = value.split_once(" #").map_or(value, |(value, _)| value).trim();
        section.insert(name.trim().to_ascii_lowercase(), Zeroizing::new(value.to_owned()));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(credentials: &str, config: &str) -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files =
            Files { credentials: directory.path().join("credentials"), config: directory.path().join("config") };
        std::fs::write(&files.credentials, credentials).expect("credentials");
        std::fs::write(&files.config, config).expect("config");
        (directory, files)
    }

    #[test]
    fn keys_and_region_come_from_both_files() {
        let (_directory, files) = files(
            "# comment\n[default]\naws_access_key_id=A\naws_secret_access_key = s=e+c/r \n\n[other]\naws_access_key_id=B\naws_secret_access_key=t\naws_session_token=u\n",
            "[default]\nregion = eu-west-1\n[profile other]\nregion=us-west-2 # inline\nendpoint_url=http://localhost:1\ns3 =\n  max_concurrent_requests = 20\n",
        );
        let default = files.profile("default").expect("read").expect("present");
        let keys = default.keys.expect("keys");
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.as_str()), ("A", "s=e+c/r"));
        assert!(keys.session_token.is_none());
        assert_eq!(default.region.as_deref(), Some("eu-west-1"));
        let other = files.profile("other").expect("read").expect("present");
        assert_eq!(other.keys.expect("keys").session_token.expect("token").as_str(), "u");
        assert_eq!(
            (other.region.as_deref(), other.endpoint.as_deref()),
            (Some("us-west-2"), Some("http://localhost:1"))
        );
        assert!(files.profile("absent").expect("read").is_none());
    }

    #[test]
    fn profiles_that_cannot_be_used_are_refused() {
        let (_directory, files) =
            files("[half]\naws_access_key_id=A\n", "[profile sso]\nsso_session=x\n[profile role]\nrole_arn=y\n");
        assert!(matches!(files.profile("half"), Err(ProfileError::Half { .. })));
        for name in ["sso", "role"] {
            assert!(matches!(files.profile(name), Err(ProfileError::Indirect { .. })), "{name}");
        }
    }

    #[test]
    fn absent_files_are_no_profiles_and_unreadable_ones_an_error() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = |name: &str| match name {
            "AWS_SHARED_CREDENTIALS_FILE" => Some(directory.path().display().to_string()),
            _ => Some("/nonexistent".to_owned()),
        };
        assert!(matches!(Files::from_environment(&place).profile("default"), Err(ProfileError::Read { .. })));
        let nowhere = Files::from_environment(&|name| (name == "HOME").then(|| "/nonexistent".to_owned()));
        assert!(nowhere.profile("default").expect("absent").is_none());
    }

    #[test]
    fn bad_lines_are_named_without_their_text() {
        let (_directory, files) = files("[a]\nsecretvalue\n", "");
        let error = files.profile("a").err().expect("bad line").to_string();
        assert!(error.contains("line 2") && !error.contains("secretvalue"), "{error}");
        assert_eq!(parse("a = b\n"), Err(1));
        assert_eq!(parse("[open\n"), Err(1));
    }
}
