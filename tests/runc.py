#!/usr/bin/env python3
"""Containers that runc makes, in cgroups named as the kubelet has them named (cgroupfs driver), and the agent's rows beside
what runc itself says of them and what they did: a sandbox, one that burns CPU against a quota, one that holds memory, one
that is killed for it.

Skipped, loudly, where runc is missing or may not make containers here.

Usage: tests/runc.py        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the agent)
"""

import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import alerts
import pages
import yaml
from pages import must

RUNC = pages.SERVERS / "root/usr/sbin/runc"
MIB = 1 << 20
HELD = 64 * MIB
UID = str(uuid.uuid4())
KUBEPODS = f"sonde-{os.getpid()}-kubepods"      # `--cgroup-root`s of other kubelets are named so
POD = f"/{KUBEPODS}/burstable/pod{UID}"
HOLD = f"(head -c {HELD} /dev/zero; sleep 600) | tail"      # tail keeps all of a line that does not end
# What each runs, how many bytes it may have, and how many microseconds of CPU in each 100 ms.
CONTAINERS = {
    "": ("sleep 600", 16 * MIB, None),      # the sandbox
    "burner": ("while :; do :; done", 32 * MIB, 20_000),
    "holder": (HOLD, 256 * MIB, None),
    "greedy": (HOLD, 32 * MIB, None),
}


def container_id(name):
    return hashlib.sha256(f"{UID}/{name}".encode()).hexdigest()


