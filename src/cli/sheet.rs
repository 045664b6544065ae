//! The emergency sheet: what to keep on paper to open the repository years from now.
//!
//! Guarantees: it holds no secret but the slot's key file, which is encrypted; its text is printable.
//! Called by `key export`.

use super::config::{Region, Settings};
use super::render;
use crate::format::roster::{Role, RosterSlot};
use crate::repo::Repository;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Columns of an armored line, as age's own armor has them.
const ARMOR_COLUMNS: usize = 64;
/// Options without which a region can't be reached at its address; all others stay off the paper, since some are
/// credentials.
const ADDRESS_OPTIONS: [&str; 12] = [
    "account_name",
    "allow_http",
    "endpoint",
    "profile",
    "put_if_absent",
    "region",
    "remote_program",
    "skip_signature",
    "ssh_command",
    "use_azure_cli",
    "use_emulator",
    "virtual_hosted_style",
];
/// Programs that are given a password as an argument.
const TAKES_PASSWORD: &str = "sshpass";

/// What goes onto the sheet.
pub struct Sheet<'a> {
    /// The open repository.
    pub repository: &'a Repository,
    /// Where its regions are.
    pub settings: &'a Settings,
    /// Whose key file it is.
    pub slot: &'a RosterSlot,
    /// The key file's name in a region.
    pub key_name: &'a str,
    /// The key file: encrypted.
    pub key_file: &'a [u8],
    /// When the sheet is made, nanoseconds since the Unix epoch.
    pub now_ns: i64,
}

/// The file in age's ASCII armor.
fn armored(file: &[u8]) -> Vec<String> {
    let text = STANDARD.encode(file);
    let mut lines = vec!["-----BEGIN AGE ENCRYPTED FILE-----".to_owned()];
    // Base64 is ASCII: any byte boundary is one of characters.
    lines.extend(text.as_bytes().chunks(ARMOR_COLUMNS).map(|line| String::from_utf8_lossy(line).into_owned()));
    lines.push("-----END AGE ENCRYPTED FILE-----".to_owned());
    lines
}

