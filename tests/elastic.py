"""As much of an Elasticsearch as the collector's sink speaks to, which does as it is told. A real one is in
tests/tests/elasticsearch.rs; what is wanted here are refusals at a given moment.

Answers are those of Elasticsearch 8: `/`, `_index_template`, `_data_stream`, `_bulk` with one result an item, `_mget`.
"""

import gzip
import http.server
import json
import re
import threading

import alerts
import pages


class Elasticsearch:
    """`mode`: `takes` what comes, `refuses` each record for good as a mapping conflict does, or is `down` (503)."""

    def __init__(self):
        self.mode, self.url = "takes", f"http://127.0.0.1:{pages.free_port()}"
        self.taken, self.lock = set(), threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                status, answer = server.answer(self.command, self.path.partition("?")[0], body.decode())
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("X-elastic-product", "Elasticsearch")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                try:
                    self.wfile.write(text)
                except OSError:
                    pass    # the collector was killed meanwhile

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        listener = alerts.Server(("127.0.0.1", int(self.url.rpartition(":")[2])), Handler)
        threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, method, path, body):
        if self.mode == "down":
            return 503, {"error": {"type": "unavailable_shards_exception", "reason": "as told"}, "status": 503}
        if path.endswith("/_bulk"):
            items = [self.item(json.loads(action)["create"]["_id"]) for action in body.splitlines()[::2]]
            return 200, {"errors": any("error" in item for item in items), "items": [{"create": item} for item in items]}
        if path.endswith("/_mget"):
            return 200, {"docs": [{"_id": each, "found": each in self.taken} for each in json.loads(body)["ids"]]}
        if method == "GET" and path == "/":
            return 200, {"version": {"number": "8.19.0"}}
        if method == "GET" and re.match("/_(index_template|ilm)/", path):
            return 404, {"error": {"type": "resource_not_found_exception"}, "status": 404}
        if method == "GET" and path.startswith("/_data_stream/"):
            return 200, {"data_streams": [{"indices": [{"index_name": ".ds-logs-000001"}]}]}
        return 200, {"acknowledged": True}

    def item(self, name):
        if self.mode == "refuses":
            return {"_index": ".ds-logs-000001", "_id": name, "status": 400,
                    "error": {"type": "document_parsing_exception", "reason": "failed to parse field [body.text]"}}
        with self.lock:
            conflict = name in self.taken
            self.taken.add(name)
        if conflict:
            return {"_index": ".ds-logs-000001", "_id": name, "status": 409, "error": {"type": "version_conflict_engine_exception", "reason": name}}
        return {"_index": ".ds-logs-000001", "_id": name, "status": 201}