class Runc:
    def __init__(self, folder):
        self.folder, self.made = folder, []
        libraries = [str(path.parent) for path in (pages.SERVERS / "root/usr/lib").glob("*/libseccomp.so.2")]
        self.env = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}

    def call(self, *words, **more):
        return subprocess.run([RUNC, "--root", self.folder / "runc", *words], env=self.env, stdin=subprocess.DEVNULL,
                              text=True, check=False, **more)

    def run(self, name):
        """Starts a container; why it cannot be, or None."""
        command, memory, quota = CONTAINERS[name]
        bundle = self.folder / f"bundle-{name}"
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]
        for path in ("/bin", "/lib", "/lib64", "/usr"):
            if os.path.isdir(path):
                (bundle / "rootfs" / path[1:]).mkdir(parents=True)
                mounts.append({"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]})
        for path in ("proc", "dev"):
            (bundle / "rootfs" / path).mkdir(parents=True)
        spec = {
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": mounts,
            "process": {"args": ["/bin/sh", "-c", command], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin:/usr/bin"]},
            "linux": {
                "cgroupsPath": f"{POD}/{container_id(name)}",
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
                "resources": {"memory": {"limit": memory}, "cpu": {"quota": quota, "period": 100_000} if quota else {}},
            },
        }
        (bundle / "config.json").write_text(json.dumps(spec))
        # A pipe of ours would be held open by the container.
        said = self.folder / f"runc-{name}.log"
        with open(said, "w") as log:
            done = self.call("run", "--detach", "--bundle", bundle, container_id(name), stdout=log, stderr=log)
        if done.returncode:
            return said.read_text().strip()[-300:]
        self.made.append(name)
        return None

    def stats(self, name):
        done = self.call("events", "--stats", container_id(name), capture_output=True)
        return json.loads(done.stdout)["data"]

    def pause(self, name):
        done = self.call("pause", container_id(name), capture_output=True)
        must(done.returncode == 0, f"runc pause {name}: {done.stderr}")

    def delete(self, name):
        self.made.remove(name)
        self.call("resume", container_id(name), capture_output=True)
        self.call("delete", "--force", container_id(name), capture_output=True)

    def end(self):
        for name in list(self.made):
            self.delete(name)
        for root in (pathlib.Path("/sys/fs/cgroup"), *pathlib.Path("/sys/fs/cgroup").iterdir()):
            if (root / KUBEPODS).is_dir():
                for folder, _, _ in os.walk(root / KUBEPODS, topdown=False):
                    pages.wait_for(f"{folder} to be removed", lambda: removed(folder), 10)


def removed(folder):
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    return True


def kubelet():
    """Answers `/pods` with the one pod."""
    names = [name for name in CONTAINERS if name]
    since = "2026-11-20T10:00:00Z"
    pod = {
        "metadata": {"name": "web", "namespace": "shop", "uid": UID},
        "spec": {"nodeName": "n1", "containers": [{"name": name, "image": f"image-of-{name}"} for name in names]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": name, "image": f"image-of-{name}", "containerID": f"containerd://{container_id(name)}", "state": {"running": {"startedAt": since}}}
            for name in names]},
    }
    body = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [pod]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    url = f"http://127.0.0.1:{pages.free_port()}"
    server = alerts.Server(("127.0.0.1", int(url.rpartition(":")[2])), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return url


class Agent:
    def __init__(self, folder, run):
        listen = f"127.0.0.1:{pages.free_port()}"
        config = {"node": {"name": "n1"}, "host": {"cgroup": "/sys/fs/cgroup"}, "state_dir": str(folder / "state"), "listen": listen,
                  "kubelet": {"url": kubelet(), "interval": "1s"}, "logs": {"enabled": False}, "metrics": {"push": False},
                  "export": {"endpoint": "http://127.0.0.1:9"}}
        (folder / "agent.yaml").write_text(yaml.safe_dump(config))
        run.start("agent", [pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")])
        self.url = f"http://{listen}"
        pages.wait_for("the agent", lambda: pages.get(f"{self.url}/readyz"))

    def rows(self, fresh=True):
        """The pod's rows by (family, container's id, or none for its own); of a sample that was made from now on."""
        if fresh:
            time.sleep(1.1)
        rows = {}
        for name, labels, value in re.findall(r"(?m)^(\w+)\{(.*)\} (\S+)", pages.get(f"{self.url}/metrics/containers")):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if labels.get("id", "").startswith(POD):
                more = tuple(labels[key] for key in sorted(labels) if key not in LABELS)
                rows[(name, labels["id"][len(POD) + 1:], *more)] = (float(value), labels)
        return rows


LABELS = {"id", "image", "name", "namespace", "pod", "container", "cpu"}      # `cpu` is always "total"


def near(what, have, want, tolerance):
    must(abs(have - want) <= tolerance, f"{what}: the row has {have:.9g}, runc says {want:.9g}")


def names(rows):
    """Each container has a row under its own names and id, the sandbox too, and the pod."""
    for name in CONTAINERS:
        got = rows.get(("container_memory_usage_bytes", container_id(name)))
        want = {"id": f"{POD}/{container_id(name)}", "namespace": "shop", "pod": "web", "container": name or "POD", "name": container_id(name),
                "image": f"image-of-{name}" if name else ""}
        have = got and {**got[1], "container": got[1]["container"] or "POD", "image": got[1]["image"] if name else ""}
        must(have == want, f"{name or 'the sandbox'} has {have}, not {want}")
    pod = rows.get(("container_memory_usage_bytes", ""))
    must(pod and pod[1]["pod"] == "web" and pod[1]["container"] == pod[1]["name"] == "", f"the pod's row: {pod}")


def as_runc_says(runc, agent, name):
    """Of a container that is frozen, so that nothing of it moves."""
    runc.pause(name)
    stats, rows, cid = runc.stats(name), agent.rows(), container_id(name)
    value = lambda family: rows.get((family, cid), (float("nan"),))[0]  # noqa: E731
    usage, throttling = stats["cpu"]["usage"], stats["cpu"]["throttling"]
    near(f"{name}: CPU", value("container_cpu_usage_seconds_total"), usage["total"] / 1e9, 0.005)
    if CONTAINERS[name][2]:
        near(f"{name}: periods", value("container_cpu_cfs_periods_total"), throttling["periods"], 2)
        near(f"{name}: throttled periods", value("container_cpu_cfs_throttled_periods_total"), throttling["throttledPeriods"], 2)
        near(f"{name}: throttled time", value("container_cpu_cfs_throttled_seconds_total"), throttling["throttledTime"] / 1e9, 0.1)
        must(value("container_spec_cpu_quota") == CONTAINERS[name][2] and value("container_spec_cpu_period") == 100_000, f"{name}: quota")
    near(f"{name}: memory", value("container_memory_usage_bytes"), stats["memory"]["usage"]["usage"], MIB)
    raw = stats["memory"]["raw"]
    near(f"{name}: rss", value("container_memory_rss"), raw["total_rss"] if "total_rss" in raw else raw["anon"], MIB)
    near(f"{name}: limit", value("container_spec_memory_limit_bytes"), CONTAINERS[name][1], 0)
    near(f"{name}: processes", value("container_processes"), stats["pids"]["current"], 0)
    return usage["total"] / 1e9, value("container_memory_rss")


def act(folder, run, runc):
    agent = Agent(folder, run)
    for name in CONTAINERS:
        if (why := runc.run(name)) is not None:
            if runc.made:
                must(False, f"runc made {runc.made}, and not {name}: {why}")
            else:
                print(f"runc: SKIPPED: no right to make containers here: {why}")
            return
    shown = lambda name: ("container_memory_usage_bytes", container_id(name)) in agent.rows(False)  # noqa: E731
    pages.wait_for("rows of each container", lambda: all(shown(name) for name in CONTAINERS))
    names(agent.rows())
    burnt = lambda: runc.stats("burner")["cpu"]["usage"]["total"] >= 5e8  # noqa: E731
    pages.wait_for("half a second of CPU", burnt)
    pages.wait_for("memory to be held", lambda: agent.rows(False).get(("container_memory_rss", container_id("holder")), (0,))[0] >= HELD)
    cpu, _ = as_runc_says(runc, agent, "burner")
    must(cpu >= 0.5, f"the burner used {cpu} s")
    _, held = as_runc_says(runc, agent, "holder")
    must(HELD <= held < HELD + 16 * MIB, f"the holder has {held} bytes, not {HELD}")
    kills = lambda rows, cid: rows.get(("container_oom_events_total", cid), (0,))[0]  # noqa: E731
    pages.wait_for("the kernel to kill", lambda: kills(agent.rows(False), container_id("greedy")) >= 1)
    rows = agent.rows()
    pod = rows[("container_cpu_usage_seconds_total", "")][0]
    parts = sum(value for (family, cid, *_), (value, _) in rows.items() if family == "container_cpu_usage_seconds_total" and cid)
    must(abs(pod - parts) < 0.2, f"the pod used {pod} s of CPU, its containers {parts}")
    for name in ("burner", "greedy"):
        runc.delete(name)
    rows = agent.rows()
    must(not any(cid in (container_id("burner"), container_id("greedy")) for _, cid, *_ in rows), "rows of containers that are gone")
    must(kills(rows, "") >= 1, "the kill does not stay on the pod's row")
    must(rows[("container_cpu_usage_seconds_total", "")][0] >= pod, "the pod's CPU fell when a container went")
    print(f"runc: {len(CONTAINERS)} containers, {len(rows)} rows left; CPU {cpu:.3f} s and {held / MIB:.1f} MiB as runc says")


def main():
    if os.geteuid() != 0 or not RUNC.exists():
        print(f"runc: SKIPPED: {'no right to make containers' if RUNC.exists() else f'{RUNC} is not there (run tests/servers/install)'}")
        return
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-runc-")), time.monotonic()
    run, runc = pages.Run(folder), Runc(folder)
    try:
        act(folder, run, runc)
    finally:
        run.stop_all()
        runc.end()
        if pages.FAILURES:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}")
        shutil.rmtree(folder, ignore_errors=True)
    for failure in pages.FAILURES:
        print(f"runc: FAILED: {failure}")
    print(f"runc: {'FAILED' if pages.FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if pages.FAILURES else 0)


if __name__ == "__main__":
    main()
