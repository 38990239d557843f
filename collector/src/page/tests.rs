//! The documents as a browser gets them.

use super::*;

fn asked(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
    headers
}

#[test]
fn a_document_that_is_known_is_not_sent_again() {
    for (value, status) in [
        ("\"a\"", StatusCode::NOT_MODIFIED),
        ("W/\"a\"", StatusCode::NOT_MODIFIED),
        ("\"b\", \"a\"", StatusCode::NOT_MODIFIED),
        ("*", StatusCode::NOT_MODIFIED),
        ("\"b\"", StatusCode::OK),
        ("", StatusCode::OK),
    ] {
        assert_eq!(answer(&DOCUMENTS[0], "\"a\"", &asked(value)).status(), status, "{value}");
    }
}

#[test]
fn every_document_carries_the_policy() {
    for document in &DOCUMENTS {
        let response = answer(document, "\"a\"", &HeaderMap::new());
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(is_document(document.path));
    }
    assert!(!is_document("/api/v1/logs"));
}

#[test]
fn nothing_in_the_page_needs_what_the_policy_forbids() {
    let pages: Vec<_> = DOCUMENTS.iter().filter(|document| document.kind.contains("html")).collect();
    assert_eq!(pages.len(), 2);
    let html = pages.iter().map(|document| document.text).collect::<String>();
    for forbidden in [" style=", "<style", " onclick=", " onload=", "javascript:", "http://", "https://"] {
        let found = html.replace("http://www.w3.org/2000/svg", "").contains(forbidden);
        assert!(!found, "{forbidden}");
    }
    for document in &DOCUMENTS {
        if document.kind.contains("javascript") {
            for sink in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
            {
                assert!(!document.text.contains(sink), "{}: {sink}", document.path);
            }
        }
        if document.kind.contains("css") {
            assert!(!document.text.contains("@import") && !document.text.contains("url("));
        }
    }
}
