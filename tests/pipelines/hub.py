"""A hub of files on this machine: ranges, ETags, tokens, redirects, and connections that break."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Hub:
    """files: path -> content; breaks: path -> after how many bytes each answer ends too early; moved: path -> address
    to redirect to; token: what a request has to bear; asked: (path, range, authorization) of every request."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    token: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Hub]:
    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def end(self, code: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            wanted, bearer = self.headers.get("Range", ""), self.headers.get("Authorization", "")
            hub.asked.append((self.path, wanted, bearer))
            if self.path in hub.moved:
                return self.end(302, Location=hub.moved[self.path])
            if hub.token and bearer != f"Bearer {hub.token}":
                return self.end(403 if bearer else 401)
            if self.path in hub.pages:
                return self.end(200, hub.pages[self.path].encode(), Content_Type="text/html; charset=utf-8")
            if self.path not in hub.files:
                return self.end(404)
            content = hub.files[self.path]
            etag = f'"{hashlib.md5(content).hexdigest()}"'
            start = int(wanted[len("bytes=") : -1]) if wanted and self.headers.get("If-Range") == etag else 0
            if start and start >= len(content):
                return self.end(416)
            span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            sent = content[start:][: hub.breaks.get(self.path)]
            self.end(206 if start else 200, sent, len(content) - start, ETag=etag, **span)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield hub
        server.shutdown()
