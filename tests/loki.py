#!/usr/bin/env python3
"""A stub of Grafana Loki's push API for tests. It is a STUB, not a Loki: it decodes what is pushed with a snappy and a protobuf
reader of its own, refuses what Loki refuses with default limits, merges what Loki merges, and tells lies on request.

    loki.py PORT SEED [TENANT]

POST /loki/api/v1/push   as Loki: 204; 400 for entries that it refuses (the others are stored), 413, 429, 500, 503, dropped
                         connections, in an order of SEED (0 = none). What is no correct push is answered 400 and counted.
GET /export              NDJSON in the form of the collector's /api/v1/logs, ordered by time and uid.
GET /stats               {"entries", "pushes", "wrong": [what was no correct push], "late": entries that were first stored
                         behind a later one of their stream, "lies": {answer: times}}.
"""

import json
import random
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LABELS = re.compile(r'\{([a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*"(?:, [a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*")*)\}')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"')
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
LINE_BYTES, REQUEST_BYTES, METADATA_BYTES, METADATA_PAIRS = 256 << 10, 4 << 20, 64 << 10, 128
FUTURE, BEHIND, OLD = 600 * 10**9, 3600 * 10**9, 7 * 86400 * 10**9


class Wrong(Exception):
    """What was sent is no push request."""


def varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Wrong("varint")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def unsnap(data):
    """Snappy's block format (google/snappy, format_description.txt)."""
    size, at = varint(data, 0)
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            length = tag >> 2
            if length >= 60:
                extra = length - 59
                length = int.from_bytes(data[at:at + extra], "little")
                at += extra
            length += 1
            if at + length > len(data):
                raise Wrong("snappy: a literal is cut off")
            out += data[at:at + length]
            at += length
            continue
        if kind == 1:
            length, offset = 4 + (tag >> 2 & 7), (tag >> 5) << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            length, offset = 1 + (tag >> 2), int.from_bytes(data[at:at + width], "little")
            at += width
        if not 0 < offset <= len(out):
            raise Wrong("snappy: a copy from before the beginning")
        for _ in range(length):
            out.append(out[-offset])
    if len(out) != size:
        raise Wrong("snappy: %d bytes in place of %d" % (len(out), size))
    return bytes(out)


