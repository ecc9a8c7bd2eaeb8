"""A web server on this machine that serves one body well or badly."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served under every path, how, and what was asked for."""

    body: bytes
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes, of the first connections
    status: int = 200
    asked: list[str] = field(default_factory=list)  # the Range header of every request, or ""
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            site.asked.append(asked)
            start = int(re.sub(r"\D", "", asked) or 0) if site.ranges else 0
            if site.status != 200:
                return self.send_error(site.status)
            if start >= len(site.body) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
            self.send_header("Content-Length", str(len(site.body) - start))
            self.end_headers()
            part = site.body[start:]
            if site.breaks_after:
                part = part[: site.breaks_after.pop(0)]
            self.wfile.write(part)
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
