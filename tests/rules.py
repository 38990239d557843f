#!/usr/bin/env python3
"""The standard recording rules and alerts (tests/standard_rules.py) over an agent's pages and over the originals', side by side
in one real Prometheus: the same jobs twice, with cluster="sonde" and cluster="original".

- the recorded node (tests/recorded.py): the kubelet's recorded pages, a real node_exporter over the node's files, kube-state-metrics'
  page; both scraped while the node goes from its first reading to its second
- the simulated node: a real node_exporter over its files, cAdvisor's rows made of its cgroups as cAdvisor makes them
  (tests/cadvisor.py), kube-state-metrics' page of its pods; it rests, works, and rests again

Each rule has to answer with exactly the originals' label sets, but for what stands in the tables below with its reason, and with
their values: of the simulated node to 2 %, of the recorded one within the time between the readings of one and of the other. An
alert fires for one where it fires for the other. A rule that answers for neither node is an error too.

Usage: tests/rules.py [-v] [recorded_node | simulated_node]        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import json
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import urllib.parse

import cadvisor
import kube_state_metrics
import node as simulated
import pages
import recorded
import recording
import yaml
from pages import must
from standard_rules import ALERTS, RECORDS

VERBOSE = "-v" in sys.argv[1:]
CLUSTERS = ("sonde", "original")
LONG_ENOUGH = 8     # scrapes of each half
# Rules that ask for what the files of neither node have: nothing to answer, and why.
NO_ANSWER = {"NodeNetworkInterfaceFlapping": "links are in neither; tests/exporter.py holds node_network_up against a node_exporter's"}
# What is different, on which node: rule, labels, and why.
DIFFERENT = {
    "recorded": [
        (".*", 'pod="unready"|pod="oomer"', "drift: containers that fail, read at other times"),
        ("namespace_cpu:kube_pod_container_resource_requests:sum", 'namespace="broken"', "with a pod of no node: the collector's part"),
        (".*", '^(?!container=).*pod="node-agent-v2pnz"', "cAdvisor had lost the sandbox's names (google/cadvisor#3336)"),
        (".*", 'uid="(5dac0419-48ec-475e-b7b2-6f11456d2af5|fc06af0816b5d23d3b29896dde65db18)"', "a static pod's uid: the mirror's there, the kubelet's here"),
        (".*", 'pod="tick-2991990[2468]-', "drift: pods of a CronJob, read at other times"),
        (".*", 'pod="unschedulable"', "of no node: the collector's part"),
    ],
    "simulated": [("NodeNetwork(Receive|Transmit)Errs", 'device="lo"', "this release of node_exporter leaves it out; newer ones show it")],
}
PREDICTED = re.compile(r"NodeFilesystem\w+FillingUp")    # a day ahead, from a minute of a disk that others write to
ENDING = {"crash", "greedy", "report"}      # pods of the simulated node whose containers end


class Prometheus:
    """Scrapes the split jobs of both, once a second."""

    def __init__(self, folder, run, name, targets, agent_pod):
        """`targets[cluster][job]`: address and path. `agent_pod`: namespace and pod of the agent, as target labels of the node's page."""
        self.url, jobs = f"http://127.0.0.1:{pages.free_port()}", []
        shipped = yaml.safe_load((pages.ROOT / "manifests/prometheus/scrape-split.yaml").read_text())["scrape_configs"]
        for job in shipped:
            if job["job_name"] not in targets["sonde"]:
                continue
            static = []
            for cluster in CLUSTERS:
                address, path = targets[cluster][job["job_name"]]
                labels = {"instance": name, "node": name, "cluster": cluster, "__metrics_path__": path}
                if job["job_name"] == "node-exporter":
                    labels |= agent_pod
                static.append({"targets": [address], "labels": labels})
            # The kubelet's samples have times of the day on which they were recorded.
            jobs.append({"job_name": job["job_name"], "honor_labels": job.get("honor_labels", False), "honor_timestamps": False, "static_configs": static})
        self.targets = len(jobs) * len(CLUSTERS)
        records = {name: expr for name, expr in RECORDS.items() if re.fullmatch(r"[\w:]+", name)}
        rules = {"groups": [{"name": "standard", "interval": "1s", "rules": [{"record": name, "expr": expr} for name, expr in records.items()]}]}
        (folder / f"{name}-rules.yaml").write_text(yaml.safe_dump(rules))
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "rule_files": [f"{name}-rules.yaml"], "scrape_configs": jobs}
        (folder / f"{name}-prometheus.yaml").write_text(yaml.safe_dump(config))
        run.start(f"{name}-prometheus", [str(pages.SERVERS / "root/usr/bin/prometheus"), f"--config.file={name}-prometheus.yaml",
                  f"--storage.tsdb.path={name}-tsdb", f"--web.listen-address={self.url.removeprefix('http://')}"])

    def at(self, expr, moment):
        path = f"query?time={moment}&query={urllib.parse.quote(expr)}"
        return json.loads(pages.get(f"{self.url}/api/v1/{path}", 30))["data"]["result"]

    def scraped(self, since):
        """All targets, as often as one half needs, since a moment."""
        window = time.time() - since
        return window > LONG_ENOUGH and len(self.at(f"count_over_time((up == 1)[{window * 1000:.0f}ms:1s]) >= {LONG_ENOUGH * 0.6:.0f}", time.time())) == self.targets

    def wait(self, what):
        since = time.time()
        pages.wait_for(f"scrapes of {what}", lambda: self.scraped(since), 90)


