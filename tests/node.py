"""The simulated node (sim/examples/node.rs), which works and rests as it is told, and what it says that it did.

While it rests nothing of it moves, so what it says then is what every page and every scrape after a while must say, however
slow the machine is; and what a counter grew by between two rests is what the node did between them, to the last line.
"""

import json
import pathlib
import subprocess
import threading

import pages


class Node:
    """Runs the simulated node below a folder; it rests until it is told to work."""

    def __init__(self, folder, rate, *words):
        self.root = pathlib.Path(folder)
        self.log = open(self.root.parent / "node.log", "ab")
        self.child = subprocess.Popen(
            [pages.daemon("node"), str(folder), str(rate), *words, "resting"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.lock = threading.Lock()
        self.kubelet = json.loads(self.child.stdout.readline())["kubelet"]

    def ask(self, line):
        with self.lock:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
            return json.loads(self.child.stdout.readline())

    def stop(self):
        """Ends it; what was written."""
        stats = self.ask("stop")
        self.child.stdin.close()
        self.child.wait(20)
        return stats

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class Truth:
    """What queries must answer, as {labels: value}: from what the node said at the rest that ends a window, and at the
    one that begins it, `seconds` before."""

    def __init__(self, first, last, seconds):
        self.first, self.last, self.seconds = first, last, seconds

    def rate(self, key, value):
        """Sums of counters' differences over the window, by `key(pod)`, a second."""
        before, sums = {pod["uid"]: value(pod) for pod in self.first["pods"]}, {}
        for pod in self.last["pods"]:
            if (name := key(pod)) is not None:
                sums[name] = sums.get(name, 0) + value(pod) - before[pod["uid"]]
        return {name: sum / self.seconds for name, sum in sums.items()}

    def now(self, key, value, each=lambda pod: [pod]):
        """Sums of what it said last. `each` takes a pod apart."""
        sums = {}
        for pod in self.last["pods"]:
            for part in each(pod):
                if (name := key(part)) is not None:
                    sums[name] = sums.get(name, 0) + value(part)
        return sums

    def rows(self, key, each):
        """The names of what is there."""
        return {name for pod in self.last["pods"] for part in each(pod) if (name := key(part))}


def containers(pod):
    """A pod's containers, each with its pod's names."""
    return [{"namespace": pod["namespace"], "pod": pod["pod"], **container} for container in pod["containers"]]


