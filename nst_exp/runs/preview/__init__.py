"""A web page that shows the latest picture of a run and some numbers.

It is served on the loopback interface, so that only this machine can open it.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt

from nst_exp.errors import InputError

_HOST = "127.0.0.1"
_QUALITY = 90  # the JPEG quality of pictures
_BOUNDARY = "frame"
_PART = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()


class Preview:
    """The server of the page, as a context manager that starts it on entry and ends all streams on exit.

    Args:
        port: the port to listen on, from 0 to 65535; 0 for any free port.

    Attributes:
        url: the address of the page.

    Raises:
        InputError: if the port cannot be opened.
    """

    def __init__(self, port: int) -> None:
        self._state = _PageState()
        self._server = _server(port, self._state)
        self.url = f"http://{_HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Preview:
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._state.end()
        self._server.shutdown()
        self._server.server_close()

    def show(self, picture: bytes, status: Mapping[str, object]) -> None:
        """Show a picture and, below it, some numbers.

        Args:
            picture: a JPEG file.
            status: values for `state`, `fps`, `latency_ms`, `steps`, `frames`, `dropped` and `video`, all optional.
                The page ignores other names, and keeps the last value of missing ones.
        """
        self._state.replace(picture, json.dumps(status).encode())


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture of shape (H, W, 3) as a JPEG file."""
    return imageio.imwrite("<bytes>", picture, plugin="pillow", extension=".jpeg", quality=_QUALITY, subsampling=0)


class _PageState:
    """The picture and numbers that the page shows; streams wait for them to change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._picture = b""
        self._over = False
        self.status = b"{}"

    def replace(self, picture: bytes, status: bytes) -> None:
        with self._changed:
            self._number, self._picture, self.status = self._number + 1, picture, status
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def picture_after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a picture with a number above `number`; return its number and the picture, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._number > number)
            return None if self._over else (self._number, self._picture)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; subclasses set `state`."""

    state: _PageState

    def do_GET(self) -> None:
        """Send the page, its stream of pictures, or its numbers."""
        if self.headers.get("Host", "").partition(":")[0] not in (_HOST, "localhost"):
            self.send_error(403)  # another site's page whose host name resolves to this machine (DNS rebinding)
        elif self.path == "/":
            self._send("text/html; charset=utf-8", resources.files(__name__).joinpath("page.html").read_bytes())
        elif self.path == "/status":
            self._send("application/json", self.state.status)
        elif self.path == "/stream":
            self._stream()
        else:
            self.send_error(404)

    def _send(self, kind: str, content: bytes) -> None:
        self._begin(kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        """Send one JPEG after another.

        Each is followed at once by the header of the next, because browsers show a picture only when that has arrived.
        """
        self._begin(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self.end_headers()
        number = 0
        try:
            self.wfile.write(_PART)
            while (found := self.state.picture_after(number)) is not None:
                number, picture = found
                self.wfile.write(picture + b"\r\n" + _PART)
        except ConnectionError:
            self.close_connection = True  # the browser has closed the page

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, because requests are of no interest to the user."""


def _server(port: int, state: _PageState) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"state": state})
    try:
        return ThreadingHTTPServer((_HOST, port), handler)
    except OSError as error:
        reason = "it is in use, 0 takes any that is free" if error.errno == errno.EADDRINUSE else error.strerror
        raise InputError(f"camera.port={port} cannot be used: {reason}") from error
