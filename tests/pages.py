#!/usr/bin/env python3
"""The shipped configurations, the real daemons and a real Prometheus, on one machine.

- `check` takes the configurations of manifests/base/config
- the agent runs as the manifests say: uid 0 with exactly the capabilities of the DaemonSet, and reads log files of
  another user that only their owner may read; without the capability it does not, and says so
- `promtool check metrics` has nothing to say about the pages; names and types are those of dashboards/metrics.txt
- a real Prometheus scrapes them under the jobs of manifests/prometheus; every query of the dashboard *Itself* answers,
  but those that answer only when something is wrong; and no alert but the watchdog is there

Usage: tests/pages.py              (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVERS = ROOT / "target" / "servers"
PODS = {("shop", "web-1", "app"), ("shop", "web-2", "app"), ("batch", "job-1", "work")}
MAIL = "u@example.org"    # in each line, and nowhere else
OTHER_USER = 1000

if not (SERVERS / "venv/bin/python").exists():
    sys.exit("pages: run tests/servers/install first")
if not sys.prefix.startswith(str(SERVERS)):
    os.execv(SERVERS / "venv/bin/python", [str(SERVERS / "venv/bin/python"), *sys.argv])

import yaml  # noqa: E402  (from the environment that was just entered)

# Panels that have no rows while all is well, and why.
EMPTY_WHEN_WELL = {
    "Left out and lost": "no row is made before the first such byte",
    "Sent again": "no retries",
    "Who waits most": "everything is acknowledged",
    "Held and refused": "no answer has held us",
    "Requests": "nothing was refused",
    "Sources": "this test has no kubelet",
    "Failing sources": "this test has no kubelet",
}
# Families that come with their first row.
MADE_WITH_THE_FIRST_ROW = {
    "sonde_agent_log_shed_bytes_total", "sonde_agent_log_lost_bytes_total", "sonde_agent_log_excluded_bytes_total",
    "sonde_agent_export_retries_total", "sonde_agent_export_blocked", "sonde_collector_requests_refused_total",
    "sonde_agent_push_requests_total", "sonde_agent_push_last_success_timestamp_seconds", "sonde_agent_push_blocked",
    # of the kubelet, which this test has not
    "sonde_agent_source_success", "sonde_agent_source_duration_seconds", "sonde_agent_pods", "sonde_agent_pods_source",
}
FAILURES = []


def must(condition, what):
    if not condition:
        FAILURES.append(what)
    return condition


def daemon(name):
    folders = [os.environ.get("SONDE_BIN", "")]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    folders += [str(target / profile) for profile in ("release", "debug")]
    for folder in folders:
        for path in (pathlib.Path(folder) / name, pathlib.Path(folder) / "examples" / name):
            if folder and path.exists():
                return str(path)
    sys.exit(f"pages: {name} is not built")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except OSError:
            pass
        time.sleep(0.2)
    must(False, f"{what}: not within {seconds} s")
    return None


class Run:
    """Starts what it needs and ends exactly that."""

    def __init__(self, folder):
        self.folder, self.children = folder, []

    def start(self, name, command, env=None):
        log = open(self.folder / f"{name}.log", "ab")
        child = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.children.append(child)
        return child

    def stop(self, child):
        child.send_signal(signal.SIGTERM)
        try:
            return child.wait(25)
        except subprocess.TimeoutExpired:
            child.kill()
            return None

    def stop_all(self):
        for child in self.children:
            if child.poll() is None:
                self.stop(child)


class Writer(threading.Thread):
    """Containers' logs as the runtime writes them, readable for their owner alone."""

    def __init__(self, logs):
        super().__init__(daemon=True)
        self.lines, self.ended, self.files = 0, threading.Event(), []
        for number, (namespace, pod, container) in enumerate(sorted(PODS)):
            folder = logs / f"{namespace}_{pod}_{number:08d}-0000-4000-8000-000000000000" / container
            folder.mkdir(parents=True)
            file = open(folder / "0.log", "w", buffering=1)
            self.files.append(file)
            os.chmod(folder / "0.log", 0o600)
            if os.geteuid() == 0:
                os.chown(folder / "0.log", OTHER_USER, OTHER_USER)
                os.chown(folder, OTHER_USER, OTHER_USER)
            os.chmod(folder, 0o700)

    def run(self):
        while not self.ended.wait(0.02):
            now = time.time_ns()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
            for file in self.files:
                file.write(f'{stamp} stdout F {{"level":"info","message":"line {self.lines} of {MAIL}"}}\n')
                self.lines += 1


