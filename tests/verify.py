#!/usr/bin/env python3
"""Compares container log files with what a Sonde collector stored, record by record.

    verify.py --logs DIR [DIR ...] --export FILE_OR_URL [--max-line BYTES] [--unfinished allow|require] [--documents] [--examples N]
    verify.py --self-test

DIR holds `<namespace>_<pod>_<uid>/<container>/<restart>.log[.<suffix>][.gz]`, as /var/log/pods does. Several may be given
(an archive of what rotation deleted, and the live directory): copies of one file, plain or compressed, count once.
Or it holds `<id>/<id>-json.log[.N][.gz]` beside `<id>/config.v2.json`, as Docker's container directory does.
The export is the NDJSON of `/api/v1/logs?limit=0`: a file, `-`, or a URL. With `--documents` it is hits of a search in an
Elasticsearch (`_id`, `_source`), in layout otel or ecs, one a line, in any order. All but the order is compared as in the
API's export, and beside it that `_id` is 12 hex digits of the record's milliseconds (0 where the runtime gave no time) and its
uid. An index keeps no order: who reads it sorts by `@timestamp`, which is compared to the nanosecond.

This program shares no code with Sonde. It reads the files by the rules of the CRI format and of Sonde's documentation:
  - an entry is `<RFC 3339 time> <stdout|stderr> <F|P>[:tags] <content>`; what is not one is a record of its own, as it stands;
  - an entry of Docker's is a JSON object with `log`, `stream` and `time`; without a newline at its log's end it is as one tagged P;
  - entries tagged P are joined with those that follow in the same stream, across rotated files, up to the next F;
  - the body is the joined content as UTF-8, invalid sequences replaced by U+FFFD, cut at max_line bytes;
  - the time is that of the first entry;
  - log.record.uid = 20 hex digits of SHA-256(pod uid, NUL, container, NUL, restart, NUL, the file's first entry up to its
    newline, at most 1024 bytes) and 12 hex digits of the first entry's offset in the uncompressed file. Of a container without
    the kubelet's labels, its id stands for the pod uid, and the container has no name. An entry of Docker's has its time at its
    end: of one that is longer than 1024 bytes the last 64 of them are hashed behind the first 1024.
Every record must be stored exactly once, unchanged, under its own names, and the records of a container's stream must come
in the order in which they were written. What is called as a log file but is none (a directory, a pipe) is named and left out; one that
cannot be read fails the comparison. Exit status 0 if every record is there, 1 if not, 2 for bad arguments.

Memory: about 30 bytes a record; the export is read as a stream.
"""

import argparse
import calendar
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from array import array
from bisect import bisect_left

STREAMS = (b"stdout", b"stderr")
MALFORMED = 2  # in a record's flags, beside the stream's number
UNFINISHED = 4
KINDS = (
    ("lost", "in the files, not stored"),
    ("doubled", "stored more than once"),
    ("unknown", "stored, not in the files"),
    ("body", "another body"),
    ("time", "another time"),
    ("stream", "another stream"),
    ("namespace", "another namespace"),
    ("pod", "another pod"),
    ("container", "another container"),
    ("pod uid", "another pod uid"),
    ("restart", "another restart count"),
    ("uid", "another log.record.uid"),
    ("id", "another _id than its time and uid make"),
    ("order", "out of order in its stream"),
    ("json", "not a record of the API"),
    ("file", "a log file that cannot be read"),
)
BROKEN = (OSError, EOFError, zlib.error)  # what reading a file may raise, compressed or not
FILE_NAME = re.compile(r"^([0-9]+)\.log(?:\.(.+?))?(\.gz)?$")
DOCKER_NAME = re.compile(r"^-json\.log(?:\.([1-9][0-9]*))?(\.gz)?$")
DOCKER_ENTRY = 131071  # bytes; what is longer is not Docker's
LONE = re.compile("[\ud800-\udfff]")
TIME = re.compile(rb"^(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$")
UID = re.compile(r"^[0-9a-f]{32}$")


# Reading the files


