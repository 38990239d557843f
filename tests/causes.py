#!/usr/bin/env python3
"""Alerts from their real causes: real daemons, Prometheus and Alertmanager with the shipped rules and configuration, and
the stand-in for the Slack webhook. Each alert arrives there, the panel that shows its cause is not zero meanwhile, and
it resolves when the cause ends. A minute of the rules is a second (as in alerts.py); the thresholds of the queue rules
are scaled with it: 300 s of age are 5 s, and 256 MiB of a queue of 10 GiB are 1 MiB of one of 8 MiB.

alert                    cause                                                                            how real
PodCrashLooping          a process that exits 1 whenever it is started; a kubelet tells of it             process real, kubelet simulated
ContainerOOMKilled       a process that takes more memory than its cgroup may have; the kernel kills it   process, cgroup and kill real, kubelet simulated
NamespaceOOMKill         the same with a child process, whose container goes on                           real, as above
SondeAgentSilent         kill -9                                                                          real
SondeAgentsAbsent        Prometheus' discovery finds no agent any more                                     real
SondeSourceFailing       the kubelet answers 500                                                          kubelet simulated
SondeLogLoss             files with unacknowledged bytes are deleted while the agent is down              real
SondeLogGaps             a file is rotated away twice, and deleted, while the agent is down               real
SondeLogShed             a container that writes more than its limit                                      real
SondeLedgerUnbalanced    -                                                                                not producible: see below; that it never fires is checked
SondeExportBlocked       the agent has a wrong token                                                      real
SondeLogsStuck           the collector's queue is full and refuses                                        real
SondeFilesUnreadable     the agent runs without DAC_READ_SEARCH                                           real
SondeStateNotWritten     the file system of state_dir is full                                             real (a tmpfs)
SondeCollectorSilent     kill -9                                                                          real
SondeQueueOld            the file system of the store is full                                             real (a tmpfs)
SondeQueueFilling        the same, and lines keep coming                                                  real
SondeQueueFull           the same, until queue.max_bytes                                                  real
SondeQueueDamaged        bytes in the middle of a queue file are overwritten while the collector is down  real
SondeDeadLetters         an Elasticsearch refuses each record, as it does after a mapping conflict         sink real, Elasticsearch a stand-in
SondeRecordsSkipped      it is down, the sink says `when_behind: skip`, and lines keep coming             real, but for that
SondeCanaryLate          the agent has a wrong token                                                       real
SondeCanaryLost          a proxy says that a request arrived, and it does not                             proxy made up, the rest real
SondeWatchdog            always fires, and goes to its own receiver                                       alerts.py

SondeLedgerUnbalanced tells of a defect of the agent: each row of its ledger is a sum of what one function adds to exactly one
place, read back from a state file with a checksum, so no file, network, kubelet or disk that is outside of it can make the sum
wrong. To produce it the agent would have to have a switch that falsifies its own account, which it must not have. Its
rule has unit tests, and alerts.py fires it with a made-up page. Without root: nothing here can be shown.
Without a memory cgroup of our own the two OOM alerts are SKIPPED, and said to be.

Usage: tests/causes.py             (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import http.client
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import alerts
import containers
import elastic
import pages
import panels
import yaml

FAILURES = []
NOT_PRODUCED = {"SondeLedgerUnbalanced", "SondeWatchdog"}
QUEUE_BYTES = 8 << 20
LAG_BYTES = 64 << 10    # of the sink that is skipped; the least is a batch's
LIMIT = 300_000     # bytes a second of a container's log


class Children(pages.Run):
    """As pages.Run, and for alerts.wait_for: the daemons may be dead, as that is what is tried."""

    def alive(self):
        pass

    def kill(self, child):
        child.send_signal(signal.SIGKILL)
        child.wait()


class SmallDisk:
    """A file system of its own, which can be filled up."""

    def __init__(self, folder, mebibytes):
        self.folder = folder
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "sonde-causes", folder], check=True)

    def fill(self):
        with open(self.folder / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass

    def free(self):
        (self.folder / "filler").unlink()

    def end(self):
        subprocess.run(["umount", "-l", self.folder], check=False)


def scaled_rules(folder):
    folder.mkdir()
    names = alerts.scaled_rules(folder)
    file = folder / "alerts.yaml"
    text = file.read_text()
    for rule, scaled in {
        "sonde_collector_queue_oldest_seconds > 300": "sonde_collector_queue_oldest_seconds > 5",
        "sonde_collector_queue_oldest_seconds > 3600": "sonde_collector_queue_oldest_seconds > 60",
        "sonde_collector_queue_bytes > 256 * 1024 * 1024": "sonde_collector_queue_bytes > 1024 * 1024",
        "sonde_agent_canary_oldest_unacknowledged_seconds > 60": "sonde_agent_canary_oldest_unacknowledged_seconds > 2",
        "4 * 3600) > 10 * 1024 * 1024 * 1024": f"240) > {QUEUE_BYTES}",
    }.items():
        if rule not in text:
            FAILURES.append(f"`{rule}` is in no rule any more: change it here, too")
        text = text.replace(rule, scaled)
    file.write_text(text)
    return names


class Stage:
    """Daemons, servers and containers, and what arrived at Slack."""

    def __init__(self, folder, run):
        self.folder, self.run, self.seen, self.disks, self.pods, self.since = folder, run, set(), {}, {}, 0.0
        self.cgroups = containers.Cgroups.make()
        self.slack, self.logs = alerts.Slack(), folder / "node/var/log/pods"
        self.logs.mkdir(parents=True)
        self.rules = scaled_rules(folder / "rules")
        alerts.local_alertmanager(folder, self.slack, alerts.Mail())
        self.disks = {name: SmallDisk(folder / path, size) for name, path, size in [("state", "state", 4), ("store", "data/store", 160)]}
        self.listed = []
        self.kubelet, self.elastic = containers.Kubelet(self.listed), elastic.Elasticsearch()
        self.agent_url, self.collector_url = self.configure()
        self.prometheus, self.servers = f"http://127.0.0.1:{alerts.free_port()}", {}

    def configure(self):
        urls = pages.configurations(self.folder)
        (self.folder / "accepted").write_text("right\n")
        (self.folder / "token").write_text("wrong\n")
        collector = yaml.safe_load((self.folder / "collector.yaml").read_text())
        collector["auth"] = {"otlp": {"token_file": str(self.folder / "accepted")}}
        collector["queue"] = {"max_bytes": f"{QUEUE_BYTES >> 20}MiB", "min_free": "0B"}
        collector["sinks"] = [
            {"name": "store", "type": "store"},
            {"name": "es", "type": "elasticsearch", "endpoints": [self.elastic.url], "when_behind": "skip", "max_lag_bytes": f"{LAG_BYTES >> 10}KiB"}]
        (self.folder / "collector.yaml").write_text(yaml.safe_dump(collector))
        agent = yaml.safe_load((self.folder / "agent.yaml").read_text())
        agent["export"]["token_file"] = str(self.folder / "token")
        agent["host"] |= {"cgroup": "/sys/fs/cgroup", "proc": "/proc"}
        agent["kubelet"] |= {"url": self.kubelet.url, "interval": "1s"}
        agent["logs"] = {"limits": {"per_container": LIMIT}}
        (self.folder / "agent.yaml").write_text(yaml.safe_dump(agent))
        return urls

    def pod(self, namespace, name, command):
        self.pods[name] = containers.Container(self.logs, self.cgroups, namespace, name, command)
        self.listed.append(self.pods[name])
        # As a runtime's: of root, and here of another user, so that a capability is needed.
        for path in (self.pods[name].folder, self.pods[name].folder.parent):
            os.chown(path, 1000, 1000)
            os.chmod(path, 0o700)

    def start(self, name, bare=False):
        command = [pages.daemon(f"sonde-{name}"), "--config", str(self.folder / f"{name}.yaml")]
        if name == "agent":
            command = pages.as_in_the_pod(command, ["DAC_READ_SEARCH"] if bare else [])
        child = self.run.start(name, command, {"NODE_NAME": "n1"})
        pages.wait_for(f"the {name}", lambda: pages.get(f"{self.agent_url if name == 'agent' else self.collector_url}/healthz"))
        return child

    def scrape(self, agents=True):
        """Writes Prometheus' configuration: the split jobs, with agents to be found or without."""
        config = pages.shipped_jobs("scrape-split.yaml", self.agent_url, self.collector_url)
        if not agents:
            for job in config["scrape_configs"]:
                if job["job_name"] != "sonde-collector":
                    job["static_configs"] = []
        config |= {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": ["rules/*.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.servers["alertmanager"]]}]}]},
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def start_servers(self):
        address = self.servers["alertmanager"] = f"127.0.0.1:{alerts.free_port()}"
        self.scrape()
        self.run.start("alertmanager", alerts.command("prometheus-alertmanager") + [
            "--config.file=alertmanager.yaml", "--storage.path=am", "--cluster.listen-address=",
            f"--web.listen-address={address}", f"--web.external-url=http://{address}"])
        self.server = self.run.start("prometheus", alerts.command("prometheus") + [
            "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb", f"--web.listen-address={self.prometheus.removeprefix('http://')}"])
        pages.wait_for("Prometheus", lambda: pages.query(self.prometheus, "up"))

    def cause(self):
        """What fires from now on is due to what is done next."""
        self.since = time.monotonic()

    def fires(self, expected, seconds=90):
        """Each arrives; when, by name. What is found meanwhile in the panels that show it is checked, too."""
        begun, fired = self.since, {}
        for alert in expected:
            found = alerts.wait_for(alert, lambda: self.slack.find("FIRING", alert, after=begun), self.run, seconds)
            if not found:
                FAILURES.append(f"{alert} did not arrive; arrived: {self.slack.titles()}")
                continue
            fired[alert] = found[0]
            self.seen.add(alert)
            shown = self.panels_of(alert)
            print(f"causes: {alert} after {found[0] - begun:.0f} s{shown}: {found[1]['text'].splitlines()[0]}", flush=True)
        return fired

    def panels_of(self, alert):
        board = json.loads((pages.ROOT / "dashboards/grafana/sonde.json").read_text())
        shown = []
        for panel in board["panels"]:
            for target, spec in zip(panel.get("targets", []), panels.ITSELF.get(panel["title"], [])):
                if spec["kind"] != "elsewhere" or spec["why"] != alert:
                    continue
                expr = re.sub(r"\$(cluster|node|sink)\b", ".*", target["expr"]).replace("$__rate_interval", "15s").replace("$__range", "30s")
                if pages.wait_for(f"{alert}: panel {panel['title']} ({expr})", lambda: self.above_zero(expr), 20):
                    shown.append(panel["title"])
        return f" (shown by {', '.join(shown)})" if shown else ""

    def above_zero(self, expr):
        """Within the last half minute."""
        rows = pages.query(self.prometheus, f"max_over_time(({expr})[30s:1s]) > 0")
        return rows

    def resolves(self, fired, seconds=90):
        begun = time.monotonic()
        for alert, at in fired.items():
            if not alerts.wait_for(alert, lambda: self.slack.find("RESOLVED", alert, after=at), self.run, seconds):
                FAILURES.append(f"{alert} did not resolve")
        if fired:
            print(f"causes: resolved after {time.monotonic() - begun:.0f} s: {', '.join(fired)}", flush=True)

    def end(self):
        for pod in self.pods.values():
            pod.stop()
        if self.cgroups:
            self.cgroups.end()
        for disk in self.disks.values():
            disk.end()


def start_pods(stage):
    touch = stage.folder
    stage.pod("shop", "web", "while sleep 0.05; do echo a line of the shop; done")
    stage.pod("shop", "away", "while sleep 0.05; do echo a line that will be deleted; done")
    stage.pod("shop", "kept", "while sleep 0.05; do echo a line of a deleted file that is held open; done")
    stage.pod("shop", "turns", "while sleep 0.05; do echo a line of a file that is rotated away; done")
    stage.pod("shop", "crash", f"test -e {touch}/crash && exit 1; while sleep 0.1; do echo well; done")
    stage.pod("batch", "greedy", f"while sleep 0.1; do test -e {touch}/greedy && rm {touch}/greedy && exec tail /dev/zero; done")
    stage.pod("jobs", "parent", f"while sleep 0.1; do test -e {touch}/child && rm {touch}/child && tail /dev/zero; done")
    stage.pod("shop", "loud", f"while sleep 0.1; do test -e {touch}/loud && head -c 60000 /dev/urandom | base64 -w 1000; done")


def refused(stage, agent):
    """A wrong token and a kubelet that fails; then a missing capability."""
    stage.kubelet.status = 500
    fired = stage.fires(["SondeExportBlocked", "SondeSourceFailing", "SondeCanaryLate"])
    stage.kubelet.status = None
    (stage.folder / "token").write_text("right\n")
    stage.run.kill(agent)
    stage.cause()
    agent = stage.start("agent", bare=True)
    fired |= stage.fires(["SondeFilesUnreadable"])
    stage.run.kill(agent)
    agent = stage.start("agent")
    stage.resolves(fired)
    return agent


def workloads(stage):
    """Pods that crash, are killed, and write too much."""
    expected = ["PodCrashLooping", "SondeLogShed"]
    stage.cause()
    (stage.folder / "crash").touch()
    os.killpg(stage.pods["crash"].child.pid, signal.SIGTERM)
    (stage.folder / "loud").touch()
    if stage.cgroups:
        expected += ["ContainerOOMKilled", "NamespaceOOMKill"]
        (stage.folder / "greedy").touch()
        (stage.folder / "child").touch()
    else:
        print("causes: SKIPPED: ContainerOOMKilled, NamespaceOOMKill: no memory cgroup can be made here")
    fired = stage.fires(expected)
    (stage.folder / "crash").unlink()
    (stage.folder / "loud").unlink(missing_ok=True)
    if stage.cgroups and (stage.pods["greedy"].last["terminated"]["reason"], stage.pods["parent"].restarts) != ("OOMKilled", 0):
        FAILURES.append(f"the kernel's kills: {stage.pods['greedy'].last}, parent restarted {stage.pods['parent'].restarts} times")
    stage.resolves(fired)


def sinks(stage):
    """Elasticsearch refuses each record; then it is away for longer than its sink waits."""
    stage.cause()
    stage.elastic.mode = "refuses"
    fired = stage.fires(["SondeDeadLetters"])
    stage.elastic.mode = "takes"
    letters = [json.loads(line) for file in (stage.folder / "data/dead-letter/es").glob("*") for line in file.read_text().splitlines()]
    if not letters or not all("document_parsing_exception" in json.dumps(letter) for letter in letters):
        FAILURES.append(f"the dead letters do not say why: {letters[:1]}")
    stage.cause()
    stage.elastic.mode = "down"
    (stage.folder / "loud").touch()
    fired |= stage.fires(["SondeRecordsSkipped"], 180)     # what comes is what the limit lets through
    (stage.folder / "loud").unlink()
    stage.elastic.mode = "takes"
    stage.resolves(fired)


def full_disks(stage, agent, collector):
    """The state's disk and the store's disk are full; the queue grows until it refuses. What waits then is deleted while
    the agent is down, and overwritten while the collector is."""
    stage.cause()
    stage.disks["state"].fill()
    fired = stage.fires(["SondeStateNotWritten"])
    stage.disks["state"].free()
    stage.resolves(fired)

    stage.cause()
    stage.disks["store"].fill()
    (stage.folder / "loud").touch()
    fired = stage.fires(["SondeQueueOld", "SondeQueueFilling", "SondeQueueFull"], 150)
    (stage.pods["kept"].folder / "0.log").unlink()      # its bytes wait in a file that has no name any more
    fired |= stage.fires(["SondeLogsStuck"])
    (stage.folder / "loud").unlink()
    time.sleep(2)       # the state is written with what waits

    stage.cause()
    stage.run.kill(agent)
    shutil.rmtree(stage.pods["away"].folder)
    rotate_away(stage.pods["turns"])
    fired |= stage.fires(["SondeAgentSilent"])
    stage.cause()
    agent = stage.start("agent")
    fired |= stage.fires(["SondeLogLoss", "SondeLogGaps"])

    stage.cause()
    stage.run.kill(collector)
    fired |= stage.fires(["SondeCollectorSilent"])
    overwrite_queue(stage.folder / "data/queue")
    stage.disks["store"].free()
    stage.cause()
    collector = stage.start("collector")
    damaged = stage.fires(["SondeQueueDamaged"])
    stage.resolves(fired, 150)
    stage.run.stop(collector)
    collector = stage.start("collector")
    stage.resolves(damaged)
    return agent, collector


def rotate_away(pod):
    """As two rotations and the end of the oldest file do, between two looks of the agent. The writer's handle goes with
    the first file: what is written from now on is another's."""
    pod.stop()
    live = pod.folder / f"{pod.restarts}.log"
    live.unlink()
    with open(live, "w") as log:
        for _ in range(20):
            log.write(f"{containers.stamp(time.time_ns())} stdout F a line after two rotations\n")


def overwrite_queue(folder):
    """In the middle of the largest file, where frames were acknowledged and more come after."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with open(largest, "r+b") as file:
        file.seek(largest.stat().st_size // 2)
        file.write(b"\xff" * 2048)


class Forgetful(http.server.ThreadingHTTPServer):
    """Between agent and collector: says that a canary arrived, and forgets it, as often as it is told to."""

    daemon_threads = True

    def __init__(self, to):
        self.to, self.canaries, self.forgets = to, 0, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = self.server.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, path, headers, body):
        if b"sonde.canary" in body:
            if self.forgets:
                self.forgets -= 1
                return 200, b""
            self.canaries += 1
        there = http.client.HTTPConnection(self.to, timeout=10)
        there.request("POST", path, body, headers)
        answer = there.getresponse()
        return answer.status, answer.read()


def lost_canary(stage, agent):
    """The way from agent to collector leads over a proxy that loses what it has acknowledged."""
    file = stage.folder / "agent.yaml"
    straight, config = file.read_text(), yaml.safe_load(file.read_text())
    proxy = Forgetful(yaml.safe_load((stage.folder / "collector.yaml").read_text())["listen"]["otlp_http"])
    config["export"] |= {"endpoint": f"http://127.0.0.1:{proxy.server_port}", "protocol": "http", "compression": "none"}
    file.write_text(yaml.safe_dump(config))
    stage.run.kill(agent)
    agent = stage.start("agent")
    pages.wait_for("canaries over the proxy", lambda: proxy.canaries >= 3)
    stage.cause()
    proxy.forgets = 2
    fired = stage.fires(["SondeCanaryLost"])
    file.write_text(straight)
    stage.run.kill(agent)
    agent = stage.start("agent")
    proxy.shutdown()
    stage.resolves(fired)
    return agent


def no_agents(stage):
    stage.cause()
    stage.scrape(agents=False)
    stage.server.send_signal(signal.SIGHUP)
    fired = stage.fires(["SondeAgentsAbsent"])
    stage.scrape()
    stage.server.send_signal(signal.SIGHUP)
    stage.resolves(fired)


def acts(stage):
    start_pods(stage)
    stage.cause()       # the token is wrong from the start
    collector, agent = stage.start("collector"), stage.start("agent")
    stage.start_servers()
    agent = refused(stage, agent)
    workloads(stage)
    sinks(stage)
    agent = lost_canary(stage, agent)
    agent, collector = full_disks(stage, agent, collector)
    no_agents(stage)
    skipped = (set() if stage.cgroups else {"ContainerOOMKilled", "NamespaceOOMKill"})
    FAILURES.extend(f"{name} was not produced" for name in sorted(stage.rules - stage.seen - NOT_PRODUCED - skipped))
    FAILURES.extend(f"Slack would not have taken: {wrong}" for wrong in stage.slack.wrong)
    if any("SondeLedgerUnbalanced" in title for title in stage.slack.titles()):
        FAILURES.append("the ledger did not add up")
    print(f"causes: {len(stage.seen)} of {len(stage.rules)} alerts fired from their causes and resolved; {len(NOT_PRODUCED)} cannot be produced "
          f"({', '.join(sorted(NOT_PRODUCED))}); {len(stage.slack.messages)} messages, all as Slack documents them")


def main():
    if os.geteuid() != 0:
        print("causes: SKIPPED: all of it: no right to mount, to make cgroups and to run the agent as in its pod")
        return
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-causes-")), time.monotonic()
    os.chmod(folder, 0o755)
    run, stage = Children(folder), None
    try:
        stage = Stage(folder, run)
        acts(stage)
        FAILURES.extend(pages.FAILURES)
    finally:
        run.stop_all()
        if FAILURES or sys.exc_info()[0]:
            for name in ("agent", "collector", "prometheus"):
                if (folder / f"{name}.log").exists():
                    print(f"--- {name}\n{(folder / f'{name}.log').read_text()[-3000:]}")
        if stage:
            stage.end()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in FAILURES:
        print(f"causes: FAILED: {failure}")
    print(f"causes: {'FAILED' if FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
