#!/usr/bin/env python3
"""/metrics/node beside a real node_exporter on this machine, with the same exclusions and the same text files.

- the same series with the same labels and types, but for what tests/fixtures/originals/node_exporter.tsv lists with its reason;
  a line of that table that is of no use any more is an error
- constants are equal; counters lie between a scrape of theirs before ours and one after it; gauges that move are as near as the
  table below says

Usage: tests/exporter.py [-v]        (tests/servers/install first; SONDE_BIN or target/{release,debug} has the daemons)
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import pages
import yaml
from pages import must

VERBOSE = "-v" in sys.argv[1:]
TABLE = pages.ROOT / "tests/fixtures/originals/node_exporter.tsv"
TEXTFILE = '# TYPE node_reboot_required gauge\nnode_reboot_required{why="kernel \\"6\\""} 1\nbackup_runs_total{job="db",ok="yes"} 42\n'

# Families that are no counters by type and only grow all the same, and the clock.
GROWING = re.compile(r"node_netstat_(?!Tcp_CurrEstab|Ip_Forwarding)\w+|node_vmstat_\w+|node_time_seconds|node_nf_conntrack_stat_\w+")
# Gauges that move: how far from one of the two scrapes, as a part of it and beside that. The machine works meanwhile.
MOVING = [
    (r"node_memory_(?!MemTotal|SwapTotal|VmallocTotal|Hugepagesize|HugePages_|CommitLimit)\w+", 0.1, 512 << 20),
    (r"node_load\d+", 0.1, 1.0),
    (r"node_procs_(running|blocked)", 0, 100),
    (r"node_sockstat_\w+|node_netstat_Tcp_CurrEstab|node_filefd_allocated|node_arp_entries|node_nf_conntrack_entries", 0.2, 500),
    (r"node_udp_queues|node_disk_io_now|node_softnet_backlog_len", 0.2, 1 << 20),
    (r"node_filesystem_(avail|free)_bytes", 0.01, 512 << 20),
    (r"node_filesystem_files_free", 0.01, 20_000),
    (r"node_timex_(offset|maxerror|estimated_error)_seconds|node_timex_frequency_adjustment_ratio", 0.1, 0.01),
]
# Of each program's own.
OWN = re.compile(r"node_scrape_collector_duration_seconds|node_textfile_mtime_seconds")


def parse(text):
    """A classic page: rows by name and labels, and types by name."""
    rows, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
            must((name, labels) not in rows, f"twice on a page: {series}")
            rows[name, labels] = float(value)
    return rows, types


def shown(labels):
    return ",".join(f'{key}="{value}"' for key, value in sorted(labels))


class Differences:
    """The written differences; each has to be met."""

    def __init__(self):
        lines = [line.split("\t") for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
        self.rules = [(what, re.compile(family), re.compile(labels), why) for what, family, labels, why in lines]
        self.met = set()

    def allows(self, what, name, labels):
        for at, (kind, family, pattern, _) in enumerate(self.rules):
            if kind == what and family.fullmatch(name) and (not pattern.pattern or pattern.search(shown(labels))):
                self.met.add(at)
                return True
        return False

    def without(self, name, labels):
        """Our labels without those that theirs does not have yet."""
        for at, (kind, family, pattern, _) in enumerate(self.rules):
            if kind == "label" and family.fullmatch(name):
                self.met.add(at)
                labels = frozenset((key, value) for key, value in labels if not pattern.fullmatch(key))
        return labels

    def all_met(self):
        for at, (what, family, labels, why) in enumerate(self.rules):
            must(at in self.met, f"a difference that is none (any more): {what} {family.pattern} {labels.pattern}: {why}")


def near(value, ends, part, beside):
    return min(ends) - part * abs(min(ends)) - beside <= value <= max(ends) + part * abs(max(ends)) + beside


def values(name, labels, kind, before, ours, after, differences):
    """What is wrong with our value, if anything is."""
    if OWN.fullmatch(name):
        return None
    if kind == "counter" or GROWING.fullmatch(name):
        # Both make seconds of the same ticks; the last digit may be rounded in another way.
        return None if near(ours, (before, after), 1e-9, 0) else "is not between"
    for family, part, beside in MOVING:
        if re.fullmatch(family, name):
            return None if near(ours, (before, after), part, beside) else "is not near"
    if ours == before or ours == after or differences.allows("value", name, labels):
        return None
    return "is not"


def compare(first, page, second):
    differences = Differences()
    (before, types), (ours, our_types), (after, _) = parse(first), parse(page), parse(second)
    ours = {(name, differences.without(name, labels)): value for (name, labels), value in ours.items()}
    # What went while we looked is nobody's.
    theirs = {key: value for key, value in before.items() if key in after and not re.match(r"go_|process_|promhttp_", key[0])}
    for name, labels in sorted(theirs.keys() - ours.keys(), key=str):
        must(differences.allows("missing", name, labels), f"missing: {name}{{{shown(labels)}}}")
    for name, labels in sorted(ours.keys() - before.keys() - after.keys(), key=str):
        must(differences.allows("more", name, labels), f"more: {name}{{{shown(labels)}}}")
    both = sorted(theirs.keys() & ours.keys(), key=str)
    kinds = {"between": 0, "near": 0, "equal": 0}
    for name, labels in both:
        must(our_types.get(name) == types.get(name), f"{name} is a {our_types.get(name)}, and theirs a {types.get(name)}")
        kind, ends = types.get(name), (before[name, labels], after[name, labels])
        wrong = values(name, labels, kind, ends[0], ours[name, labels], ends[1], differences)
        must(wrong is None, f"{name}{{{shown(labels)}}}: {ours[name, labels]} {wrong} {ends[0]} and {ends[1]}")
        moving = any(re.fullmatch(family, name) for family, _, _ in MOVING)
        kinds["between" if kind == "counter" or GROWING.fullmatch(name) else "near" if moving else "equal"] += 1
    differences.all_met()
    families = lambda rows: {name for name, _ in rows}  # noqa: E731
    print(f"exporter: of node_exporter's {len(theirs)} series in {len(families(theirs))} families {len(both)} in {len(families(both))} are ours too "
          f"({kinds['equal']} equal, {kinds['between']} between two of its scrapes, {kinds['near']} near); {len(differences.rules)} written differences")
    if VERBOSE:
        for name, labels in sorted(theirs.keys() - ours.keys(), key=str):
            print(f"  missing: {name}{{{shown(labels)}}}")
        for name, labels in sorted(ours.keys() - theirs.keys(), key=str):
            print(f"  more: {name}{{{shown(labels)}}}")


def act(folder, run):
    (folder / "text").mkdir()
    (folder / "text/backup.prom").write_text(TEXTFILE)
    agent, exporter = f"127.0.0.1:{pages.free_port()}", f"127.0.0.1:{pages.free_port()}"
    config = {"state_dir": str(folder / "state"), "listen": agent, "kubelet": {"url": ""}, "logs": {"enabled": False},
              "metrics": {"push": False, "node": {"textfile_dir": str(folder / "text")}}, "export": {"endpoint": "http://127.0.0.1:9"}}
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    run.start("agent", [pages.daemon("sonde-agent"), "--config", str(folder / "agent.yaml")], {"NODE_NAME": "host"})
    run.start("node-exporter", [
        str(pages.SERVERS / "root/usr/bin/prometheus-node-exporter"), f"--web.listen-address={exporter}",
        f"--collector.textfile.directory={folder / 'text'}",
        # Upstream's of today, as ours; Debian's leave out /mnt and /media.
        r"--collector.filesystem.mount-points-exclude=^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
        r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"])
    theirs, ours = f"http://{exporter}/metrics", f"http://{agent}/metrics/node"
    pages.wait_for("node_exporter", lambda: pages.get(theirs))
    # A source that needs too long on a busy machine is left out of a page.
    well = lambda: not re.search(r"(?m)^node_scrape_collector_success\{\S+ 0$", pages.get(ours))  # noqa: E731
    pages.wait_for("the agent", well)
    for _ in range(10):
        first, page, second = pages.get(theirs), pages.get(ours), pages.get(theirs)
        if not re.search(r"(?m)^node_scrape_collector_success\{\S+ 0$", page):
            break
        time.sleep(0.5)
    compare(first, page, second)


def main():
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="sonde-exporter-")), time.monotonic()
    os.chmod(folder, 0o755)
    run = pages.Run(folder)
    try:
        act(folder, run)
    finally:
        run.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in pages.FAILURES:
        print(f"exporter: FAILED: {failure}")
    print(f"exporter: {'FAILED' if pages.FAILURES else 'ok'} in {time.monotonic() - started:.0f} s")
    sys.exit(1 if pages.FAILURES else 0)


if __name__ == "__main__":
    main()
