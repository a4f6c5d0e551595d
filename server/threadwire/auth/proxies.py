"""The client's address and scheme, where a proxy that is trusted stands in between. Pure but for the request."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address
_SCHEMES = frozenset({"http", "https"})


class Proxies:
    """Whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed: ``server.trusted_proxies``."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def client(self, request: web.Request) -> tuple[str, str]:
        """Its address and the scheme it used: ``("203.0.113.7", "https")``.

        Each proxy adds the address it was called from at the end: the last one that is no proxy's of ours is the
        client's, whatever the client has written before it.
        """
        peer = request.remote or ""
        if (address := _read(peer)) is None or not self._trusts(address):
            return peer, request.scheme
        for hop in reversed(_listed(request, "X-Forwarded-For")):
            if (found := _read(hop)) is None:
                break
            address = found
            if not self._trusts(found):
                break
        schemes = [name.lower() for name in _listed(request, "X-Forwarded-Proto")]
        scheme = schemes[-1] if schemes and schemes[-1] in _SCHEMES else request.scheme
        return str(address), scheme

    def trusts(self, peer: str) -> bool:
        """Whether who calls from there is one of them."""
        return (address := _read(peer)) is not None and self._trusts(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _listed(request: web.Request, name: str) -> list[str]:
    return [part.strip() for line in request.headers.getall(name, []) for part in line.split(",")]


def _read(text: str) -> Address | None:
    """An address, also with a port behind it: ``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # How IPv4 comes in at a socket that listens on ::.
    return getattr(address, "ipv4_mapped", None) or address
