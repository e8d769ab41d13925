"""Serves a page with the text of the environment variable GREETING."""

import http.server
import os
import sys


class Page(http.server.BaseHTTPRequestHandler):
    """The page, at every path."""

    def do_GET(self) -> None:
        """Send the page."""
        body = os.environ["GREETING"].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever(poll_interval=3600)
