"""A page on this machine that shows pictures as they come, with some numbers; no one else on the network sees it."""

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
_QUALITY = 90  # of JPEG
_BOUNDARY = "frame"
_PART = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()


class Preview:
    """The page's server, as a context manager: it serves from `__enter__` on, and ends all streams on exit.

    Args:
        port: 0 for any that is free.

    Raises:
        InputError: if the port cannot be had.
    """

    def __init__(self, port: int) -> None:
        self._shown = _Shown()
        self._server = _server(port, self._shown)
        self.url = f"http://{_HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Preview:
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.end()
        self._server.shutdown()
        self._server.server_close()

    def show(self, picture: bytes, status: Mapping[str, object]) -> None:
        """Show a JPEG and, below it, those values of `status` that the page knows."""
        self._shown.replace(picture, json.dumps(status).encode())


def jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture, (H, W, 3), as a JPEG."""
    return imageio.imwrite("<bytes>", picture, plugin="pillow", extension=".jpeg", quality=_QUALITY, subsampling=0)


class _Shown:
    """What the page shows; streams wait for it to change."""

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
        """The newest picture and its number, as soon as that is above `number`; None when no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._number > number)
            return None if self._over else (self._number, self._picture)


class _Handler(BaseHTTPRequestHandler):
    """Answers for one connection; subclasses say what is shown."""

    shown: _Shown

    def do_GET(self) -> None:
        """The page, its stream of pictures, or its numbers."""
        if self.headers.get("Host", "").partition(":")[0] not in (_HOST, "localhost"):
            self.send_error(403)  # a page of the Internet whose name leads here
        elif self.path == "/":
            self._send("text/html; charset=utf-8", resources.files(__name__).joinpath("page.html").read_bytes())
        elif self.path == "/status":
            self._send("application/json", self.shown.status)
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
        """JPEG after JPEG, each followed at once by the next one's head, for only then browsers show it."""
        self._begin(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self.end_headers()
        number = 0
        try:
            self.wfile.write(_PART)
            while (found := self.shown.picture_after(number)) is not None:
                number, picture = found
                self.wfile.write(picture + b"\r\n" + _PART)
        except ConnectionError:
            self.close_connection = True  # the page was closed

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are no news."""


def _server(port: int, shown: _Shown) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"shown": shown})
    try:
        return ThreadingHTTPServer((_HOST, port), handler)
    except OSError as error:
        reason = "it is in use, 0 takes any that is free" if error.errno == errno.EADDRINUSE else error.strerror
        raise InputError(f"camera.port={port} cannot be had: {reason}") from error
