"""Real processes as containers, and as much of a kubelet as tells an agent of them: each in a memory cgroup of its own
where this machine lets us make one, its output in the runtime's log format, started again when it ends.
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import threading
import time
import uuid

import alerts
import pages

BACK_OFF = 3        # seconds; a kubelet begins with 10
V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")


class Cgroups:
    """A branch of this machine's memory hierarchy, named as the kubelet's; None where it cannot be made."""

    def __init__(self, parent, limit, events):
        self.root = parent / f"sonde-{os.getpid()}-kubepods"
        self.limit, self.events = limit, events
        self.root.mkdir()

    @classmethod
    def make(cls):
        try:
            if (V1 / "memory.limit_in_bytes").exists():
                return cls(V1, "memory.limit_in_bytes", "memory.oom_control")
            if "memory" in (V2 / "cgroup.subtree_control").read_text():
                made = cls(V2, "memory.max", "memory.events")
                (made.root / "cgroup.subtree_control").write_text("+memory")
                return made
        except OSError:
            pass
        return None

    def container(self, pod_uid, container_id, limit_bytes):
        pod = self.root / f"pod{pod_uid}"
        pod.mkdir(exist_ok=True)
        if self.limit == "memory.max":
            (pod / "cgroup.subtree_control").write_text("+memory")
        folder = pod / container_id
        folder.mkdir()
        (folder / self.limit).write_text(str(limit_bytes))
        return folder

    def killed(self, folder):
        """Whether the kernel has killed a process of it."""
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in (folder / self.events).read_text().splitlines())

    def remove(self, folder):
        """Processes that were left in it go with it; the kernel needs a moment."""
        end = time.monotonic() + 5
        while time.monotonic() < end and folder.exists():
            try:
                for pid in (folder / "cgroup.procs").read_text().split():
                    os.kill(int(pid), 9)
                folder.rmdir()
            except OSError:
                time.sleep(0.05)

    def end(self):
        for folder in sorted((path for path in self.root.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
            self.remove(folder)
        self.remove(self.root)


class Container(threading.Thread):
    """A pod with one container: a command that is run for ever, with the kubelet's back-off between its runs."""

    def __init__(self, logs, cgroups, namespace, pod, command, limit_bytes=32 << 20):
        super().__init__(daemon=True)
        self.namespace, self.pod, self.command, self.limit = namespace, pod, command, limit_bytes
        self.uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{namespace}/{pod}"))
        self.folder = logs / f"{namespace}_{pod}_{self.uid}" / "main"
        self.folder.mkdir(parents=True)
        self.cgroups, self.restarts, self.state, self.last = cgroups, 0, {"waiting": {"reason": "ContainerCreating"}}, {}
        self.id, self.child, self.ended, self.started = "", None, threading.Event(), time.time()
        self.start()

    def run(self):
        while not self.ended.is_set():
            self.once()
            if self.ended.wait(BACK_OFF):
                return
            self.restarts += 1

    def once(self):
        self.id = hashlib.sha256(f"{self.uid}/{self.restarts}".encode()).hexdigest()
        cgroup = self.cgroups and self.cgroups.container(self.uid, self.id, self.limit)

        def enter():
            if cgroup:
                (cgroup / "cgroup.procs").write_text("0")

        since = stamp(time.time_ns())[:19] + "Z"
        self.child = subprocess.Popen(self.command, shell=True, stdout=subprocess.PIPE, preexec_fn=enter, start_new_session=True)
        self.state = {"running": {"startedAt": since}}
        with open(self.folder / f"{self.restarts}.log", "wb", buffering=0) as log:
            for line in self.child.stdout:
                log.write(f"{stamp(time.time_ns())} stdout F ".encode() + line)
        code = self.child.wait()
        killed = cgroup and code in (-9, 137) and self.cgroups.killed(cgroup)
        code = 128 - code if code < 0 else code
        reason = "OOMKilled" if killed else "Error" if code else "Completed"
        self.last = {"terminated": {"exitCode": code, "reason": reason, "startedAt": since, "finishedAt": stamp(time.time_ns())[:19] + "Z",
                                    "containerID": f"containerd://{self.id}"}}
        self.state = {"waiting": {"reason": "CrashLoopBackOff"}}
        if cgroup:
            self.cgroups.remove(cgroup)

    def stop(self):
        self.ended.set()
        if self.child and self.child.poll() is None:
            os.killpg(self.child.pid, 9)
        self.join(10)

    def told(self):
        runs, since = "running" in self.state, stamp(int(self.started * 1e9))[:19] + "Z"
        status = {"name": "main", "state": self.state, "lastState": self.last, "ready": runs, "started": runs, "restartCount": self.restarts,
                  "image": "busybox:1", "imageID": "sha256:1", "containerID": f"containerd://{self.id}"}
        return {
            "metadata": {"name": self.pod, "namespace": self.namespace, "uid": self.uid, "labels": {}, "creationTimestamp": since},
            "spec": {"containers": [{"name": "main", "image": "busybox:1", "resources": {"limits": {"memory": str(self.limit)}}}], "nodeName": "n1"},
            "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.0.1.1", "startTime": since, "containerStatuses": [status],
                       "conditions": [{"type": "Ready", "status": str(runs), "lastTransitionTime": since}]},
        }


def stamp(nanos):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanos // 10**9)) + f".{nanos % 10**9:09d}Z"


class Kubelet:
    """Answers `/pods`; with `status` set, that instead."""

    def __init__(self, containers):
        self.status, self.url = None, f"http://127.0.0.1:{pages.free_port()}"
        kubelet = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": [each.told() for each in containers]}).encode()
                self.send_response(kubelet.status or 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = alerts.Server(("127.0.0.1", int(self.url.rpartition(":")[2])), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
