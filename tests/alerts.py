#!/usr/bin/env python3
"""Every alert, from a page of metrics to Slack: a real Prometheus and a real Alertmanager with the shipped rules and
configuration, and a stand-in for the Slack webhook (and for the mail server) that records what arrives.

The page is made up here: this shows that rules, routes and templates work, not that Sonde's pages move as they do.
Test copies differ from what is shipped in this only: a minute of the rules is a second (`for`, ranges, offsets),
Alertmanager's group_wait and group_interval are 1 s, and addresses and secrets are local.

Usage: tests/alerts.py [-v]        (tests/servers/install first)
"""

import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVERS = ROOT / "target" / "servers"
WAIT = 60
VERBOSE = "-v" in sys.argv[1:]

if not (SERVERS / "venv/bin/python").exists():
    sys.exit("alerts: run tests/servers/install first")
if not sys.prefix.startswith(str(SERVERS)):
    os.execv(SERVERS / "venv/bin/python", [str(SERVERS / "venv/bin/python"), *sys.argv])

import yaml  # noqa: E402  (from the environment that was just entered)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def say(text):
    if VERBOSE:
        print(text, flush=True)


class Server(http.server.ThreadingHTTPServer):
    """One that gives its port back at once, so that a target can be silent and come again."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class Page:
    """A /metrics page whose rows are set by the test; it can be silent."""

    def __init__(self):
        self.rows, self.growing, self.lock, self.server = {}, {}, threading.Lock(), None
        self.port = free_port()
        self.start()

    def set(self, row, value):
        """`None` takes the row away."""
        with self.lock:
            self.growing.pop(row, None)
            self.rows[row] = value

    def grow(self, row, start, a_second):
        with self.lock:
            self.growing[row] = (start, a_second, time.monotonic())

    def text(self):
        with self.lock:
            for row, (start, rate, since) in self.growing.items():
                self.rows[row] = start + rate * (time.monotonic() - since)
            return "".join(f"{row} {value}\n" for row, value in self.rows.items() if value is not None)

    def start(self):
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = page.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Slack:
    """An incoming webhook: takes what Slack documents, answers `ok`, and says what it would not have taken."""

    # https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and
    # https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments
    TOP = {"text", "blocks", "attachments", "thread_ts", "mrkdwn", "channel", "username", "icon_emoji", "icon_url", "link_names"}
    ATTACHMENT = {
        "fallback", "callback_id", "color", "pretext", "author_name", "author_link", "author_icon", "title", "title_link",
        "text", "fields", "image_url", "thumb_url", "footer", "footer_icon", "ts", "mrkdwn_in", "actions",
    }
    PATH = "/services/T00000000/B00000000/a-secret-of-the-test"

    def __init__(self):
        self.messages, self.wrong, self.lock = [], [], threading.Lock()
        self.port = free_port()
        slack = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                problem = None
                if self.path != slack.PATH:
                    problem = f"path {self.path}"
                elif self.headers.get_content_type() != "application/json":
                    problem = f"content type {self.headers.get_content_type()}"
                else:
                    try:
                        message = json.loads(body)
                        problem = slack.check(message)
                        with slack.lock:
                            slack.messages.append((time.monotonic(), message))
                    except ValueError as error:
                        problem = f"no JSON: {error}"
                if problem:
                    slack.wrong.append(f"{problem}: {body[:400]!r}")
                answer = b"invalid_payload" if problem else b"ok"
                self.send_response(400 if problem else 200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def check(self, message):
        if not isinstance(message, dict) or not message.keys() <= self.TOP:
            return f"unknown keys {set(message) - self.TOP}"
        attachments = message.get("attachments")
        if not isinstance(attachments, list) or not 1 <= len(attachments) <= 20:
            return "no attachments, or too many"
        for attachment in attachments:
            if not attachment.keys() <= self.ATTACHMENT:
                return f"unknown keys {set(attachment) - self.ATTACHMENT}"
            for key in ("fallback", "title", "text"):
                if not isinstance(attachment.get(key), str) or not attachment[key].strip():
                    return f"{key} is missing"
            if len(attachment["text"]) > 3000:
                return "the text is so long that Slack folds it"
            if "<no value>" in json.dumps(attachment):
                return "a template had no value"
            if not re.fullmatch(r"good|warning|danger|#[0-9A-Fa-f]{6}", attachment.get("color", "")):
                return f"colour {attachment.get('color')}"
            if not attachment.get("title_link", "").startswith("http"):
                return "title_link is no address"
            for field in attachment.get("fields", []):
                if not field.keys() <= {"title", "value", "short"} or not isinstance(field.get("short"), bool):
                    return f"field {field}"
                if not field.get("title") or not field.get("value"):
                    return f"empty field {field}"
            actions = attachment.get("actions", [])
            if len(actions) > 5:
                return "more than five actions"
            for action in actions:
                if action.get("type") != "button" or not action.get("text") or not action.get("url", "").startswith("http"):
                    return f"action {action}"
        return None

    def titles(self):
        with self.lock:
            return [message["attachments"][0]["title"] for _, message in self.messages]

    def find(self, status, alert, more="", after=0.0):
        """When the first message after a time came that tells of the alert in this state, and its attachment."""
        pattern = re.compile(rf"\[{status}(:\d+)?\] {alert}\b.*{more}")
        with self.lock:
            for at, message in self.messages:
                if at >= after and pattern.match(message["attachments"][0]["title"]):
                    return at, message["attachments"][0]
        return None


class Mail:
    """As much SMTP as Alertmanager speaks."""

    def __init__(self):
        self.mails = []
        mail = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line):
                self.wfile.write(line.encode() + b"\r\n")

            def handle(self):
                self.say("220 stand-in")
                while line := self.rfile.readline():
                    word = line.split()[0].upper() if line.split() else b""
                    if word == b"EHLO":
                        self.say("250-stand-in")
                        self.say("250 AUTH PLAIN")
                    elif word == b"AUTH":
                        self.say("235 ok")
                    elif word == b"DATA":
                        self.say("354 go on")
                        lines = []
                        while (line := self.rfile.readline()) not in (b".\r\n", b""):
                            lines.append(line)
                        mail.mails.append(b"".join(lines).decode(errors="replace"))
                        self.say("250 taken")
                    elif word == b"QUIT":
                        self.say("221 bye")
                        return
                    else:
                        self.say("250 ok")

        class Threads(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def seconds_for_minutes(text):
    """`5m` becomes `5s`, `1h` becomes `60s`."""
    units = {"m": 1, "h": 60, "d": 1440}
    return re.sub(r"\b(\d+)([mhd])\b", lambda match: f"{int(match[1]) * units[match[2]]}s", text)


def scaled_rules(into):
    names = set()
    for file in sorted((ROOT / "dashboards/prometheus/rules").glob("*.yaml")):
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                names |= {rule["alert"]} if "alert" in rule else set()
                # Names of recorded series (`…:rate5m`) are no durations.
                rule["expr"] = seconds_for_minutes(rule["expr"])
                if "for" in rule:
                    rule["for"] = seconds_for_minutes(rule["for"])
        (into / file.name).write_text(yaml.safe_dump(rules, sort_keys=False, allow_unicode=True))
    return names


def local_alertmanager(into, slack, mail):
    shipped = ROOT / "dashboards/alertmanager"
    config = yaml.safe_load((shipped / "alertmanager.yaml").read_text())
    (into / "slack-webhook").write_text(f"http://127.0.0.1:{slack.port}{Slack.PATH}\n")
    (into / "smtp-password").write_text("secret\n")
    config["global"] |= {
        "slack_api_url_file": str(into / "slack-webhook"),
        "smtp_auth_password_file": str(into / "smtp-password"),
        "smtp_smarthost": f"localhost:{mail.port}",
        "smtp_require_tls": False,
    }
    for route in [config["route"], *config["route"]["routes"]]:
        route |= {"group_wait": "1s", "group_interval": "1s"}
    shutil.copy(shipped / "sonde.tmpl", into)
    (into / "alertmanager.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def command(name):
    """How a server of Debian's packages is started from where tests/servers/install unpacked it."""
    root = SERVERS / "root"
    binary = str(root / "usr/bin" / name)
    if name != "prometheus-alertmanager" or pathlib.Path("/usr/share/prometheus/alertmanager").exists():
        return [binary]
    # Debian's build reads its default templates from /usr/share: shown to it there, in a mount namespace of its own.
    show = f'mount --bind "{root}/usr/share" /usr/share && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", show, "sh", binary]


