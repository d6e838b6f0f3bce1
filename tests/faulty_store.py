"""A local S3 server behind a proxy that does to its requests what networks and stores do to them."""

import http.client
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["refuse", "delay", "reset", "cut", "flip"]
"""refuse: 500; delay: 0.3 s late; reset: the connection, before the answer; cut: the connection, in the middle of the
answer's body; flip: a bit of the answer's body."""


@dataclass
class Store:
    """What a test says of the requests to come, and what came."""

    fault_of: Callable[[str, str], Fault | None] = lambda method, path: None
    """By method and path with query."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: int = 0
    """Injected so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def once_each(self, fault: Fault, method: str = "") -> None:
        """From now on the first request of every method and path has this fault; method: of that one only."""
        seen: set[tuple[str, str]] = set()

        def decide(of_request: str, path: str) -> Fault | None:
            # A path without the numbers that differ from one upload to the next.
            key = (of_request, path.partition("uploadId=")[0])
            with self.lock:
                first = key not in seen and (not method or of_request == method)
                seen.add(key)
            return fault if first else None

        self.fault_of = decide


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream_port: int, store: Store) -> None:
        self.upstream_port, self.store = upstream_port, store
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives a connection up is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        store = self.server.store
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fault = store.fault_of(self.command, self.path)
        with store.lock:
            store.requests.append((self.command, self.path))
            store.faults += fault is not None
        if fault == "refuse":
            self._answer(500, [("Content-Type", "application/xml")], b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "reset":
            self._reset()
            return
        if fault == "delay":
            time.sleep(0.3)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        content = bytearray(answer.read())
        upstream.close()
        if fault == "flip" and content:
            content[len(content) // 2] ^= 1
        dropped = {"transfer-encoding", "connection", "date", "server"} | ({"content-length"} if content else set())
        headers = [(key, value) for key, value in answer.getheaders() if key.lower() not in dropped]
        self._answer(answer.status, headers, bytes(content), cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  # the names that the base class calls

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if content or not any(key.lower() == "content-length" for key, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """The connection ends as if the other side's machine had gone."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@contextmanager
def proxied(upstream_port: int) -> Iterator[tuple[int, Store]]:
    """A proxy before a server of this machine: its port, and what governs it."""
    store = Store()
    server: socketserver.BaseServer
    with _Proxy(upstream_port, store) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield int(server.server_port), store
        server.shutdown()
        thread.join()
