"""Requests whose answer is bounded in size and in total time, however slowly a server sends it."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from functools import partial
from typing import Any

PIECE = 2**16
"""Largest number of bytes that are read at once; the sizes that a server gives may be wrong, or negative."""


@dataclass(frozen=True)
class Reply:
    """The answer of a server, of any status."""

    status: int
    reason: str
    headers: Message
    body: bytes


def read_url(request: urllib.request.Request, seconds: float, most: int) -> Reply:
    """Sends a request and reads the answer. No redirect is followed: it would send the request's key to another host.

    Args:
      request: the request.
      seconds: longest time until the whole answer is there.
      most: largest size of the body, in bytes.

    Raises:
      TimeoutError: the answer is not complete in time.
      HTTPException: the body is larger than `most`, or incomplete.
      OSError: the server is not reached, or the connection breaks; most are a URLError.
    """
    sockets: list[socket.socket] = []
    ended = threading.Event()

    def end() -> None:
        ended.set()
        for opened in sockets:
            with suppress(OSError):  # it is closed already
                opened.shutdown(socket.SHUT_RDWR)

    done = threading.Lock()
    done.acquire()
    threading.Thread(target=lambda: done.acquire(timeout=seconds) or end(), daemon=True).start()
    try:
        with _opener(sockets).open(request, timeout=seconds) as response:
            body = bytearray()
            while len(body) <= most and (piece := response.read1(PIECE)):
                body += piece
            if len(body) > most:
                raise http.client.HTTPException(f"an answer of more than {most // 2**20} MiB")
            if ended.is_set():  # the head ended early, which http.client takes for its end
                raise TimeoutError
            if response.length:
                raise http.client.IncompleteRead(bytes(body), response.length)
            return Reply(response.status, response.reason, response.headers, bytes(body))
    except (OSError, http.client.HTTPException) as error:
        if ended.is_set():
            raise TimeoutError(f"the answer is not complete after {seconds:g} s") from error
        raise
    finally:
        done.release()


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """Builds an opener for HTTP, by a proxy if one is set, that returns answers of every status and keeps sockets."""
    opener = urllib.request.OpenerDirector()
    handlers = urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _Http(sockets), _Https(sockets)
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    """Keeps the sockets that it opens in a list."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self.sockets = sockets

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self.sockets), req)


class _Https(urllib.request.HTTPSHandler):
    """Keeps the sockets that it opens in a list."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self.sockets = sockets

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self.sockets), req)


def _connection(kind: Any, sockets: list[socket.socket], host: str, **options: Any) -> Any:
    """Makes a connection that adds its socket to a list as soon as it is connected."""
    made = kind(host, **options)
    connect = made.connect

    def connect_and_keep() -> None:
        connect()
        sockets.append(made.sock)

    made.connect = connect_and_keep
    return made
