//! Service accounts before a stand-in for the Kubernetes API, which answers as `TokenReview` is documented.

use std::convert::Infallible;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use proptest::prelude::*;
use serde_json::Value;
use sonde_daemon::{http, shutdown};

use super::*;

/// How the API answers.
const WORKS: usize = 0;
const FAILS: usize = 1;
const HANGS: usize = 2;
const REVOKED: usize = 3;

/// A stand-in for the API: knows the tokens whose signature is `good`.
struct Api {
    url: String,
    asked: Arc<AtomicUsize>,
    way: Arc<AtomicUsize>,
    _stop: shutdown::Trigger,
}

impl Api {
    fn start(answer: fn(&str) -> Value) -> Self {
        let bound = http::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", bound.addr());
        let (stop, shutdown) = shutdown::channel();
        let (asked, way) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, how) = (Arc::clone(&asked), Arc::clone(&way));
        let service = service_fn(move |request: Request<Incoming>| {
            count.fetch_add(1, Ordering::Relaxed);
            let how = how.load(Ordering::Relaxed);
            async move {
                assert_eq!((request.method().as_str(), request.uri().path()), ("POST", PATH));
                assert_eq!(request.headers()["authorization"], "Bearer our-own");
                let question = request.into_body().collect().await.unwrap().to_bytes();
                let question: Value = serde_json::from_slice(&question).unwrap();
                assert_eq!(question["kind"], "TokenReview");
                assert_eq!(question["spec"]["audiences"], json!(["sonde"]));
                if how == HANGS {
                    std::future::pending::<()>().await;
                }
                let status = if how == REVOKED {
                    json!({})
                } else {
                    answer(question["spec"]["token"].as_str().unwrap())
                };
                let answer = json!({"kind": "TokenReview", "metadata": {}, "spec": question["spec"], "status": status});
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                *response.status_mut() =
                    if how == FAILS { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED };
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(http::serve(bound, http::Options::default(), shutdown, service));
        Self { url, asked, way, _stop: stop }
    }

    fn accounts(&self, dir: &Path, accounts: &[&str]) -> Accounts {
        std::fs::write(dir.join("token"), "our-own\n").unwrap();
        let options = Options {
            api: self.url.clone(),
            token_file: dir.join("token"),
            ca_file: dir.join("none"),
            audience: "sonde".to_owned(),
            accounts: accounts.iter().map(|account| (*account).to_owned()).collect(),
        };
        Accounts::new(options).unwrap()
    }

    async fn is_asked(&self, times: usize) {
        let asked = async {
            while self.asked() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// What the real one says of a good token of `monitoring/sonde-agent`; another signature is not accepted.
fn review(token: &str) -> Value {
    if !token.ends_with(".good") {
        return json!({"error": "invalid bearer token", "user": {}});
    }
    json!({
        "authenticated": true,
        "audiences": ["sonde"],
        "user": {"username": "system:serviceaccount:monitoring:sonde-agent", "uid": "1", "groups": ["system:serviceaccounts"]},
    })
}

fn token(claims: &Value, signature: &str) -> String {
    format!("eyJhbGciOiJSUzI1NiJ9.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

/// The same one in every second of a test.
fn good() -> String {
    static GOOD: OnceLock<String> = OnceLock::new();
    let claims = || json!({"aud": ["sonde"], "exp": in_an_hour(), "sub": "system:serviceaccount:monitoring:sonde-agent"});
    GOOD.get_or_init(|| token(&claims(), "good")).clone()
}

#[tokio::test]
async fn an_accepted_account_may_send_and_is_reviewed_once_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(review);
    let accounts = api.accounts(dir.path(), &["other/one", "monitoring/sonde-agent"]);
    for _ in 0..20 {
        assert_eq!(accounts.verdict(&good()).await, Verdict::Accepted);
    }
    assert_eq!(api.asked(), 1);
    let later = Instant::now() + FRESH;
    for _ in 0..20 {
        assert_eq!(accounts.verdict_at(&good(), later).await, Verdict::Accepted);
    }
    api.is_asked(2).await;
    assert_eq!(accounts.verdict_at(&good(), later + FRESH / 2).await, Verdict::Accepted);
    assert_eq!(api.asked(), 2, "once, beside those that go on");
}

#[tokio::test]
async fn who_is_not_accepted_may_not_send_and_what_cannot_be_good_is_not_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(review);
    let accounts = api.accounts(dir.path(), &["monitoring/agent"]);
    let denied = |verdict: Verdict, word: &str| match verdict {
        Verdict::Denied(reason) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{other:?}: {word}"),
    };
    denied(accounts.verdict(&good()).await, "monitoring/sonde-agent may not send");
    let later = in_an_hour();
    let forged = token(&json!({"aud": "sonde", "exp": later}), "forged");
    denied(accounts.verdict(&forged).await, "does not accept");
    denied(accounts.verdict(&forged).await, "does not accept");
    assert_eq!(api.asked(), 2, "a denial is remembered");
    for (text, word) in [
        (
            token(&json!({"aud": ["https://kubernetes.default.svc"], "exp": later}), "good"),
            "another audience",
        ),
        (token(&json!({"aud": "sonde", "exp": 1}), "good"), "expired"),
        (token(&json!({"exp": later}), "good"), "no service account's token"),
        ("secret".to_owned(), "no service account's token"),
        ("a.b.c".to_owned(), "no service account's token"),
        (format!("{}.more", good()), "no service account's token"),
        (format!("{}{}", good(), "x".repeat(TOKEN_BYTES)), "too long"),
    ] {
        denied(accounts.verdict(&text).await, word);
    }
    assert_eq!(api.asked(), 2, "none of these was asked about");
}

#[tokio::test]
async fn an_answer_for_no_audience_or_for_no_service_account_accepts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    for (answer, word) in [
        (
            (|_| json!({"authenticated": true, "user": {"username": "system:serviceaccount:a:b"}}))
                as fn(&str) -> Value,
            "for our audience",
        ),
        (
            |_| json!({"authenticated": true, "audiences": ["sonde"], "user": {"username": "admin"}}),
            "no service account's",
        ),
        (|_| json!({"authenticated": true, "audiences": ["sonde"]}), "no service account's"),
        (|_| json!({}), "does not accept"),
    ] {
        let api = Api::start(answer);
        let accounts = api.accounts(dir.path(), &[]);
        match accounts.verdict(&good()).await {
            Verdict::Denied(reason) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}: {word}"),
        }
    }
}

#[tokio::test]
async fn while_the_api_fails_or_hangs_who_was_accepted_goes_on_at_once_and_nobody_new_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    for way in [FAILS, HANGS] {
        let api = Api::start(review);
        let accounts = api.accounts(dir.path(), &[]);
        let known = good();
        assert_eq!(accounts.verdict(&known).await, Verdict::Accepted);
        let start = Instant::now();
        api.way.store(way, Ordering::Relaxed);
        for minute in 1..60 {
            for tenth in 0..10 {
                let now = start + Duration::from_secs(minute * 60 + tenth * 6) - Duration::from_secs(1);
                let verdict = accounts.verdict_at(&known, now);
                let verdict = tokio::time::timeout(Duration::ZERO, verdict).await;
                assert_eq!(verdict, Ok(Verdict::Accepted), "it does not wait for the API");
            }
        }
        assert_eq!(accounts.verdict_at(&known, start + GRACE).await, Verdict::Unknown, "not for ever");
        let new = token(&json!({"aud": "sonde", "exp": in_an_hour(), "jti": "new"}), "good");
        assert_eq!(accounts.verdict(&new).await, Verdict::Unknown, "neither good nor bad");
        api.way.store(WORKS, Ordering::Relaxed);
        assert_eq!(accounts.verdict(&new).await, Verdict::Accepted, "it is asked again at once");
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_is_denied_within_the_next_request_but_one() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(review);
    let accounts = api.accounts(dir.path(), &[]);
    assert_eq!(accounts.verdict(&good()).await, Verdict::Accepted);
    api.way.store(REVOKED, Ordering::Relaxed);
    let later = Instant::now() + FRESH;
    assert_eq!(accounts.verdict_at(&good(), later).await, Verdict::Accepted, "as it was");
    let denied = async {
        while accounts.verdict_at(&good(), later).await == Verdict::Accepted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), denied).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_forged_tokens_takes_no_place_of_a_good_one_and_memory_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(review);
    let accounts = api.accounts(dir.path(), &[]);
    assert_eq!(accounts.verdict(&good()).await, Verdict::Accepted);
    let now = Instant::now();
    for number in 0..DENIALS as u128 * 2 {
        accounts.0.known().learn(number, &Verdict::Denied("forged".to_owned()), now);
        assert!(accounts.0.known().denied.len() <= DENIALS);
    }
    // As many as can be asked about, and none of them is answered.
    api.way.store(HANGS, Ordering::Relaxed);
    let flood: Vec<_> = (0..100)
        .map(|number| {
            let accounts = accounts.clone();
            let forged = token(&json!({"aud": "sonde", "exp": in_an_hour(), "jti": number}), "forged");
            tokio::spawn(async move { accounts.verdict(&forged).await })
        })
        .collect();
    api.is_asked(1 + REVIEWS).await;
    api.way.store(WORKS, Ordering::Relaxed);
    let later = now + FRESH * 2;
    assert_eq!(accounts.verdict_at(&good(), later).await, Verdict::Accepted);
    let hash = accounts.0.hash(&good());
    let reviewed = async {
        while accounts.0.known().accepted[&hash].at != later {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), reviewed).await.expect("a turn of its own");
    flood.into_iter().for_each(|one| one.abort());
    for number in 0..TOKENS as u128 + 100 {
        accounts.0.known().learn(number, &Verdict::Accepted, now);
    }
    assert_eq!(accounts.0.known().accepted.len(), TOKENS);
}

proptest! {
    #[test]
    fn no_token_makes_it_stumble(token in "\\PC{0,200}", claims in "\\PC{0,100}") {
        let _ = plausible(&token, "sonde");
        let with = format!("a.{}.c", URL_SAFE_NO_PAD.encode(&claims));
        prop_assert!(plausible(&with, "sonde").is_err());
    }
}
