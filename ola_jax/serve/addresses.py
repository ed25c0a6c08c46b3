"""URLs of media and the addresses of their hosts: which may be fetched, and how they are read.

One parser for all: a URL that other parsers might read otherwise is refused as a whole.
"""

import dataclasses
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence

Resolve = Callable[[str, int], list[str]]  # addresses of a host

URL_CHARACTERS = 2048
# Nothing before the host (user@), no backslash, no space or control character, no percent escape in the host.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?:(?P<target>/[!-\"$-\[\]-~]*)(?:\#[!-\[\]-~]*)?)?",
    re.IGNORECASE,
)
_EMBEDDING = (  # networks whose addresses contain an IPv4 address, and the bits below it
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)


@dataclasses.dataclass(frozen=True)
class Url:
    """The parts of an http or https URL that a request needs."""

    scheme: str
    host: str  # in lower case, an IPv6 address without brackets
    port: int
    target: str  # path and query


def parse_url(text: str) -> Url | None:
    """The parts of the URL; None for one that is not plainly http or https."""
    found = _URL.fullmatch(text) if len(text) <= URL_CHARACTERS else None
    if found is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else {"http": 80, "https": 443}[scheme]
    if not 0 < port < 65536:
        return None
    return Url(scheme, found["host"].strip("[]").lower(), port, found["target"] or "/")


def is_allowed(url: Url, hosts: Sequence[str]) -> bool:
    """True if the list names the host, with its port ("a.example.org:8443") unless it is the usual one."""
    usual = {"http": 80, "https": 443}[url.scheme]
    names = {f"{url.host}:{url.port}"} | ({url.host} if url.port == usual else set())
    return any(host.lower() in names for host in hosts)


def is_public(address: str) -> bool:
    """True for an address of the internet: not of this machine, a private network, or special use."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return is_public(str(found.ipv4_mapped))
        if found.teredo or found.is_site_local:
            return False
        for network, shift in _EMBEDDING:
            if found in network:
                return is_public(str(ipaddress.IPv4Address(int(found) >> shift & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast and not found.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError where it has none."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
