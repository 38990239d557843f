// Sends log records through the OpenTelemetry SDK for Node.js: send.js grpc|http PORT COUNT BASE (Unix seconds).
//
// Values are those of send.py, functions of the record's number, and others that only this sender has: bytes, a map, an empty
// list and negative numbers as attributes, and an event's name.

'use strict';

const { ROOT_CONTEXT, trace } = require('@opentelemetry/api');
const { resourceFromAttributes } = require('@opentelemetry/resources');
const { BatchLogRecordProcessor, LoggerProvider } = require('@opentelemetry/sdk-logs');

const WORDS = ['plain', 'ünïcödé ✓', 'tab\tand "quotes"', '', 'line\nbreak', 'x'.repeat(5000)];

function exporter(transport, port) {
  if (transport === 'grpc') {
    const { OTLPLogExporter } = require('@opentelemetry/exporter-logs-otlp-grpc');
    return new OTLPLogExporter({ url: `http://127.0.0.1:${port}`, compression: 'gzip' });
  }
  const { OTLPLogExporter } = require('@opentelemetry/exporter-logs-otlp-proto');
  return new OTLPLogExporter({ url: `http://127.0.0.1:${port}/v1/logs`, compression: 'gzip' });
}

/** 1001 ns a record, as [seconds, nanoseconds]: more than a number holds. */
function time(base, number, more) {
  return [base, number * 1001 + more];
}

function context(number) {
  const traceId = (((BigInt(number) + 1n) << 64n) | 7n).toString(16).padStart(32, '0');
  const spanId = (number + 1).toString(16).padStart(16, '0');
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: 1, isRemote: true });
}

async function main() {
  const [transport, port, count, base] = [process.argv[2], ...process.argv.slice(3).map(Number)];
  const resource = resourceFromAttributes({
    'k8s.namespace.name': `sdk-${transport}`, 'k8s.pod.name': 'node', 'k8s.container.name': 'sdk',
    'k8s.node.name': 'elsewhere', 'service.name': 'interop',
  });
  const batches = new BatchLogRecordProcessor({
    exporter: exporter(transport, port), maxQueueSize: count + 1, maxExportBatchSize: 500, exportTimeoutMillis: 120000, scheduledDelayMillis: 1000,
  });
  const provider = new LoggerProvider({ resource, processors: [batches], forceFlushTimeoutMillis: 120000 });
  const logger = provider.getLogger('interop', '1.0');
  for (let number = 0; number < count; number += 1) {
    logger.emit({
      timestamp: time(base, number, 0),
      observedTimestamp: time(base, number, 5),
      context: context(number),
      severityNumber: (number % 24) + 1,
      severityText: `LEVEL${(number % 24) + 1}`,
      body: `record ${number} ${WORDS[number % WORDS.length]}`,
      eventName: 'interop.record',
      attributes: {
        number, half: number / 2 + 0.25, even: number % 2 === 0, list: [number, number + 1],
        map: { inner: { number: -number } }, bytes: Uint8Array.from([number % 256, 255]), none: [],
      },
    });
  }
  await provider.forceFlush();
  await provider.shutdown();
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