def as_in_the_pod(command, more=()):
    """uid 0 and exactly the DaemonSet's capabilities, as a container runtime sets them."""
    objects = yaml.safe_load_all((ROOT / "manifests/base/agent.yaml").read_text())
    security = next(each for each in objects)["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    kept = [name.lower() for name in security["capabilities"]["add"] if name not in more]
    if os.geteuid() != 0:
        print(f"{pathlib.Path(sys.argv[0]).stem}: SKIPPED: the capabilities: no right to set them, the agent runs with this user's")
        return command
    caps = ",".join(["-all", *(f"+{name}" for name in kept)])
    return ["setpriv", f"--bounding-set={caps}", "--inh-caps=-all", "--no-new-privs", "--", *command]


def capabilities_of(child):
    return int(re.search(r"CapEff:\s*(\w+)", pathlib.Path(f"/proc/{child.pid}/status").read_text())[1], 16)


def configurations(folder):
    """The shipped ones, with paths and addresses of this test."""
    agent = yaml.safe_load((ROOT / "manifests/base/config/agent.yaml").read_text())
    collector = yaml.safe_load((ROOT / "manifests/base/config/collector.yaml").read_text())
    grpc, http, page, listen = (free_port() for _ in range(4))
    agent |= {"state_dir": str(folder / "state"), "listen": f"127.0.0.1:{listen}", "host": {"root": str(folder / "node")}}
    agent["kubelet"] = {"url": ""}
    agent["logs"] = {"redact": [{"preset": "email"}]}
    agent["export"]["endpoint"] = f"http://127.0.0.1:{grpc}"
    agent["canary"] = {"interval": "1s"}
    collector["data_dir"] = str(folder / "data")
    collector["queue"] = {"min_free": "0B"}  # A full machine is not what is tested here.
    collector["listen"] = {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}", "http": f"127.0.0.1:{page}"}
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent))
    (folder / "collector.yaml").write_text(yaml.safe_dump(collector))
    return f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{page}"


def shipped_configurations():
    env = {**os.environ, "NODE_NAME": "n1", "NODE_IP": "10.0.0.1"}
    for name in ("agent", "collector"):
        file = ROOT / f"manifests/base/config/{name}.yaml"
        done = subprocess.run([daemon(f"sonde-{name}"), "check", "--config", file], env=env, capture_output=True, text=True, check=False)
        must(done.returncode == 0, f"sonde-{name} check: {done.stdout}{done.stderr}")


def value(text, name):
    """Sum of the rows of a metric on a page."""
    return sum(float(row.rpartition(" ")[2]) for row in text.splitlines() if re.match(rf"{name}[ {{]", row))


def pages_are_well_formed(pages):
    known = {}
    for line in (ROOT / "dashboards/metrics.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, kind, page, where = line.split()
            if page in ("/metrics/self", "/metrics"):      # the others are panels.py's
                known[name] = (kind, where)
    types = {}
    for url in pages:
        text = get(url)
        types |= dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
        done = subprocess.run([SERVERS / "root/usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        must(done.returncode == 0, f"promtool check metrics {url}: {done.stdout}{done.stderr}")
    for name, (kind, where) in known.items():
        if where in ("agent", "collector", "daemon") and not (name in MADE_WITH_THE_FIRST_ROW and name not in types):
            must(types.get(name) == kind, f"{name} is {types.get(name)} on its page, not {kind}")
    print(f"pages: {len(types)} metrics, types as in metrics.txt, promtool has nothing to say")


def prometheus_config(folder, agent, collector):
    """Jobs and target labels as manifests/prometheus makes them. Rules as they are."""
    address = lambda url: [url.removeprefix("http://")]  # noqa: E731
    jobs = [
        {"job_name": "sonde", "honor_labels": True, "metrics_path": "/metrics/self",
         "static_configs": [{"targets": address(agent), "labels": {"instance": "n1", "node": "n1", "metrics_path": "/metrics/self"}}]},
        {"job_name": "sonde-collector",
         "static_configs": [{"targets": address(collector), "labels": {"instance": "sonde-collector-0"}}]},
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "dashboards/prometheus/rules/*.yaml")], "scrape_configs": jobs,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))


def shipped_jobs(name, agent, collector, node="n1"):
    """A scrape configuration of manifests/prometheus, with this test's addresses where Kubernetes is asked for pods
    (Debian builds Prometheus without that discovery); what it would say of the pods is here."""
    config = yaml.safe_load((ROOT / "manifests/prometheus" / name).read_text())
    for job in config["scrape_configs"]:
        app = job.pop("kubernetes_sd_configs")[0]["selectors"][0]["label"].partition("=")[2]
        url, pod = (agent, "sonde-agent-x") if app == "sonde-agent" else (collector, "sonde-collector-0")
        job["static_configs"] = [{"targets": [url.removeprefix("http://")], "labels": {
            "__meta_kubernetes_namespace": "sonde", "__meta_kubernetes_pod_name": pod, "__meta_kubernetes_pod_node_name": node,
            "__meta_kubernetes_pod_container_port_name": "http",
        }}]
    return config


def query(prometheus, expr):
    return json.loads(get(f"{prometheus}/api/v1/query?query={urllib.parse.quote(expr)}"))["data"]["result"]


