#!/usr/bin/env python3
"""Every panel of both dashboards beside the load of the simulated node: the real daemons with the shipped
configurations, and two real Prometheus servers with the shipped scrape configurations (split jobs, one job).

The node rests, works, and rests again (tests/node.py), and what is compared is what was there at the two rests, by when
the agent and the collector had caught up and every page was scraped since: how long any of it takes does not matter.

- `promtool check metrics` says no more about our pages than about those of the originals: node_exporter on this machine,
  and recordings of a kubelet (tests/fixtures/originals)
- each query is in the table below: it answers within 5 % of what the node says that it did, namespace by namespace
  and pod by pod (rates from one rest to the other, what is now at each of them); or it is not zero at some time of the run; or it says who shows it, or why it must be zero
- and again with a namespace and a pod chosen, one of each namespace and those in trouble: what is shown is theirs alone
- with a variable set to what is nowhere, no query whose metrics have that label shows anything
- the variables' own queries find what is there

Usage: tests/panels.py [-v]        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import functools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import node as simulated
import pages
import yaml
from node import containers
from pages import must

WORK = 45           # seconds between the two rests, at least
SCRAPES = 2.0       # seconds from one to the next
EDGE = 1.1 * SCRAPES    # rate() takes a counter's samples to reach to the window's edges where they are not further from it
TOLERANCE = 0.05
RATE = 4000         # lines a second
VERBOSE = "-v" in sys.argv[1:]
NODE, CLUSTER, NOWHERE = "sim-node-1", "here", "nowhere"
ALL = {"cluster": CLUSTER, "namespace": ".*", "pod": ".*", "node": ".*", "sink": ".*"}   # as Grafana has it for "All"
ENDING = {"crash", "greedy"}    # pods whose containers end and start again all the time
EXCLUDED = "crash"  # its logs are excluded by a rule of this test; such files are not read, and looked at now and then
# Of node_exporter after Debian's 1.5, where they are named in the same way.
NEWER = {f"node_netstat_TcpExt_{name} metric names should be written in 'snake_case' not 'camelCase'" for name in ("TCPOFOQueue", "TCPRcvQDrop")}


# How a query must answer. `labels`: what names its rows. `only`: rows that are compared.
def rate(labels, key, value, only=None):
    return {"kind": "rate", "labels": labels, "truth": lambda truth: truth.rate(key, value), "only": only}


def now(labels, key, value, each=lambda pod: [pod]):
    return {"kind": "now", "labels": labels, "truth": lambda truth: truth.now(key, value, each)}


def rows(labels, key, each):
    """Rows that come and go: the same ones, whatever their values."""
    return {"kind": "rows", "labels": labels, "truth": lambda truth: truth.rows(key, each)}


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


def running_container(part):
    return (part["pod"], part["container"]) if part["running"] else None


def has_running(pod):
    return pod_name(pod) if any(each["running"] for each in pod["containers"]) else None


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
    """Of what a pod requests, or may use, until it has ended."""
    return lambda pod: 0 if pod["phase"] == "Succeeded" else sum((each[name] or 0) for each in pod["containers"]) * scale


def field(*path):
    def value(pod):
        for name in path:
            pod = pod[name]
        return pod
    return value


def not_excluded(pod):
    return None if pod["pod"] == EXCLUDED else pod_name(pod)


def share(kind, of, by):
    """A quotient of sums, as a panel of percents."""
    def truth_of(truth):
        whole = truth.now(everything, by)[()]
        return {(): of(truth)[()] / whole} if whole else {}
    return {"kind": kind, "labels": [], "truth": truth_of}


RECEIVE_BAD = lambda pod: pod["receive"]["errors"] + pod["receive"]["dropped"]  # noqa: E731
TRANSMIT_BAD = lambda pod: pod["transmit"]["errors"] + pod["transmit"]["dropped"]  # noqa: E731
NS, POD = ["namespace"], ["namespace", "pod"]

# Panel: its queries in turn.
NAMESPACES = {
    "CPU": [rate([], everything, cpu)],
    "CPU of requests": [share("rate", lambda truth: truth.rate(everything, cpu), sum_of("cpu_request_millis", 1e-3))],
    "Memory": [now([], everything, field("working_set_bytes"))],
    "Memory of limits": [share("now", lambda truth: truth.now(everything, field("working_set_bytes")), sum_of("memory_limit_bytes"))],
    "Running pods": [now([], everything, lambda pod: pod["phase"] == "Running")],
    "Pods not well": [now([], everything, lambda pod: pod["phase"] in ("Pending", "Failed", "Unknown"))],
    "CPU by namespace": [rate(NS, namespace, cpu)],
    "Memory by namespace": [now(NS, namespace, field("working_set_bytes"))],
    "Network by namespace": [rate(NS, on_network(namespace), field("receive", "bytes")),
                             rate(NS, on_network(namespace), field("transmit", "bytes"))],
    "Log volume by namespace": [rate(NS, namespace, field("log_bytes"))],
    # Lines are those that were read, bytes those that were seen.
    "Log lines by namespace": [rate(NS, lambda pod: not_excluded(pod) and namespace(pod), field("log_lines"))],
    "Network errors and drops": [rate(NS, on_network(namespace), RECEIVE_BAD), rate(NS, on_network(namespace), TRANSMIT_BAD)],
    "Use and requests": [
        rate(NS, namespace, cpu),
        now(NS, namespace, sum_of("cpu_request_millis", 1e-3)),
        now(NS, namespace, sum_of("cpu_limit_millis", 1e-3)),
        now(NS, namespace, field("working_set_bytes")),
        now(NS, namespace, sum_of("memory_request_bytes")),
        now(NS, namespace, sum_of("memory_limit_bytes")),
        now(NS, namespace, lambda pod: sum(bool(each["running"]) for each in pod["containers"])),
        rate(NS, namespace, field("log_bytes")),
    ],
    "Pods by phase": [now(["phase"], lambda pod: (pod["phase"],), lambda pod: 1)],
    "Restarts": [grown(POD, "restarts")],
    "Waiting containers": [rows([*POD, "container", "reason"], lambda c: c["waiting"] and (c["namespace"], c["pod"], c["container"], c["waiting"]), containers)],
    "Last ends": [rows([*POD, "container", "reason"], lambda c: c["last_end"] and (c["namespace"], c["pod"], c["container"], c["last_end"]), containers)],
    "OOM kills": [grown(NS, "oom_kills")],
    "CPU throttling": [rate(NS, namespace, lambda pod: pod["throttled_micros"] / 1e6)],
    "CPU by pod": [rate(POD, lasting, cpu)],
    "Memory by pod": [now(POD, has_running, lambda pod: sum(working_set(c["running"]) for c in pod["containers"] if c["running"]))],
    "Network received by pod": [rate(POD, on_network(pod_name), field("receive", "bytes"))],
    "Network sent by pod": [rate(POD, on_network(pod_name), field("transmit", "bytes"))],
    "Log volume by pod": [rate(POD, pod_name, field("log_bytes"))],
    "Memory by container": [now(["pod", "container"], running_container, of_running(working_set), containers),
                            now(["pod", "container"], running_container, of_running(field("rss_bytes")), containers)],
}
ONE = {"kind": "now", "labels": [], "truth": lambda _: {(): 1.0}}
ITSELF = {
    "Agents that answer": [ONE],
    "Silent agents": [elsewhere("SondeAgentSilent")],
    "Lost": [elsewhere("SondeLogLoss")],
    "Missed rotations": [elsewhere("SondeLogGaps")],
    "Refused": [elsewhere("SondeExportBlocked")],
    "Dead letters": [elsewhere("SondeDeadLetters")],
    "Observed and acknowledged": [rate([], everything, field("log_bytes")), rate([], lambda pod: not_excluded(pod) and (), field("log_bytes"))],
    "Waiting": [SOMETIME],
    "Left out and lost": [elsewhere("SondeLogLoss"), elsewhere("SondeLogShed"),
                          SOMETIME],
    "Unaccounted": [zero("anything else is a defect of Sonde")],
    "Records": [rate(["outcome"], lambda pod: not_excluded(pod) and ("acked",), field("log_lines"), only=[("acked",)])],
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
    "Records at the sinks": [rate(["sink", "outcome"], lambda pod: not_excluded(pod) and ("store", "delivered"),
                                  field("log_lines"), only=[("store", "delivered")])],
    "Tries at the sinks": [elsewhere("SondeQueueOld")],
    "Received": [SOMETIME, SOMETIME],
    "Requests": [SOMETIME, elsewhere("SondeQueueFull")],
    "Time to acknowledge": [SOMETIME, SOMETIME],
    "Store": [SOMETIME],
    "Delay to the sinks": [SOMETIME, SOMETIME, SOMETIME],
    "Canaries at the sinks": [SOMETIME, SOMETIME],
    "CPU of the agents": [{"kind": "process", "daemon": "agent", "what": "cpu"}],
    "Memory of the agents": [{"kind": "process", "daemon": "agent", "what": "rss"}],
    "CPU of the collector": [{"kind": "process", "daemon": "collector", "what": "cpu"}],
    "Memory of the collector": [{"kind": "process", "daemon": "collector", "what": "rss"}, SOMETIME],
    "Sources": [SOMETIME],
    "Failing sources": [elsewhere("SondeSourceFailing")],
}
BOARDS = {"namespaces.json": NAMESPACES, "sonde.json": ITSELF}


class Processes(threading.Thread):
    """CPU time and resident memory of the daemons, as the kernel counts them, twice a second."""

    def __init__(self, children):
        super().__init__(daemon=True)
        self.children, self.samples, self.ended = children, [], threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(0.5):
            now = {"at": time.time()}
            for name, child in self.children.items():
                stat = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
                ticks = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
                now[name] = {"cpu": ticks, "rss": int(stat[21]) * os.sysconf("SC_PAGE_SIZE")}
            self.samples.append(now)

    def truth(self, spec, start, end):
        inside = [(each["at"], each[spec["daemon"]][spec["what"]]) for each in self.samples if start <= each["at"] <= end]
        if spec["what"] == "rss":
            return sum(value for _, value in inside) / len(inside)
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) / (last - first)


class Server:
    """A Prometheus with one of the shipped scrape configurations."""

    def __init__(self, folder, run, name, agent, collector):
        self.name, self.url = name, f"http://127.0.0.1:{pages.free_port()}"
        config = pages.shipped_jobs(name, agent, collector, NODE)
        for rule in (rule for job in config["scrape_configs"] for rule in job["relabel_configs"] if rule.get("target_label") == "cluster"):
            rule["replacement"] = CLUSTER
        config |= {"global": {"scrape_interval": f"{SCRAPES:.0f}s", "scrape_timeout": f"{SCRAPES:.0f}s", "evaluation_interval": "1s"},
                   "rule_files": [str(pages.ROOT / "dashboards/prometheus/rules/*.yaml")]}
        (folder / name).write_text(yaml.safe_dump(config))
        self.jobs, self.rests = len(config["scrape_configs"]), []
        run.start(name, [str(pages.SERVERS / "root/usr/bin/prometheus"), f"--config.file={name}", f"--storage.tsdb.path=tsdb-{name}",
                         f"--web.listen-address={self.url.removeprefix('http://')}"])

    def scraped(self, start, end):
        """Whether each target answered between two moments."""
        targets = self.at(f"max_over_time(up[{(end - start) * 1000:.0f}ms]) == 1", end)
        return len(targets) == self.jobs

    def at(self, expr, moment):
        path = f"query?time={moment}&query={urllib.parse.quote(expr)}"
        return json.loads(pages.get(f"{self.url}/api/v1/{path}", 30))["data"]["result"]

    def range(self, expr, start, end):
        path = f"query_range?start={start}&end={end}&step=1&query={urllib.parse.quote(expr)}"
        return json.loads(pages.get(f"{self.url}/api/v1/{path}", 60))["data"]["result"]

    @functools.cache
    def label_values(self, label, selector):
        """As Grafana asks for the values of a variable `label_values(selector, label)`."""
        path = f"label/{label}/values?{urllib.parse.urlencode({'match[]': selector})}"
        return set(json.loads(pages.get(f"{self.url}/api/v1/{path}", 30))["data"])


class Rest:
    """The node at rest: what it says, and from when to when each page was scraped while all of it was told."""

    def __init__(self, load, start, end):
        self.load, self.start, self.end = load, start, end
        self.truth = simulated.Truth(load, load, 0)

    def only(self, keep):
        return Rest({**self.load, "pods": [pod for pod in self.load["pods"] if keep(pod)]}, self.start, self.end)


class Comparison:
    """Of what a server answers with what the node says; `keep`: of which pods, and then there may be nothing to show."""

    def __init__(self, server, processes, begun, keep=None):
        self.first, self.last = (rest.only(keep) if keep else rest for rest in server.rests)
        self.server, self.processes, self.begun, self.part = server, processes, begun, bool(keep)
        self.start, self.end = self.first.start, self.last.end
        self.seconds = self.end - self.start
        self.window = f"{self.seconds * 1000:.0f}ms"
        self.queries = self.values = self.sometime = 0
        self.worst, self.elsewhere = (0.0, "nothing"), []

    def key(self, spec, row):
        return tuple(row["metric"].get(label, "") for label in spec["labels"])

    def answer(self, spec, expr, moment):
        return {self.key(spec, row): float(row["value"][1]) for row in self.server.at(expr, moment)}

    def truth(self, expr):
        """Of a rate: what the node did, a second of those between the first scrape and the last one. Of their outermost halves
        of an interval nothing is known, and rate() takes them to be like the rest."""
        counter = re.search(r"rate\((\w+)", expr)[1]
        times = [at for row in self.server.at(f"{counter}[{self.window}]", self.end) for at, _ in row["values"]]
        return simulated.Truth(self.first.load, self.last.load, max(times) - min(times))

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
        self.made |= any(expected.values())
        must(self.part or any(expected.values()), f"{where}: the node makes nothing")

    def one(self, where, expr, spec):
        """Whether there was something to show is in `made` then."""
        self.queries += 1
        self.made = False
        match spec["kind"]:
            case "rate":
                got, want = self.answer(spec, expr, self.end), spec["truth"](self.truth(expr))
                if spec["labels"] == POD:
                    got = {key: value for key, value in got.items() if key in want or key[1] not in ENDING}
                self.numbers(where, spec, got, want)
            case "now":
                for rest in (self.first, self.last):
                    self.numbers(where, spec, self.answer(spec, expr, rest.end), spec["truth"](rest.truth))
            case "rows":
                got, want = set(self.answer(spec, expr, self.end)), spec["truth"](self.last.truth)
                self.values += len(want)
                self.made = bool(want)
                must((want or self.part) and got == want, f"{self.server.name}: {where}: {sorted(got ^ want)} are on one side only")
            case "grown":
                self.grown(where, expr, spec)
            case "process":
                if spec["what"] == "cpu":
                    got = self.answer({"labels": []}, expr.replace("by (node)", "").replace("by (instance)", ""), self.end).get((), 0.0)
                else:
                    values = [float(value) for row in self.server.range(expr, self.start, self.end) for _, value in row["values"]]
                    got = sum(values) / max(len(values), 1)
                self.numbers(where, {}, {(): got}, {(): self.processes.truth(spec, self.start, self.end)})
            case "sometime":
                self.sometime += 1
                rows = self.server.range(expr, self.begun, self.end)
                must(any(float(v) > 0 for row in rows for _, v in row["values"]), f"{self.server.name}: {where} is never above zero: {expr}")
            case "elsewhere":
                self.elsewhere.append(where)
            case "zero":
                rows = self.server.range(expr, self.begun, self.end)
                must(rows and all(float(v) == 0 for row in rows for _, v in row["values"]), f"{self.server.name}: {where} is not zero, or nothing, but {spec['why']}")
                for selector in selectors_of(expr):
                    must(self.server.range(selector, self.begun, self.end), f"{self.server.name}: {where}: there is no {selector} at all")

    def nothing(self, where, expr, spec):
        """Nothing but zeros is shown."""
        self.queries += 1
        rows = self.server.range(expr, self.begun, self.end) if spec["kind"] == "sometime" else [
            {**row, "values": [row["value"]]} for rest in (self.first, self.last) for row in self.server.at(expr, rest.end)]
        must(all(float(v) == 0 for row in rows for _, v in row["values"]), f"{self.server.name}: {where} is shown: {expr}")

    def grown(self, where, expr, spec):
        """Against the first value that Prometheus saw, which may be of any moment before the window."""
        series = {"restarts": "sum by (namespace, pod) (kube_pod_container_status_restarts_total)",
                  "oom_kills": "sum by (namespace) (sonde_namespace_oom_kills_total)"}[spec["what"]]
        first = {self.key(spec, row): float(row["values"][0][1]) for row in self.server.range(series, self.begun, self.end)}
        want = {}
        for pod in self.last.load["pods"]:
            key = tuple(pod[label] for label in spec["labels"])
            more = sum(each["restarts"] for each in pod["containers"]) if spec["what"] == "restarts" else pod["oom_kills"]
            want[key] = want.get(key, 0) + more
        want = {key: value - first.get(key, 0) for key, value in want.items()}
        self.numbers(where, spec, self.answer(spec, expr, self.end), want)


def selectors_of(expr):
    return set(re.findall(r"[a-zA-Z_:][\w:]*\{[^}]*\}", expr))


def board(file):
    return json.loads((pages.ROOT / "dashboards/grafana" / file).read_text())


def queries(file):
    """Its panels' queries, each with its name and what is expected of it."""
    table = BOARDS[file]
    panels = [panel for panel in board(file)["panels"] if panel.get("targets")]
    must({panel["title"] for panel in panels} == set(table), f"{file}: {set(table) ^ {panel['title'] for panel in panels}} is in one of the two only")
    for panel in panels:
        specs = table.get(panel["title"], [])
        must(len(specs) == len(panel["targets"]), f"{panel['title']}: {len(panel['targets'])} queries, {len(specs)} expectations")
        for at, (target, spec) in enumerate(zip(panel["targets"], specs)):
            yield f"{panel['title']}{f' {at + 1}' if at else ''}", target["expr"], spec