def fields(data, known):
    """The fields of a message: number -> list of values; `known` maps each number to its wire type."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if known.get(number) != kind:
            raise Wrong("field %d of wire type %d" % (number, kind))
        if kind == 0:
            value, at = varint(data, at)
        else:
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
            if at > len(data):
                raise Wrong("a field is cut off")
        found.setdefault(number, []).append(value)
    return found


def text(found, number):
    try:
        return found.get(number, [b""])[-1].decode()
    except UnicodeDecodeError:
        raise Wrong("text that is not UTF-8") from None


def read_entry(data):
    entry = fields(data, {1: 2, 2: 2, 3: 2})
    if len(entry.get(1, [])) != 1 or len(entry.get(2, [])) > 1:
        raise Wrong("an entry without a time")
    stamp = fields(entry[1][0], {1: 0, 2: 0})
    seconds, nanos = stamp.get(1, [0])[-1], stamp.get(2, [0])[-1]
    if nanos >= 10**9:
        raise Wrong("nanoseconds")
    pairs = [fields(pair, {1: 2, 2: 2}) for pair in entry.get(3, [])]
    metadata = {}
    for pair in pairs:
        name, value = text(pair, 1), text(pair, 2)
        if not NAME.fullmatch(name) or name in metadata or not value:
            raise Wrong("structured metadata %r" % name)
        metadata[name] = value
    return seconds * 10**9 + nanos, text(entry, 2), metadata


def read_push(body):
    streams = []
    for stream in fields(unsnap(body), {1: 2}).get(1, []):
        stream = fields(stream, {1: 2, 2: 2, 3: 0})
        labels = text(stream, 1)
        match = LABELS.fullmatch(labels)
        pairs = LABEL.findall(match[1]) if match else []
        names = [name for name, _ in pairs]
        if not pairs or names != sorted(set(names)) or len(names) > 15:
            raise Wrong("labels %r" % labels)
        values = {name: json.loads('"%s"' % value) for name, value in pairs}
        streams.append((labels, values, [read_entry(entry) for entry in stream.get(2, [])]))
    if not streams:
        raise Wrong("nothing")
    return streams


class Loki:
    def __init__(self, seed, tenant):
        # Every other push is answered with one of these, each of them in turn.
        self.deck = ["dropped before", "dropped after", "429", "500", "503", "413"] if seed else []
        random.Random(seed).shuffle(self.deck)
        self.tenant = tenant
        self.lock = threading.Lock()
        # Labels -> (values, newest time, {(time, line, metadata)}): what is equal in all of them, Loki merges.
        self.streams, self.pushes, self.wrong, self.late, self.lies = {}, 0, [], 0, {}

    def store(self, streams):
        """Stores what is not refused; gives the reason of the last that is, in the last stream, as Loki does."""
        refused, now = None, time.time_ns()
        for labels, values, entries in streams:
            refused = None
            stream = self.streams.setdefault(labels, [values, 0, set()])
            for when, line, metadata in entries:
                size = sum(len(name) + len(value) for name, value in metadata.items())
                if when > now + FUTURE:
                    refused = "entry for stream '%s' has timestamp too new" % labels
                elif when < now - OLD:
                    refused = "entry for stream '%s' has timestamp too old" % labels
                elif len(line.encode()) > LINE_BYTES:
                    refused = "max entry size '%d' bytes exceeded for stream '%s'" % (LINE_BYTES, labels)
                elif size > METADATA_BYTES or len(metadata) > METADATA_PAIRS:
                    refused = "stream '%s' has structured metadata too large" % labels
                elif when < stream[1] - BEHIND:
                    refused = "entry with timestamp %d ignored, reason: 'entry too far behind'" % when
                elif (when, line, tuple(metadata.items())) not in stream[2]:
                    self.late += when < stream[1]
                    stream[1] = max(stream[1], when)
                    stream[2].add((when, line, tuple(metadata.items())))
        return refused

    def push(self, headers, body):
        """Status and words; None = the connection is dropped."""
        try:
            if headers.get("Content-Type") != "application/x-protobuf":
                raise Wrong("content type")
            if self.tenant and headers.get("X-Scope-OrgID") != self.tenant:
                return 401, "no org id"
            streams = read_push(body)
        except (Wrong, IndexError, ValueError) as error:
            self.wrong.append(str(error))
            return 400, str(error)
        self.pushes += 1
        if self.deck and self.pushes % 2:
            name = self.deck[self.pushes // 2 % len(self.deck)]
            self.lies[name] = self.lies.get(name, 0) + 1
            if name in ("dropped after", "500"):
                self.store(streams)
            return None if name.startswith("dropped") else (int(name), "a lie")
        if len(body) > REQUEST_BYTES:
            return 413, "request too large"
        refused = self.store(streams)
        return (400, refused) if refused else (204, "")

    def export(self):
        records = []
        for values, _, entries in self.streams.values():
            for when, line, metadata in entries:
                metadata = dict(metadata)
                seconds, nanos = divmod(when, 10**9)
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".%09dZ" % nanos
                record = {"time": stamp, "stream": metadata.get("log_iostream"), "body": line,
                          "uid": metadata.get("log_record_uid"),
                          "attributes": {"k8s.pod.uid": metadata.get("k8s_pod_uid")}}
                for name in ("namespace", "pod", "container"):
                    record[name] = values.get("k8s_%s_name" % name, values.get(name))
                record["cluster"] = values.get("k8s_cluster_name", values.get("cluster"))
                records.append((when, record["uid"] or "", record))
        records.sort(key=lambda record: record[:2])
        return "".join(json.dumps(record, ensure_ascii=True) + "\n" for _, _, record in records)

    def stats(self):
        entries = sum(len(entries) for _, _, entries in self.streams.values())
        return json.dumps({"entries": entries, "pushes": self.pushes, "wrong": self.wrong[:20], "late": self.late,
                           "lies": self.lies})


def handler(loki):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with loki.lock:
                answer = loki.push(self.headers, body) if self.path == "/loki/api/v1/push" else (404, "not found")
            if answer is None:
                self.close_connection = True
                return
            self.answer(answer[0], answer[1].encode())

        def do_GET(self):
            with loki.lock:
                text = loki.export() if self.path.startswith("/export") else loki.stats()
            self.close_connection = True
            self.answer(200, text.encode())

        def answer(self, status, body):
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Who asked was killed meanwhile."""


if __name__ == "__main__":
    loki = Loki(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
    Server(("127.0.0.1", int(sys.argv[1])), handler(loki)).serve_forever()
