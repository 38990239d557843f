#!/usr/bin/env python3
"""A recorded node (tests/recording.py): the agent reads its files, and its pages are held against what the originals said.

- series: the same ones with the same labels and types as the kubelet's /metrics/cadvisor and /metrics, a real node_exporter
  over the same files, and kube-state-metrics, but for what tests/fixtures/originals/recorded.tsv lists with its reason; a line
  of that table that is of no use any more is an error
- values: a counter of a cgroup lies between the kubelet's samples before and after the instant at which its file was
  read; memory, threads and processes are near the kubelet's; all else is equal

Usage: tests/recorded.py        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import pages
import recording
import yaml
from exporter import shown
from pages import must

TABLE = pages.ROOT / "tests/fixtures/originals/recorded.tsv"
# A file was read within this many seconds of its stamp, and a sample is as old as its own.
SECOND = 1.0
# When the readings took /proc, Unix seconds: its files one after the other.
PROC = {1: (1795194276, 1795194294), 2: (1795194457, 1795194463)}
# Gauges that move: how far from the kubelet's samples, as a part of them and beside that. The second reading took place up to
# a minute and a half after the last of them.
MOVING = [(r"container_memory_\w+", 0.4, 64 << 10), (r"container_(threads|processes)", 0.25, 4), (r"kubelet_running_\w+", 0, 1)]


class Differences:
    """The written differences; each has to be met on the page that it is of."""

    def __init__(self):
        lines = [line.split("\t") for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
        self.rules = [(page, what, re.compile(family), re.compile(labels), why) for page, what, family, labels, why in lines]
        self.met = set()

    def allows(self, page, what, name, labels):
        allowed = False
        for at, (own, kind, family, pattern, _) in enumerate(self.rules):
            if (own, kind) == (page, what) and family.fullmatch(name) and pattern.search(shown(labels)):
                self.met.add(at)
                allowed = True
        return allowed

    def without(self, page, name, labels):
        """Our labels without those that theirs does not have yet."""
        for at, (own, kind, family, pattern, _) in enumerate(self.rules):
            if (own, kind) == (page, "label") and family.fullmatch(name):
                self.met.add(at)
                labels = frozenset((key, value) for key, value in labels if not pattern.fullmatch(key))
        return labels

    def same(self, page, rows):
        """Their rows with our value of a label where the two are known to name one thing."""
        for at, (own, kind, label, values, _) in enumerate(self.rules):
            if (own, kind) == (page, "same"):
                theirs, _, ours = values.pattern.partition("=")
                changed = {key: frozenset((name, ours if (name, value) == (label.pattern, theirs) else value) for name, value in key[1]) for key in rows}
                self.met |= {at} if any(labels != key[1] for key, labels in changed.items()) else set()
                rows = {(key[0], changed[key]): value for key, value in rows.items()}
        return rows

    def all_met(self):
        for at, (page, what, family, labels, why) in enumerate(self.rules):
            must(at in self.met, f"a difference that is none (any more): {page} {what} {family.pattern} {labels.pattern}: {why}")


def alike(rows):
    """Without what the recording could not keep alike: the reference of the pause image, and the machine's ids."""
    out = {}
    for (name, labels), value in rows.items():
        labels = dict(labels)
        if "pause" in labels.get("image", ""):
            labels["image"] = "pause"
        for own in ("boot_id", "machine_id", "system_uuid"):
            labels.pop(own, None)
        out[name, frozenset(labels.items())] = value
    return out