class Run:
    """Starts what it needs and ends exactly that."""

    def __init__(self, folder):
        self.folder, self.children = folder, []

    def start(self, name, *args):
        log = open(self.folder / f"{name}.log", "wb")
        self.children.append(subprocess.Popen([*command(name), *args], cwd=self.folder, stdout=log, stderr=log))

    def alive(self):
        for child in self.children:
            if child.poll() is not None:
                for log in self.folder.glob("*.log"):
                    print(f"--- {log.name}\n{log.read_text()[-3000:]}")
                sys.exit(f"alerts: {child.args[0]} ended with {child.returncode}")

    def stop(self):
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def wait_for(what, condition, run, seconds=WAIT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run.alive()
        if value := condition():
            return value
        time.sleep(0.2)
    return None


# What is wrong in the second act: alert, what its title must hold, the rows. Healthy rows come first.
KSM = 'namespace="shop",pod="web-1",uid="u1",container="app"'
HEALTHY = {
    f"kube_pod_container_status_restarts_total{{{KSM}}}": 0,
    'sonde_namespace_oom_kills_total{namespace="batch"}': 2,
    'sonde_agent_source_success{source="kubelet"}': 1,
    "sonde_agent_log_gaps_total": 0,
    "sonde_agent_log_state_failing": 0,
    "sonde_agent_log_unreadable_files": 0,
    'sonde_agent_log_observed_bytes_total{node="n5",namespace="shop",pod="web-1",container="app"}': 1000,
    'sonde_agent_log_acked_bytes_total{node="n5",namespace="shop",pod="web-1",container="app"}': 1000,
    'sonde_agent_log_pending_bytes{node="n5",namespace="shop",pod="web-1",container="app"}': 0,
    'sonde_agent_log_observed_bytes_total{node="n6",namespace="shop",pod="web-2",container="app"}': 1000,
    'sonde_agent_log_acked_bytes_total{node="n6",namespace="shop",pod="web-2",container="app"}': 1000,
    'sonde_agent_log_pending_bytes{node="n6",namespace="shop",pod="web-2",container="app"}': 0,
}
COLLECTOR_HEALTHY = {
    'sonde_collector_queue_oldest_seconds{sink="es"}': 0,
    'sonde_collector_queue_oldest_seconds{sink="loki"}': 0,
    'sonde_collector_queue_bytes{sink="es"}': 300e6,
    "sonde_collector_queue_full": 0,
    'sonde_collector_queue_damaged_bytes_total{kind="acknowledged"}': 0,
    'sonde_collector_records_total{sink="es",outcome="dead_letter"}': 0,
    'sonde_collector_records_total{sink="loki",outcome="skipped"}': 0,
    'sonde_collector_canary_records_total{sink="es",node="n1",outcome="missing"}': 0,
}


def main():
    started = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sonde-alerts-"))
    run = Run(folder)
    try:
        failures = acts(folder, run)
    finally:
        run.stop()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in failures:
        print(f"alerts: FAILED: {failure}")
    print(f"alerts: {'FAILED' if failures else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failures else 0)


def acts(folder, run):
    agent, other, collector, slack, mail = Page(), Page(), Page(), Slack(), Mail()
    for row, value in HEALTHY.items():
        agent.set(row, value)
    for row, value in COLLECTOR_HEALTHY.items():
        collector.set(row, value)
    (folder / "rules").mkdir()
    names = scaled_rules(folder / "rules")
    local_alertmanager(folder, slack, mail)
    prometheus, alertmanager = free_port(), free_port()

    def targets(*pages):
        listed = [
            {"targets": [f"127.0.0.1:{page.port}"], "labels": {"instance": node, "node": node}}
            for page, node in zip(pages, ["n1", "n2"])
        ]
        (folder / "agents.json.new").write_text(json.dumps(listed))
        os.replace(folder / "agents.json.new", folder / "agents.json")

    targets(agent, other)
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["rules/*.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [
            {"job_name": "sonde", "honor_labels": True,
             "file_sd_configs": [{"files": ["agents.json"], "refresh_interval": "1s"}]},
            {"job_name": "sonde-collector",
             "static_configs": [{"targets": [f"127.0.0.1:{collector.port}"], "labels": {"instance": "c0"}}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    run.start(
        "prometheus-alertmanager", "--config.file=alertmanager.yaml", "--storage.path=am", "--cluster.listen-address=",
        f"--web.listen-address=127.0.0.1:{alertmanager}", f"--web.external-url=http://127.0.0.1:{alertmanager}",
    )
    run.start(
        "prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb",
        f"--web.listen-address=127.0.0.1:{prometheus}",
    )
    failures, seen = [], set()

    def act(title, expected, undo):
        """Each (alert, more of its title, words of its text) arrives, then `undo`, then each resolves."""
        begun, arrived = time.monotonic(), {}
        for alert, more, words in expected:
            found = wait_for(alert, lambda: slack.find("FIRING", alert, more), run)
            if not found:
                failures.append(f"{title}: {alert} {more} did not arrive; arrived: {slack.titles()}")
                say(failures[-1])
                continue
            seen.add(alert)
            arrived[alert], got = found
            say(f"  {alert} {more} fired after {time.monotonic() - begun:.1f} s")
            if words not in got["text"]:
                failures.append(f"{alert}: `{words}` is not in its text: {got['text']}")
            say(json.dumps(got, ensure_ascii=False))
        fired = time.monotonic()
        undo()
        for alert, more, _ in expected:
            if alert not in arrived:
                continue
            # One that tells of an event ends by itself, perhaps before the slowest of the others has fired.
            found = wait_for(alert, lambda: slack.find("RESOLVED", alert, more, after=arrived[alert]), run)
            if not found:
                failures.append(f"{title}: {alert} {more} did not resolve")
                say(failures[-1])
            elif found[1]["color"] != "good":
                failures.append(f"{alert}: resolved in colour {found[1]['color']}")
        print(f"alerts: {title}: {len(expected)} fired in {fired - begun:.0f} s, resolved in {time.monotonic() - fired:.0f} s")

    # First act: nothing is wrong.
    up = f"http://127.0.0.1:{prometheus}/api/v1/query?query=sum(up)"
    if not wait_for("targets", lambda: value_of(up) == 3, run):
        failures.append("the targets did not come up")
    time.sleep(22)
    if quiet := slack.titles():
        failures.append(f"alerts although nothing is wrong: {quiet}")
    print("alerts: nothing wrong: silent for 22 s")

    # Second act: all causes that can stand side by side.
    agent.set(f'kube_pod_container_status_waiting_reason{{{KSM.replace("web-1", "web-3")},reason="CrashLoopBackOff"}}', 1)
    agent.set(f"kube_pod_container_status_restarts_total{{{KSM}}}", 1)
    agent.set(f'kube_pod_container_status_last_terminated_reason{{{KSM},reason="OOMKilled"}}', 1)
    agent.set('sonde_namespace_oom_kills_total{namespace="batch"}', 3)
    agent.set('sonde_agent_source_success{source="kubelet"}', 0)
    agent.set('sonde_agent_log_lost_bytes_total{namespace="shop",pod="web-1",container="app",reason="deleted_unread"}', 4096)
    agent.grow('sonde_agent_log_shed_bytes_total{namespace="shop",pod="web-1",container="app",reason="rate_limit"}', 100, 50)
    agent.set("sonde_agent_log_gaps_total", 1)
    agent.set("sonde_agent_log_state_failing", 1)
    agent.set("sonde_agent_log_unreadable_files", 2)
    agent.set('sonde_agent_log_observed_bytes_total{node="n5",namespace="shop",pod="web-1",container="app"}', 1001)
    agent.set('sonde_agent_log_observed_bytes_total{node="n6",namespace="shop",pod="web-2",container="app"}', 1500)
    agent.set('sonde_agent_log_pending_bytes{node="n6",namespace="shop",pod="web-2",container="app"}', 500)
    agent.set('sonde_agent_export_blocked{node="n4",code="UNAUTHENTICATED"}', 1)
    collector.set('sonde_collector_queue_oldest_seconds{sink="es"}', 4000)
    collector.set('sonde_collector_queue_oldest_seconds{sink="loki"}', 400)
    collector.grow('sonde_collector_queue_bytes{sink="es"}', 300e6, 50e6)
    collector.set("sonde_collector_queue_full", 1)
    collector.set('sonde_collector_queue_damaged_bytes_total{kind="acknowledged"}', 512)
    collector.set('sonde_collector_records_total{sink="es",outcome="dead_letter"}', 3)
    collector.set('sonde_collector_records_total{sink="loki",outcome="skipped"}', 9)
    agent.set('sonde_agent_canary_oldest_unacknowledged_seconds{node="n4"}', 120)
    collector.set('sonde_collector_canary_records_total{sink="es",node="n1",outcome="missing"}', 2)

    def mend():
        # Muted while its critical twin fires: two messages of one name, the warning one names loki alone.
        with slack.lock:
            for _, message in slack.messages:
                attachment = message["attachments"][0]
                if "SondeQueueOld" in attachment["title"] and attachment["color"] == "warning" and "Sink es" in attachment["text"]:
                    failures.append("the warning for sink es came through although its critical twin fires")
        agent.set(f'kube_pod_container_status_waiting_reason{{{KSM.replace("web-1", "web-3")},reason="CrashLoopBackOff"}}', None)
        agent.set('sonde_agent_source_success{source="kubelet"}', 1)
        agent.set('sonde_agent_log_shed_bytes_total{namespace="shop",pod="web-1",container="app",reason="rate_limit"}', 5000)
        agent.set("sonde_agent_log_state_failing", 0)
        agent.set("sonde_agent_log_unreadable_files", 0)
        agent.set('sonde_agent_log_acked_bytes_total{node="n5",namespace="shop",pod="web-1",container="app"}', 1001)
        agent.set('sonde_agent_log_acked_bytes_total{node="n6",namespace="shop",pod="web-2",container="app"}', 1500)
        agent.set('sonde_agent_log_pending_bytes{node="n6",namespace="shop",pod="web-2",container="app"}', 0)
        agent.set('sonde_agent_export_blocked{node="n4",code="UNAUTHENTICATED"}', 0)
        agent.set('sonde_agent_canary_oldest_unacknowledged_seconds{node="n4"}', 0)
        for row, value in COLLECTOR_HEALTHY.items():
            if "records_total" not in row:
                collector.set(row, value)

    act("causes side by side", [
        ("PodCrashLooping", "in shop", "Container app of shop/web-3 is crash-looping."),
        ("ContainerOOMKilled", "in shop", "Container app of shop/web-1 was OOM-killed."),
        ("NamespaceOOMKill", "in batch", "namespace batch"),
        ("SondeSourceFailing", "on n1", "Source kubelet"),
        ("SondeLogLoss", "in shop", "4kiB of log lines"),
        ("SondeLogGaps", "on n1", "rotated away"),
        ("SondeLogShed", "in shop", "over their limit"),
        ("SondeLedgerUnbalanced", "on n5", "does not add up"),
        ("SondeExportBlocked", "on n4", "UNAUTHENTICATED"),
        ("SondeLogsStuck", "on n6", "500B of logs of node n6"),
        ("SondeFilesUnreadable", "on n1", "2 log files"),
        ("SondeStateNotWritten", "on n1", "cannot write its positions"),
        ("SondeQueueOld", "", "Sink "),
        ("SondeQueueFilling", "", "4 hours"),
        ("SondeQueueFull", "", "is full"),
        ("SondeQueueDamaged", "", "512B"),
        ("SondeDeadLetters", "", "3 records"),
        ("SondeRecordsSkipped", "", "9 records"),
        ("SondeCanaryLate", "on n4", "has not been acknowledged for 2m"),
        ("SondeCanaryLost", "on n1", "2 canaries of node n1"),
    ], mend)

    # Third act: those who do not answer.
    other.stop()
    collector.stop()

    def answer():
        other.start()
        collector.start()

    act("silence", [
        ("SondeAgentSilent", "on n2", "The Sonde agent of node n2 is silent."),
        ("SondeCollectorSilent", "", "The Sonde collector c0 is silent."),
    ], answer)

    # Fourth act: Prometheus knows no agent.
    targets()
    act("no agents", [("SondeAgentsAbsent", "", "no Sonde agent at all")], lambda: targets(agent, other))

    failures += [f"{name} was not tried" for name in sorted(names - seen - {"SondeWatchdog"})]
    failures += [f"Slack would not have taken: {wrong}" for wrong in slack.wrong]
    if any("SondeWatchdog" in title for title in slack.titles()):
        failures.append("the watchdog went to Slack")
    if not any("SondeLogLoss" in text and "Subject: [FIRING" in text for text in mail.mails):
        failures.append(f"no mail about the loss; {len(mail.mails)} mails")
    if any("Subject: [FIRING:1] PodCrashLooping" in text for text in mail.mails):
        failures.append("a warning was mailed")
    print(f"alerts: {len(seen)} alerts fired and resolved, {len(slack.messages)} Slack messages, {len(mail.mails)} mails")
    return failures


def value_of(url):
    import urllib.request
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            result = json.load(answer)["data"]["result"]
            return float(result[0]["value"][1]) if result else None
    except OSError:
        return None


if __name__ == "__main__":
    main()
