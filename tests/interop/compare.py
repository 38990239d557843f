"""Compares what came out of the collector's API with what send.py or node/send.js sent:
compare.py TRANSPORT HTTP_PORT COUNT BASE python|node."""

import base64
import json
import sys
import urllib.request

WORDS = ["plain", "ünïcödé ✓", "tab\tand \"quotes\"", "", "line\nbreak", "x" * 5000]
NAMES = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]  # log data model, "Displaying Severity"


def nanoseconds(stamp):
    import calendar
    import time
    whole, _, rest = stamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int((rest or "0").ljust(9, "0"))


def main():
    transport, (port, count, base), sender = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5]
    base *= 10**9
    url = f"http://127.0.0.1:{port}/api/v1/logs?limit=0&namespace=sdk-{transport}"
    seen, wrong = {}, []
    with urllib.request.urlopen(url) as answer:
        for line in answer:
            record = json.loads(line)
            number = int(record["body"].split(" ")[1])
            seen[number] = seen.get(number, 0) + 1
            attributes = record["attributes"]
            expected = {
                "time": base + number * 1001, "body": f"record {number} {WORDS[number % len(WORDS)]}",
                "namespace": f"sdk-{transport}", "pod": sender, "container": "sdk", "node": "elsewhere",
                "number": number, "half": number / 2, "even": number % 2 == 0, "list": [number, number + 1],
                "service.name": "interop", "severity": NAMES[number % 24 // 4] + (str(number % 4 + 1) if number % 4 else ""),
                "severity_text": f"LEVEL{number % 24 + 1}",
                "trace_id": f"{(number + 1) << 64 | 7:032x}", "span_id": f"{number + 1:016x}", "trace_flags": 1,
                "observed_time": base + number * 1001 + 5, "otel.scope.name": "interop", "otel.scope.version": "1.0",
            }
            got = {
                "time": nanoseconds(record["time"]), "body": record["body"], "namespace": record["namespace"],
                "pod": record["pod"], "container": record["container"], "node": record["node"],
                "number": attributes.get("number"), "half": attributes.get("half"), "even": attributes.get("even"),
                "list": attributes.get("list"), "service.name": attributes.get("service.name"),
                "severity": record["severity"], "severity_text": attributes.get("severity_text"),
                "trace_id": record.get("trace_id", attributes.get("trace_id")),
                "span_id": record.get("span_id", attributes.get("span_id")),
                "trace_flags": attributes.get("trace_flags"), "observed_time": nanoseconds(attributes.get("observed_time", "1970-01-01T00:00:00Z")),
                "otel.scope.name": attributes.get("otel.scope.name"), "otel.scope.version": attributes.get("otel.scope.version"),
            }
            if sender == "node":
                # A whole number is an integer there, whatever it was.
                more = {
                    "half": number / 2 + 0.25, "map": {"inner": {"number": -number}}, "none": [],
                    "bytes": base64.b64encode(bytes([number % 256, 255])).decode(),
                    "event_name": "interop.record",
                }
                expected |= more
                got |= {key: attributes.get(key) for key in more}
            wrong += [(number, key, got[key], expected[key]) for key in expected if got[key] != expected[key]]
    lost = [number for number in range(count) if number not in seen]
    doubled = [number for number, times in seen.items() if times > 1]
    print(f"{transport}: {len(seen)} of {count} records, {len(lost)} lost, {len(doubled)} doubled, {len(wrong)} wrong fields")
    for example in wrong[:5]:
        print("  record %d: %s is %r, not %r" % example)
    sys.exit(bool(lost or doubled or wrong or len(seen) != count))


main()