class Comparison:
    def __init__(self, taken):
        self.recording, self.differences, self.counts = taken, Differences(), {}
        texts = [taken.pages[f"cadvisor.{number}.prom"] for number in (1, 2, 3)]
        self.samples = [alike(recording.parse(text)[0]) for text in texts]
        self.types = recording.parse(texts[-1])[1]

    def count(self, page, how):
        self.counts[page, how] = self.counts.get((page, how), 0) + 1

    def series(self, page, ours, theirs, sometimes=frozenset()):
        """`theirs` have to be there; `sometimes` may be."""
        for name, labels in sorted(theirs - ours, key=str):
            must(self.differences.allows(page, "missing", name, labels), f"{page}: missing: {name}{{{shown(labels)}}}")
        for name, labels in sorted(ours - theirs - sometimes, key=str):
            must(self.differences.allows(page, "more", name, labels), f"{page}: more: {name}{{{shown(labels)}}}")
        for key in ours & theirs:
            self.count(page, "series")

    def kinds(self, page, ours, theirs):
        for name, kind in theirs.items():
            must(ours.get(name, kind) == kind, f"{page}: {name} is a {ours.get(name)}, and theirs a {kind}")

    def containers(self, which, text):
        """A reading beside the pages of the kubelet: of the first reading one before and one after, of the second one before."""
        rows, kinds = recording.parse(text)
        rows, of_cgroup = alike(rows), lambda key: dict(key[1]).get("id")
        self.kinds("containers", kinds, self.types)
        near = self.samples[:2] if which == 1 else self.samples[2:]
        seen = lambda rows: {of_cgroup(key) for key in rows if key[0] == "container_last_seen"}  # noqa: E731
        both = set.intersection(seen(rows), *map(seen, near))
        must(len(both) >= 60, f"{len(both)} cgroups are on the pages of both")
        known = lambda rows: {key for key in rows if of_cgroup(key) is None or of_cgroup(key) in both}  # noqa: E731
        self.series("containers", known(rows), set.intersection(*map(known, near)), set.union(*map(known, near)))
        for key in known(rows):
            samples = [page[key] for page in self.samples if key in page]
            wrong = samples and self.wrong(which, key, rows[key][0], samples)
            if wrong and not self.differences.allows("containers", "value", *key):
                must(False, f"containers {which}: {key[0]}{{{shown(key[1])}}}: {rows[key][0]} {wrong}: {samples}")

    def wrong(self, which, key, value, samples):
        name, labels = key[0], dict(key[1])
        if self.types.get(name) == "counter":
            first = self.recording.cgroup_read_at(which, labels["id"])
            begun, ended = (PROC[which] if "interface" in labels else (first, first + SECOND))
            if labels["id"] == "/":
                begun, ended = min(begun, first), max(ended, PROC[which][1])
            self.count("containers", "between")
            stamped = [(theirs, stamp / 1000) for theirs, stamp in samples if stamp]
            if any(stamp < begun - SECOND and theirs > value + 1e-9 for theirs, stamp in stamped):
                return "is less than a sample before it"
            if any(stamp > ended + SECOND and theirs < value - 1e-9 for theirs, stamp in stamped):
                return "is more than a sample after it"
            return None
        theirs = [value for value, _ in samples]
        for family, part, beside in MOVING:
            if re.fullmatch(family, name) and not name.endswith("_max"):
                self.count("containers", "near")
                good = min(theirs) * (1 - part) - beside <= value <= max(theirs) * (1 + part) + beside
                return None if good else "is not near"
        self.count("containers", "equal")
        # When the cgroup was made there, and when its process began here: on this node, which had half a CPU, much later.
        if name == "container_start_time_seconds":
            return None if any(0 <= value - other <= 30 for other in theirs) else "is not"
        return None if value in theirs else "is not"

    def page(self, page, text, original):
        (rows, kinds), (theirs, their_kinds) = recording.parse(text), recording.parse(original)
        theirs = {key: value for key, value in theirs.items() if not re.match(r"go_|process_|promhttp_", key[0])}
        rows, theirs = {(name, self.differences.without(page, name, labels)): value for (name, labels), value in rows.items()}, self.differences.same(page, theirs)
        self.kinds(page, kinds, {name: kind for name, kind in their_kinds.items() if not re.match(r"go_|process_|promhttp_", name)})
        self.series(page, rows.keys(), theirs.keys())
        for key in rows.keys() & theirs.keys():
            value, other = rows[key][0], theirs[key][0]
            beside = next((beside for family, _, beside in MOVING if re.fullmatch(family, key[0])), 0)
            good = math.isclose(value, other, rel_tol=1e-12, abs_tol=beside)
            self.count(page, "near" if beside else "equal")
            if not good and not self.differences.allows(page, "value", *key):
                must(False, f"{page}: {key[0]}{{{shown(key[1])}}}: {value}, theirs {other}")


class Stage:
    """The recorded node, an agent and a node_exporter that read it, and the originals' server."""

    def __init__(self, folder, run):
        self.folder, self.run, self.recording = folder, run, recording.Recording()
        self.node, self.originals = recording.Node(folder / "node", self.recording), recording.Originals(self.recording)
        self.listen, self.exporter = f"127.0.0.1:{pages.free_port()}", f"127.0.0.1:{pages.free_port()}"
        config = recording.agent_config(self.node, self.originals, folder, self.listen)
        (folder / "agent.yaml").write_text(yaml.safe_dump(config))
        self.agent = run.start("agent", [pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")])
        self.node_exporter = run.start("node-exporter", recording.node_exporter(self.node, self.exporter))
        self.show(1)
        pages.wait_for("the pods", lambda: "kube_pod_info{" in self.ours("pods"))
        pages.wait_for("node_exporter", lambda: self.original("node"))

    def ours(self, page):
        return pages.get(f"http://{self.listen}/metrics/{page}")

    def original(self, page):
        return pages.get(f"http://{self.exporter}/metrics" if page == "node" else f"http://{self.originals.address}/metrics/{page}")

    def show(self, which):
        """One of the two readings, and of the kubelet's three answers the one before it."""
        with recording.Stopped(self.agent, self.node_exporter):
            self.node.show(which)
            self.originals.cadvisor(re.sub(r"(?m) \d{13}$", "", self.recording.pages[f"cadvisor.{1 if which == 1 else 3}.prom"]))
        time.sleep(1.2)     # a sample is shared for a second


def compare(stage):
    comparison = Comparison(stage.recording)
    for which in (1, 2):
        if which == 2:
            stage.show(2)
        comparison.page("node", stage.ours("node"), stage.original("node"))
        comparison.containers(which, stage.ours("containers"))
    comparison.page("pods", stage.ours("pods"), stage.original("pods"))
    comparison.page("kubelet", stage.ours("kubelet"), stage.original("kubelet"))
    comparison.differences.all_met()
    for page in ("node", "containers", "pods", "kubelet"):
        said = {how: count for (own, how), count in comparison.counts.items() if own == page}
        print(f"recorded: {page}: {said.pop('series')} series are the originals' too; values: " + ", ".join(f"{count} {how}" for how, count in said.items()))
    print(f"recorded: {len(comparison.differences.rules)} written differences")


def act(folder, run):
    stage = Stage(folder, run)
    try:
        compare(stage)
    finally:
        stage.originals.close()


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-recorded-")), time.monotonic()
    os.chmod(folder, 0o755)
    run = pages.Run(folder)
    try:
        act(folder, run)
    finally:
        run.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in pages.FAILURES[:40]:
        print(f"recorded: FAILED: {failure[:400]}")
    print(f"recorded: {'FAILED' if pages.FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if pages.FAILURES else 0)


if __name__ == "__main__":
    main()
