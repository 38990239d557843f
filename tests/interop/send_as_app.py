"""Sends log records as an app does that knows nothing of Kubernetes: send_as_app.py grpc|http PORT COUNT."""

import sys

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource


def main():
    transport, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if transport == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        exporter = OTLPLogExporter(endpoint=f"127.0.0.1:{port}", insecure=True)
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        exporter = OTLPLogExporter(endpoint=f"http://127.0.0.1:{port}/v1/logs")
    provider = LoggerProvider(resource=Resource({"service.name": "checkout"}), shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(exporter, max_queue_size=count + 1, max_export_batch_size=100))
    logger = provider.get_logger("app", "1.0")
    for number in range(count):
        logger.emit(LogRecord(
            timestamp=1_795_000_000_000_000_000 + number, severity_number=SeverityNumber.INFO, body=f"{transport} {number}"))
    provider.force_flush(60_000)
    provider.shutdown()


main()
