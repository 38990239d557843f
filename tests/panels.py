#!/usr/bin/env python3
"""Every panel of both dashboards beside the load of the simulated node: the real daemons with the shipped
configurations, and two real Prometheus servers with the shipped scrape configurations (split jobs, one job).

- `promtool check metrics` says no more about our pages than about those of the originals: node_exporter on this machine,
  and recordings of a kubelet (tests/fixtures/originals)
- each query is in the table below: it answers within 5 % of what the node says that it does, namespace by namespace
  and pod by pod; or it is not zero at some time of the run; or it says who shows it, or why it must be zero

Usage: tests/panels.py [-v]        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

import node as simulated
import pages
import yaml
from node import containers
from pages import must

WINDOW = 60         # of rates, seconds
TOLERANCE = 0.05
RATE = 4000         # lines a second
VERBOSE = "-v" in sys.argv[1:]
NODE = "sim-node-1"
ENDING = {"crash", "greedy"}    # pods whose containers end and start again all the time
EXCLUDED = "crash"  # its logs are excluded by a rule of this test; such files are not read, and looked at now and then
# Of node_exporter after Debian's 1.5, where they are named in the same way.
NEWER = {f"node_netstat_TcpExt_{name} metric names should be written in 'snake_case' not 'camelCase'" for name in ("TCPOFOQueue", "TCPRcvQDrop")}


# How a query must answer. `labels`: what names its rows. `only`: rows that are compared.
def rate(labels, key, value, only=None):
    return {"kind": "rate", "labels": labels, "truth": lambda truth: truth.rate(key, value), "only": only}


def mean(labels, key, value, each=lambda pod: [pod], only=None):
    return {"kind": "mean", "labels": labels, "truth": lambda truth: truth.mean(key, value, each), "only": only}


def seen(labels, key, each):
    """Rows that come and go: the same ones in the window, whatever their values."""
    return {"kind": "seen", "labels": labels, "truth": lambda truth: truth.seen(key, each)}


def grown(labels, what):
    """increase() over ten minutes: what the node counts now, less what Prometheus saw first."""
    return {"kind": "grown", "labels": labels, "what": what}


SOMETIME = {"kind": "sometime"}


def elsewhere(alert):
    """Zero here; shown to be not zero by causes.py when it produces the cause of this alert."""
    return {"kind": "elsewhere", "why": alert}


def zero(why):
    return {"kind": "zero", "why": why}


# Keys and values of the node's pods.
def namespace(pod):
    return (pod["namespace"],)


def pod_name(pod):
    return (pod["namespace"], pod["pod"])


def lasting(pod):
    return None if pod["pod"] in ENDING else pod_name(pod)


def lasting_container(part):
    return None if part["pod"] in ENDING or not part["running"] else (part["pod"], part["container"])


def everything(_pod):
    return ()


def on_network(key):
    return lambda pod: None if pod["host_network"] else key(pod)


def cpu(pod):
    return pod["cpu_micros"] / 1e6


def of_running(value):
    return lambda part: value(part["running"]) if part["running"] else 0


def working_set(use):
    return use["rss_bytes"] + use["cache_bytes"] - use["cache_bytes"] // 2


def sum_of(name, scale=1):
    return lambda pod: sum((each[name] or 0) for each in pod["containers"]) * scale


def field(*path):
    def value(pod):
        for name in path:
            pod = pod[name]
        return pod
    return value


def not_excluded(pod):
    return None if pod["pod"] == EXCLUDED else ()


def share(of, by):
    """A quotient of sums, as a panel of percents."""
    def truth(window):
        top = of(window)
        bottom = window.mean(everything, by)[()]
        return {(): top[()] / bottom}
    return {"kind": "rate", "labels": [], "truth": truth, "only": None}


RECEIVE_BAD = lambda pod: pod["receive"]["errors"] + pod["receive"]["dropped"]  # noqa: E731
TRANSMIT_BAD = lambda pod: pod["transmit"]["errors"] + pod["transmit"]["dropped"]  # noqa: E731
NS, POD = ["namespace"], ["namespace", "pod"]

# Panel: its queries in turn.
NAMESPACES = {
    "CPU": [rate([], everything, cpu)],
    "CPU of requests": [share(lambda w: w.rate(everything, cpu), sum_of("cpu_request_millis", 1e-3))],
    "Memory": [mean([], everything, field("working_set_bytes"))],
    "Memory of limits": [share(lambda w: w.now(everything, field("working_set_bytes")), sum_of("memory_limit_bytes"))],
    "Running pods": [mean([], everything, lambda pod: pod["phase"] == "Running")],
    "Pods not well": [mean([], everything, lambda pod: pod["phase"] in ("Pending", "Failed", "Unknown"))],
    "CPU by namespace": [rate(NS, namespace, cpu)],
    "Memory by namespace": [mean(NS, namespace, field("working_set_bytes"))],
    "Network by namespace": [rate(NS, on_network(namespace), field("receive", "bytes")),
                             rate(NS, on_network(namespace), field("transmit", "bytes"))],
    "Log volume by namespace": [rate(NS, namespace, field("log_bytes"))],
    "Log lines by namespace": [rate(NS, namespace, field("log_lines"))],
    "Network errors and drops": [rate(NS, on_network(namespace), RECEIVE_BAD), rate(NS, on_network(namespace), TRANSMIT_BAD)],
    "Use and requests": [
        rate(NS, namespace, cpu),
        mean(NS, namespace, sum_of("cpu_request_millis", 1e-3)),
        mean(NS, namespace, sum_of("cpu_limit_millis", 1e-3)),
        mean(NS, namespace, field("working_set_bytes")),
        mean(NS, namespace, sum_of("memory_request_bytes")),
        mean(NS, namespace, sum_of("memory_limit_bytes")),
        mean(NS, namespace, lambda pod: sum(bool(each["running"]) for each in pod["containers"])),
        rate(NS, namespace, field("log_bytes")),
    ],
    "Pods by phase": [mean(["phase"], lambda pod: (pod["phase"],), lambda pod: 1)],
    "Restarts": [grown(POD, "restarts")],
    "Waiting containers": [seen([*POD, "container", "reason"], lambda c: c["waiting"] and (c["namespace"], c["pod"], c["container"], c["waiting"]), containers)],
    "Last ends": [seen([*POD, "container", "reason"], lambda c: c["last_end"] and (c["namespace"], c["pod"], c["container"], c["last_end"]), containers)],
    "OOM kills": [grown(NS, "oom_kills")],
    "CPU throttling": [rate(NS, namespace, lambda pod: pod["throttled_micros"] / 1e6)],
    "CPU by pod": [rate(POD, lasting, cpu)],
    "Memory by pod": [mean(POD, lasting, lambda pod: sum(working_set(c["running"]) for c in pod["containers"] if c["running"]))],
    "Network received by pod": [rate(POD, on_network(pod_name), field("receive", "bytes"))],
    "Network sent by pod": [rate(POD, on_network(pod_name), field("transmit", "bytes"))],
    "Log volume by pod": [rate(POD, lambda pod: None if pod["pod"] == EXCLUDED else pod_name(pod), field("log_bytes"))],
    "Memory by container": [mean(["pod", "container"], lasting_container, of_running(working_set), containers),
                            mean(["pod", "container"], lasting_container, of_running(field("rss_bytes")), containers)],
}
ONE = {"kind": "rate", "labels": [], "truth": lambda _: {(): 1.0}, "only": None}
ITSELF = {
    "Agents that answer": [ONE],
    "Silent agents": [elsewhere("SondeAgentSilent")],
    "Lost": [elsewhere("SondeLogLoss")],
    "Missed rotations": [elsewhere("SondeLogGaps")],
    "Refused": [elsewhere("SondeExportBlocked")],
    "Dead letters": [zero("the embedded store refuses nothing that was accepted")],
    "Observed and acknowledged": [rate([], everything, field("log_bytes")), rate([], not_excluded, field("log_bytes"))],
    "Waiting": [SOMETIME],
    "Left out and lost": [elsewhere("SondeLogLoss"), elsewhere("SondeLogShed"),
                          SOMETIME],
    "Unaccounted": [zero("anything else is a defect of Sonde")],
    "Records": [rate(["outcome"], lambda pod: pod["pod"] != EXCLUDED and ("acked",) or None, field("log_lines"), only=[("acked",)])],
    "Who waits most": [SOMETIME],
    "Log files": [SOMETIME, SOMETIME, elsewhere("SondeFilesUnreadable"), zero("no file is malformed here")],
    "Deleted files held open": [elsewhere("SondeLogsStuck")],
    "Positions": [elsewhere("SondeStateNotWritten"), elsewhere("SondeStateNotWritten"), zero("this machine has inotify")],
    "Answers": [SOMETIME],
    "Sent again": [SOMETIME],
    "Time to acknowledgement": [SOMETIME, SOMETIME],
    "Bytes on the wire": [SOMETIME, SOMETIME],
    "Requests under way": [SOMETIME],
    "Held and refused": [elsewhere("SondeExportBlocked"), zero("nothing refuses a single record here")],
    "Queue": [SOMETIME, SOMETIME],
    "Oldest record": [SOMETIME],
    "Records at the sinks": [rate(["sink", "outcome"], lambda pod: pod["pod"] != EXCLUDED and ("store", "delivered") or None,
                                  field("log_lines"), only=[("store", "delivered")])],
    "Tries at the sinks": [elsewhere("SondeQueueOld")],
    "Received": [SOMETIME, SOMETIME],
    "Requests": [SOMETIME, elsewhere("SondeQueueFull")],
    "Time to acknowledge": [SOMETIME, SOMETIME],
    "Store": [SOMETIME],
    "CPU of the agents": [{"kind": "process", "daemon": "agent", "what": "cpu"}],
    "Memory of the agents": [{"kind": "process", "daemon": "agent", "what": "rss"}],
    "CPU of the collector": [{"kind": "process", "daemon": "collector", "what": "cpu"}],
    "Memory of the collector": [{"kind": "process", "daemon": "collector", "what": "rss"}, SOMETIME],
    "Sources": [SOMETIME],
    "Failing sources": [elsewhere("SondeSourceFailing")],
}
BOARDS = {"namespaces.json": NAMESPACES, "sonde.json": ITSELF}


class Processes:
    """CPU time and resident memory of the daemons, as the kernel counts them."""

    def __init__(self, children):
        self.children, self.samples = children, []

    def sample(self):
        now = {"at": time.time()}
        for name, child in self.children.items():
            stat = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            ticks = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            now[name] = {"cpu": ticks, "rss": int(stat[21]) * os.sysconf("SC_PAGE_SIZE")}
        self.samples.append(now)

    def truth(self, spec, end):
        inside = [each for each in self.samples if end - WINDOW <= each["at"] <= end]
        values = [each[spec["daemon"]][spec["what"]] for each in inside]
        if spec["what"] == "cpu":
            return (values[-1] - values[0]) / (inside[-1]["at"] - inside[0]["at"])
        return sum(values) / len(values)


class Server:
    """A Prometheus with one of the shipped scrape configurations."""

    def __init__(self, folder, run, name, agent, collector):
        self.name, self.url = name, f"http://127.0.0.1:{pages.free_port()}"
        config = pages.shipped_jobs(name, agent, collector, NODE)
        config |= {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                   "rule_files": [str(pages.ROOT / "dashboards/prometheus/rules/*.yaml")]}
        (folder / name).write_text(yaml.safe_dump(config))
        self.jobs = len(config["scrape_configs"])
        run.start(name, [str(pages.SERVERS / "root/usr/bin/prometheus"), f"--config.file={name}", f"--storage.tsdb.path=tsdb-{name}",
                         f"--web.listen-address={self.url.removeprefix('http://')}"])

    def at(self, expr, moment):
        path = f"query?time={moment}&query={urllib.parse.quote(expr)}"
        return json.loads(pages.get(f"{self.url}/api/v1/{path}", 30))["data"]["result"]

    def range(self, expr, start, end):
        path = f"query_range?start={start}&end={end}&step=1&query={urllib.parse.quote(expr)}"
        return json.loads(pages.get(f"{self.url}/api/v1/{path}", 60))["data"]["result"]


class Comparison:
    def __init__(self, server, truth, processes, node, begun, end):
        self.server, self.truth, self.processes, self.node = server, truth, processes, node
        self.begun, self.end, self.absent, self.oom_start = begun, end, [], begun
        self.queries = self.values = self.sometime = 0
        self.worst, self.elsewhere = (0.0, "nothing"), []

    def key(self, spec, row):
        return tuple(row["metric"].get(label, "") for label in spec["labels"])

    def numbers(self, where, spec, got, expected):
        """Each expected value is answered, within the tolerance, and nothing is answered beside."""
        if spec.get("only"):
            got = {key: value for key, value in got.items() if key in spec["only"]}
        for key in sorted(got.keys() | expected.keys()):
            have, want = got.get(key, 0.0), expected.get(key, 0.0)
            if want == 0 and have == 0:
                continue
            deviation = abs(have - want) / max(abs(want), 1e-9)
            self.values += 1
            self.worst = max(self.worst, (deviation, f"{where} {'/'.join(key)}: {have:.6g}, truth {want:.6g}"))
            must(deviation <= TOLERANCE, f"{self.server.name}: {where} {key}: {have:.6g}, the node makes {want:.6g}")
        must(any(expected.values()), f"{where}: the node makes nothing")

    def one(self, where, expr, spec):
        self.queries += 1
        if missing := [name for name in self.absent if name in expr]:
            print(f"panels: SKIPPED: {where}: this agent has no {missing[0]}")
            return
        end = self.end
        match spec["kind"]:
            case "rate":
                got = {self.key(spec, row): float(row["value"][1]) for row in self.server.at(expr, end)}
                want = spec["truth"](self.truth)
                if spec["labels"] == POD:
                    got = {key: value for key, value in got.items() if key in want or key[1] not in ENDING}
                self.numbers(where, spec, got, want)
            case "mean":
                got = {}
                for row in self.server.range(expr, end - WINDOW + 1, end):
                    if ENDING.isdisjoint(self.key(spec, row)):
                        got[self.key(spec, row)] = sum(float(value) for _, value in row["values"]) / WINDOW
                self.numbers(where, spec, got, spec["truth"](self.truth))
            case "seen":
                rows = self.server.range(expr, end - WINDOW, end)
                got, want = {self.key(spec, row) for row in rows}, spec["truth"](self.truth)
                self.values += len(want)
                must(want and got == want, f"{self.server.name}: {where}: {sorted(got ^ want)} are on one side only")
            case "grown":
                self.grown(where, expr, spec)
            case "process":
                if spec["what"] == "cpu":
                    rows = self.server.at(expr, end)
                    got = float(rows[0]["value"][1]) if rows else 0.0
                else:
                    values = [float(value) for row in self.server.range(expr, end - WINDOW, end) for _, value in row["values"]]
                    got = sum(values) / max(len(values), 1)
                self.numbers(where, {}, {(): got}, {(): self.processes.truth(spec, end)})
            case "sometime":
                self.sometime += 1
                rows = self.server.range(expr, self.begun, end)
                must(any(float(v) > 0 for row in rows for _, v in row["values"]), f"{self.server.name}: {where} is never above zero: {expr}")
            case "elsewhere":
                self.elsewhere.append(where)
            case "zero":
                rows = self.server.range(expr, self.begun, end)
                must(all(float(v) == 0 for row in rows for _, v in row["values"]), f"{self.server.name}: {where} is not zero, but {spec['why']}")

    def grown(self, where, expr, spec):
        """Against the first value that Prometheus saw, which may be of any moment before the window."""
        series = {"restarts": "sum by (namespace, pod) (kube_pod_container_status_restarts_total)",
                  "oom_kills": "sum by (namespace) (sonde_namespace_oom_kills_total)"}[spec["what"]]
        first = {self.key(spec, row): float(row["values"][0][1]) for row in self.server.range(series, self.begun, self.end)}
        before, want = {pod["uid"]: pod["oom_kills"] for pod in self.node.at(self.oom_start)["pods"]}, {}
        for pod in self.truth.last["pods"]:
            key = tuple(pod[label] for label in spec["labels"])
            more = sum(each["restarts"] for each in pod["containers"]) if spec["what"] == "restarts" else pod["oom_kills"] - before.get(pod["uid"], 0)
            want[key] = want.get(key, 0) + more
        want = {key: value - first.get(key, 0) for key, value in want.items()}
        got = {self.key(spec, row): float(row["value"][1]) for row in self.server.at(expr, self.end)}
        self.numbers(where, spec, got, want)


def boards(comparison):
    for file, table in BOARDS.items():
        panels = [panel for panel in json.loads((pages.ROOT / "dashboards/grafana" / file).read_text())["panels"] if panel.get("targets")]
        must({panel["title"] for panel in panels} == set(table), f"{file}: {set(table) ^ {panel['title'] for panel in panels}} is in one of the two only")
        for panel in panels:
            specs = table.get(panel["title"], [])
            must(len(specs) == len(panel["targets"]), f"{panel['title']}: {len(panel['targets'])} queries, {len(specs)} expectations")
            for at, (target, spec) in enumerate(zip(panel["targets"], specs)):
                expr = re.sub(r"\$(cluster|namespace|pod|node|sink)\b", ".*", target["expr"])
                expr = expr.replace("$__rate_interval", f"{WINDOW}s").replace("$__range", f"{WINDOW}s")
                comparison.one(f"{panel['title']}{f' {at + 1}' if at else ''}", expr, spec)


def findings(text):
    done = subprocess.run([pages.SERVERS / "root/usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    must(not any("error while linting" in line for line in said), f"a page is not well-formed: {said[:3]}")
    return set(said)


def no_more_than_the_originals(folder, run, agent, collector):
    """A second agent looks at this machine, and node_exporter beside it."""
    exporter, listen = f"127.0.0.1:{pages.free_port()}", f"127.0.0.1:{pages.free_port()}"
    config = {"state_dir": str(folder / "host-state"), "listen": listen, "kubelet": {"url": ""}, "logs": {"enabled": False},
              "metrics": {"push": False}, "export": {"endpoint": "http://127.0.0.1:9"}}
    (folder / "host.yaml").write_text(yaml.safe_dump(config))
    run.start("node-exporter", [str(pages.SERVERS / "root/usr/bin/prometheus-node-exporter"), f"--web.listen-address={exporter}"])
    run.start("agent-host", [pages.daemon("sonde-agent"), "--config", str(folder / "host.yaml")], {"NODE_NAME": "host"})
    theirs = pages.wait_for("node_exporter", lambda: pages.get(f"http://{exporter}/metrics"))
    host = pages.wait_for("the agent on this machine", lambda: pages.get(f"http://{listen}/metrics/node"))
    originals = findings(theirs) | NEWER
    for page in ("cadvisor", "kubelet"):
        originals |= findings((pages.ROOT / f"tests/fixtures/originals/{page}.txt").read_text())
    texts = {"/metrics/node of this machine": host, "the collector's": pages.get(f"{collector}/metrics")}
    for page in ("node", "containers", "pods", "kubelet", "namespaces", "self"):
        texts[f"/metrics/{page}"] = pages.get(f"{agent}/metrics/{page}")
    texts["/metrics"] = pages.get(f"{agent}/metrics")
    more = 0
    for page, text in texts.items():
        must(text.strip() or page == "/metrics/kubelet", f"{page} is empty")
        said = findings(text)
        for line in sorted(said - originals):
            must(False, f"promtool on {page}, and not on the original: {line}")
        more += len(said)
    listed = [line.split() for line in (pages.ROOT / "dashboards/metrics.txt").read_text().splitlines() if line and not line.startswith("#")]
    for name, kind, page, where in listed:
        if where == "agent" and page in texts and page != "/metrics/self":
            must(f"# TYPE {name} {kind}\n" in texts[page], f"{name} is not on {page} as a {kind}, as dashboards/metrics.txt has it")
    names = lambda text: set(re.findall(r"(?m)^# TYPE (node_\w+)", text))  # noqa: E731
    print(f"panels: promtool says {len(originals)} things about the originals, and nothing else about our {len(texts)} pages ({more} of the same); "
          f"of node_exporter's {len(names(theirs))} families on this machine we show {len(names(theirs) & names(host))}")


def quiet(node, seconds):
    """Nothing ends or starts for a while, so that what is told at intervals is told."""
    def states(sample):
        return [(pod["uid"], pod["phase"], [(c["restarts"], c["waiting"]) for c in pod["containers"]]) for pod in sample["pods"]]
    recent = node.between(time.time() - seconds, time.time())
    return recent and all(states(sample) == states(recent[0]) for sample in recent)


def acts(folder, run):
    sim = simulated.Node(folder / "node", RATE, "trouble", "steady")
    run.sims.append(sim)
    agent_url, collector_url = pages.configurations(folder)
    config = yaml.safe_load((folder / "agent.yaml").read_text())
    config["kubelet"] = {"url": sim.kubelet, "interval": "1s"}
    config["logs"] = {"exclude": [{"pod": EXCLUDED}]}
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    agent = run.start("agent", pages.as_in_the_pod([pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")]), {"NODE_NAME": NODE})
    pages.wait_for("the agent", lambda: pages.get(f"{agent_url}/readyz"))
    begun = time.time()
    servers = [Server(folder, run, name, agent_url, collector_url) for name in ("scrape-split.yaml", "scrape-one-job.yaml")]
    for server in servers:
        pages.wait_for(server.name, lambda: server.at("up", time.time()))
    time.sleep(6)   # without a receiver for a while: retries, requests under way
    collector = run.start("collector", [pages.daemon("sonde-collector"), "--config", str(folder / "collector.yaml")])
    for server in servers:
        pages.wait_for(f"all targets of {server.name}", lambda: server.at(f"count(up == 1) == {server.jobs}", time.time()))
    processes = Processes({"agent": agent, "collector": collector})
    settled = time.time() + 12
    while time.time() < settled + WINDOW + 4 or not quiet(sim, 5):
        processes.sample()
        time.sleep(0.5)
        if time.time() > settled + WINDOW + 120:
            must(False, "the node never rests")
            break
    page = pages.get(f"{agent_url}/metrics/namespaces")
    absent = [name for name in ("sonde_namespace_log_lines_total", "sonde_namespace_log_bytes_total") if f"{name}{{" not in page]
    no_more_than_the_originals(folder, run, agent_url, collector_url)
    end = processes.samples[-1]["at"] - 0.5
    truth = simulated.Truth(sim, end, WINDOW)
    for server in servers:
        comparison = Comparison(server, truth, processes, sim, begun, end)
        comparison.oom_start = begun - 30
        comparison.absent = absent
        boards(comparison)
        firing = {row["metric"]["alertname"] for row in server.at("ALERTS{alertstate='firing'}", end)}
        must("SondeWatchdog" in firing and not {each for each in firing if each.startswith("Sonde")} - {"SondeWatchdog"}, f"alerts: {firing}")
        print(f"panels: {server.name}: {comparison.queries} queries; {comparison.values} values compared, the worst is off by "
              f"{comparison.worst[0] * 100:.1f} % ({comparison.worst[1]}); {comparison.sometime} queries not zero in the run; "
              f"{len(comparison.elsewhere)} shown by causes.py")
        if VERBOSE:
            print("  by causes.py: " + ", ".join(comparison.elsewhere))
    stats = sim.stop()
    excluded = sum(pod["log_lines"] for pod in sim.samples[-1]["pods"] if pod["pod"] == EXCLUDED)
    print(f"panels: the node wrote {stats['lines']} lines in {stats['bytes'] >> 20} MiB, about {excluded} of them excluded by rule")


class Run(pages.Run):
    def __init__(self, folder):
        super().__init__(folder)
        self.sims = []

    def stop_all(self):
        super().stop_all()
        for sim in self.sims:
            sim.kill()


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-panels-")), time.monotonic()
    os.chmod(folder, 0o755)
    run = Run(folder)
    try:
        acts(folder, run)
    finally:
        run.stop_all()
        if pages.FAILURES:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}")
        shutil.rmtree(folder, ignore_errors=True)
    for failure in pages.FAILURES:
        print(f"panels: FAILED: {failure}")
    print(f"panels: {'FAILED' if pages.FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if pages.FAILURES else 0)


if __name__ == "__main__":
    main()
