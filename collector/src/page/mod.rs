//! The pages: at `/` the namespaces, nodes and pods that agents push metrics of, at `/logs` the records of this
//! collector's store, to be searched and followed.
//!
//! A handful of documents, compiled in; what they show they ask of the API. They need nothing from elsewhere and their
//! policy allows nothing else: no inline script or style, no foreign host, no frame. The documents hold no data, so
//! [`is_document`] paths may be served to someone who has yet to type the token.
//!
//! A browser may keep them but asks each time whether they are still the same (`ETag`): after an update of the
//! collector no page runs with the script of another.

#[cfg(test)]
mod tests;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Document {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static DOCUMENTS: [Document; 11] = [
    Document { path: "/", kind: HTML, text: include_str!("index.html") },
    Document { path: "/logs", kind: HTML, text: include_str!("logs.html") },
    Document { path: "/page.css", kind: CSS, text: include_str!("page.css") },
    Document { path: "/overview.css", kind: CSS, text: include_str!("overview.css") },
    Document { path: "/overview.js", kind: SCRIPT, text: include_str!("overview.js") },
    Document { path: "/logs.js", kind: SCRIPT, text: include_str!("logs.js") },
    Document { path: "/api.js", kind: SCRIPT, text: include_str!("api.js") },
    Document { path: "/graph.js", kind: SCRIPT, text: include_str!("graph.js") },
    Document { path: "/rows.js", kind: SCRIPT, text: include_str!("rows.js") },
    Document { path: "/table.js", kind: SCRIPT, text: include_str!("table.js") },
    Document { path: "/text.js", kind: SCRIPT, text: include_str!("text.js") },
];

/// Whether a path is one of the page's documents.
pub fn is_document(path: &str) -> bool {
    DOCUMENTS.iter().any(|document| document.path == path)
}

/// The page's routes.
pub fn router() -> Router {
    DOCUMENTS.iter().fold(Router::new(), |router, document| {
        let tag = format!("\"{:08x}-{:x}\"", crc32fast::hash(document.text.as_bytes()), document.text.len());
        let answer = move |headers: HeaderMap| async move { answer(document, &tag, &headers) };
        router.route(document.path, get(answer))
    })
}

/// The document, or that it is the same that the asker has.
fn answer(document: &Document, tag: &str, asked: &HeaderMap) -> Response {
    // RFC 9110, section 13.1.2: a list, `*`, and weak comparison.
    let same =
        asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
        });
    let mut response = Response::new(if same { Body::empty() } else { Body::from(document.text) });
    if same {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(document.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
