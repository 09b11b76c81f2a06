"""A local server for the pages of runs: the loopback address only, reading only, for this machine's browser only.

Any site can have a browser send requests to the loopback address, and a name of its own can be made to point there. So
a request must name the server by its own address (else 421), only GET is answered, no page of another origin may embed
or read an answer, and the pages may fetch from nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from undertow.errors import OptionError
from undertow.reporting.viewing.site import Answer, Site, problem
from undertow.wording.visible import visible

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
IDLE_SECONDS = 60.0
# Inline scripts, of which each page's own policy then lets those through that it names by their hashes.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_NOT_OURS = f"This server answers to {' and '.join(NAMES)} with its port, to no other name."


class ReportServer(ThreadingHTTPServer):
    """Serves a :class:`Site` until it is shut down. ``port`` 0 takes a free one; :attr:`url` is where it stands.

    Raises:
        OptionError: the port is taken or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = True  # a port that was left a moment ago can be had again at once

    def __init__(self, site: Site, *, port: int = 0) -> None:
        self.site = site
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise OptionError(f"--port {port}: {_why(error)}. Give another port, or 0 for a free one.") from error

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{ADDRESS}:{self.port}/"

    def hosts(self) -> frozenset[str]:
        """The Host headers that are answered."""
        names = {f"{name}:{self.port}" for name in NAMES}
        return frozenset(names | set(NAMES) if self.port == 80 else names)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is not an error; nothing of a request is printed."""


def serve(site: Site, *, port: int = 0, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, which ends it well.

    Args:
        site: the pages.
        port: 0 for a free one.
        ready: told the address once it can be opened.

    Raises:
        OptionError: the port is taken or not allowed.
    """
    with ReportServer(site, port=port) as server, contextlib.suppress(KeyboardInterrupt):
        ready(server.url)
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    """One request. Methods that are not GET have no ``do_…`` and end in :meth:`send_error`, as malformed ones do."""

    server: ReportServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "undertow", ""
    timeout = IDLE_SECONDS
    # What the standard library answers to a method without a handler is "not implemented".
    _codes: ClassVar[dict[int, int]] = {HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED}

    def do_GET(self) -> None:
        """Answer from the site, if the request means this server."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].strip().lower() not in self.server.hosts():
            self._send(problem(HTTPStatus.MISDIRECTED_REQUEST, _NOT_OURS), close=True)
            return
        path, _, query = self.path.partition("?")
        try:
            answer = self.server.site.answer(path, query)
        except Exception:
            print(f"undertow: a page could not be made.\n{visible(traceback.format_exc())}", file=sys.stderr)
            answer = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The page could not be made; the terminal says why.")
        self._send(answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A request that cannot be answered, without a word of it in the answer."""
        self.request_version = self.protocol_version  # else what cannot be read is answered without headers
        code = self._codes.get(code, code)
        text = "Only GET is answered." if code == HTTPStatus.METHOD_NOT_ALLOWED else HTTPStatus(code).phrase
        self._send(problem(code, text), close=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what a request holds is not for the terminal."""

    def _send(self, answer: Answer, *, close: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        if close:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _why(error: OSError | OverflowError) -> str:
    if isinstance(error, OverflowError):
        return "expected 0 to 65535"
    known = {errno.EADDRINUSE: "another program listens there", errno.EACCES: "not allowed for this user"}
    return known.get(error.errno or 0, error.strerror or "cannot be used")
