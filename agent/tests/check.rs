//! The real binary: its command line, its configuration, its lock.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sonde-agent"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finished(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_prints_what_stands_for_keys_that_were_left_empty() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, "host: {root: /host, proc: /proc}\n").unwrap();
    let (code, out, err) = finished(agent(&["check", "--config", file.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{err}");
    for line in ["  proc: /proc", "  pod_logs: /host/var/log/pods", "  cgroup: /host/sys/fs/cgroup"] {
        assert!(out.lines().any(|printed| printed == line), "{line}: {out}");
    }
    assert!(!out.contains("null") && !out.lines().any(|line| line == "  name: \"\""), "{out}");
    std::fs::write(&file, &out).unwrap();
    let again = finished(agent(&["check", "--config", file.to_str().unwrap()]));
    assert_eq!((again.0, again.1), (Some(0), out));
}

#[test]
fn five_mistakes_are_five_lines_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let name = file.to_str().unwrap();
    let mistakes = "listen: somewhere\nexport:\n  endpoint: collector:4317\n  in_flight: 0\n  batch: {byts: 1MiB}\nlogs:\n  max_line: big\n";
    std::fs::write(&file, mistakes).unwrap();
    let (code, out, err) = finished(agent(&["check", "--config", name]));
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 5, "{err}");
    for (line, key) in [
        (1, "listen"),
        (3, "export.endpoint"),
        (4, "export.in_flight"),
        (5, "export.batch.byts"),
        (7, "logs.max_line"),
    ] {
        let start = format!("{name}:{line}: {key}: ");
        let found = lines.iter().find(|text| text.starts_with(&start));
        assert!(
            found.is_some_and(|text| text.contains("expected") || text.contains("bytes")),
            "{start}\n{err}"
        );
    }
}

#[test]
fn the_defaults_print_and_load_back_as_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let (code, printed, err) = finished(agent(&["check"]));
    assert_eq!(code, Some(0), "{err}");
    assert!(printed.contains("endpoint: http://127.0.0.1:4317"), "{printed}");
    std::fs::write(&file, &printed).unwrap();
    let (code, again, err) = finished(agent(&["check", "--config", file.to_str().unwrap()]));
    assert_eq!((code, again), (Some(0), printed), "{err}");
}

#[test]
fn the_environment_is_part_of_the_configuration() {
    let mut command = agent(&["check"]);
    command.env("NODE_NAME", "lab-node-1").env("NODE_IP", "10.0.0.7");
    let (code, printed, err) = finished(command);
    assert_eq!(code, Some(0), "{err}");
    assert!(printed.contains("name: lab-node-1"), "{printed}");
    assert!(printed.contains("https://10.0.0.7:10250"), "{printed}");
}

#[test]
fn bad_arguments_and_missing_files_exit_2() {
    for args in [
        &["--no-such-flag"][..],
        &["--config", "/no/such/file.yaml"],
        &["check", "--config", "/no/such/file.yaml"],
    ] {
        let (code, _, err) = finished(agent(args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(!err.is_empty());
    }
}

/// A running agent; killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> (Running, String) {
    std::fs::create_dir_all(dir.join("pods")).unwrap();
    let file = dir.join("agent.yaml");
    let text = format!(
        "state_dir: {0}/state\nlisten: 127.0.0.1:0\nshutdown_grace: 2s\nhost: {{root: {0}, pod_logs: {0}/pods}}\nkubelet: {{url: ''}}\nexport: {{endpoint: 'http://127.0.0.1:1'}}\n",
        dir.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut child = agent(&["--config", file.to_str().unwrap()]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("sonde-agent starts")).unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    (Running(child), value["listen"].as_str().unwrap().to_owned())
}

fn get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_second_process_on_the_same_state_names_the_holder_and_the_first_stops_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, addr) = start(dir.path());
    let file = dir.path().join("agent.yaml");
    let (code, _, err) = finished(agent(&["--config", file.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&format!("pid {}", first.0.id())), "{err}");

    let ready = Instant::now();
    while !get(&addr, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(ready.elapsed() < Duration::from_secs(10), "{}", get(&addr, "/readyz"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(get(&addr, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&addr, "/debug/files").ends_with("[]"));
    let page = get(&addr, "/metrics");
    for name in
        ["sonde_agent_build_info{", "process_resident_memory_bytes ", "sonde_agent_export_in_flight 0"]
    {
        assert!(page.contains(name), "{name}\n{page}");
    }

    let pid = rustix::process::Pid::from_child(&first.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let asked = Instant::now();
    assert_eq!(first.0.wait().unwrap().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3));
}
