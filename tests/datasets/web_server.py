"""A local web server that serves one body or many files, correctly or with faults."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """The served content by path, the faults, and the requests so far."""

    body: bytes
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes, of the first connections
    status: int = 200
    asked: list[str] = field(default_factory=list)  # the Range header of every request, or ""
    url: str = ""


@dataclass
class Files:
    """Files by path, and how the first requests for some of them fail, e.g. ``["broken", "503"]``."""

    bodies: dict[str, bytes]
    faults: dict[str, list[str]] = field(default_factory=dict)
    pause: float = 0.0  # seconds before every answer
    asked: list[str] = field(default_factory=list)
    waited_for: list[str] = field(default_factory=list)  # slow answers that were read to their end
    url: str = ""


@contextmanager
def serving_files(site: Files) -> Iterator[Files]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked.append(self.path)
            time.sleep(site.pause)
            faults = site.faults.get(self.path, [])
            fault = faults.pop(0) if faults else ""
            body = site.bodies.get(self.path)
            if body is None or fault.isdecimal():
                return self.send_error(int(fault or 404))
            if fault == "wrong":
                body = b"<html>sign in first</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "slow":  # byte by byte, for a minute at most
                with suppress(OSError):
                    for start in range(1200):
                        self.wfile.write(body[start : start + 1])
                        time.sleep(0.05)
                    site.waited_for.append(self.path)
                return None
            self.wfile.write(body[: len(body) // 2] if fault == "broken" else body)
            return None

    with _running(Handler) as site.url:
        yield site


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

    with _running(Handler) as site.url:
        yield site


@contextmanager
def _running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
