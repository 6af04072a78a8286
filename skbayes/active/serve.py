"""A small web page on one's own machine, for giving labels."""

from __future__ import annotations

import hmac
import json
import math
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from skbayes.active.page import page
from skbayes.active.session import Session

MOST_BYTES = 1 << 16
"""Size of a request at most."""


def serve(learner, port=0, host="127.0.0.1", token=None, **options) -> LabellingServer:
    """Open a page for labelling.

    The page shows the row that the learner asks about, the model's probabilities, and why it is
    asked; one key for each class, space to skip, backspace to undo. Every answer is taught at once
    (and written, where a store is open), so that reloading the page, or starting again, goes on.

    Only this machine can reach it, as long as ``host`` is left alone, and only with the token that
    is in its address. There is no encryption: do not open it to a network that is not trusted.

    Parameters
    ----------
    learner : ActiveLearner
        Fitted; `ActiveLearner.open_store` first, so that no answer is lost.
    port : int, default=0
        Port; 0 takes any that is free.
    host : str, default="127.0.0.1"
        Address to listen on.
    token : str, optional
        Secret of the address; a random one if not given.
    **options : dict
        ``show``, ``image_shape``, ``classes``, ``names``, ``X_test``, ``y_test``, see
        `skbayes.active.session.Session`.

    Returns
    -------
    LabellingServer
        Running in a thread of its own. ``url`` is the address with its token; `close` ends it,
        `wait` waits for that.

    Examples
    --------
    >>> server = learner.serve(X_test=X_test, y_test=y_test)  # doctest: +SKIP
    >>> print(server.url)  # doctest: +SKIP
    http://127.0.0.1:41873/?token=...
    """
    return LabellingServer(Session(learner, **options), host, port, token)


class LabellingServer:
    """A running labelling page, see `serve`.

    Parameters
    ----------
    session : Session
        What is labelled.
    host : str
        Address to listen on.
    port : int
        Port, 0 for any.
    token : str or None
        Secret of the address.

    Attributes
    ----------
    url : str
        Address with its token.
    """

    def __init__(self, session: Session, host: str, port: int, token: str | None) -> None:
        if token is not None and (not isinstance(token, str) or len(token) < 8):
            raise ValueError("token must be a string of at least 8 characters.")
        self.token = secrets.token_urlsafe(24) if token is None else token

        class Handler(_Handler):
            pass

        Handler.session, Handler.token = session, self.token
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 1 << 16:
            raise ValueError(f"port={port!r} is not allowed; it must be from 0 to 65535.")
        kind = _Server6 if ":" in host else ThreadingHTTPServer
        self._server = kind((host, port), Handler)
        self._server.daemon_threads = True
        self.host, self.port = host, self._server.server_address[1]
        # names only: the port is another one where it comes through a tunnel
        Handler.hosts = {host.lower(), "localhost", "127.0.0.1", "::1"}
        if host in ("", "0.0.0.0", "::"):
            Handler.hosts = None
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}/?token={self.token}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the server is closed, or Ctrl-C."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """End the server; the learner stays as it is."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> LabellingServer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Server6(ThreadingHTTPServer):
    """On an address of the sixth version of the protocol."""

    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    timeout = 60.0  # seconds that a connection may say nothing
    session: Session
    token: str
    hosts: set[str] | None
    server_version = "skbayes"
    sys_version = ""

    def do_GET(self) -> None:
        """The page, and the state."""
        path = urlsplit(self.path).path
        if not self._allowed():
            return
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            self._answer(200, page(nonce), "text/html; charset=utf-8", nonce)
        elif path == "/api/next":
            self._call(self.session.state)
        else:
            self._json(404, {"error": "There is no such page."})

    def do_POST(self) -> None:
        """Answers of the annotator."""
        if not self._allowed():
            return
        actions: dict[str, Any] = {
            "/api/label": self.session.label,
            "/api/skip": self.session.skip,
            "/api/undo": self.session.undo,
        }
        action = actions.get(urlsplit(self.path).path)
        if action is None:
            self._json(404, {"error": "There is no such page."})
            return
        try:
            size = int(self.headers.get("Content-Length", 0))
            if not 0 <= size <= MOST_BYTES:
                raise ValueError("The request is too large.")
            body = json.loads(self.rfile.read(size) or b"{}")
            if not isinstance(body, dict):
                raise ValueError("The request is not a JSON object.")
        except RecursionError:
            self._json(400, {"error": "The request is nested too deeply."})
            return
        except ValueError as error:
            self._json(400, {"error": str(error)})
            return
        self._call(lambda: action(body))

    def _allowed(self) -> bool:
        """Whether the request is for this server and has its token."""
        query = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("X-Token") or query.get("token", [""])[0]
        host = self.headers.get("Host", "")
        # another site's name that leads here is refused too
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if self.hosts is not None and name not in self.hosts:
            self._json(403, {"error": f"This page is not known as {host!r}; use its own address."})
            return False
        if hmac.compare_digest(given.encode(), self.token.encode()):
            return True
        self._json(403, {"error": "The token is missing or wrong."})
        return False

    def _call(self, action) -> None:
        try:
            self._json(200, action())
        except ValueError as error:
            self._json(400, {"error": str(error)})
        except Exception as error:
            self._json(500, {"error": f"{type(error).__name__}: {error}"})
            raise

    def _json(self, status: int, value: Any) -> None:
        body = json.dumps(_plain(value), allow_nan=False).encode()
        self._answer(status, body, "application/json")

    def _answer(self, status: int, body: bytes, kind: str, nonce: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        own = f"'nonce-{nonce}'" if nonce else "'none'"
        # widths of bars are set by scripts of the page, which style-src-attr leaves alone
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src {own}; style-src {own}; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold the token."""


def _plain(value: Any):
    """What JSON has: no numbers of numpy, and None for those that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
