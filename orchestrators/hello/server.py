"""Serves one page: the greeting in `GREETING`, at `HOST` and `PORT`."""

from __future__ import annotations

import html
import http.server
import os


class Page(http.server.BaseHTTPRequestHandler):
    """Responds to every GET with the greeting."""

    def do_GET(self) -> None:
        """Send the page."""
        greeting = html.escape(os.environ["GREETING"])
        body = f"<!doctype html><title>{greeting}</title><h1>{greeting}</h1>\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    place = (os.environ["HOST"], int(os.environ["PORT"]))
    # A signal ends it; the interval is that of looking for another thread's request to end.
    http.server.ThreadingHTTPServer(place, Page).serve_forever(poll_interval=3600)
