//! From an address and options to a client of the service.
//!
//! Options are a closed list a scheme; whatever else a service's own tools take from the environment
//! is taken too. Values of options never enter an error, since any of them may be a secret put into
//! the wrong place.

use std::collections::BTreeMap;
use std::env;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore as Remote, RetryConfig, StaticCredentialProvider};

use super::aws::{Files, Keys, Profile};
use super::fault::{Fault, Secrets};
use super::genuine::Genuine;
use crate::store::{StoreError, StoreErrorKind};

type Options = BTreeMap<String, String>;

/// A client and what its store needs to know of it.
pub(super) struct Opened {
    pub(super) remote: Arc<dyn Remote>,
    pub(super) address: String,
    pub(super) prefix: Path,
    pub(super) put_if_absent: bool,
    pub(super) secrets: Secrets,
}

/// Our option, and the client's name for it where it is passed on as it is.
type Known = (&'static str, Option<&'static str>);

const S3: &[Known] = &[
    ("access_key_id", None),
    ("allow_http", Some("allow_http")),
    ("checksum_algorithm", Some("checksum_algorithm")),
    ("endpoint", None),
    ("profile", None),
    ("proxy_url", Some("proxy_url")),
    ("put_if_absent", None),
    ("region", Some("region")),
    ("secret_access_key", None),
    ("server_side_encryption", Some("server_side_encryption")),
    ("session_token", None),
    ("skip_signature", Some("skip_signature")),
    ("sse_kms_key_id", Some("sse_kms_key_id")),
    ("virtual_hosted_style", Some("virtual_hosted_style_request")),
];
const GS: &[Known] = &[
    ("allow_http", Some("allow_http")),
    ("endpoint", Some("base_url")),
    ("proxy_url", Some("proxy_url")),
    ("put_if_absent", None),
    ("service_account_file", Some("service_account")),
    ("service_account_key", Some("service_account_key")),
    ("skip_signature", Some("skip_signature")),
];
const AZ: &[Known] = &[
    ("account_key", Some("account_key")),
    ("account_name", Some("account_name")),
    ("allow_http", Some("allow_http")),
    ("client_id", Some("client_id")),
    ("client_secret", Some("client_secret")),
    ("endpoint", Some("endpoint")),
    ("proxy_url", Some("proxy_url")),
    ("put_if_absent", None),
    ("sas_token", Some("sas_token")),
    ("skip_signature", Some("skip_signature")),
    ("tenant_id", Some("tenant_id")),
    ("use_azure_cli", Some("use_azure_cli")),
    ("use_emulator", Some("use_emulator")),
];

/// Options that are true or false.
const FLAGS: &[&str] =
    &["allow_http", "put_if_absent", "skip_signature", "use_azure_cli", "use_emulator", "virtual_hosted_style"];

/// Parses the address, checks the options and builds the client; connects to nothing.
///
/// # Errors
/// `Invalid` when the address, an option or a profile is unusable.
pub(super) fn open(url: &str, options: &Options) -> Result<Opened, StoreError> {
    let target = Target::parse(url)?;
    let known = match target.scheme {
        "s3" => S3,
        "gs" => GS,
        _ => AZ,
    };
    if let Some(unknown) = options.keys().find(|option| known.iter().all(|(name, _)| name != option)) {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        return Err(target.invalid(format!(
            "unknown option {unknown}; {}:// knows {}",
            target.scheme,
            names.join(", ")
        )));
    }
    for flag in FLAGS {
        target.flag(options, flag)?;
    }
    let put_if_absent = target.flag(options, "put_if_absent")?.unwrap_or(true);
    let endpoint = options.get("endpoint");
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
        && target.flag(options, "allow_http")? != Some(true)
    {
        return Err(target.invalid("the endpoint is plain http; set allow_http to true if that is meant".to_owned()));
    }
    let mut secrets = Secrets::default();
    let built = match target.scheme {
        "s3" => s3(&target, options, &mut secrets),
        "gs" => gs(&target, options, &mut secrets),
        _ => az(&target, options, &mut secrets),
    };
    let (remote, endpoint) = built.map_err(|mut error| {
        error.detail = secrets.scrub(error.detail);
        error
    })?;
    let host = endpoint.and_then(|endpoint| host(&endpoint));
    let address = target.address + &host.map(|host| format!(" ({host})")).unwrap_or_default();
    Ok(Opened { remote, address, prefix: target.prefix, put_if_absent, secrets })
}