impl Sheet<'_> {
    /// The configured regions with the options that belong to their addresses.
    fn regions(&self) -> impl Iterator<Item = (&Region, Vec<(&str, String)>)> {
        self.settings.regions.iter().map(|region| {
            let all = self.settings.store_options(region);
            let options = ADDRESS_OPTIONS.into_iter().filter_map(|name| Some((name, without_secrets(all.get(name)?)?)));
            (region, options.collect())
        })
    }

    fn opened_by(&self) -> &'static str {
        if self.slot.wrapping == "passphrase" { "its passphrase" } else { "its age identity file" }
    }

    /// The sheet as JSON.
    pub fn document(&self) -> Value {
        let regions: Vec<Value> = self
            .regions()
            .map(|(region, options)| {
                let options: serde_json::Map<String, Value> =
                    options.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                json!({ "name": region.name, "address": region.url, "options": options })
            })
            .collect();
        json!({
            "repository": self.repository.config.repository.to_string(),
            "fingerprint": self.repository.fingerprint().to_string(),
            "suite": self.repository.config.suite.name(),
            "slot": self.slot.slot.to_string(), "label": self.slot.label, "wrapping": self.slot.wrapping,
            "role": self.slot.role.name(), "regions": regions, "key_file_name": self.key_name,
            "key_file": armored(self.key_file).join("\n") + "\n",
            "exported_at": render::json_time(self.now_ns), "program": concat!("keepstone ", env!("CARGO_PKG_VERSION")),
        })
    }

    /// The sheet as text, at most 80 columns where addresses allow.
    pub fn lines(&self) -> Vec<String> {
        let fingerprint = self.repository.fingerprint();
        let mut lines = vec![
            "KEEPSTONE EMERGENCY SHEET".to_owned(),
            String::new(),
            format!("Repository:   {}", self.repository.config.repository),
            format!("Fingerprint:  {fingerprint}"),
            format!("Cipher suite: {}", self.repository.config.suite.name()),
            format!("Key slot:     {} ({})", self.slot.slot, render::printable(&self.slot.label)),
            format!("Role:         {}", self.slot.role.name()),
            format!("Opened by:    {}, which is NOT on this sheet", self.opened_by()),
            format!("Made:         {} by keepstone {}", render::json_time(self.now_ns), env!("CARGO_PKG_VERSION")),
            String::new(),
            "Regions, each of which holds all that it lists:".to_owned(),
        ];
        for (region, options) in self.regions() {
            lines.push(format!("  {} = {}", region.name, render::printable(&region.url)));
            lines.extend(options.iter().map(|(name, value)| format!("      {name} = {}", render::printable(value))));
        }
        lines.extend([
            String::new(),
            "The slot's key file, encrypted. Keep its passphrase or identity apart from this".to_owned(),
            "sheet. Its name in each region:".to_owned(),
            format!("  {}", self.key_name),
            String::new(),
        ]);
        lines.extend(armored(self.key_file));
        if self.slot.role != Role::Owner {
            lines.extend([
                String::new(),
                format!(
                    "THIS SLOT CAN'T RESTORE: it is a {}'s. Keep an owner's sheet for that; this one",
                    self.slot.role.name()
                ),
                "brings the slot itself back.".to_owned(),
            ]);
            return lines;
        }
        lines.extend([
            String::new(),
            "HOW TO RESTORE".to_owned(),
            String::new(),
            "1. Install keepstone (this version or a newer one), or any program that reads".to_owned(),
            "   the repository format, version 1.".to_owned(),
            "2. Write a file keepstone.toml with these lines:".to_owned(),
            String::new(),
            format!("       pin = \"{fingerprint}\""),
        ]);
        for (region, options) in self.regions() {
            lines.extend([
                "       [[regions]]".to_owned(),
                format!("       name = {}", quoted(&region.name)),
                format!("       url = {}", quoted(&region.url)),
            ]);
            lines.extend(options.iter().map(|(name, value)| format!("       {name} = {}", as_toml(value))));
        }
        let secret = match self.slot.wrapping.as_str() {
            "passphrase" => "   It asks for the passphrase of the slot.",
            _ => "   Add --identity FILE with the age identity file of the slot.",
        };
        lines.extend(
            [
                "",
                "   One region is enough: leave out those that are gone. For object stores, put",
                "   the credentials into the environment, as `keepstone --help` says.",
                "3. See what is there:",
                "",
                "       keepstone --config keepstone.toml snapshots",
                "",
                secret,
                "4. Bring the newest snapshot back into a new directory:",
                "",
                "       keepstone --config keepstone.toml restore latest --to DIR --verify",
                "",
                "If the program says that there is no key file, or that no slot opens, put the",
                "one above back. Save this sheet as sheet.txt; then",
                "",
                "       sed -n '/^-----BEGIN/,/^-----END/p' sheet.txt | grep -v -e ----- |",
                "           base64 -d > key.age",
                "",
                "gives the file (`age -d key.age` opens it, too). Store key.age in a region under",
                "the name above, below the region's address, and go on with step 3.",
            ]
            .map(str::to_owned),
        );
        lines
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// An option as the configuration takes it: the settings hold flags and lists as text.
fn as_toml(value: &str) -> String {
    match (value, serde_json::from_str::<Vec<String>>(value)) {
        ("true" | "false", _) => value.to_owned(),
        (_, Ok(words)) => toml::Value::from(words).to_string(),
        _ => quoted(value),
    }
}

/// An option without the credentials that may stand in it; `None` where they can't be told from the rest.
fn without_secrets(value: &str) -> Option<String> {
    if value.contains(TAKES_PASSWORD) {
        return None;
    }
    match url::Url::parse(value) {
        Ok(mut url) if url.has_authority() && (!url.username().is_empty() || url.password().is_some()) => {
            url.set_username("").and_then(|()| url.set_password(None)).ok().map(|()| url.to_string())
        }
        _ => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{armored, as_toml, quoted, without_secrets};

    #[test]
    fn options_are_as_the_configuration_takes_them_and_without_credentials() {
        let list = r#"["ssh","-i","/a \"b\""]"#;
        for (value, expected) in [
            ("true", toml::Value::Boolean(true)),
            ("eu-1", toml::Value::from("eu-1")),
            (list, toml::Value::from(vec!["ssh", "-i", "/a \"b\""])),
            ("ssh -p 22", toml::Value::from("ssh -p 22")),
        ] {
            let table: toml::Table = format!("x = {}", as_toml(value)).parse().expect("TOML");
            assert_eq!(table["x"], expected, "{value}");
        }
        assert_eq!(without_secrets("https://me:hunter2@minio:9000/x").as_deref(), Some("https://minio:9000/x"));
        assert_eq!(without_secrets("http://minio:9000").as_deref(), Some("http://minio:9000"));
        assert_eq!(without_secrets(r#"["sshpass","-p","hunter2","ssh"]"#), None);
        assert_eq!(without_secrets("ssh -i /k").as_deref(), Some("ssh -i /k"));
    }

    #[test]
    fn armor_is_as_age_has_it() {
        let lines = armored(&[0u8; 49]);
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[1].len(), lines[2].as_str()), (64, "AA=="));
        assert!(armored(&[1; 48]).iter().all(|line| line.len() <= 64));
    }

    #[test]
    fn strings_are_quoted_for_toml() {
        assert_eq!(quoted("/a b"), "\"/a b\"");
        let tricky = "a\"\\\n";
        let back: toml::Table = format!("x = {}", quoted(tricky)).parse().expect("TOML");
        assert_eq!(back["x"].as_str(), Some(tricky));
    }
}
