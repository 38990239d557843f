//! A retention that is changed reaches what is there.

use sonde_daemon::units::Interval;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Starts with this retention; gives what was changed at the server.
async fn start_with(server: &Arc<StdMutex<Server>>, port: u16, retention: Option<Duration>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let sink = config::Sink { retention: retention.map(Interval), ..sink(port) };
    let es = Elasticsearch::build(&sink, dir.path()).unwrap();
    server.lock().unwrap().changes.clear();
    es.get_ready().await.unwrap();
    server.lock().unwrap().changes.clone()
}

const TEMPLATE: &str = "/_index_template/sonde-logs-kubernetes.container_logs";
const LIFECYCLE: &str = "/_data_stream/logs-kubernetes.container_logs-default/_lifecycle";
const POLICY: &str = "/_plugins/_ism/policies/sonde-logs-kubernetes.container_logs";
const CHANGE: &str = "/_plugins/_ism/change_policy/.ds-logs-kubernetes.container_logs-*";

async fn server(server: Server) -> (Arc<StdMutex<Server>>, u16) {
    let server = Arc::new(StdMutex::new(Server { random: 1, ..server }));
    let port = serve(Arc::clone(&server)).await;
    (server, port)
}

#[tokio::test]
async fn a_changed_retention_reaches_the_template_and_the_stream_of_elasticsearch() {
    let (server, port) = server(Server { elastic: Some("8.15.0"), ..Server::default() }).await;
    let kept = || server.lock().unwrap().lifecycle.clone().unwrap()["data_retention"].clone();
    assert_eq!(start_with(&server, port, Some(7 * DAY)).await, [TEMPLATE]);
    assert_eq!(kept(), "604800s", "the stream was made by the template");
    assert!(start_with(&server, port, Some(7 * DAY)).await.is_empty(), "nothing has changed");
    assert_eq!(start_with(&server, port, Some(3 * DAY)).await, [TEMPLATE, LIFECYCLE]);
    assert_eq!(kept(), "259200s");
    let template = server.lock().unwrap().template.clone().unwrap();
    assert_eq!(template["template"]["lifecycle"]["data_retention"], "259200s");
    assert!(start_with(&server, port, Some(3 * DAY)).await.is_empty());
    // What we asked for is taken back, what somebody else has set is not.
    assert_eq!(start_with(&server, port, None).await, [TEMPLATE, LIFECYCLE]);
    assert_eq!(kept(), Value::Null);
    server.lock().unwrap().lifecycle = Some(json!({"data_retention": "90d"}));
    assert!(start_with(&server, port, None).await.is_empty());
    assert_eq!(kept(), "90d");
}

#[tokio::test]
async fn a_retention_reaches_a_stream_whose_template_an_older_version_installed() {
    let template = json!({"version": 1, "_meta": {"managed_by": "sonde"}, "template": {"lifecycle": {}}});
    let older = Server { elastic: Some("9.1.0"), template: Some(template), ..Server::default() };
    let (server, port) =
        server(Server { indices: vec![HashMap::new()], lifecycle: Some(json!({})), ..older }).await;
    assert_eq!(start_with(&server, port, Some(DAY)).await, [TEMPLATE, LIFECYCLE]);
    assert_eq!(server.lock().unwrap().lifecycle, Some(json!({"data_retention": "86400s"})));
}

#[tokio::test]
async fn a_stream_by_somebody_elses_template_and_one_of_an_old_elasticsearch_keep_their_lifecycle() {
    let theirs = Some(json!({"version": 1, "template": {}}));
    for (elastic, template, changes) in [("8.15.0", theirs, &[][..]), ("8.13.4", None, &[TEMPLATE])] {
        let (server, port) = server(Server {
            elastic: Some(elastic),
            template,
            lifecycle: Some(json!({})),
            ..Server::default()
        })
        .await;
        assert_eq!(start_with(&server, port, Some(DAY)).await, changes, "{elastic}");
    }
}

#[tokio::test]
async fn a_changed_retention_reaches_the_policy_and_the_indices_of_opensearch() {
    let (server, port) = server(Server { has_ism: true, ..Server::default() }).await;
    let kept = || {
        let policy = server.lock().unwrap().policy.clone().unwrap();
        policy["policy"]["states"][0]["transitions"][0]["conditions"]["min_rollover_age"].clone()
    };
    assert_eq!(start_with(&server, port, Some(7 * DAY)).await, [POLICY, TEMPLATE]);
    assert_eq!(kept(), "7d");
    assert!(start_with(&server, port, Some(7 * DAY)).await.is_empty(), "nothing has changed");
    assert_eq!(start_with(&server, port, Some(3 * DAY)).await, [POLICY, CHANGE, TEMPLATE]);
    assert_eq!(kept(), "3d");
    assert_eq!(start_with(&server, port, None).await, [POLICY, CHANGE, TEMPLATE]);
    assert_eq!(kept(), Value::Null);
    // One that somebody else wrote stays.
    let theirs = json!({"policy": {"description": "ours", "states": []}});
    server.lock().unwrap().policy = Some(theirs.clone());
    assert_eq!(start_with(&server, port, Some(3 * DAY)).await, [TEMPLATE]);
    assert_eq!(server.lock().unwrap().policy, Some(theirs));
}

