"""A web server for tests of reading over HTTP."""

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RangeServer(http.server.SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, which Python's own does not."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


class FlakyServer:
    """A file server on the loopback interface that can be told to fail, or to go away and come back.

    Told so, too, by a request for `/fail-for/SECONDS`: it answers with 503 from then on, is gone for so long, comes
    back and fails five times more. `/fail-for/ever` is without a return.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._to_refuse = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._outage: threading.Thread | None = None
        self._port = 0
        self.refused = 0
        """Requests that were answered with 503."""
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def refuse_next(self, requests: int) -> None:
        """Answers so many requests from now on with 503."""
        with self._lock:
            self._to_refuse = requests

    def go_away(self) -> None:
        """Connections are refused from now on."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def come_back(self) -> None:
        """On the same port."""
        outer = self

        class Handler(RangeServer):
            def do_GET(self) -> None:
                if self.path.startswith("/fail-for/"):
                    outer._fail_for(self.path.rsplit("/", 1)[1])
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif not outer._refuses(self):
                    super().do_GET()

            def do_HEAD(self) -> None:
                if not outer._refuses(self):
                    super().do_HEAD()

        handler = functools.partial(Handler, directory=str(self._folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _fail_for(self, seconds: str) -> None:
        self.refuse_next(1_000_000)

        def be_gone() -> None:
            self.go_away()
            if seconds != "ever":
                time.sleep(float(seconds))
                self.refuse_next(5)
                self.come_back()

        self._outage = threading.Thread(target=be_gone)  # not here: a server cannot wait for its own end
        self._outage.start()

    def close(self) -> None:
        """Ends every thread."""
        if self._outage is not None:
            self._outage.join()
        self.go_away()

    def _refuses(self, handler: http.server.BaseHTTPRequestHandler) -> bool:
        with self._lock:
            if self._to_refuse == 0:
                return False
            self._to_refuse -= 1
            self.refused += 1
        handler.send_response(503)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True


@contextmanager
def flaky_server(folder: Path) -> Iterator[FlakyServer]:
    """A server of the folder's files, which is stopped at the end."""
    server = FlakyServer(folder)
    try:
        yield server
    finally:
        server.close()