def filled(expr, window, **values):
    """A query with its variables as they are chosen."""
    for name, value in {**ALL, **values}.items():
        expr = re.sub(rf"\${name}\b", value, expr)
    return expr.replace("$__rate_interval", window).replace("$__range", window)


def boards(comparison):
    for file in BOARDS:
        for where, expr, spec in queries(file):
            comparison.one(where, filled(expr, comparison.window), spec)
    for where, expr, spec in queries("sonde.json"):
        comparison.one(f"{where} of {NODE} and store", filled(expr, comparison.window, node=NODE, sink="store"), spec)


def chosen(comparison):
    """One namespace and one pod of it: a panel by pods or containers shows those of the pod, any other the namespace's."""
    pods = comparison.last.load["pods"]
    quiet = {pod["namespace"]: pod for pod in pods if pod["pod"] not in ENDING and not pod["host_network"]}
    choices = [*quiet.values(), *(pod for pod in pods if pod["pod"] in ENDING)]
    shown, made = 0, set()
    for choice in choices:
        name = pod_name(choice)
        parts = [Comparison(comparison.server, comparison.processes, comparison.begun, keep)
                 for keep in (lambda pod: namespace(pod) == name[:1], lambda pod: pod_name(pod) == name)]
        for where, expr, spec in queries("namespaces.json"):
            part = parts["pod" in spec["labels"]]
            part.one(f"{where} of {'/'.join(name)}", filled(expr, part.window, namespace=name[0], pod=name[1]), spec)
            made |= {where} if part.made else set()
        shown += sum(part.values for part in parts)
    for where, _, _ in queries("namespaces.json"):
        must(where in made, f"{comparison.server.name}: {where} shows nothing for any of {[pod_name(pod) for pod in choices]}")
    return len(choices), shown


