//! What an answer of an object storage service means: its kind, whether it may pass, and words for it.

use std::error::Error as _;
use std::time::Duration;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use zeroize::Zeroizing;

use crate::store::StoreErrorKind;

const SILENCE: &str = "no answer within";
/// Longest detail taken from a service's answer, in characters.
const DETAIL_CHARS_MAX: usize = 400;

/// A failed try.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: StoreErrorKind,
    /// Another try may succeed.
    pub(super) passing: bool,
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn lasting(kind: StoreErrorKind, detail: String) -> Self {
        Fault { kind, passing: false, detail }
    }

    pub(super) fn passing(detail: String) -> Self {
        Fault { kind: StoreErrorKind::Unavailable, passing: true, detail }
    }

    pub(super) fn silence(limit: Duration) -> Self {
        Fault::passing(format!("{SILENCE} {} seconds", limit.as_secs()))
    }

    pub(super) fn is_silence(&self) -> bool {
        self.detail.starts_with(SILENCE)
    }

    pub(super) fn cut_short(got: usize, expected: usize) -> Self {
        Fault::passing(format!("the answer ended after {got} of {expected} bytes"))
    }

    pub(super) fn range(detail: String) -> Self {
        Fault::lasting(StoreErrorKind::Range, detail)
    }

    pub(super) fn absent() -> Self {
        Fault::lasting(StoreErrorKind::NotFound, "no such object".to_owned())
    }

    pub(super) fn taken() -> Self {
        Fault::lasting(StoreErrorKind::AlreadyExists, "holds other bytes".to_owned())
    }

    /// A 409 in answer to anything but a create: another request was under way.
    pub(super) fn conflict(self) -> Self {
        Fault { kind: StoreErrorKind::Unavailable, passing: true, ..self }
    }

    /// A 404 in answer to a listing.
    pub(super) fn no_bucket(self) -> Self {
        let detail = format!("the bucket or container does not exist ({})", self.detail);
        Fault::lasting(StoreErrorKind::Invalid, detail)
    }

    /// Sorts a client's error.
    pub(super) fn from_error(error: &Error) -> Self {
        // The client keeps status and body of an answer to itself; its message is where they show.
        let text = error.to_string();
        let code = element(&text, "Code").unwrap_or_default();
        let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
        let (kind, passing) = sort(error, code, status);
        let hint = hint(kind, code, &text);
        Fault { kind, passing, detail: describe(error, &text, code) + hint }
    }
}

fn sort(error: &Error, code: &str, status: Option<u16>) -> (StoreErrorKind, bool) {
    // Codes first: they are finer than the status that the client sorts by.
    match code {
        "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName" => return (StoreErrorKind::Invalid, false),
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            return (StoreErrorKind::Invalid, false);
        }
        "InvalidRange" => return (StoreErrorKind::Range, false),
        "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" => return (StoreErrorKind::Denied, false),
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
            return (StoreErrorKind::Full, false);
        }
        "RequestTimeout" | "SlowDown" | "InternalError" | "ServiceUnavailable" | "OperationAborted" => {
            return (StoreErrorKind::Unavailable, true);
        }
        _ => {}
    }
    match error {
        Error::NotFound { .. } => (StoreErrorKind::NotFound, false),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => (StoreErrorKind::AlreadyExists, false),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (StoreErrorKind::Denied, false),
        Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => (StoreErrorKind::Invalid, false),
        Error::JoinError { .. } => (StoreErrorKind::Other, false),
        _ => match status {
            Some(507) => (StoreErrorKind::Full, false),
            Some(416) => (StoreErrorKind::Range, false),
            // The client sorts the answers to some requests only.
            Some(401 | 403) => (StoreErrorKind::Denied, false),
            Some(408 | 429 | 500..=599) => (StoreErrorKind::Unavailable, true),
            Some(_) => (StoreErrorKind::Other, false),
            None => match transport(error) {
                // The client tried these again itself, with pauses; where nothing ever answered that is enough.
                Some(HttpErrorKind::Connect | HttpErrorKind::Request) => (StoreErrorKind::Unavailable, false),
                Some(_) => (StoreErrorKind::Unavailable, true),
                None => (StoreErrorKind::Other, false),
            },
        },
    }
}

