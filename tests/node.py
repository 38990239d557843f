"""The simulated node (sim/examples/node.rs) and the load that it says it makes."""

import bisect
import json
import pathlib
import subprocess
import threading

import pages


class Node:
    """Runs the simulated node below a folder and samples its load, four times a second."""

    def __init__(self, folder, rate, *words):
        self.root = pathlib.Path(folder)
        self.log = open(self.root.parent / "node.log", "ab")
        self.child = subprocess.Popen(
            [pages.daemon("node"), str(folder), str(rate), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.lock, self.samples, self.ended = threading.Lock(), [], threading.Event()
        self.kubelet = json.loads(self.child.stdout.readline())["kubelet"]
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        self.sampler.start()

    def ask(self, line):
        with self.lock:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
            return json.loads(self.child.stdout.readline())

    def sample(self):
        while not self.ended.wait(0.25):
            self.samples.append(self.ask("load"))

    def stop(self):
        """Ends it; what was written."""
        self.ended.set()
        self.sampler.join()
        stats = self.ask("stop")
        self.child.stdin.close()
        self.child.wait(20)
        return stats

    def kill(self):
        self.ended.set()
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def at(self, moment):
        """The last sample before a moment."""
        index = bisect.bisect_right([sample["at"] for sample in self.samples], moment)
        return self.samples[max(index - 1, 0)]

    def between(self, start, end):
        return [sample for sample in self.samples if start <= sample["at"] <= end]


class Truth:
    """What queries must answer at a moment, as {labels: value}, from the node's samples of a window before it."""

    def __init__(self, node, end, window):
        self.samples, self.window = node.between(end - window, end), window
        self.first, self.last = node.at(end - window), node.at(end)

    def grown(self, key, value):
        """Sums of counters' differences over the window, by `key(pod)`; each pod for itself, as the kernel counts."""
        before, sums = {pod["uid"]: value(pod) for pod in self.first["pods"]}, {}
        for pod in self.last["pods"]:
            if (name := key(pod)) is not None:
                sums[name] = sums.get(name, 0) + value(pod) - before.get(pod["uid"], 0)
        return sums

    def rate(self, key, value):
        seconds = self.last["at"] - self.first["at"]
        return {name: sum / seconds for name, sum in self.grown(key, value).items()}

    def mean(self, key, value, each=lambda pod: [pod]):
        """Means over the window of what is now. `each` takes a pod apart."""
        sums = {}
        for sample in self.samples:
            for pod in sample["pods"]:
                for part in each(pod):
                    if (name := key(part)) is not None:
                        sums[name] = sums.get(name, 0) + value(part)
        return {name: sum / len(self.samples) for name, sum in sums.items()}

    def now(self, key, value):
        """Sums of what the last sample says."""
        sums = {}
        for pod in self.last["pods"]:
            if (name := key(pod)) is not None:
                sums[name] = sums.get(name, 0) + value(pod)
        return sums

    def seen(self, key, each=lambda pod: [pod]):
        return {name for sample in self.samples for pod in sample["pods"] for part in each(pod) if (name := key(part))}


def containers(pod):
    """A pod's containers, each with its pod's names."""
    return [{"namespace": pod["namespace"], "pod": pod["pod"], **container} for container in pod["containers"]]


