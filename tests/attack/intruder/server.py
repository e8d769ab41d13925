"""Serves the reports of this process and its health check, as JSON."""

from __future__ import annotations

import http.server
import json
import os
import sys

sys.path.insert(0, os.getcwd())
import intrusion

REPORT = json.loads(intrusion.report(os.environ["TARGETS"], "node"))


class Page(http.server.BaseHTTPRequestHandler):
    """Responds to every GET with the reports."""

    def do_GET(self) -> None:
        """Send the reports."""
        reports = {"node": REPORT}
        if os.path.exists("checked.json"):
            with open("checked.json") as stream:
                reports["check"] = json.load(stream)
        body = json.dumps(reports).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Page).serve_forever()
