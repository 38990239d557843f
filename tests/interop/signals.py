"""Sends the same metrics and spans of the OpenTelemetry SDK for Python to two receivers: signals.py grpc|http PORT PORT.

Each batch goes to both as it is, so what both have received can be compared field by field.
"""

import sys

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

WORDS = ["plain", "ünïcödé ✓", "tab\tand \"quotes\"", "", "line\nbreak", "x" * 500]
SPANS = 2_000
FAILED = []


class Spans(SpanExporter):
    def __init__(self, exporters):
        self.exporters = exporters

    def export(self, spans):
        results = [exporter.export(spans) for exporter in self.exporters]
        FAILED.extend(result for result in results if result is not SpanExportResult.SUCCESS)
        return SpanExportResult.SUCCESS

    def shutdown(self):
        for exporter in self.exporters:
            exporter.shutdown()


class Metrics(MetricExporter):
    def __init__(self, exporters, temporality):
        super().__init__(preferred_temporality=temporality)
        self.exporters = exporters

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        results = [exporter.export(metrics_data, timeout_millis, **kwargs) for exporter in self.exporters]
        FAILED.extend(result for result in results if result is not MetricExportResult.SUCCESS)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        for exporter in self.exporters:
            exporter.shutdown()


def exporters(transport, ports):
    if transport == "grpc":
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        options = [{"endpoint": f"127.0.0.1:{port}", "insecure": True, "compression": grpc.Compression.Gzip} for port in ports]
        return [OTLPSpanExporter(**one) for one in options], [OTLPMetricExporter(**one) for one in options]
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    url = "http://127.0.0.1:%d/v1/%s"
    return ([OTLPSpanExporter(endpoint=url % (port, "traces"), compression=Compression.Gzip) for port in ports],
            [OTLPMetricExporter(endpoint=url % (port, "metrics"), compression=Compression.Gzip) for port in ports])


def trace(resource, spans):
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Spans(spans), max_queue_size=SPANS * 2, max_export_batch_size=300))
    tracer = provider.get_tracer("interop", "1.0", attributes={"of": "scope"})
    before = None
    for number in range(SPANS // 2):
        links = [Link(before, {"number": number})] if before else []
        with tracer.start_as_current_span(f"outer {number}", kind=SpanKind(number % 5), links=links) as outer:
            outer.set_attributes({"number": number, "half": number / 2, "even": number % 2 == 0, "list": [number, 1]})
            outer.add_event("event", {"word": WORDS[number % len(WORDS)]})
            with tracer.start_as_current_span("inner") as inner:
                inner.set_status(Status(StatusCode.ERROR, "no") if number % 3 == 0 else Status(StatusCode.OK))
        before = outer.get_span_context()
    provider.force_flush(60_000)
    provider.shutdown()


def measure(resource, metrics, temporality):
    reader = PeriodicExportingMetricReader(Metrics(metrics, temporality), export_interval_millis=3_600_000)
    views = [View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())]
    provider = MeterProvider([reader], resource=resource, views=views, shutdown_on_exit=False)
    meter = provider.get_meter("interop", "1.0")
    counter = meter.create_counter("requests", "1", "requests by word")
    level = meter.create_up_down_counter("level", "By")
    gauge = meter.create_gauge("temperature", "Cel")
    seconds = meter.create_histogram("seconds", "s", "time that it took")
    exponential = meter.create_histogram("exponential", "ms")
    for turn in range(10):
        for number in range(200):
            labels = {"number": number, "word": WORDS[number % len(WORDS)]}
            counter.add(number, labels)
            level.add(turn - 5, labels)
            gauge.set(number / 7, labels)
            seconds.record(number / 100, {"even": number % 2 == 0})
            exponential.record(number * 3.5, {"even": number % 2 == 0})
        provider.force_flush(60_000)
    provider.shutdown()


def main():
    transport, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
    resource = Resource({"service.name": "interop", "service.instance.id": transport, "list": ["a", "b"]})
    spans, metrics = exporters(transport, ports)
    trace(resource, spans)
    cumulative = AggregationTemporality.CUMULATIVE
    delta = {kind: AggregationTemporality.DELTA for kind in (Counter, UpDownCounter, Histogram, ObservableCounter)}
    measure(resource, metrics, delta if transport == "http" else {Counter: cumulative})
    sys.exit(f"{len(FAILED)} exports failed: {FAILED[:3]}" if FAILED else 0)


main()