/// Goes on as records come, until it is done.
async fn goes_on(es: &Elasticsearch, done: impl Fn() -> bool) {
    let begin = tokio::time::Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it was not tried again");
        es.get_ready().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn with_retention(port: u16, retention: Duration, dir: &Path) -> Elasticsearch {
    let sink = config::Sink { retention: Some(Interval(retention)), ..sink(port) };
    Elasticsearch::build(&sink, dir).unwrap()
}

#[tokio::test]
async fn a_retention_that_elasticsearch_does_not_take_holds_no_record_and_is_tried_until_it_is_set() {
    for status in [403, 500] {
        let dir = tempfile::tempdir().unwrap();
        let (server, port) = server(Server { elastic: Some("8.15.0"), ..Server::default() }).await;
        start_with(&server, port, Some(7 * DAY)).await;
        server.lock().unwrap().refuses = ("_lifecycle", status, 2);
        let es = with_retention(port, 3 * DAY, dir.path());
        es.get_ready().await.unwrap();
        let kept = || server.lock().unwrap().lifecycle.clone().unwrap()["data_retention"].clone();
        assert_eq!(kept(), "604800s", "it was refused");
        goes_on(&es, || kept() == "259200s").await;
        server.lock().unwrap().changes.clear();
        es.get_ready().await.unwrap();
        assert!(server.lock().unwrap().changes.is_empty(), "it is set");
    }
}

#[tokio::test]
async fn indices_that_opensearch_did_not_bring_to_a_changed_policy_are_brought_there_later_by_whoever_comes()
{
    // Also where the answer says yes and that it was no.
    for (status, restarts) in [(403, false), (200, false), (500, false), (403, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (server, port) = server(Server { has_ism: true, ..Server::default() }).await;
        start_with(&server, port, Some(7 * DAY)).await;
        server.lock().unwrap().refuses = ("change_policy", status, if restarts { 1 } else { 2 });
        let mut es = with_retention(port, 3 * DAY, dir.path());
        es.get_ready().await.unwrap();
        let goes_by = || {
            let server = server.lock().unwrap();
            (server.goes_by, server.version)
        };
        assert_eq!(goes_by(), (Some(1), 2), "they go by the policy as it was");
        if restarts {
            es = with_retention(port, 3 * DAY, dir.path());
        }
        goes_on(&es, || goes_by() == (Some(2), 2)).await;
        assert!(start_with(&server, port, Some(3 * DAY)).await.is_empty(), "all is as it should be");
    }
}

#[tokio::test]
async fn a_policy_that_opensearch_takes_late_reaches_the_stream_that_was_made_without_it() {
    // Also where the index that policies are kept in cannot be read, or not be written.
    for (request, status) in [("policies", 403), ("policies", 500), ("GET /_plugins/_ism/policies", 503)] {
        for restarts in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let refuses = (request, status, if restarts { 1 } else { 2 });
            let (server, port) = server(Server { has_ism: true, refuses, ..Server::default() }).await;
            let mut es = with_retention(port, DAY, dir.path());
            es.get_ready().await.unwrap();
            assert_eq!(server.lock().unwrap().goes_by, None);
            assert_eq!(server.lock().unwrap().indices.len(), 1, "records have a stream");
            if restarts {
                es = with_retention(port, DAY, dir.path());
            }
            goes_on(&es, || server.lock().unwrap().goes_by == Some(1)).await;
            assert!(start_with(&server, port, Some(DAY)).await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_server_that_is_gone_before_its_policy_is_asked_for_holds_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, port) = server(Server { has_ism: true, is_gone: true, ..Server::default() }).await;
    let es = with_retention(port, DAY, dir.path());
    assert_eq!(es.get_ready().await.unwrap_err().code, "connection");
}

/// A stream that is older than the policy.
fn older() -> Server {
    Server { has_ism: true, indices: vec![HashMap::new()], ..Server::default() }
}

const ADD: &str = "/_plugins/_ism/add/.ds-x-000001";

#[tokio::test]
async fn indices_that_are_older_than_the_policy_go_by_it_whoever_installed_it_and_ended_before_that() {
    for status in [403, 500] {
        let dir = tempfile::tempdir().unwrap();
        let (server, port) = server(Server { refuses: ("/add/", status, 1), ..older() }).await;
        let es = with_retention(port, DAY, dir.path());
        es.get_ready().await.unwrap();
        assert_eq!(server.lock().unwrap().goes_by, None, "it was refused");
        assert_eq!(start_with(&server, port, Some(DAY)).await, [ADD]);
        assert_eq!(server.lock().unwrap().goes_by, Some(1));
        assert!(start_with(&server, port, Some(DAY)).await.is_empty(), "all is as it should be");
    }
}

#[tokio::test]
async fn a_new_policy_reaches_a_stream_that_is_not_ours_to_make() {
    for status in [401, 403] {
        let (server, port) = server(Server { refuses: ("PUT /_data_stream", status, 1), ..older() }).await;
        assert_eq!(start_with(&server, port, Some(DAY)).await, [POLICY, TEMPLATE, ADD], "{status}");
        assert_eq!(server.lock().unwrap().goes_by, Some(1));
    }
}

#[tokio::test]
async fn indices_that_somebody_has_taken_the_policy_from_stay_without() {
    let (server, port) = server(Server { has_ism: true, ..Server::default() }).await;
    start_with(&server, port, Some(DAY)).await;
    {
        let mut server = server.lock().unwrap();
        (server.goes_by, server.is_let_go) = (None, true);
    }
    assert!(start_with(&server, port, Some(DAY)).await.is_empty());
    server.lock().unwrap().is_let_go = false;
    assert_eq!(start_with(&server, port, Some(DAY)).await, [ADD]);
}
