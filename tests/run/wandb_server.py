"""Stands in for W&B's server: opens runs, takes everything, and can go away."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    query = request["query"]
    if "mutation UpsertBucket" in query:
        given = request["variables"]
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "team"}}
        bucket = {"id": "b", "name": given["name"], "displayName": given["name"], "config": "{}", "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
    return {}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = {"data": _answer(json.loads(body))}
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class StandInServer:
    """A server on this machine that answers until ``close``."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Go away; later connections are refused."""
        self._server.shutdown()
        self._server.server_close()
