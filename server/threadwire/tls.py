"""The certificate the server shows."""

from __future__ import annotations

import ssl

from threadwire.errors import StartupError


def context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """For a listening socket, from the files of ``server.tls``; None where there is no certificate.

    Raises:
        StartupError: they cannot be read, or do not go together.
    """
    if cert is None:
        return None
    found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Of a key with a passphrase OpenSSL would ask the terminal.
        found.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl's errors among them
        where = cert if key is None else f"{cert} and {key}"
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise StartupError(f"server.tls: {where} cannot be used ({reason})") from error
    return found