class LogFile:
    """A log file, with one slot a record in the order of their offsets."""

    def __init__(self, path, instance, size):
        self.path, self.instance, self.size = path, instance, size
        self.rank = 0
        self.offsets, self.times, self.digests = array("Q"), array("Q"), array("Q")
        self.flags, self.seen = bytearray(), bytearray()
        self.other_digests = {}  # of a body that was cut inside a character: the cut before it

    def start(self, offset, when, flags):
        self.offsets.append(offset)
        self.times.append(when)
        self.digests.append(0)
        self.flags.append(flags)
        return len(self.offsets) - 1

    def find(self, offset):
        at = bisect_left(self.offsets, offset)
        return at if at < len(self.offsets) and self.offsets[at] == offset else None


class Instance:
    """One run of a container: its files are one chain."""

    def __init__(self, pod_dir, container, restart):
        self.namespace, rest = pod_dir.split("_", 1)
        self.pod, self.pod_uid = rest.rsplit("_", 1)
        self.container, self.restart = container, restart
        self.hashed = (self.pod_uid, container, str(restart))
        self.parse = parse_entry
        self.files = {}
        self.last = {}

    @classmethod
    def of_docker(cls, path, container_id):
        try:
            with open(os.path.join(path, "config.v2.json"), "rb") as file:
                labels = json.load(file)["Config"]["Labels"]
            pod = "_".join(labels["io.kubernetes.pod." + key] for key in ("namespace", "name", "uid"))
            restart = int(labels.get("annotation.io.kubernetes.container.restartCount", 0))
            instance = cls(pod, labels["io.kubernetes.container.name"], restart)
        except (OSError, ValueError, KeyError, TypeError):
            instance = cls(f"__{container_id}", "", 0)
            instance.namespace = instance.pod = instance.container = instance.restart = instance.pod_uid = None
        instance.parse = parse_docker_entry
        return instance

    def file_hash(self, first_entry):
        last = b""
        if self.parse is parse_docker_entry and 1024 < len(first_entry) <= DOCKER_ENTRY:
            last = first_entry[-64:]
        first_entry, parts = first_entry[:1024] + last, self.hashed
        return hashlib.sha256(b"\0".join([p.encode("utf-8", "surrogateescape") for p in parts] + [first_entry])).hexdigest()[:20]


def open_log(path):
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb", buffering=1 << 18)


def plain_size(path):
    size = os.path.getsize(path)
    if not path.endswith(".gz") or size < 18:
        return size
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0]


def discover(directories, unreadable):
    """All container runs, each with its distinct files by their hash; what cannot be read goes to `unreadable`."""
    instances = {}
    for directory in directories:
        for pod_dir in sorted(os.listdir(directory)):
            pod_path = os.path.join(directory, pod_dir)
            if os.path.isdir(pod_path):
                discover_docker(instances, pod_path, pod_dir, unreadable)
            if pod_dir.count("_") < 2 or not os.path.isdir(pod_path):
                continue
            for container in sorted(os.listdir(pod_path)):
                container_path = os.path.join(pod_path, container)
                if not os.path.isdir(container_path):
                    continue
                for name in sorted(os.listdir(container_path)):
                    match = FILE_NAME.match(name)
                    path = os.path.join(container_path, name)
                    if match and not name.endswith(".tmp") and is_file(path, unreadable):
                        key = (pod_dir, container, int(match[1]))
                        if key not in instances:
                            instances[key] = Instance(*key)
                        try:
                            add_file(instances[key], path, match[2])
                        except BROKEN as error:
                            unreadable.append(f"{path}: {error!r}")
    for instance in instances.values():
        # Rotated files by their suffix, the live one last; Docker's, whose numbers change, by their first entry's time.
        by_name = lambda file: (file.suffix is None, file.suffix or "")
        by_time = lambda file: (first_time(file.path), 0)
        chain = sorted(instance.files.values(), key=by_name if instance.parse is parse_entry else by_time)
        for rank, file in enumerate(chain):
            file.rank = rank
        instance.chain = chain
    return instances


def discover_docker(instances, path, container_id, unreadable):
    for name in sorted(os.listdir(path)):
        match = DOCKER_NAME.match(name[len(container_id):]) if name.startswith(container_id) else None
        file = os.path.join(path, name)
        if match and is_file(file, unreadable):
            instance = instances.setdefault((container_id,), None) or Instance.of_docker(path, container_id)
            instances[(container_id,)] = instance
            try:
                add_file(instance, file, match[1])
            except BROKEN as error:
                unreadable.append(f"{file}: {error!r}")


def first_time(path):
    with open_log(path) as file:
        entry = parse_docker_entry(file.readline().rstrip(b"\n"))
    return entry[0] if entry else 0


