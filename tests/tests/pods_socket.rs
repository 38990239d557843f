//! Pods from the kubelet's socket (`pods.source: socket`), told by the server that Kubernetes generates of the API (k8s.io/kubelet) with
//! the pods of the recorded node as k8s.io/api marshals them: `tests/interop/pods`.
//!
//! `tests/interop/install` builds it below `target/interop`; without it these tests are skipped, loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sonde_tests::otelcol::installed;
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, root, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// What `every-field.json` has.
const EVERY: &str = "0c5e0f3e-7d8e-4a6b-9d53-0d8c9d6f1a01";
const DB_0: &str = "93a2ecf5-a5eb-4e29-8330-df691e74040f";

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/kubelet").join(name)
}

/// A kubelet's socket.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// `None` where it is not installed.
    fn start(dir: &Path, test: &str, more: &[&str]) -> Option<Self> {
        let socket = dir.join("kubelet/pods/kubelet.sock");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let mut child = Command::new(installed("pods", test)?)
            .args([Path::new("-socket"), &socket, Path::new("-pods"), &fixture("pods.json")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut server = Self { child, input, output };
        assert_eq!(server.line(), "listening with 29 pods");
        Some(server)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn command(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
        assert_eq!(self.line(), "ok", "{words}");
    }

    fn put(&mut self, file: &Path) {
        self.command(&format!("put {}", file.display()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The recorded pods and the one with every field, over HTTP.
fn http_kubelet() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let read = |name| serde_json::from_slice::<Value>(&fs::read(fixture(name)).unwrap()).unwrap();
    let mut list = read("pods.json");
    list["items"].as_array_mut().unwrap().push(read("every-field.json"));
    let body = list.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}

/// An agent and a collector on a node `lab-node-1` whose kubelet has its directory in `dir`.
fn stack(dir: &Path, pods: &str, kubelet: String) -> Stack {
    let agent = format!("cluster: lab\nmetrics: {{push: false}}\npods: {{{pods}, labels: [\"*\"]}}");
    let stack = Stack::new(dir, &Settings { agent, kubelet, ..Settings::default() }).unwrap();
    let file = dir.join("agent.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("name: test-node", "name: lab-node-1");
    let host = format!("host: {{kubelet_dir: {}, ", dir.join("kubelet").display());
    fs::write(file, text.replace("host: {", &host)).unwrap();
    stack
}

fn pods(stack: &Stack) -> f64 {
    http::metric(stack.agent_http, "/metrics/pods", "kube_pod_info", "").unwrap_or(-1.0)
}

/// Whether that source says that it was collected.
fn success(stack: &Stack, source: &str) -> Option<f64> {
    let page = http::text(stack.agent_http, "/metrics/self").ok()?;
    let name = format!("sonde_agent_source_success{{source=\"{source}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name))?.parse().ok()
}

/// Lines of some of the pods: of a Deployment, a CronJob and a StatefulSet, a static one, one with two containers, and one whose
/// annotation says that its lines are not read.
fn write_logs(pod_logs: &Path, seconds: u64) {
    for container in [
        "shop_web-69b97f555c-nvk2f_f3b8617d-f939-41a3-9ebc-93ea72f24a30/web",
        "batch_tick-29919882-z2jd7_6672e737-33cf-4cd2-b266-5ecb3ee00d42/t",
        "data_db-0_93a2ecf5-a5eb-4e29-8330-df691e74040f/db",
        "kube-system_static-web-lab-node-1_fc06af0816b5d23d3b29896dde65db18/web",
        "shop_api-74dcf5b786-p27dp_3d3cff22-61f8-47af-a79e-0669d30275ca/api",
        "shop_api-74dcf5b786-p27dp_3d3cff22-61f8-47af-a79e-0669d30275ca/sidecar",
        "shop_every-0_0c5e0f3e-7d8e-4a6b-9d53-0d8c9d6f1a01/main",
    ] {
        let dir = pod_logs.join(container);
        fs::create_dir_all(&dir).unwrap();
        let stamp = corpus::rfc3339(seconds);
        fs::write(dir.join("0.log"), format!("{stamp}.000000001Z stdout F of {container}\n")).unwrap();
    }
}

/// What is stored, without when it was read.
fn records(stack: &Stack) -> Vec<Value> {
    let text = http::text(stack.collector_http, "/api/v1/logs?limit=0").unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        record["attributes"].as_object_mut().unwrap().remove("observed_time");
    }
    records.sort_by_key(ToString::to_string);
    records
}

#[test]
fn the_page_and_the_attributes_of_records_are_those_of_the_kubelets_json() {
    let test = "the_page_and_the_attributes_of_records_are_those_of_the_kubelets_json";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    let told = |source: &str, kubelet: String, server: &dyn Fn(&Path) -> Option<Server>| {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path());
        let mut stack = stack(dir.path(), &format!("source: {source}"), kubelet);
        write_logs(&stack.pod_logs, now);
        stack.start().unwrap();
        wait_until("the pods", LIMIT, || pods(&stack) == 30.0).unwrap();
        wait_until("the records", LIMIT, || stack.stored().is_ok_and(|stored| stored >= 6)).unwrap();
        stack.wait_drained(LIMIT).unwrap();
        assert_eq!(success(&stack, source), Some(1.0));
        let page = http::text(stack.agent_http, "/metrics/pods").unwrap();
        // How long the page itself took is another matter.
        let of_pods = page.lines().filter(|line| !line.starts_with("sonde_agent_source_duration_seconds"));
        let mut lines: Vec<String> = of_pods.map(ToOwned::to_owned).collect();
        lines.sort();
        drop(server);
        (lines, records(&stack))
    };
    if installed("pods", test).is_none() {
        return;
    }
    let by_socket = told("socket", String::new(), &|dir| {
        let mut server = Server::start(dir, test, &[])?;
        server.put(&fixture("every-field.json"));
        Some(server)
    });
    let by_json = told("kubelet", http_kubelet(), &|_| None);
    for (of_socket, of_json) in by_socket.0.iter().zip(&by_json.0) {
        assert_eq!(of_socket, of_json);
    }
    assert_eq!(by_socket.0.len(), by_json.0.len());
    assert!(by_socket.0.len() > 1000, "{}", by_socket.0.len());
    assert_eq!(by_socket.1, by_json.1);
    let text = serde_json::to_string(&by_socket.1).unwrap();
    assert_eq!(by_socket.1.len(), 6, "{text}");
    for attribute in ["\"front\"", "k8s.deployment.name", "k8s.cronjob.name", "k8s.statefulset.name"] {
        assert!(text.contains(attribute), "{attribute}: {text}");
    }
    assert!(!text.contains("every-0"), "its annotation was not obeyed");
}

#[test]
fn pods_come_change_and_go_and_a_kubelet_that_restarts_is_found_again() {
    let test = "pods_come_change_and_go_and_a_kubelet_that_restarts_is_found_again";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut server) = Server::start(dir.path(), test, &["-initializing"]) else { return };
    let mut stack = stack(dir.path(), "source: socket", String::new());
    stack.start().unwrap();
    wait_until("a refusal", LIMIT, || success(&stack, "socket") == Some(0.0)).unwrap();
    assert_eq!(pods(&stack), 0.0);
    let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
    assert!(log.contains("FAILED_PRECONDITION: Kubelet is initializing"), "{log}");
    server.command("initializing no");
    wait_until("the pods", LIMIT, || pods(&stack) == 29.0).unwrap();
    assert_eq!(success(&stack, "socket"), Some(1.0));

    server.put(&fixture("every-field.json"));
    wait_until("a new pod", LIMIT, || pods(&stack) == 30.0).unwrap();
    let page = |labels: &str| {
        let name = "kube_pod_container_status_restarts_total";
        http::metric(stack.agent_http, "/metrics/pods", name, labels).unwrap()
    };
    assert_eq!(page(EVERY), f64::from(i32::MAX));
    let text = fs::read_to_string(fixture("every-field.json")).unwrap();
    let changed = dir.path().join("changed.json");
    fs::write(&changed, text.replace("2147483647", "3")).unwrap();
    server.put(&changed);
    wait_until("its change", LIMIT, || page(EVERY) == 3.0).unwrap();
    server.command(&format!("delete {EVERY}"));
    wait_until("its end", LIMIT, || pods(&stack) == 29.0).unwrap();

    // A client that is too slow: the watch ends, and the next one has it all.
    server.command("drop");
    server.put(&changed);
    wait_until("another watch", LIMIT, || pods(&stack) == 30.0).unwrap();
    wait_until("its success", LIMIT, || success(&stack, "socket") == Some(1.0)).unwrap();

    server.child.kill().unwrap();
    server.child.wait().unwrap();
    wait_until("a failure", LIMIT, || success(&stack, "socket") == Some(0.0)).unwrap();
    assert_eq!(pods(&stack), 30.0, "what is known stays");
    let mut server = Server::start(dir.path(), test, &["-initializing"]).unwrap();
    server.command(&format!("delete {DB_0}"));
    assert_eq!(pods(&stack), 30.0);
    server.command("initializing no");
    wait_until("the pods that are left", LIMIT, || pods(&stack) == 28.0).unwrap();
    wait_until("success", LIMIT, || success(&stack, "socket") == Some(1.0)).unwrap();
    stack.agent.take().unwrap().stop(Duration::from_secs(30)).unwrap();
}

#[test]
fn auto_takes_the_socket_that_answers_and_else_the_kubelets_http() {
    let test = "auto_takes_the_socket_that_answers_and_else_the_kubelets_http";
    let dir = tempfile::tempdir().unwrap();
    if let Some(_server) = Server::start(dir.path(), test, &[]) {
        let mut stack = stack(dir.path(), "source: auto", http_kubelet());
        stack.start_agent().unwrap();
        wait_until("the socket's pods", LIMIT, || pods(&stack) == 29.0).unwrap();
        assert_eq!((success(&stack, "socket"), success(&stack, "kubelet")), (Some(1.0), None));
    }
    for left_over in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        if left_over {
            fs::create_dir_all(dir.path().join("kubelet/pods")).unwrap();
            drop(UnixListener::bind(dir.path().join("kubelet/pods/kubelet.sock")).unwrap());
        }
        let mut stack = stack(dir.path(), "source: auto", http_kubelet());
        stack.start_agent().unwrap();
        wait_until("the pods over HTTP", LIMIT, || pods(&stack) == 30.0).unwrap();
        assert_eq!((success(&stack, "socket"), success(&stack, "kubelet")), (None, Some(1.0)), "{left_over}");
    }
}

#[test]
fn a_socket_that_is_not_there_is_said_and_logs_are_named_by_their_paths() {
    let dir = tempfile::tempdir().unwrap();
    let mut stack = stack(dir.path(), "source: socket", http_kubelet());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    write_logs(&stack.pod_logs, now);
    stack.start().unwrap();
    wait_until("a failure", LIMIT, || success(&stack, "socket") == Some(0.0)).unwrap();
    wait_until("the records", LIMIT, || stack.stored().is_ok_and(|stored| stored == 7)).unwrap();
    let log = fs::read_to_string(dir.path().join("agent.log")).unwrap();
    assert!(
        log.contains("pods/kubelet.sock is not there: the kubelet has it since Kubernetes 1.37"),
        "{log}"
    );
    assert_eq!((pods(&stack), success(&stack, "kubelet")), (0.0, None), "another source was asked");
}
