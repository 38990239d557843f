#!/usr/bin/env python3
"""Alerts from their real causes: real daemons, Prometheus and Alertmanager with the shipped rules and configuration
(scaled as in alerts.py: a minute of the rules is a second), and the stand-in for the Slack webhook.

- SondeExportBlocked: the collector wants a token and the agent has a wrong one; it ends when the file gets the right one
- SondeAgentSilent, SondeCollectorSilent: kill -9, and a start

Usage: tests/causes.py             (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

import alerts
import pages
import yaml

FAILURES = []


class Children(pages.Run):
    """As pages.Run, and for alerts.wait_for: the daemons may be dead, as that is what is tried."""

    def alive(self):
        pass

    def kill(self, child):
        child.send_signal(signal.SIGKILL)
        child.wait()


def rules_and_routes(folder, slack):
    (folder / "rules").mkdir()
    alerts.scaled_rules(folder / "rules")
    alerts.local_alertmanager(folder, slack, alerts.Mail())


def servers(folder, run, agent, collector):
    prometheus, alertmanager = alerts.free_port(), alerts.free_port()
    pages.prometheus_config(folder, agent, collector)
    config = yaml.safe_load((folder / "prometheus.yaml").read_text())
    config["global"] |= {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    config["rule_files"] = ["rules/*.yaml"]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    run.start("alertmanager", alerts.command("prometheus-alertmanager") + [
        "--config.file=alertmanager.yaml", "--storage.path=am", "--cluster.listen-address=",
        f"--web.listen-address=127.0.0.1:{alertmanager}", f"--web.external-url=http://127.0.0.1:{alertmanager}"])
    run.start("prometheus", alerts.command("prometheus") + [
        "--config.file=prometheus.yaml", "--storage.tsdb.path=tsdb", f"--web.listen-address=127.0.0.1:{prometheus}"])


def acts(folder, run):
    agent_url, collector_url = pages.configurations(folder)
    (folder / "accepted").write_text("right\n")
    (folder / "token").write_text("wrong\n")
    for name, change in {
        "collector": lambda c: c.update(auth={"otlp": {"token_file": str(folder / "accepted")}}),
        "agent": lambda c: c["export"].update(token_file=str(folder / "token")),
    }.items():
        config = yaml.safe_load((folder / f"{name}.yaml").read_text())
        change(config)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    os.chmod(folder, 0o755)
    logs = folder / "node/var/log/pods"
    logs.mkdir(parents=True)
    slack, writer = alerts.Slack(), pages.Writer(logs)
    rules_and_routes(folder, slack)
    writer.start()

    def start(name):
        command = [pages.daemon(f"sonde-{name}"), "--config", str(folder / f"{name}.yaml")]
        return run.start(name, pages.as_in_the_pod(command) if name == "agent" else command, {"NODE_NAME": "n1"})

    collector, agent = start("collector"), start("agent")
    servers(folder, run, agent_url, collector_url)

    def fires(alert, seconds=60):
        begun = time.monotonic()
        found = alerts.wait_for(alert, lambda: slack.find("FIRING", alert), run, seconds)
        if not found:
            FAILURES.append(f"{alert} did not arrive; arrived: {slack.titles()}")
            return 0.0
        print(f"causes: {alert} after {time.monotonic() - begun:.0f} s: {found[1]['text'].splitlines()[0]}", flush=True)
        return found[0]

    def resolves(alert, fired, seconds=60):
        begun = time.monotonic()
        if fired and not alerts.wait_for(alert, lambda: slack.find("RESOLVED", alert, after=fired), run, seconds):
            FAILURES.append(f"{alert} did not resolve")
        elif fired:
            print(f"causes: {alert} resolved after {time.monotonic() - begun:.0f} s", flush=True)

    fired = fires("SondeExportBlocked")
    (folder / "token").write_text("right\n")
    resolves("SondeExportBlocked", fired, 120)      # it tries once a minute

    run.kill(agent)
    fired = fires("SondeAgentSilent")
    agent = start("agent")
    resolves("SondeAgentSilent", fired)

    run.kill(collector)
    fired = fires("SondeCollectorSilent")
    collector = start("collector")
    resolves("SondeCollectorSilent", fired)

    writer.ended.set()
    writer.join()
    count = lambda: json.loads(pages.get(f"{collector_url}/api/v1/logs/count"))["count"]  # noqa: E731
    pages.wait_for(f"all {writer.lines} lines", lambda: count() == writer.lines, 90)
    print(f"causes: after all of it {writer.lines} lines were written and {count()} are stored")
    FAILURES.extend(f"Slack would not have taken: {wrong}" for wrong in slack.wrong)


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-causes-")), time.monotonic()
    run = Children(folder)
    try:
        acts(folder, run)
        FAILURES.extend(pages.FAILURES)
    finally:
        run.stop_all()
        if FAILURES:
            for name in ("agent", "collector"):
                print(f"--- {name}\n{(folder / f'{name}.log').read_text()[-1500:]}")
        shutil.rmtree(folder, ignore_errors=True)
    for failure in FAILURES:
        print(f"causes: FAILED: {failure}")
    print(f"causes: {'FAILED' if FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
