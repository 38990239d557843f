"""A real node twice, about two and a half minutes apart: what an agent reads of it, and what the originals said at that time
(tests/fixtures/node/recording.tar.gz). The agent and a real node_exporter read its files in a folder; the kubelet's pods, the
kubelet's recorded pages and a page of kube-state-metrics are served by a server on this machine.
"""

import http.server
import json
import os
import pathlib
import re
import signal
import tarfile
import threading

import kube_state_metrics
import pages

FIXTURES = pages.ROOT / "tests/fixtures/node"
NODE = "lab-node-1"
STAMP = 1795194000     # of all files: a cgroup's own stamps were not recorded
# Collectors of node_exporter that ask this machine and not its files, whatever folder they are given.
NOT_OF_FILES = ("filesystem", "netclass", "netdev.netlink", "time", "timex", "uname", "thermal_zone", "textfile", "systemd")


def labels_of(text):
    return frozenset((key, value) for key, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text) if value)


def parse(text):
    """A classic page: {(name, labels): (value, milliseconds or None)}, and types. An empty label is none."""
    rows, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            name, labels, value, stamp = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)(?: (\d+))?", line).groups()
            key = name, labels_of(labels or "")
            pages.must(key not in rows, f"twice on a page: {line[:200]}")
            rows[key] = float(value), int(stamp) if stamp else None
    return rows, types


class Recording:
    """The two readings, `files[n]` by path below cgroup/ and proc/, and when each was made; the pages of the originals."""

    def __init__(self):
        self.files, self.read_at, self.pages = {1: {}, 2: {}}, {1: {}, 2: {}}, {}
        with tarfile.open(FIXTURES / "recording.tar.gz") as archive:
            for member in archive:
                content, (first, _, rest) = archive.extractfile(member).read(), member.name.partition("/")
                if first in ("1", "2"):
                    self.files[int(first)][rest], self.read_at[int(first)][rest] = content, member.mtime
                else:
                    self.pages[member.name] = content.decode()
        for files in self.files.values():
            # On a node the two are one file; here they were read one after the other.
            files["proc/net/dev"] = files["proc/1/net/dev"]
        self.kubelet_pods = (FIXTURES / "pods.json").read_text()
        self.api_pods = json.loads(self.pages["apiserver-pods.json"])["items"]

    def cgroup_read_at(self, which, cgroup):
        """When a reading took this cgroup's CPU time, Unix seconds."""
        return self.read_at[which].get(f"cgroup{cgroup.rstrip('/')}/cpu.stat")


class Node:
    """The recorded node's files, as a folder; `show` puts one of the readings there, in place."""

    def __init__(self, folder, recording):
        self.folder, self.recording, self.shown = pathlib.Path(folder), recording, {}
        for part in ("cgroup", "proc", "sys", "logs", "kubelet", "root"):
            (self.folder / part).mkdir(parents=True)
        self.show(1)

    def show(self, which):
        now = self.recording.files[which]
        for path in self.shown.keys() - now.keys():
            (self.folder / path).unlink()
        for path, content in now.items():
            if self.shown.get(path) != content:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                # Handles of it may be open: the same file with other bytes.
                with open(self.folder / path, "wb") as file:
                    file.write(content)
        self.shown = now
        for folder, folders, files in os.walk(self.folder / "cgroup", topdown=False):
            for name in files:
                os.utime(os.path.join(folder, name), (STAMP, STAMP))
            if not files and not folders:
                os.rmdir(folder)
            else:
                os.utime(folder, (STAMP, STAMP))

    def hosts(self):
        """The agent's `host`."""
        part = lambda name: str(self.folder / name)  # noqa: E731
        return {"root": part("root"), "proc": part("proc"), "sys": part("sys"), "cgroup": part("cgroup"),
                "pod_logs": part("logs"), "kubelet_dir": part("kubelet")}


class Server:
    """Answers with a text, or with what a function says now, by path."""

    def __init__(self, answers):
        self.answers = answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer = answers.get(self.path.partition("?")[0].rstrip("/"))
                body = (answer() if callable(answer) else answer or "").encode()
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Originals(Server):
    """The recorded answers: the kubelet's to the agent, and the originals' pages to Prometheus."""

    def __init__(self, recording):
        super().__init__({"/pods": recording.kubelet_pods, "/stats/summary": '{"node":{},"pods":[]}',
                          "/metrics/pods": kube_state_metrics.page(recording.api_pods).text(), "/metrics/kubelet": recording.pages["kubelet.prom"]})

    def cadvisor(self, text):
        self.answers["/metrics/containers"] = text


def agent_config(node, originals, folder, listen):
    return {"state_dir": str(folder / "state"), "listen": listen, "node": {"name": NODE}, "host": node.hosts(),
            "kubelet": {"url": f"http://{originals.address}", "interval": "1s"}, "logs": {"enabled": False},
            "metrics": {"push": False}, "export": {"endpoint": "http://127.0.0.1:9"}}


def node_exporter(node, listen):
    """A real one that reads the recorded files."""
    off = [f"--no-collector.{name}" for name in NOT_OF_FILES]
    return [str(pages.SERVERS / "root/usr/bin/prometheus-node-exporter"), f"--web.listen-address={listen}", f"--path.procfs={node.folder / 'proc'}",
            f"--path.sysfs={node.folder / 'sys'}", f"--path.rootfs={node.folder / 'root'}", *off,
            r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"]


class Stopped:
    """A process that does not run for a while, so that it reads all files before, or all after."""

    def __init__(self, *children):
        self.children = children

    def __enter__(self):
        for child in self.children:
            child.send_signal(signal.SIGSTOP)

    def __exit__(self, *_):
        for child in self.children:
            child.send_signal(signal.SIGCONT)