fn transport(error: &Error) -> Option<HttpErrorKind> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        source = inner.source();
    }
    None
}

fn hint(kind: StoreErrorKind, code: &str, text: &str) -> &'static str {
    match code {
        "RequestTimeTooSkewed" => "; set this computer's clock",
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            "; set the option region to the bucket's"
        }
        "ExpiredToken" => "; get new temporary credentials",
        "AuthenticationFailed" | "AuthorizationFailure" => {
            "; check account_name, account_key and this computer's clock, or what else the options name"
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => "; check access_key_id and secret_access_key",
        "NoSuchBucket" | "ContainerNotFound" => "; create the bucket first",
        // Where the client looks last, on every computer that isn't one of the cloud's own.
        _ if text.contains("169.254.169.254") || text.contains("metadata.google.internal") => {
            "; no credentials were found in the options, the environment or a credentials file"
        }
        _ if text.contains("without LOCATION") => "; set the option region to the bucket's",
        _ if kind == StoreErrorKind::Denied => {
            "; check what the credentials allow (an absent object is also answered so where they may not list)"
        }
        _ => "",
    }
}

// The service's code and message where it gave them, else the innermost cause: the client's own
// message repeats the request and the whole answer.
fn describe(error: &Error, text: &str, code: &str) -> String {
    let detail = match element(text, "Message") {
        Some(message) if !code.is_empty() => format!("{code}: {message}"),
        _ if !code.is_empty() => code.to_owned(),
        _ => {
            let mut innermost: &dyn std::error::Error = error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            // An answer without a body says all in the status, which the cause's message holds.
            innermost.to_string()
        }
    };
    let line: String = detail.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(DETAIL_CHARS_MAX).collect::<String>().trim_end_matches([':', ' ']).to_owned()
}

// The text of the first XML element of this name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

/// Values that must not show; compared with every message on its way out.
#[derive(Default)]
pub(super) struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Remembers a value, unless it is too short to be one.
    pub(super) fn add(&mut self, value: String) {
        if value.len() >= 4 {
            self.0.push(Zeroizing::new(value));
        }
    }

    /// Blots out every remembered value.
    pub(super) fn scrub(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[secret]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(message: &str) -> Error {
        Error::Generic { store: "S3", source: message.to_owned().into() }
    }

    #[test]
    fn answers_are_sorted_by_code_then_status() {
        let body = |code: &str| {
            format!(
                "Server returned non-2xx status code: 400 Bad Request: <Error><Code>{code}</Code><Message>m</Message></Error>"
            )
        };
        for (message, kind, passing) in [
            (body("NoSuchBucket"), StoreErrorKind::Invalid, false),
            (body("ExpiredToken"), StoreErrorKind::Denied, false),
            (body("QuotaExceeded"), StoreErrorKind::Full, false),
            (body("SlowDown"), StoreErrorKind::Unavailable, true),
            ("status code: 503 Service Unavailable: ".to_owned(), StoreErrorKind::Unavailable, true),
            ("status code: 403 Forbidden: ".to_owned(), StoreErrorKind::Denied, false),
            ("status code: 507 Insufficient Storage: ".to_owned(), StoreErrorKind::Full, false),
            ("status code: 418 teapot".to_owned(), StoreErrorKind::Other, false),
            ("nonsense".to_owned(), StoreErrorKind::Other, false),
        ] {
            let fault = Fault::from_error(&generic(&message));
            assert_eq!((fault.kind, fault.passing), (kind, passing), "{message}");
        }
    }

    #[test]
    fn details_are_short_and_helpful() {
        let xml = "status code: 403: <Error><Code>RequestTimeTooSkewed</Code><Message>too  \n far</Message></Error>";
        assert_eq!(Fault::from_error(&generic(xml)).detail, "RequestTimeTooSkewed: too far; set this computer's clock");
        assert!(Fault::from_error(&generic(&"x".repeat(10_000))).detail.len() <= DETAIL_CHARS_MAX);
    }

    #[test]
    fn secrets_are_blotted_out() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2".to_owned());
        secrets.add(String::new());
        assert_eq!(secrets.scrub("a hunter2 b hunter2".to_owned()), "a [secret] b [secret]");
    }
}