// A parsed address.
struct Target {
    scheme: &'static str,
    bucket: String,
    prefix: Path,
    address: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let scheme = ["s3", "gs", "az"].into_iter().find(|known| *known == scheme).unwrap_or("s3");
        let invalid = |detail: &str| {
            StoreError::new(StoreErrorKind::Invalid, "open", &format!("{scheme}://"), "", detail.to_owned())
        };
        // Not repeated in the error: somebody may have put credentials there.
        if rest.contains(['@', '?', '#', '%', ':']) {
            return Err(invalid("the address holds a bucket and a prefix only; keys and the like are options"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(invalid("the address names no bucket"));
        }
        let prefix =
            Path::parse(prefix.trim_matches('/')).map_err(|_| invalid("the prefix is not usable as a path"))?;
        let address = format!("{scheme}://{bucket}/{prefix}").trim_end_matches('/').to_owned();
        Ok(Target { scheme, bucket: bucket.to_owned(), prefix, address })
    }

    fn invalid(&self, detail: String) -> StoreError {
        StoreError::new(StoreErrorKind::Invalid, "open", &self.address, "", detail)
    }

    fn flag(&self, options: &Options, name: &str) -> Result<Option<bool>, StoreError> {
        match options.get(name).map(String::as_str) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.invalid(format!("option {name} is neither true nor false"))),
        }
    }

    // The client may repeat what it was given, and any value may be a secret in the wrong place.
    fn unusable(&self, error: &object_store::Error, options: &Options) -> StoreError {
        let mut values = Secrets::default();
        options.values().for_each(|value| values.add(value.clone()));
        let detail = values.scrub(Fault::from_error(error).detail);
        self.invalid(format!("the service's client refuses this configuration: {detail}"))
    }
}

type Built = Result<(Arc<dyn Remote>, Option<String>), StoreError>;

// The client's keys and values: options that are passed on, and our own choices for every service.
fn settings<K: FromStr>(known: &[Known], options: &Options) -> Vec<(K, String)> {
    let passed = known.iter().filter_map(|(name, key)| Some(((*key)?, options.get(*name)?.clone())));
    let ours = [
        ("user_agent", concat!("keepstone/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("connect_timeout", "10 seconds".to_owned()),
        // The store has limits of its own that know how much is under way.
        ("timeout", "1 day".to_owned()),
    ];
    let all = passed.chain(ours);
    all.filter_map(|(key, value)| key.parse().ok().map(|key| (key, value))).collect()
}

fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5), base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(60) }
}

fn s3(target: &Target, options: &Options, secrets: &mut Secrets) -> Built {
    let environment = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = AmazonS3Builder::from_env();
    let profile = s3_profile(target, options, &environment)?;
    if let Some(Profile { keys, region, endpoint }) = profile {
        let given = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
        if let Some(region) = region.filter(|_| !given(&builder, AmazonS3ConfigKey::Region)) {
            builder = builder.with_region(region);
        }
        let has_endpoint =
            given(&builder, AmazonS3ConfigKey::Endpoint) || given(&builder, AmazonS3ConfigKey::S3Endpoint);
        if let Some(endpoint) = endpoint.filter(|_| !has_endpoint) {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(keys) = keys {
            builder = with_keys(builder, keys, secrets);
        }
    }
    let session_token = options.get("session_token");
    match (options.get("access_key_id"), options.get("secret_access_key")) {
        (Some(id), Some(secret)) => {
            let keys = Keys {
                access_key_id: id.clone(),
                secret_access_key: secret.clone().into(),
                session_token: session_token.map(|token| token.clone().into()),
            };
            builder = with_keys(builder, keys, secrets);
        }
        (None, None) if session_token.is_none() => {}
        _ => return Err(target.invalid("access_key_id and secret_access_key go together".to_owned())),
    }
    for (key, value) in settings::<AmazonS3ConfigKey>(S3, options) {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = options.get("endpoint") {
        // The environment may name one for S3 alone, which would win.
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(endpoint).with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    for key in [AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token] {
        secrets.add(builder.get_config_value(&key).unwrap_or_default());
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let client = builder
        .with_bucket_name(&target.bucket)
        .with_retry(retries())
        .with_http_connector(Genuine)
        .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
        // Single deletes are the one kind that every compatible service has.
        .with_disable_bulk_delete(true)
        .build()
        .map_err(|error| target.unusable(&error, options))?;
    Ok((Arc::new(client), endpoint))
}

fn with_keys(builder: AmazonS3Builder, keys: Keys, secrets: &mut Secrets) -> AmazonS3Builder {
    secrets.add(keys.secret_access_key.to_string());
    keys.session_token.iter().for_each(|token| secrets.add(token.to_string()));
    // As a provider, so that a token from the environment isn't mixed with keys from elsewhere.
    builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
        key_id: keys.access_key_id,
        secret_key: keys.secret_access_key.to_string(),
        token: keys.session_token.map(|token| token.to_string()),
    })))
}