class Comparison:
    def __init__(self, node, prometheus, near):
        """`near(name, labels, ours, theirs)`: whether a value is as it must be."""
        self.node, self.prometheus, self.near, self.moment = node, prometheus, near, time.time() - 0.2
        self.answered, self.values, self.firing, self.worst = set(), 0, set(), (0.0, "nothing")

    def answer(self, expr):
        """By cluster, what each row says, without the name of its cluster."""
        out = {cluster: {} for cluster in CLUSTERS}
        for row in self.prometheus.at(expr, self.moment):
            labels = {key: value for key, value in row["metric"].items() if key != "__name__"}
            if "pause" in labels.get("image", ""):
                labels["image"] = "pause"
            out[labels.pop("cluster")][frozenset(labels.items())] = float(row["value"][1])
        return out["sonde"], out["original"]

    def allowed(self, name, labels):
        for at, (rule, pattern, _) in enumerate(DIFFERENT[self.node]):
            if re.fullmatch(rule, name) and re.search(pattern, recorded.shown(labels)):
                MET.add((self.node, at))
                return True
        return False

    def rule(self, name, expr):
        ours, theirs = self.answer(expr)
        if VERBOSE:
            print(f"  {self.node}: {name}: {len(ours)} rows, {len(theirs)} of the originals")
        for labels in sorted(ours.keys() ^ theirs.keys(), key=str):
            who = "answers only for us" if labels in ours else "answers only for the originals"
            must(self.allowed(name, labels), f"{self.node}: {name} {who}: {recorded.shown(labels)}")
        for labels in ours.keys() & theirs.keys():
            self.values += 1
            if PREDICTED.fullmatch(name):
                continue
            have, want = ours[labels], theirs[labels]
            if want and not math.isnan(want):
                self.worst = max(self.worst, (abs(have / want - 1), f"{name} {recorded.shown(labels)}: {have:.6g}, {want:.6g}"))
            good = self.near(name, dict(labels), have, want) or (math.isnan(have) and math.isnan(want))
            must(good or self.allowed(name, labels), f"{self.node}: {name} {recorded.shown(labels)}: {have:.6g}, of the originals {want:.6g}")
        if ours.keys() & theirs.keys():
            self.answered.add(name)

    def all(self):
        for name, expr in RECORDS.items():
            self.rule(name, name if re.fullmatch(r"[\w:]+", name) else expr)
        for name, (left, threshold) in ALERTS.items():
            self.rule(name, left)
            if PREDICTED.fullmatch(name):
                continue
            ours, theirs = self.answer(f"{left} {threshold}")
            for labels in sorted(ours.keys() ^ theirs.keys(), key=str):
                must(self.allowed(name, labels), f"{self.node}: {name} fires for one of the two only: {recorded.shown(labels)}")
            if ours.keys() & theirs.keys():
                self.firing.add(name)
        print(f"rules: {self.node} node: {len(self.answered)} of {len(RECORDS) + len(ALERTS)} rules answer, {self.values} values as the originals' "
              f"(the farthest: {self.worst[0] * 100:.1f} %: {self.worst[1]}); firing for both: {', '.join(sorted(self.firing))}")
        if VERBOSE:
            print(f"  without an answer: {sorted((RECORDS.keys() | ALERTS.keys()) - self.answered)}")