def is_file(path, unreadable):
    """Whether there can be lines in it: opening a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        print(f"verify: {path} is a link to nothing: left out", file=sys.stderr)
        return False
    except OSError as error:
        unreadable.append(f"{path}: {error!r}")
        return False
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "special file"
        print(f"verify: {path} is a {kind}, not a log file: left out", file=sys.stderr)
        return False
    return True


def add_file(instance, path, suffix):
    with open_log(path) as file:
        head = file.read(1024)
        if b"\n" not in head and instance.parse is parse_docker_entry:
            head += file.read(DOCKER_ENTRY + 1 - len(head))
    newline = head.find(b"\n")
    if newline < 0 and len(head) < 1024:
        return  # Empty, or not even one entry.
    key = instance.file_hash(head[:1024] if newline < 0 else head[:newline])
    size = plain_size(path)
    known = instance.files.get(key)
    if known is None:
        known = instance.files[key] = LogFile(path, instance, size)
        known.suffix = suffix
        return
    if size > known.size:
        known.path, known.size = path, size
    # A copy taken before the rotation is still called `0.log`; the rotated name tells its place.
    known.suffix = suffix if known.suffix is None else known.suffix


SECONDS = {}


def nanoseconds(text):
    match = TIME.match(text)
    if not match:
        return None
    whole, fraction, zone = match.groups()
    seconds = SECONDS.get(whole)
    if seconds is None:
        try:
            parsed = time.strptime(whole.decode().upper(), "%Y-%m-%dT%H:%M:%S")
        except ValueError:
            return None
        if len(SECONDS) > 100_000:
            SECONDS.clear()
        seconds = SECONDS[whole] = calendar.timegm(parsed)
    if zone not in b"Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds += offset if zone[:1] == b"-" else -offset
    value = seconds * 1_000_000_000 + int((fraction or b"0").ljust(9, b"0"))
    # What signed nanoseconds cannot hold is the nearest that they can; 0 would mean that the time is not known.
    return max(1, min(value, (1 << 63) - 1))


def parse_entry(line):
    """Time, stream number, whether partial, content; none if the line is not in the CRI format."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in STREAMS:
        return None
    tag = parts[2].split(b":", 1)[0]
    when = nanoseconds(parts[0])
    if when is None or tag not in (b"F", b"P"):
        return None
    return when, STREAMS.index(parts[1]), tag == b"P", parts[3] if len(parts) > 3 else b""


def parse_docker_entry(line):
    """The same of Docker's json-file driver."""
    def no_constant(text):
        raise ValueError(text)

    if len(line) > DOCKER_ENTRY:
        return None
    try:
        entry = json.loads(line.decode("utf-8", "replace"), parse_constant=no_constant)
        log, stream, when = entry.get("log", ""), entry["stream"], nanoseconds(entry["time"].encode())
        if when is None or not isinstance(log, str) or stream.encode() not in STREAMS:
            return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    body = log[:-1] if log.endswith("\n") else log
    return when, STREAMS.index(stream.encode()), body == log, LONE.sub("\ufffd", body).encode()


def digest_of(body):
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big")


def lossy(raw):
    """As UTF-8, maximal invalid subsequences replaced by one U+FFFD each."""
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").encode()


def finish(file, slot, raw, max_line):
    if len(raw) > max_line:
        cut = raw[:max_line]
        file.digests[slot] = digest_of(lossy(cut))
        back = max_line
        while back > max(0, max_line - 4) and raw[back] & 0xC0 == 0x80:
            back -= 1
        file.other_digests[slot] = digest_of(lossy(raw[:back]))
    else:
        file.digests[slot] = digest_of(lossy(raw))


def lines_of(path, unreadable):
    try:
        with open_log(path) as lines:
            yield from lines
    except BROKEN as error:
        unreadable.append(f"{path}: {error!r}")


