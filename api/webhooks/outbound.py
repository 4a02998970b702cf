"""The one way out: a POST to an address that a user named, and that must not lead inside.

The name is resolved once, and the connection goes to an address that was checked. No redirect is
followed, no proxy used, nothing of the answer read but its head, and all of it ends in time.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import httpcore

from tunery.errors import InvalidRequest

SECONDS = 15.0
CONNECT_SECONDS = 5.0
MOST_CHARACTERS = 2048

PRINTABLE = re.compile(r"[!-~]+")
LABEL = r"[A-Za-z0-9_-]{1,63}"
NAME = re.compile(rf"{LABEL}(\.{LABEL})*")
# What such names lead to is inside by their meaning, whatever they resolve to.
INSIDE = (".localhost", ".local", ".internal", ".home.arpa")

# Unicast of the open Internet, less what carries an IPv4 address within: Teredo and 6to4.
OPEN_V6 = ip_network("2000::/3")
CARRIERS = (ip_network("2001::/32"), ip_network("2002::/16"))
# Protocols' own, and Azure's host, which looks like any other address.
CLOSED_V4 = (ip_network("192.0.0.0/24"), ip_network("192.88.99.0/24"), ip_network("168.63.129.16"))


class NotSent(Exception):
    """There is no answer. The text says why."""


class Blocked(NotSent):
    """The address is not one that may be reached."""


@dataclass(frozen=True)
class Target:
    scheme: str
    host: str
    port: int
    path: str
    netloc: str


def target_of(url: str, *, to_private: bool) -> Target:
    """Where a URL leads. Raises `InvalidRequest` for one that leads nowhere public, as far as can
    be known without asking a name server. `to_private` allows all, and plain http.
    """
    if len(url) > MOST_CHARACTERS or not PRINTABLE.fullmatch(url):
        raise refused(f"must have at most {MOST_CHARACTERS} characters, all of them ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refused(f"cannot be read ({error})") from error
    if parts.scheme != "https" and not (to_private and parts.scheme == "http"):
        raise refused("must begin with https://")
    host = parts.hostname or ""
    if "@" in parts.netloc or parts.fragment:
        raise refused("must have neither a user name nor a fragment")
    literal = numeric(host)
    if port == 0 or not (literal or NAME.fullmatch(host)):
        raise refused("names no host and port")
    if not to_private:
        if literal and not is_public(literal):
            raise refused(f"leads to {host}, which is not a public address")
        if not literal and ("." not in host or host.endswith(INSIDE)):
            raise refused(f"leads to {host}, which is not a public name")
    default = {"https": 443, "http": 80}[parts.scheme]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or default, path, parts.netloc)


def refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"The url {why}. Give the public https address of a server.", param="url")


def numeric(host: str) -> str | None:
    """The address that a host is, in any of the forms that a system reads as one: 127.1, 0x7f.1,
    2130706433. None for a name.
    """
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def is_public(text: str) -> bool:
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        inside = address not in OPEN_V6 or within(address, CARRIERS)
    else:
        inside = within(address, CLOSED_V4)
    return address.is_global and not address.is_multicast and not inside


def within(address: IPv4Address | IPv6Address, networks: Iterable[Any]) -> bool:
    return any(address in network for network in networks)


async def post(url: str, headers: dict[str, str], body: bytes, *, to_private: bool) -> int:
    """The status that the server answered with. Raises `NotSent`."""
    try:
        target = target_of(url, to_private=to_private)
    except InvalidRequest as error:
        raise Blocked(error.message) from error
    where = httpcore.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )
    try:
        async with asyncio.timeout(SECONDS):
            addresses = await resolve(target, to_private=to_private)
            async with (
                httpcore.AsyncConnectionPool(trust(), network_backend=To(addresses)) as pool,
                pool.stream(
                    "POST", where, headers=[("host", target.netloc), *headers.items()], content=body
                ) as answer,
            ):
                return answer.status
    except TimeoutError as error:
        raise NotSent(f"No answer within {SECONDS:g} s.") from error
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise NotSent(f"{type(error).__name__}: {error}"[:200]) from error


async def resolve(target: Target, *, to_private: bool) -> list[str]:
    """The addresses that may be connected to."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise NotSent(f"{target.host} does not resolve: {error.strerror}.") from error
    addresses = [str(row[4][0]) for row in found]
    allowed = [address for address in addresses if to_private or is_public(address)]
    if not allowed:
        raise Blocked(f"{target.host} leads to {', '.join(addresses)}: not a public address.")
    return allowed


@cache
def trust() -> ssl.SSLContext:
    """The system's certificates; `SSL_CERT_FILE` names others."""
    return ssl.create_default_context()


class To(httpcore.AnyIOBackend):
    """Connects to these addresses, one after the other, whatever the name; TLS checks the name."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Any:  # noqa: ANN401, ARG002
        for address in self.addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await super().connect_tcp(self.addresses[-1], port, CONNECT_SECONDS)
