//! Pods with `pods.source: auto` and without a socket: the kubelet refuses, and the API server takes its place, or refuses as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, root, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Answers each request with what the path says, and notes it; a watch has no end.
fn serve(
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
    let noted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
            std::thread::spawn(move || one(stream, &noted, &*answer));
        }
    });
    (url, requests)
}

fn one(stream: TcpStream, noted: &Mutex<Vec<String>>, answer: &dyn Fn(&str) -> (u16, String)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    noted.lock().unwrap().push(first.clone());
    let (status, body) = answer(&first);
    let mut stream = stream;
    if status == 200 && first.contains("watch=true") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Until the other end goes.
        for _ in lines {}
        return;
    }
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}

fn recorded() -> String {
    let file = root().join("tests/fixtures/kubelet/pods.json");
    let mut list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    list["metadata"]["resourceVersion"] = "4711".into();
    list.to_string()
}

/// An agent and a collector on a node `lab-node-1`.
fn stack(dir: &Path, kubelet: String, api: &str) -> Stack {
    let agent = format!(
        "cluster: lab\nmetrics: {{push: false}}\npods: {{labels: [\"*\"], api: {{url: \"{api}\", token_file: \"\"}}}}"
    );
    let stack = Stack::new(dir, &Settings { agent, kubelet, ..Settings::default() }).unwrap();
    let file = dir.join("agent.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("name: test-node", "name: lab-node-1");
    let host = format!("host: {{kubelet_dir: {}, ", dir.join("kubelet").display());
    fs::write(file, text.replace("host: {", &host)).unwrap();
    stack
}

/// A line of a pod whose label only somebody who tells of pods knows.
fn write_log(stack: &Stack) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    let dir = stack.pod_logs.join("shop_web-69b97f555c-nvk2f_f3b8617d-f939-41a3-9ebc-93ea72f24a30/web");
    fs::create_dir_all(&dir).unwrap();
    let line = format!("{}.000000001Z stdout F hello\n", corpus::rfc3339(seconds));
    fs::write(dir.join("0.log"), line).unwrap();
}

/// The rows of a metric on the agent's own page, without its name.
fn rows(stack: &Stack, name: &str) -> Vec<String> {
    let page = http::text(stack.agent_http, "/metrics/self").unwrap_or_default();
    page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{').map(str::to_owned)).collect()
}

fn source(stack: &Stack) -> Vec<String> {
    let mut rows = rows(stack, "sonde_agent_pods_source");
    rows.retain(|row| row.ends_with(" 1"));
    rows
}

#[test]
fn where_the_kubelet_refuses_pods_and_names_come_from_the_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let (kubelet, _) = serve(|_| (403, "Forbidden (resource=nodes, subresource(s)=[pods proxy])".to_owned()));
    let list = recorded();
    let (api, asked) = serve(move |_| (200, list.clone()));
    let mut stack = stack(dir.path(), kubelet, &api);
    stack.start().unwrap();
    let pods = || http::metric(stack.agent_http, "/metrics/pods", "kube_pod_info", "");
    wait_until("the pods", LIMIT, || pods().is_ok_and(|pods| pods == 29.0)).unwrap();
    assert_eq!(source(&stack), ["source=\"api\"} 1"]);
    assert_eq!(rows(&stack, "sonde_agent_source_success").first().unwrap(), "source=\"api\"} 1");
    write_log(&stack);
    wait_until("the record", LIMIT, || stack.stored().is_ok_and(|stored| stored == 1)).unwrap();
    let record = http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap();
    assert!(record.contains("\"front\"") && record.contains("k8s.deployment.name"), "{record}");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().all(|line| line.contains("fieldSelector=spec.nodeName%3Dlab-node-1")), "{asked:?}");
    assert_eq!(asked.len(), 2, "one list and one watch: {asked:?}");
}

#[test]
fn where_both_refuse_logs_are_named_by_their_paths_and_that_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let (kubelet, kubelet_asked) = serve(|_| (401, "Unauthorized".to_owned()));
    let (api, asked) = serve(|_| (403, "pods is forbidden: User \"sonde-agent\" cannot list".to_owned()));
    let mut stack = stack(dir.path(), kubelet, &api);
    write_log(&stack);
    stack.start().unwrap();
    wait_until("the record", LIMIT, || stack.stored().is_ok_and(|stored| stored == 1)).unwrap();
    wait_until("an ask", LIMIT, || asked.lock().unwrap().len() == 1).unwrap();
    let before = kubelet_asked.lock().unwrap().len();
    wait_until("asks of the kubelet", LIMIT, || kubelet_asked.lock().unwrap().len() > before + 1).unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!(source(&stack), ["source=\"paths\"} 1"]);
    assert!(rows(&stack, "sonde_agent_source_success").contains(&"source=\"kubelet\"} 0".to_owned()));
    let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
    let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!((said("in the kubelet's place"), said("pods is forbidden")), (1, 1), "{log}");
}
