//! Tells a service's listings from what a proxy or a portal answers in its place.
//!
//! Guarantees: a listing is taken for one only if its page says that it is. The client's parser takes any other text,
//! an HTML page with status 200 among them, for a listing of nothing, and "could not read" would be "empty".

use futures::future::BoxFuture;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// The elements that pages of S3's and Google's, and of Azure's, listings consist of.
const PAGES: [&str; 2] = ["<ListBucketResult", "<EnumerationResults"];

/// Makes clients that look at listings.
#[derive(Debug)]
pub(super) struct Genuine;

impl HttpConnector for Genuine {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Looking(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Looking(HttpClient);

/// An answer to a listing that is none.
#[derive(Debug, thiserror::Error)]
#[error("what answered is no such service: it sent no listing but '{0}'; a proxy or a login page may stand between")]
struct Foreign(String);

impl HttpService for Looking {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        let lists = request.method().as_str() == "GET" && is_listing(request.uri().query().unwrap_or_default());
        Box::pin(async move {
            let response = self.0.execute(request).await?;
            if !lists || !response.status().is_success() {
                return Ok(response);
            }
            let (parts, body) = response.into_parts();
            let page = body.bytes().await?;
            match is_page(&page) {
                true => Ok(HttpResponse::from_parts(parts, page.into())),
                false => {
                    let begins = String::from_utf8_lossy(&page[..page.len().min(60)]).into_owned();
                    Err(HttpError::new(HttpErrorKind::Decode, Foreign(begins)))
                }
            }
        })
    }
}

/// By the parameters of the services' APIs: `list-type=2` of S3 and Google's XML, `comp=list` of Azure.
fn is_listing(query: &str) -> bool {
    query.split('&').any(|parameter| matches!(parameter, "list-type=2" | "comp=list"))
}

/// The element stands first, after the declaration of XML.
fn is_page(page: &[u8]) -> bool {
    let beginning = String::from_utf8_lossy(&page[..page.len().min(1024)]);
    PAGES.iter().any(|element| beginning.contains(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listing_is_one() {
        assert!(is_listing("list-type=2&prefix=a%2F") && is_listing("restype=container&comp=list"));
        assert!(!is_listing("") && !is_listing("prefix=list-type=2"));
        let page = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name></ListBucketResult>";
        assert!(is_page(page.as_bytes()));
        assert!(is_page(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"x\"/>".as_bytes()
        ));
        assert!(!is_page(b"<html><body>Sign in</body></html>") && !is_page(b""));
    }
}