MET = set()


def tolerance(name):
    """One of the two may have been scraped once or twice more, of some twenty times."""
    rates = name in ALERTS or re.search("rate|bandwidth|dropped|throughput", name)
    return 0.1 if rates else 0.001


class Drift:
    """Counters of cgroups were read over another time than the kubelet's samples are of: how many times as long."""

    def __init__(self, taken):
        first, last = (recording.parse(taken.pages[f"cadvisor.{number}.prom"])[0] for number in (1, 3))
        self.longer = {}
        for (name, labels), (_, stamp) in first.items():
            labels = dict(labels)
            if name != "container_cpu_usage_seconds_total" or (name, frozenset(labels.items())) not in last:
                continue
            ours = [taken.cgroup_read_at(which, labels["id"]) for which in (1, 2)]
            theirs = (last[name, frozenset(labels.items())][1] - stamp) / 1000
            if all(ours) and theirs:
                self.longer.setdefault((labels.get("namespace", ""), labels.get("pod", "")), []).append((ours[1] - ours[0]) / theirs)

    def factors(self, labels):
        found = [factor for (namespace, pod), factors in self.longer.items() for factor in factors
                 if labels.get("namespace") in (None, namespace) and labels.get("pod") in (None, pod)]
        return min(found), max(found)


def recorded_node(folder, run):
    stage = recorded.Stage(folder, run)
    drift = Drift(stage.recording)
    ours, theirs = {}, {"node-exporter": (stage.exporter, "/metrics")}
    for job, page in (("node-exporter", "node"), ("cadvisor", "containers"), ("kube-state-metrics", "pods"), ("kubelet", "kubelet")):
        ours[job] = stage.listen, f"/metrics/{page}"
        theirs.setdefault(job, (stage.originals.address, f"/metrics/{page}"))
    prometheus = Prometheus(folder, run, recording.NODE, {"sonde": ours, "original": theirs}, {"namespace": "kube-system", "pod": "node-agent-v2pnz"})
    prometheus.wait("the first reading")
    stage.show(2)
    prometheus.wait("the second reading")

    def near(name, labels, have, want):
        if "irate" in name:     # both have stood still since
            return have == want == 0
        if re.search(r"container_cpu|bandwidth|dropped|throughput", name):
            least, most = drift.factors(labels)
            return want * least / 3 - 2e-3 <= have <= want * most * 3 + 2e-3
        if re.search(r"container_memory", name):
            return abs(have - want) <= 0.4 * want + (64 << 10)
        if name == "CPUThrottlingHigh":
            return abs(have - want) <= 0.2
        return math.isclose(have, want, rel_tol=tolerance(name))

    comparison = Comparison("recorded", prometheus, near)
    comparison.all()
    stage.originals.close()
    return comparison


def mirrored(pods):
    """As the API server has them: the mirror of a static pod is its node's."""
    for pod in pods:
        meta = pod["metadata"]
        if meta.get("annotations", {}).get("kubernetes.io/config.source") == "file":
            meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": pod["spec"]["nodeName"], "controller": True}]
    return pods