def nowhere(comparison):
    """A panel that does not look at a variable which its metrics have goes on to show something."""
    looked = 0
    for file in BOARDS:
        names = [each["name"] for each in board(file)["templating"]["list"] if each["type"] == "query"]
        for where, expr, spec in queries(file):
            for name in names:
                if all(comparison.server.label_values(name, each) for each in selectors_of(filled(expr, "1m"))):
                    comparison.nothing(f"{where} with ${name} set to nothing that is there", filled(expr, comparison.window, **{name: NOWHERE}), spec)
                    looked += 1
    return looked


def variables(comparison):
    """What a user can choose from, with all of the others and with one namespace chosen."""
    pods = comparison.last.load["pods"]
    one = pods[0]["namespace"]
    there = {"cluster": {CLUSTER}, "node": {NODE}, "sink": {"store"}, "namespace": {pod["namespace"] for pod in pods}}
    for file in BOARDS:
        for variable in board(file)["templating"]["list"]:
            if variable["type"] != "query":
                continue
            name, asked = variable["name"], re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            for only in (".*", one):
                want = there.get(name) or {pod["pod"] for pod in pods if only in (".*", pod["namespace"])}
                got = comparison.server.label_values(asked[2], filled(asked[1], "1m", namespace=only))
                must(got == want, f"{comparison.server.name}: {file}: ${name} with namespace {only}: {sorted(got ^ want)} are on one side only")
            none = comparison.server.label_values(asked[2], filled(asked[1], "1m", cluster=NOWHERE))
            must(name == "cluster" or not none, f"{comparison.server.name}: {file}: ${name} of another cluster: {none}")


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
    listed = [line.split() for line in (pages.ROOT / "dashboards/metrics.txt").read_text().splitlines() if line and not line.startswith("#")]
    for name, kind, page, where in listed:
        if where == "agent" and page in texts and page != "/metrics/self":
            # A source that needs too long on a busy machine is left out of a page, so it is looked at again.
            pages.wait_for(f"{name} on {page} as a {kind}, as dashboards/metrics.txt has it",
                           lambda: f"# TYPE {name} {kind}\n" in texts[page] or f"# TYPE {name} {kind}\n" in pages.get(agent + page), 20)
    more = 0
    for page, text in texts.items():
        must(text.strip() or page == "/metrics/kubelet", f"{page} is empty")
        said = findings(text)
        for line in sorted(said - originals):
            must(False, f"promtool on {page}, and not on the original: {line}")
        more += len(said)
    names = lambda text: set(re.findall(r"(?m)^# TYPE (node_\w+)", text))  # noqa: E731
    print(f"panels: promtool says {len(originals)} things about the originals, and nothing else about our {len(texts)} pages ({more} of the same); "
          f"of node_exporter's {len(names(theirs))} families on this machine we show {len(names(theirs) & names(host))}")