// The profile to use, in the order of the AWS tools: the option, keys in the environment, AWS_PROFILE,
// a web identity, the default profile. Later places (container, instance) are the client's.
fn s3_profile(
    target: &Target,
    options: &Options,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Profile>, StoreError> {
    let files = Files::from_environment(environment);
    let unusable = |error: super::aws::ProfileError| target.invalid(error.to_string());
    let chosen = options.get("profile").cloned();
    let keys_elsewhere = environment("AWS_ACCESS_KEY_ID").is_some() || options.contains_key("access_key_id");
    let skips = options.get("skip_signature").is_some_and(|skip| skip == "true");
    if chosen.is_none() && (keys_elsewhere || skips) {
        return Ok(None);
    }
    if let Some(name) = chosen.or_else(|| environment("AWS_PROFILE")) {
        return match files.profile(&name).map_err(unusable)? {
            Some(profile) => Ok(Some(profile)),
            None => Err(unusable(files.absent(&name))),
        };
    }
    if environment("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        return Ok(None);
    }
    files.profile("default").map_err(unusable)
}

fn gs(target: &Target, options: &Options, secrets: &mut Secrets) -> Built {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (key, value) in settings::<GoogleConfigKey>(GS, options) {
        builder = builder.with_config(key, value);
    }
    for key in [GoogleConfigKey::ServiceAccountKey, GoogleConfigKey::BearerToken] {
        secrets.add(builder.get_config_value(&key).unwrap_or_default());
    }
    let client = builder
        .with_bucket_name(&target.bucket)
        .with_retry(retries())
        .with_http_connector(Genuine)
        .build()
        .map_err(|error| target.unusable(&error, options))?;
    Ok((Arc::new(client), options.get("endpoint").cloned()))
}

fn az(target: &Target, options: &Options, secrets: &mut Secrets) -> Built {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (key, value) in settings::<AzureConfigKey>(AZ, options) {
        builder = builder.with_config(key, value);
    }
    use AzureConfigKey as Key;
    for key in [Key::AccessKey, Key::ClientSecret, Key::SasKey, Key::Token] {
        secrets.add(builder.get_config_value(&key).unwrap_or_default());
    }
    // One container name may stand in many accounts.
    let account = builder.get_config_value(&Key::AccountName);
    let client = builder
        .with_container_name(&target.bucket)
        .with_retry(retries())
        .with_http_connector(Genuine)
        .build()
        .map_err(|error| target.unusable(&error, options))?;
    let account = account.map(|account| format!("https://{account}.blob.core.windows.net"));
    Ok((Arc::new(client), options.get("endpoint").cloned().or(account)))
}

// Host and port of an endpoint, without anything that could be a credential.
fn host(endpoint: &str) -> Option<String> {
    let url = url::Url::parse(endpoint).ok()?;
    let host = url.host_str()?.to_owned();
    Some(url.port().map_or(host.clone(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refused(url: &str, pairs: &[(&str, &str)]) -> StoreError {
        let error = open(url, &options(pairs)).err().expect("refused");
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
        error
    }

    #[test]
    fn every_known_option_is_one_of_the_clients() {
        for (_, key) in S3 {
            assert!(key.is_none_or(|key| AmazonS3ConfigKey::from_str(key).is_ok()), "{key:?}");
        }
        for (_, key) in GS {
            assert!(key.is_none_or(|key| GoogleConfigKey::from_str(key).is_ok()), "{key:?}");
        }
        for (_, key) in AZ {
            assert!(key.is_none_or(|key| AzureConfigKey::from_str(key).is_ok()), "{key:?}");
        }
        for count in [
            settings::<AmazonS3ConfigKey>(S3, &Options::new()).len(),
            settings::<GoogleConfigKey>(GS, &Options::new()).len(),
            settings::<AzureConfigKey>(AZ, &Options::new()).len(),
        ] {
            assert_eq!(count, 3, "our own choices are understood");
        }
    }

    #[test]
    fn addresses_name_bucket_prefix_and_service() {
        let keys = [("access_key_id", "AKIA"), ("secret_access_key", "hunter22")];
        let plain = open("s3://bucket/some/prefix/", &options(&keys)).expect("plain");
        assert!(plain.address.starts_with("s3://bucket/some/prefix"), "{}", plain.address);
        assert_eq!(plain.prefix.as_ref(), "some/prefix");
        let other = [&keys[..], &[("endpoint", "https://user:hunter22@minio.test:9000/"), ("put_if_absent", "false")]];
        let other = open("s3://bucket", &options(&other.concat())).expect("endpoint");
        assert_eq!(other.address, "s3://bucket (minio.test:9000)");
        assert!(!other.put_if_absent);
        let az = [("account_name", "acct"), ("account_key", "aHVudGVyMg==")];
        assert_eq!(open("az://c/p", &options(&az)).expect("az").address, "az://c/p (acct.blob.core.windows.net)");
    }

    #[test]
    fn what_is_unusable_is_refused_without_repeating_it() {
        for url in
            ["s3://key:hunter22@bucket", "s3://bucket?secret=hunter22", "s3://", "s3:///x", "s3://b//hunter22//x"]
        {
            assert!(!refused(url, &[]).to_string().contains("hunter22"), "{url}");
        }
        let error = refused("s3://bucket", &[("secret_key", "hunter22")]);
        assert!(error.detail.contains("secret_access_key") && !error.to_string().contains("hunter22"), "{error}");
        assert!(!refused("s3://b", &[("access_key_id", "hunter22")]).to_string().contains("hunter22"));
        assert!(refused("s3://b", &[("endpoint", "http://h")]).detail.contains("allow_http"));
        assert!(!refused("s3://b", &[("allow_http", "hunter22")]).to_string().contains("hunter22"));
        let az = [("account_name", "a"), ("account_key", "hunter22!")];
        assert!(!refused("az://c", &az).to_string().contains("hunter22"));
        let gs = [("service_account_key", "{\"private_key\": \"hunter22\"}")];
        assert!(!refused("gs://b", &gs).to_string().contains("hunter22"));
    }

    #[test]
    fn profiles_are_chosen_as_the_aws_tools_do() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("credentials");
        let section = |name: &str| format!("[{name}]\naws_access_key_id={name}\naws_secret_access_key=s\n");
        std::fs::write(&path, section("default") + &section("other")).expect("credentials");
        let target = Target::parse("s3://bucket").expect("target");
        let chosen = |pairs: &[(&str, &str)], variables: &[(&str, &str)]| {
            let environment = |name: &str| match name {
                "AWS_SHARED_CREDENTIALS_FILE" => Some(path.display().to_string()),
                "AWS_CONFIG_FILE" => Some("/nonexistent".to_owned()),
                _ => variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()),
            };
            s3_profile(&target, &options(pairs), &environment)
                .map(|profile| profile.and_then(|profile| profile.keys).map(|keys| keys.access_key_id))
        };
        assert_eq!(chosen(&[], &[]).expect("default").as_deref(), Some("default"));
        assert_eq!(chosen(&[], &[("AWS_PROFILE", "other")]).expect("variable").as_deref(), Some("other"));
        assert_eq!(chosen(&[], &[("AWS_PROFILE", "other"), ("AWS_ACCESS_KEY_ID", "x")]).expect("keys"), None);
        let option = chosen(&[("profile", "other")], &[("AWS_ACCESS_KEY_ID", "x")]).expect("option");
        assert_eq!(option.as_deref(), Some("other"));
        assert_eq!(chosen(&[], &[("AWS_WEB_IDENTITY_TOKEN_FILE", "x")]).expect("identity"), None);
        assert!(chosen(&[("profile", "gone")], &[]).expect_err("absent").detail.contains("no profile gone"));
    }
}