def read_instance(instance, max_line, unreadable):
    unfinished = {}  # stream: [file, slot, content]
    for file in instance.chain:
        offset = 0
        with contextlib.closing(lines_of(file.path, unreadable)) as lines:
            for line in lines:
                at, offset = offset, offset + len(line)
                if not line.endswith(b"\n"):
                    break  # A torn end is no entry yet.
                line = line[:-1]
                entry = instance.parse(line)
                if entry is None:
                    finish(file, file.start(at, 0, MALFORMED), line, max_line)
                    continue
                when, stream, partial, content = entry
                open_line = unfinished.get(stream)
                if open_line is None:
                    slot = file.start(at, when, stream)
                    if partial:
                        file.flags[slot] |= UNFINISHED
                        unfinished[stream] = [file, slot, bytearray(content)]
                    else:
                        finish(file, slot, content, max_line)
                    continue
                first_file, slot, joined = open_line
                if len(joined) <= max_line:
                    joined += content
                if not partial:
                    first_file.flags[slot] &= ~UNFINISHED
                    finish(first_file, slot, bytes(joined), max_line)
                    del unfinished[stream]
    for file, slot, joined in unfinished.values():
        finish(file, slot, bytes(joined), max_line)


# Comparing


def record_of(hit):
    """A record as the API has it, from a document in an Elasticsearch."""
    source, id_ = hit["_source"], hit["_id"]
    if "message" in source:
        of, pod = source["kubernetes"], source["kubernetes"].get("pod", {})
        restart = source.get("labels", {}).get("k8s_container_restart_count")
        names = of.get("namespace"), pod.get("name"), of.get("container", {}).get("name"), pod.get("uid"), restart
        uid, body, stream = source["event"]["id"], source["message"], source.get("stream")
    else:
        attributes, of = source["attributes"], source["resource"]["attributes"]
        keys = "namespace.name", "pod.name", "container.name", "pod.uid", "container.restart_count"
        names = tuple(of.get("k8s." + key) for key in keys)
        uid, body, stream = attributes["log.record.uid"], source["body"]["text"], attributes.get("log.iostream")
    namespace, pod, container, pod_uid, restart = names
    return {
        "_id": id_, "uid": uid, "body": body, "time": source["@timestamp"], "stream": stream,
        "namespace": namespace, "pod": pod, "container": container,
        "attributes": {"k8s.pod.uid": pod_uid, "k8s.container.restart_count": restart},
    }