def simulated_node(folder, run):
    sim = simulated.Node(folder / "node", 4000, "trouble", "steady")
    run.sims.append(sim)
    listen, exporter = f"127.0.0.1:{pages.free_port()}", f"127.0.0.1:{pages.free_port()}"
    config = {"state_dir": str(folder / "state"), "listen": listen, "host": {"root": str(sim.root)}, "kubelet": {"url": sim.kubelet, "interval": "1s"},
              "logs": {"enabled": False}, "metrics": {"push": False}, "export": {"endpoint": "http://127.0.0.1:9"}, "node": {"name": "sim-node-1"}}
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    run.start("agent", [pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")])
    proc = folder / "proc"      # with what this release still asks for: the network of its own process, and the mounts in the older form
    proc.mkdir()
    for each in (sim.root / "proc").iterdir():
        (proc / each.name).symlink_to(each)
    (proc / "net").symlink_to(sim.root / "proc/1/net")
    (proc / "mounts").write_text("/dev/vda / ext4 rw,relatime 0 0\n")
    run.start("node-exporter", [str(pages.SERVERS / "root/usr/bin/prometheus-node-exporter"), f"--web.listen-address={exporter}", f"--path.procfs={proc}",
                                f"--path.sysfs={sim.root / 'sys'}", f"--path.rootfs={sim.root}", f"--collector.textfile.directory={proc}",
                                "--no-collector.netdev.netlink"])
    pods = lambda: json.loads(pages.get(f"{sim.kubelet}/pods"))["items"]  # noqa: E731
    originals = recording.Server({"/metrics/pods": lambda: kube_state_metrics.page(mirrored(pods())).text(), "/metrics/containers": lambda: cadvisor.page(sim.root, pods())})
    pages.wait_for("the pods", lambda: "kube_pod_info{" in pages.get(f"http://{listen}/metrics/pods"))
    ours = {"node-exporter": (listen, "/metrics/node"), "cadvisor": (listen, "/metrics/containers"), "kube-state-metrics": (listen, "/metrics/pods")}
    theirs = {"node-exporter": (exporter, "/metrics"), "cadvisor": (originals.address, "/metrics/containers"), "kube-state-metrics": (originals.address, "/metrics/pods")}
    agent = next(pod["metadata"] for pod in pods() if pod["spec"].get("hostNetwork"))
    prometheus = Prometheus(folder, run, "sim-node-1", {"sonde": ours, "original": theirs}, {"namespace": agent["namespace"], "pod": agent["name"]})
    prometheus.wait("the first rest")
    sim.ask("work")
    prometheus.wait("its work")
    sim.ask("rest")
    time.sleep(2.5)     # the kubelet is asked once a second, and a sample is shared for one
    prometheus.wait("the second rest")

    def near(name, labels, have, want):
        # One of the two may have been scraped once more in a container's short life, or just before its end.
        if labels.get("pod") in ENDING and re.search("rate5m|irate|Throttling", name):
            return True
        return math.isclose(have, want, rel_tol=tolerance(name), abs_tol=1e-9)

    comparison = Comparison("simulated", prometheus, near)
    comparison.all()
    originals.close()
    return comparison


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-rules-")), time.monotonic()
    os.chmod(folder, 0o755)
    run, done = pages.Run(folder), []
    run.sims = []
    try:
        chosen = [part for part in (recorded_node, simulated_node) if part.__name__ in sys.argv] or [recorded_node, simulated_node]
        for part in chosen:
            (folder / part.__name__).mkdir()
            run.folder = folder / part.__name__
            done.append(part(run.folder, run))
        if len(chosen) == 1:
            return
        answered = set.union(*(comparison.answered for comparison in done))
        for name in sorted((RECORDS.keys() | ALERTS.keys()) - answered - NO_ANSWER.keys()):
            must(False, f"{name} answers on neither node")
        for name in sorted(answered & NO_ANSWER.keys()):
            must(False, f"{name} answers, and is said not to: {NO_ANSWER[name]}")
        for node, rows in DIFFERENT.items():
            for at, row in enumerate(rows):
                must((node, at) in MET, f"a difference that is none (any more): {node}: {row}")
    finally:
        run.stop_all()
        for sim in run.sims:
            sim.kill()
        if pages.FAILURES:
            for log in sorted(folder.glob("*/*.log")):
                print(f"--- {log.name}\n{log.read_text()[-600:]}")
        shutil.rmtree(folder, ignore_errors=True)
        for failure in pages.FAILURES[:60]:
            print(f"rules: FAILED: {failure[:400]}")
        print(f"rules: {'FAILED' if pages.FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if pages.FAILURES else 0)


if __name__ == "__main__":
    main()
