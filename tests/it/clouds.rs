//! Google Cloud Storage and Azure Blob Storage over HTTP: the part of Google's API that is S3's, by moto, and Azurite.
//!
//! What these can and can't judge stands in `tests/services`. `KEEPSTONE_TEST_S3=off` and `KEEPSTONE_TEST_AZURE=off`
//! skip them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::fixture::{assert_same, noise};
use crate::program::Program;
use crate::service::{Service, check_large_and_many};
use keepstone::env::SystemRandom;
use keepstone::store::contract::check_contract;
use keepstone::store::open::open_store;
use keepstone::store::probe::probe;
use keepstone::store::{StoreErrorKind, list_sorted};

/// The account and key that Azurite documents.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// One that asks nobody for a token.
const GOOGLE_KEY: &str = r#"{"private_key":"none","private_key_id":"none","client_email":"none","disable_oauth":true}"#;

/// A service with one empty bucket or container `test`.
struct Cloud {
    _service: Service,
    scheme: &'static str,
    options: BTreeMap<String, String>,
}

impl Cloud {
    fn google() -> Option<Cloud> {
        let service = Service::start("s3", "KEEPSTONE_TEST_S3")?;
        let mut stream = TcpStream::connect(("127.0.0.1", service.port)).expect("connect");
        let head = "Host: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n";
        write!(stream, "PUT /test HTTP/1.1\r\n{head}\r\n").expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        let endpoint = format!("http://127.0.0.1:{}", service.port);
        Some(Cloud::new(service, "gs", &[("endpoint", &endpoint), ("service_account_key", GOOGLE_KEY)]))
    }

    fn azure() -> Option<Cloud> {
        let mut service = Service::start("azure", "KEEPSTONE_TEST_AZURE")?;
        let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", service.port);
        let options = [("endpoint", endpoint.as_str()), ("account_name", ACCOUNT), ("account_key", ACCOUNT_KEY)];
        let given = with_http(&options);
        // The container comes a little later than the server.
        service.wait_until(|_| open_store("az://test", &given, false).is_ok());
        Some(Cloud::new(service, "az", &options))
    }

    fn new(service: Service, scheme: &'static str, options: &[(&str, &str)]) -> Cloud {
        Cloud { _service: service, scheme, options: with_http(options) }
    }

    fn url(&self, rest: &str) -> String {
        format!("{}://{rest}", self.scheme)
    }

    fn contract(&self) {
        for rest in ["test", "test/some/prefix"] {
            let store = open_store(&self.url(rest), &self.options, false).expect("open");
            check_contract(&*store, &SystemRandom).expect("contract");
            let found = probe(&*store, &SystemRandom).expect("probe");
            assert!(found.put_if_absent && found.deletes, "{found:?}");
            assert_eq!(list_sorted(&*store, "").expect("list"), []);
        }
    }

    fn large_and_many(&self) {
        let store = open_store(&self.url("test/region"), &self.options, false).expect("open");
        check_large_and_many(&*store);
    }

    /// Backs up, restores from the cloud alone, forgets and collects, all with the program.
    fn whole_way(&self) {
        let program = Program::bare();
        let line = |(name, value): (&String, &String)| match name.as_str() {
            "allow_http" => "allow_http = true".to_owned(),
            _ => format!("{name} = '{value}'"),
        };
        let options: Vec<String> = self.options.iter().map(line).collect();
        let file = format!(
            "[[regions]]\nname = 'cloud'\nurl = '{}'\n{}\n\n[[regions]]\nname = 'disk'\nurl = '{}'\n\n[retention]\nforget_window = '1ns'\n",
            self.url("test/backups"),
            options.join("\n"),
            program.path("disk").display()
        );
        std::fs::write(program.path("keepstone.toml"), file).unwrap();
        std::fs::set_permissions(program.path("keepstone.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let recipient = std::fs::read_to_string(program.path("recipient")).unwrap();
        program.run(["init", "--recipient", &recipient]).expect(0);
        program.write("big", &noise(9, 20_000_000));
        let first = program.backup(&[]);
        program.write("big", &noise(10, 20_000_000));
        let second = program.backup(&[]);
        for summary in [&first, &second] {
            let regions = summary["regions"].as_array().expect("regions");
            assert!(regions.iter().all(|region| region["committed"] == true), "{summary}");
        }
        program.run(["forget", first["snapshot"].as_str().expect("id")]).expect(0);
        for _ in 0..3 {
            program.run(["gc", "--now"]).expect(0);
        }
        let left = open_store(&self.url("test/backups"), &self.options, false).expect("open");
        let bytes: u64 = list_sorted(&*left, "packs/").expect("list").iter().map(|listed| listed.size).sum();
        assert!((20_000_000..30_000_000).contains(&bytes), "{bytes} bytes stay of 40,000,000");

        std::fs::rename(program.path("disk"), program.path("gone")).unwrap();
        std::fs::remove_dir_all(program.path("cache")).unwrap();
        program.restore("out", &["latest", "--verify"]).expect(0);
        assert_same(&program.source(), &program.path("out"));
        program.run(["scrub", "cloud"]).expect(0);
    }
}

fn with_http(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = options.iter().copied().chain([("allow_http", "true")]);
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_contract_holds_in_a_google_bucket() {
    if let Some(cloud) = Cloud::google() {
        cloud.contract();
        cloud.large_and_many();
    }
}

#[test]
fn the_contract_holds_in_an_azure_container() {
    if let Some(cloud) = Cloud::azure() {
        cloud.contract();
        cloud.large_and_many();
    }
}

#[test]
fn the_program_backs_up_into_a_google_bucket_restores_from_it_alone_and_collects_there() {
    if let Some(cloud) = Cloud::google() {
        cloud.whole_way();
    }
}

#[test]
fn the_program_backs_up_into_an_azure_container_restores_from_it_alone_and_collects_there() {
    if let Some(cloud) = Cloud::azure() {
        cloud.whole_way();
    }
}

#[test]
fn a_wrong_account_key_is_refused_by_name_and_not_repeated() {
    let Some(cloud) = Cloud::azure() else { return };
    let wrong = "d3JvbmcgIGtleSBvZiBub2JvZHkgYXQgYWxsLCB0aGF0IGlzIGxvbmcgZW5vdWdoIGZvciBBenVyaXRlLi4uLg==";
    let mut options = cloud.options.clone();
    options.insert("account_key".to_owned(), wrong.to_owned());
    let error = open_store("az://test", &options, false).err().expect("a wrong key");
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains(wrong) && error.to_string().contains("az://test"), "{error}");
    let error = open_store("az://absent", &cloud.options, false).err().expect("no such container");
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{error}");
}
