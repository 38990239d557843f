"""Sends log records through the OpenTelemetry SDK for Python: send.py grpc|http PORT COUNT BASE (Unix seconds).

Field values are functions of the record's number, so the receiver's copy can be compared field by field.
"""

import sys

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

WORDS = ["plain", "ünïcödé ✓", "tab\tand \"quotes\"", "", "line\nbreak", "x" * 5000]


def context(number):
    span = SpanContext(trace_id=(number + 1) << 64 | 7, span_id=number + 1, is_remote=True, trace_flags=TraceFlags(1))
    return set_span_in_context(NonRecordingSpan(span))


def main():
    transport, (port, count, base) = sys.argv[1], map(int, sys.argv[2:5])
    base *= 10**9
    if transport == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        import grpc
        exporter = OTLPLogExporter(endpoint=f"127.0.0.1:{port}", insecure=True, compression=grpc.Compression.Gzip)
    else:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        exporter = OTLPLogExporter(endpoint=f"http://127.0.0.1:{port}/v1/logs", compression=Compression.Gzip)
    resource = Resource({
        "k8s.namespace.name": f"sdk-{transport}", "k8s.pod.name": "python", "k8s.container.name": "sdk",
        "k8s.node.name": "elsewhere", "service.name": "interop"})
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(exporter, max_queue_size=count + 1, max_export_batch_size=500))
    logger = provider.get_logger("interop", "1.0")
    for number in range(count):
        logger.emit(LogRecord(
            timestamp=base + number * 1001,
            observed_timestamp=base + number * 1001 + 5,
            context=context(number),
            severity_number=SeverityNumber(number % 24 + 1),
            severity_text=f"LEVEL{number % 24 + 1}",
            body=f"record {number} {WORDS[number % len(WORDS)]}",
            attributes={"number": number, "half": number / 2, "even": number % 2 == 0, "list": [number, number + 1]},
        ))
    provider.force_flush(120_000)
    provider.shutdown()


main()