class Comparison:
    def __init__(self, instances, examples, max_line, documents):
        self.instances, self.limit, self.max_line, self.documents = instances, examples, max_line, documents
        self.files = {key: file for instance in instances.values() for key, file in instance.files.items()}
        self.counts = {kind: 0 for kind, _ in KINDS}
        self.examples = {kind: [] for kind, _ in KINDS}
        self.stored = 0
        self.strangers = []
        self.unfinished = 0

    def report(self, kind, text):
        self.counts[kind] += 1
        if len(self.examples[kind]) < self.limit:
            self.examples[kind].append(text() if callable(text) else text)

    def record(self, line):
        self.stored += 1
        try:
            record = record_of(json.loads(line)) if self.documents else json.loads(line)
            uid, body = record["uid"], record["body"].encode("utf-8", "surrogatepass")
            when = nanoseconds(record["time"].encode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.report("json", f"{error!r}: {line[:200]!r}")
            return
        file, slot = None, None
        if isinstance(uid, str) and UID.match(uid):
            file = self.files.get(uid[:20])
            slot = file.find(int(uid[20:], 16)) if file else None
        if slot is None:
            if len(self.strangers) < 500_000:
                self.strangers.append((when, digest_of(body), uid, record))
            else:
                self.report("unknown", repr(record)[:300])
            return
        if file.seen[slot]:
            self.report("doubled", lambda: f"uid {uid} again, body {shown(body)}")
            return
        file.seen[slot] = 1
        self.compare(file, slot, record, when, body)
        if self.documents:
            self.name(file, slot, record, uid)
        else:
            self.order(file, slot, uid)

    def compare(self, file, slot, record, when, body):
        instance, flags = file.instance, file.flags[slot]
        place = lambda: f"{file.path} offset {file.offsets[slot]}"
        digest = digest_of(body)
        if digest != file.digests[slot] and digest != file.other_digests.get(slot):
            self.report("body", lambda: f"{place()}: {self.source(file, slot)} stored as {shown(body)}")
        if not flags & MALFORMED:
            if when != file.times[slot]:
                self.report("time", lambda: f"{place()}: {file.times[slot]} stored as {record['time']}")
            stream = STREAMS[flags & 1].decode()
            if record.get("stream") != stream:
                self.report("stream", lambda: f"{place()}: {stream} stored as {record.get('stream')!r}")
        for name, expected in (
            ("namespace", instance.namespace), ("pod", instance.pod), ("container", instance.container),
        ):
            if record.get(name) != expected:
                self.report(name, lambda: f"{place()}: {expected} stored as {record.get(name)!r}")
        attributes = record.get("attributes")
        if isinstance(attributes, dict):
            for kind, name, expected in (
                ("pod uid", "k8s.pod.uid", str(instance.pod_uid)),
                ("restart", "k8s.container.restart_count", str(instance.restart)),
            ):
                if name in attributes and str(attributes[name]) != expected:
                    self.report(kind, lambda: f"{place()}: {expected} stored as {attributes[name]!r}")

    def name(self, file, slot, record, uid):
        millis = 0 if file.flags[slot] & MALFORMED else file.times[slot] // 1_000_000
        if record["_id"] != f"{millis:012x}{uid}":
            self.report("id", lambda: f"{file.path} offset {file.offsets[slot]}: {millis:012x}{uid} stored as {record['_id']!r}")

    def order(self, file, slot, uid):
        stream = file.flags[slot] & 3
        here = (file.rank, file.offsets[slot])
        last = file.instance.last.get(stream)
        if stream & MALFORMED:
            return  # Stored under the time of reading.
        if last is not None and here < last:
            self.report("order", lambda: f"uid {uid} ({file.path} offset {file.offsets[slot]}) after a later one")
        else:
            file.instance.last[stream] = here

    def finish(self, unfinished_required):
        """Strangers that are known lines under another uid, then what is missing."""
        wanted = {}
        for stranger in self.strangers:
            wanted.setdefault((stranger[0], stranger[1]), []).append(stranger)
        if wanted:
            for file in self.files.values():
                for slot, key in enumerate(zip(file.times, file.digests)):
                    for _, _, uid, record in wanted.pop(key, ()):
                        if file.seen[slot]:
                            self.report("doubled", f"{file.path} offset {file.offsets[slot]} again under uid {uid}")
                        else:
                            file.seen[slot] = 1
                            self.report("uid", f"{file.path} offset {file.offsets[slot]} stored under uid {uid}")
        for strangers in wanted.values():
            for _, _, uid, record in strangers:
                self.report("unknown", f"uid {uid}, {record.get('namespace')}/{record.get('pod')}/"
                            f"{record.get('container')}, {shown(record['body'].encode('utf-8', 'surrogatepass'))}")
        for file in self.files.values():
            at = file.seen.find(0)
            while at >= 0:
                if file.flags[at] & UNFINISHED and not unfinished_required:
                    self.unfinished += 1
                else:
                    self.report("lost", lambda: f"{file.path} offset {file.offsets[at]}: {self.source(file, at)}")
                at = file.seen.find(0, at + 1)

    def source(self, file, slot):
        with open_log(file.path) as log:
            log.seek(file.offsets[slot])
            return shown(log.readline(4096).rstrip(b"\n"))

    def print(self, out):
        files = len(self.files)
        records = sum(len(file.offsets) for file in self.files.values())
        print(f"{records} records in {files} files of {len(self.instances)} container runs; {self.stored} stored", file=out)
        if self.unfinished:
            print(f"{self.unfinished} lines whose last fragment never came are not stored (allowed)", file=out)
        for kind, meaning in KINDS:
            print(f"  {kind:<10} {self.counts[kind]:>10}  {meaning}", file=out)
        for kind, texts in self.examples.items():
            for text in texts:
                print(f"{kind}: {text}", file=out)
        good = "every record once, unchanged " + ("and under its name" if self.documents else "and in order")
        print("verify: " + ("FAILED" if self.failed() else good), file=out)

    def failed(self):
        return any(self.counts.values())


def shown(raw):
    return repr(raw[:160]) + (f" … ({len(raw)} bytes)" if len(raw) > 160 else "")


def verify(directories, export, max_line=1 << 20, unfinished_required=False, examples=3, documents=False, out=sys.stdout):
    unreadable = []
    instances = discover(directories, unreadable)
    for instance in instances.values():
        read_instance(instance, max_line, unreadable)
        for file in instance.chain:
            file.seen = bytearray(len(file.offsets))
    comparison = Comparison(instances, examples, max_line, documents)
    for text in unreadable:
        comparison.report("file", text)
    for line in export:
        if line.strip():
            comparison.record(line)
    comparison.finish(unfinished_required)
    comparison.print(out)
    return comparison


# Self-test: a tree whose records are written down while it is made, and every way of storing it wrongly


class Tree:
    """Log files with all that is awkward, and the export that a faultless collector would give."""

    def __init__(self, root, seed=7):
        self.root, self.random, self.now = root, random.Random(seed), 1_795_192_501_000_000_000
        self.expected = []
        for pod_dir, container, restart in (
            ("shop_web-0_0d1c4a8e-0000-4000-a000-000000000001", "web", 0),
            ("shop_web-0_0d1c4a8e-0000-4000-a000-000000000001", "sidecar", 1),
            ("kube-system_static-node_fc06af0816b5d23d3b29896dde65db18", "web", 0),
        ):
            self.container(pod_dir, container, restart)
        for number, labelled in enumerate((True, False)):
            self.docker(f"{number:02}ab", labelled)
        self.expected.sort(key=lambda record: (record["at"], record["uid"]))

    def stamp(self):
        self.now += self.random.randrange(1, 2_000_000)
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.now // 10**9))
        fraction = f"{self.now % 10**9:09d}".rstrip("0")
        return (f"{whole}.{fraction}Z" if fraction else f"{whole}Z").encode()

    def container(self, pod_dir, container, restart):
        self.instance = Instance(pod_dir, container, restart)
        directory = os.path.join(self.root, pod_dir, container)
        os.makedirs(directory)
        entries = []  # (bytes, opened record or none, finished record or none)
        for number in range(300):
            self.line(entries, number)
        # Rotation cuts where it likes, also inside a line's fragments.
        cuts = sorted(self.random.sample(range(1, len(entries)), 3))
        names = ["20261120-163501.gz", "20261120-163502.gz", "20261120-163503", ""]
        for name, part in zip(names, [entries[a:b] for a, b in zip([0] + cuts, cuts + [len(entries)])]):
            first = part[0][0].split(b"\n", 1)[0][:1024]
            file_hash, offset = self.instance.file_hash(first), 0
            for raw, opened in part:
                if opened is not None:
                    opened["uid"] = f"{file_hash}{offset:012x}"
                    self.expected.append(opened)
                offset += len(raw)
            path = os.path.join(directory, f"{restart}.log" + (f".{name}" if name else ""))
            with (gzip.open if name.endswith(".gz") else open)(path, "wb") as file:
                file.write(b"".join(raw for raw, _ in part))

    def docker(self, container_id, labelled):
        directory = os.path.join(self.root, container_id)
        os.makedirs(directory)
        labels = {"maintainer": "x"}
        if labelled:
            labels = {f"io.kubernetes.pod.{key}": key for key in ("namespace", "name", "uid")}
            labels["io.kubernetes.container.name"] = "app"
        with open(os.path.join(directory, "config.v2.json"), "w") as file:
            json.dump({"Config": {"Labels": labels}}, file)
        self.instance = Instance.of_docker(directory, container_id)
        for suffix in (".2.gz", ".1", ""):
            offset, raw, file_hash = 0, b"", None
            for number in range(40):
                text = self.random.choice(("", "plain", "größe <&> \t\"🚀\"", "x" * 20_000)) + f"seq={number}"
                stream = self.random.randrange(2)
                record = self.record(stream, text.encode())
                pieces = [text[i : i + 16_384] for i in range(0, len(text), 16_384)]
                for index, piece in enumerate(pieces):
                    stamp = self.stamp().decode()
                    log = piece + ("\n" if index + 1 == len(pieces) else "")
                    entry = json.dumps({"log": log, "stream": STREAMS[stream].decode(), "attrs": {"a": [1]}, "time": stamp})
                    file_hash = file_hash or self.instance.file_hash(entry.encode())
                    if index == 0:
                        record.update(time=stamp, at=self.now, uid=f"{file_hash}{offset:012x}")
                    raw, offset = raw + entry.encode() + b"\n", offset + len(entry) + 1
                self.expected.append(record)
            with (gzip.open if suffix.endswith(".gz") else open)(
                os.path.join(directory, f"{container_id}-json.log{suffix}"), "wb"
            ) as file:
                file.write(raw)

    def line(self, entries, number):
        choice = self.random.randrange(12)
        text = f"seq={number} ".encode()
        if choice == 0:
            text = b""
        elif choice == 1:
            text += bytes(self.random.randrange(1, 256) for _ in range(30)).replace(b"\n", b"\xff")
        elif choice == 2:
            text += b"x" * self.random.choice((16_384, 20_000, 40_000))
        elif choice == 3:
            text += "größe 東京 🚀\r".encode()
        stream = self.random.randrange(2)
        pieces = [text[i : i + 16_384] for i in range(0, len(text), 16_384)] or [b""]
        if len(pieces) > 1 and choice == 2 and self.random.randrange(2):
            other = self.record(1 - stream, b"between")
        else:
            other = None
        record = self.record(stream, text)
        for index, piece in enumerate(pieces):
            stamp = self.stamp()
            if index == 0:
                record["time"], record["at"] = stamp.decode(), self.now
            tag = b"F" if index + 1 == len(pieces) else b"P"
            raw = b" ".join((stamp, STREAMS[stream], tag, piece)) + b"\n"
            entries.append((raw, record if index == 0 else None))
            if index == 0 and other is not None:
                stamp = self.stamp()
                other["time"], other["at"] = stamp.decode(), self.now
                entries.append((b" ".join((stamp, STREAMS[1 - stream], b"F", b"between\n")), other))

    def record(self, stream, text):
        i = self.instance
        return {
            "namespace": i.namespace, "pod": i.pod, "container": i.container, "stream": STREAMS[stream].decode(),
            "body": text.decode("utf-8", "replace"),
            "attributes": {"k8s.pod.uid": i.pod_uid, "k8s.container.restart_count": i.restart},
        }


def self_test():
    # What a maximal invalid subsequence is (Unicode 15, section 3.9; the same in Rust's String::from_utf8_lossy).
    for raw, text in (
        (b"a\xffb", "a\ufffdb"), (b"\xe2\x82", "\ufffd"), (b"\xf0\x90\x80x", "\ufffdx"), (b"\xed\xa0\x80", "\ufffd" * 3),
        (b"\xc0\xaf", "\ufffd" * 2), (b"\xf4\x90\x80\x80", "\ufffd" * 4), (b"\xc3(", "\ufffd("), (b"\x80", "\ufffd"),
    ):
        assert lossy(raw).decode() == text, raw
    assert nanoseconds(b"2026-11-20T16:35:01.5Z") == nanoseconds(b"2026-11-20T18:35:01.500+02:00") == 1_795_192_501_500_000_000
    assert parse_entry(b"2026-11-20T16:35:01.5Z stdout F") == (1_795_192_501_500_000_000, 0, False, b"")
    assert parse_entry(b"hello") is None and parse_entry(b"2026-13-20T16:35:01.5Z stdout F x") is None

    def drop(records):
        del records[100]

    def double(records):
        records.insert(101, dict(records[100]))

    def double_under_another_uid(records):
        records.insert(101, dict(records[100], uid="0" * 32))

    def swap(records):
        stream = lambda r: (r["pod"], r["container"], r["stream"])
        other = next(i for i in range(101, len(records)) if stream(records[i]) == stream(records[100]))
        records[100], records[other] = records[other], records[100]

    def swap_bodies(records):
        other = next(i for i in range(101, len(records)) if records[i]["body"] != records[100]["body"])
        records[100]["body"], records[other]["body"] = records[other]["body"], records[100]["body"]

    def change(**fields):
        return lambda records: records[100].update(fields)

    def invent(records):
        records.append(dict(records[100], uid="f" * 32, body="never written", time="2026-11-20T16:00:00Z"))

    cases = [
        ("faultless", lambda records: None, None), ("drop", drop, "lost"), ("double", double, "doubled"),
        ("double, new uid", double_under_another_uid, "doubled"), ("swap", swap, "order"),
        ("swap bodies", swap_bodies, "body"), ("alter", lambda r: r[100].update(body=r[100]["body"] + "."), "body"),
        ("mislabel namespace", change(namespace="data"), "namespace"), ("mislabel pod", change(pod="web-1"), "pod"),
        ("mislabel container", change(container="api"), "container"), ("mislabel stream", change(stream="stdin"), "stream"),
        ("mislabel pod uid", change(attributes={"k8s.pod.uid": "x"}), "pod uid"),
        ("time", change(time="2026-11-20T16:35:00.000000001Z"), "time"), ("uid", change(uid="1" * 32), "uid"),
        ("invent", invent, "unknown"), ("garbage", change(uid=None, body=None), "json"),
    ]
    def other_id(records):
        records[100]["_id"] = "0" * 12 + records[100]["uid"]

    def as_document(layout, record):
        id_ = f"{record['at'] // 10**6:012x}{record['uid']}"
        of = record["attributes"]
        pod_uid, restart = of["k8s.pod.uid"], of.get("k8s.container.restart_count")
        if layout == "ecs":
            source = {
                "@timestamp": record["time"], "message": record["body"], "event": {"id": record["uid"]}, "stream": record["stream"],
                "kubernetes": {"namespace": record["namespace"], "pod": {"name": record["pod"], "uid": pod_uid},
                               "container": {"name": record["container"]}},
                "labels": {"k8s_container_restart_count": restart},
            }
        else:
            source = {
                "@timestamp": record["time"], "body": {"text": record["body"]},
                "attributes": {"log.record.uid": record["uid"], "log.iostream": record["stream"]},
                "resource": {"attributes": {
                    "k8s.namespace.name": record["namespace"], "k8s.pod.name": record["pod"], "k8s.pod.uid": pod_uid,
                    "k8s.container.name": record["container"], "k8s.container.restart_count": restart}},
            }
        return {"_index": "i", "_id": record.get("_id", id_), "_source": source}

    directory = tempfile.mkdtemp(prefix="sonde-verify-")
    try:
        live, archive = os.path.join(directory, "live"), os.path.join(directory, "archive")
        tree = Tree(live)
        shutil.copytree(live, archive)
        for parent, _, names in os.walk(archive):
            for name in names:
                path = os.path.join(parent, name)
                if name.endswith("163503"):  # The same file, compressed later.
                    with open(path, "rb") as plain, gzip.open(path + ".gz", "wb") as packed:
                        packed.write(plain.read())
                    os.remove(path)
        wrong = 0
        # In an index there is no order to be swapped.
        of_documents = [case for case in cases if case[2] != "order"] + [("other _id", other_id, "id")]
        everything = [("", case) for case in cases]
        everything += [(layout, case) for layout in ("otel", "ecs") for case in of_documents]
        for layout, (name, mutate, kind) in everything:
            records = [dict(record) for record in tree.expected]
            mutate(records)
            lines = (json.dumps(as_document(layout, record) if layout else record).encode() for record in records)
            result = verify([archive, live], lines, documents=bool(layout), out=io.StringIO())
            found = [kind for kind, count in result.counts.items() if count]
            good = found == [kind] if kind in ("doubled", "order", "uid", "unknown", "lost") else (kind in found if kind else not found)
            wrong += not good
            print(f"  {layout or 'api':<5} {name:<20} {'ok' if good else 'NOT DETECTED'}  {', '.join(found) or 'no difference'}")
        print(f"self-test: {len(tree.expected)} records, {len(everything)} cases, {wrong} wrong")
        return 1 if wrong else 0
    finally:
        shutil.rmtree(directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--logs", nargs="+", action="extend", metavar="DIR", help="pod log directories")
    parser.add_argument("--export", metavar="FILE_OR_URL", help="NDJSON of /api/v1/logs?limit=0")
    parser.add_argument("--max-line", type=int, default=1 << 20, metavar="BYTES", help="the agent's logs.max_line")
    parser.add_argument("--unfinished", choices=("allow", "require"), default="allow",
                        help="whether a line whose last fragment never came may be missing")
    parser.add_argument("--documents", action="store_true", help="the export is hits of a search in an Elasticsearch")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="examples of each kind")
    parser.add_argument("--self-test", action="store_true", help="show that every kind of fault is found")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if not options.logs or not options.export:
        parser.error("--logs and --export are needed (or --self-test)")
    for directory in options.logs:
        if not os.path.isdir(directory):
            parser.error(f"--logs {directory}: not a directory")
    # Names of files need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        if options.export == "-":
            export = sys.stdin.buffer
        elif options.export.startswith(("http://", "https://")):
            export = urllib.request.urlopen(options.export)
        else:
            export = open(options.export, "rb")
    except urllib.error.HTTPError as error:
        parser.error(f"--export {options.export}: {error}: {error.read(300)!r}")
    except OSError as error:
        parser.error(f"--export {options.export}: {error}")
    required = options.unfinished == "require"
    result = verify(options.logs, export, options.max_line, required, options.examples, options.documents)
    return 1 if result.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