def dashboard_answers(prometheus):
    board = json.loads((ROOT / "dashboards/grafana/sonde.json").read_text())
    asked, empty, unexpected = 0, [], []
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expr = re.sub(r"\$(cluster|node|sink)\b", ".*", target["expr"]).replace("$__rate_interval", "15s").replace("$__range", "30s")
            asked += 1
            rows = [row for row in query(prometheus, expr) if row["value"][1] != "NaN"]
            if not rows:
                empty.append(panel["title"])
                if panel["title"] not in EMPTY_WHEN_WELL:
                    unexpected.append(f"{panel['title']}: {expr}")
    for each in unexpected:
        must(False, f"the dashboard shows nothing: {each}")
    flows = {
        "observed": "sum(rate(sonde_agent_log_observed_bytes_total[15s]))",
        "acknowledged": "sum(rate(sonde_agent_log_acked_bytes_total[15s]))",
        "delivered": 'sum(rate(sonde_collector_records_total{outcome="delivered"}[15s]))',
    }
    values = {name: float(query(prometheus, expr)[0]["value"][1]) for name, expr in flows.items()}
    must(all(each > 0 for each in values.values()), f"the load does not show: {values}")
    unaccounted = query(prometheus, "node:sonde_agent_log_unaccounted_bytes:sum")
    must(unaccounted and unaccounted[0]["value"][1] == "0", f"the ledger does not add up: {unaccounted}")
    firing = {row["metric"]["alertname"] for row in query(prometheus, "ALERTS")}
    must(firing == {"SondeWatchdog"}, f"alerts although all is well: {firing}")
    print(f"pages: Itself: {asked} queries, {len(empty)} empty because all is well ({', '.join(sorted(set(empty)))}); "
          + ", ".join(f"{name} {each:.0f}/s" for name, each in values.items()))


def acts(folder, run):
    shipped_configurations()
    agent_url, collector_url = configurations(folder)
    os.chmod(folder, 0o755)
    logs = folder / "node/var/log/pods"
    logs.mkdir(parents=True)
    writer = Writer(logs)
    run.start("collector", [daemon("sonde-collector"), "--config", str(folder / "collector.yaml")])
    wait_for("the collector", lambda: get(f"{collector_url}/readyz"))
    command, env = [daemon("sonde-agent"), "--config", str(folder / "agent.yaml")], {"NODE_NAME": "n1"}
    writer.start()

    if os.geteuid() == 0:
        bare = run.start("agent-bare", as_in_the_pod(command, more=["DAC_READ_SEARCH"]), env)
        if wait_for("the agent without capabilities", lambda: get(f"{agent_url}/readyz")):
            must(capabilities_of(bare) == 0, f"capabilities {capabilities_of(bare):#x}, not none")
            time.sleep(3)
            text = get(f"{agent_url}/metrics/self")
            must(value(text, "sonde_agent_log_acked_bytes_total") == 0, "files of others are read without DAC_READ_SEARCH")
            print(f"pages: without DAC_READ_SEARCH: {value(text, 'sonde_agent_log_unreadable_files'):.0f} unreadable files, "
                  f"{value(text, 'sonde_agent_log_acked_bytes_total'):.0f} bytes read")
        run.stop(bare)

    agent = run.start("agent", as_in_the_pod(command), env)
    wait_for("the agent", lambda: get(f"{agent_url}/readyz"))
    if os.geteuid() == 0:
        must(capabilities_of(agent) == 1 << 2, f"capabilities {capabilities_of(agent):#x}, not DAC_READ_SEARCH alone")
    prometheus = f"http://127.0.0.1:{free_port()}"
    prometheus_config(folder, agent_url, collector_url)
    run.start("prometheus", [
        str(SERVERS / "root/usr/bin/prometheus"), "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb",
        f"--web.listen-address={prometheus.removeprefix('http://')}"])
    wait_for("acknowledged lines", lambda: value(get(f"{agent_url}/metrics/self"), "sonde_agent_log_acked_bytes_total") > 0)
    wait_for("both targets", lambda: query(prometheus, "count(up == 1) == 2"))
    time.sleep(35)
    pages_are_well_formed([f"{agent_url}/metrics/self", f"{collector_url}/metrics"])
    dashboard_answers(prometheus)

    writer.ended.set()
    writer.join()
    count = lambda: json.loads(get(f"{collector_url}/api/v1/logs/count"))["count"]  # noqa: E731
    wait_for(f"all {writer.lines} lines", lambda: count() == writer.lines, 30)
    must(count() == writer.lines, f"{writer.lines} lines were written, {count()} are stored")
    wait_for("as many addresses taken out as lines have them",
             lambda: value(get(f"{agent_url}/metrics/self"), "sonde_agent_log_redacted_total") >= writer.lines)
    must(MAIL not in get(f"{collector_url}/api/v1/logs?limit=1000"), "an e-mail address has left the node")
    must(run.stop(agent) == 0, "the agent did not end cleanly")
    print(f"pages: with exactly the listed capabilities: {writer.lines} lines of another user's files, each stored")


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-pages-")), time.monotonic()
    run = Run(folder)
    try:
        acts(folder, run)
    finally:
        run.stop_all()
        if FAILURES:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}")
        shutil.rmtree(folder, ignore_errors=True)
    for failure in FAILURES:
        print(f"pages: FAILED: {failure}")
    print(f"pages: {'FAILED' if FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
