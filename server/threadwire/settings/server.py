"""Where the server listens, and what its sockets take."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from threadwire.settings.section import Count, Duration, PositiveDuration, Section

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/?#@:*\[\]]+)(:[0-9]{1,5})?", re.IGNORECASE)


class Tls(Section):
    """The certificate that the server shows; without one it speaks plain HTTP."""

    cert: Annotated[str | None, Field(min_length=1, description="Its file: PEM, the chain included; null: none.")] = (
        None
    )
    key: Annotated[
        str | None,
        Field(min_length=1, description="The file of its private key: PEM; null: in that of the certificate."),
    ] = None

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if self.key is not None and self.cert is None:
            raise ValueError("a key without a certificate: set cert too")
        return self


class Server(Section):
    """Where the server listens, and what its sockets take."""

    host: Annotated[str, Field(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[Count, Field(le=65535, description="The port to listen on; 0 takes a free one.")] = 8000
    allowed_origins: Annotated[
        list[str],
        Field(
            description="Origins (scheme://host:port) whose pages may connect, beside the server's own; *: all, where"
            " each sends a token."
        ),
    ] = []
    trusted_proxies: Annotated[
        list[str],
        Field(
            description="Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed; empty: none."
        ),
    ] = []
    tls: Tls = Tls()
    heartbeat_seconds: Annotated[
        PositiveDuration,
        Field(description="A ping goes to each socket this often; one that does not answer is closed."),
    ] = 25
    max_message_bytes: Annotated[Count, Field(description="The largest message a client may send.")] = 1_048_576
    max_connections: Annotated[
        Count, Field(description="Connections at the same time; further ones are closed with 1013.")
    ] = 10_000
    metrics_port: Annotated[
        Count | None,
        Field(
            le=65535,
            description="A port of its own for /metrics, on the same address, for everybody who reaches it; 0 takes a"
            " free one; null: the server's own port.",
        ),
    ] = None
    handshake_timeout_seconds: Annotated[
        Duration,
        Field(description="A connection that has not said by then what it wants is cut; a body gets a little more."),
    ] = 10
    drain_seconds: Annotated[
        Duration,
        Field(description="How long runs may go on after SIGTERM before they are cancelled; 0: not at all."),
    ] = 30

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"expected scheme://host or scheme://host:port, and no more, got {origin[:80]!r}")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"expected IP addresses and networks: {error}") from None
        return networks