def sum_on(page, name, labels=""):
    """Sum of a metric's rows with these labels on a page."""
    rows = re.findall(rf"(?m)^{name}(?:{{[^}}]*{labels}[^}}]*}})? (\S+)$", page)
    return sum(float(value) for value in rows)


class Stage:
    """The node, the daemons and the servers."""

    def __init__(self, folder, run):
        self.run, self.sim = run, simulated.Node(folder / "node", RATE, "trouble", "steady")
        run.sims.append(self.sim)
        self.agent_url, self.collector_url = pages.configurations(folder)
        config = yaml.safe_load((folder / "agent.yaml").read_text())
        config["kubelet"] = {"url": self.sim.kubelet, "interval": "1s"}
        config["logs"] = {"exclude": [{"pod": EXCLUDED}]}
        (folder / "agent.yaml").write_text(yaml.safe_dump(config))
        command = pages.as_in_the_pod([pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")])
        self.agent = run.start("agent", command, {"NODE_NAME": NODE})
        pages.wait_for("the agent", lambda: pages.get(f"{self.agent_url}/readyz"))
        self.begun = time.time()
        self.servers = [Server(folder, run, name, self.agent_url, self.collector_url) for name in ("scrape-split.yaml", "scrape-one-job.yaml")]

    def everywhere(self, what, condition, seconds=60):
        for server in self.servers:
            pages.wait_for(f"{server.name}: {what}", lambda: condition(server), seconds)

    def half_a_request(self, folder):
        """A sender that stops in the middle of a record's text: the collector holds what has come."""
        body = b"x" * 200_000
        for field in (1, 5, 2, 2, 1):   # of AnyValue, LogRecord, ScopeLogs, ResourceLogs, ExportLogsServiceRequest
            body = bytes([field << 3 | 2, len(body) & 0x7f | 0x80, len(body) >> 7 & 0x7f | 0x80, len(body) >> 14]) + body
        head = f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
        address = yaml.safe_load((folder / "collector.yaml").read_text())["listen"]["otlp_http"]
        with socket.create_connection(address.split(":")) as connection:
            connection.sendall(head.encode() + body[:100_000])
            self.everywhere("bytes under way", lambda server: server.at("sum(max_over_time(sonde_collector_in_flight_bytes[1m])) > 0", time.time()))

    def told(self, load):
        """Whether all that the node did before a rest has come to the collector's store."""
        agent, collector = pages.get(f"{self.agent_url}/metrics/self"), pages.get(f"{self.collector_url}/metrics")
        records = sum_on(agent, "sonde_agent_log_records_total", 'outcome="acked"')
        return (sum_on(agent, "sonde_agent_log_observed_bytes_total") == load["bytes"]
                and sum_on(agent, "sonde_agent_log_pending_bytes") == 0
                and sum_on(collector, "sonde_collector_queue_bytes") == 0
                and sum_on(collector, "sonde_collector_records_total", 'outcome="delivered"') == records)

    def rest(self, until):
        """The node rests in a state that `until` wants; then all that looks at it looks."""
        while True:
            pages.wait_for("the state to rest in", lambda: until(self.sim.ask("load")), 120)
            load = self.sim.ask("rest")
            if until(load) or pages.FAILURES:
                break
            self.sim.ask("work")
        # The second answer from now on is to a question that was asked after the first one was taken in.
        pages.wait_for("the agent to ask the kubelet", lambda: self.sim.ask("load")["asked"] >= load["asked"] + 3)
        pages.wait_for(f"{load['bytes']} bytes to be observed, acknowledged and stored", lambda: self.told(load), 120)
        since = time.time() + 1.2   # a sample is shared for a second
        for server in self.servers:
            pages.wait_for(f"scrapes by {server.name}", lambda: self.scraped(server, load, since), 120)

    def scraped(self, server, load, since):
        """Each target was scraped close to both edges of a piece of this rest."""
        end = time.time() - 0.3
        start = end - 2 * EDGE
        if start < since or not server.scraped(start, start + EDGE) or not server.scraped(end - EDGE, end):
            return False
        server.rests.append(Rest(load, start, end))
        return True


def act(folder, run):
    stage = Stage(folder, run)
    stage.everywhere("a row of each pod", lambda server: server.at("sum(kube_pod_info) > 10 and sum(sonde_namespace_oom_kills_total) == 0", time.time()))
    stage.sim.ask("work")   # without a receiver for a while: retries, requests under way
    stage.everywhere("retries", lambda server: server.at("sum(increase(sonde_agent_export_retries_total[1m])) > 0 and sum(sonde_agent_export_in_flight) > 0", time.time()))
    stage.collector = run.start("collector", [pages.daemon("sonde-collector"), "--config", str(folder / "collector.yaml")])
    stage.everywhere("all targets", lambda server: server.at(f"count(up == 1) == {server.jobs}", time.time()))
    processes = Processes({"agent": stage.agent, "collector": stage.collector})
    stage.half_a_request(folder)
    stage.rest(lambda load: any(pod["phase"] == "Succeeded" for pod in load["pods"]))
    before = {pod["pod"]: sum(each["restarts"] for each in pod["containers"]) for pod in stage.sim.ask("load")["pods"]}
    stage.sim.ask("work")
    began = time.monotonic()

    def all_seen(load):
        """It worked for long enough, each pod that ends did so, and one waits now to start again."""
        pods = {pod["pod"]: pod["containers"][0] for pod in load["pods"]}
        return (time.monotonic() - began >= WORK and all(pods[pod]["restarts"] > before[pod] for pod in ENDING)
                and pods["crash"]["waiting"] == "CrashLoopBackOff")

    stage.rest(all_seen)
    processes.ended.set()
    no_more_than_the_originals(folder, run, stage.agent_url, stage.collector_url)
    for server in stage.servers:
        if len(server.rests) < 2:
            continue    # said already
        comparison = Comparison(server, processes, stage.begun)
        boards(comparison)
        choices, shown = chosen(comparison)
        looked = nowhere(comparison)
        variables(comparison)
        firing = {row["metric"]["alertname"] for row in server.at("ALERTS{alertstate='firing'}", comparison.end)}
        must("SondeWatchdog" in firing and not {each for each in firing if each.startswith("Sonde")} - {"SondeWatchdog"}, f"alerts: {firing}")
        print(f"panels: {server.name}: {comparison.queries} queries over {comparison.seconds:.0f} s; {comparison.values} values compared, "
              f"the worst is off by {comparison.worst[0] * 100:.2f} % ({comparison.worst[1]}); {comparison.sometime} queries not zero in the run; "
              f"{len(comparison.elsewhere)} shown by causes.py")
        print(f"panels: {server.name}: {shown} values of {choices} chosen pods and their namespaces; {looked} times a variable of nothing showed nothing")
        if VERBOSE:
            print("  by causes.py: " + ", ".join(comparison.elsewhere))
    excluded = sum(pod["log_lines"] for pod in stage.sim.ask("load")["pods"] if pod["pod"] == EXCLUDED)
    stats = stage.sim.stop()
    print(f"panels: the node wrote {stats['lines']} lines in {stats['bytes'] >> 20} MiB, {excluded} of them excluded by rule")


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
        act(folder, run)
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
