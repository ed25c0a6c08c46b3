"""Fetching media from hosts that the operator allows."""

import contextlib
import dataclasses
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import urljoin

from ola_jax.serve.addresses import Resolve, Url, is_allowed, is_public, parse_url, resolve
from ola_jax.serve.api_error import ApiError, invalid

REDIRECTS = 3
BLOCK = 2**16  # bytes that are read at a time


@dataclasses.dataclass(frozen=True)
class Fetcher:
    """Fetches bytes over http and https.

    The host of every hop must be on the list, and all its addresses public (unless `private`); the connection
    is made to the address that was checked, without asking for the name again.
    """

    hosts: tuple[str, ...]
    private: bool
    seconds: float  # for one file, all hops together
    resolve: Resolve = resolve

    def fetch(self, text: str, where: str, most: int) -> bytes:
        """The bytes that the URL names, at most so many. Raises ApiError, which says nothing of the host."""
        if not self.hosts:
            raise invalid("this server fetches nothing from the network; send a data URL in base64", where)
        end = time.monotonic() + self.seconds
        try:
            for _ in range(REDIRECTS + 1):
                url = self._checked(text, where)
                address = self._address(url, where)
                with _get(url, address, end) as reply:
                    if reply.status in (301, 302, 303, 307, 308):
                        text = urljoin(text, reply.headers.get("Location") or "")
                        continue
                    if reply.status != 200:
                        raise invalid(f"the host answered with status {reply.status}, expected 200", where)
                    return _read(reply, where, most)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() >= end
            reason = f"not fetched within {self.seconds:g} seconds" if late else "cannot be fetched"
            raise invalid(reason, where) from error
        raise invalid(f"more than {REDIRECTS} redirects", where)

    def _checked(self, text: str, where: str) -> Url:
        url = parse_url(text)
        if url is None:
            raise invalid("not a plain http or https URL", where)
        if not is_allowed(url, self.hosts):
            raise invalid("the host is not one that this server fetches from", where)
        return url

    def _address(self, url: Url, where: str) -> str:
        found = self.resolve(url.host, url.port)
        if not found or not (self.private or all(map(is_public, found))):
            raise invalid("the host is not one that this server fetches from", where)
        return found[0]


@contextlib.contextmanager
def _get(url: Url, address: str, end: float) -> Iterator[http.client.HTTPResponse]:
    """The reply of the host at this address; the connection is cut at the time `end`."""
    left = max(end - time.monotonic(), 0.001)
    plain = socket.create_connection((address, url.port), timeout=left)
    # A time-out of the socket begins anew with each byte; this one does not.
    cut = threading.Timer(max(end - time.monotonic(), 0), _shut, [plain])
    cut.daemon = True
    cut.start()
    connection = http.client.HTTPConnection(url.host, url.port)
    try:
        connection.sock = plain
        if url.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=url.host)
        name = f"[{url.host}]" if ":" in url.host else url.host
        usual = {"http": 80, "https": 443}[url.scheme]
        connection.putrequest("GET", url.target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", name if url.port == usual else f"{name}:{url.port}")
        connection.putheader("Accept", "image/*, audio/*, video/*")
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.endheaders()
        with connection.getresponse() as reply:
            yield reply
    finally:
        cut.cancel()
        connection.close()
        plain.close()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(reply: http.client.HTTPResponse, where: str, most: int) -> bytes:
    parts, size = [], 0
    if (reply.length or 0) <= most:
        while part := reply.read(BLOCK):
            parts.append(part)
            size += len(part)
            if size > most:
                break
        else:
            if reply.length:  # the connection ended early
                raise http.client.IncompleteRead(b"", reply.length)
            if not size:
                raise invalid("no bytes in it", where)
            return b"".join(parts)
    raise ApiError(413, f"{where}: more than {most} bytes", param=where)
