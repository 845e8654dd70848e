"""
From certificates to a TLS context.

Knows PEM bytes and where they came from, for messages; knows no kubeconfig. A key
never touches a disk: OpenSSL wants it in a file, so it is given one in memory.
"""

from __future__ import annotations

import os
import ssl

from msgspec import Struct

from kubeway.errors import BadInput


class Tls(Struct, frozen=True):
    """`ca` b"": the system's authorities. `certificate` and `key` b"": no client certificate."""

    ca: bytes = b""
    ca_at: str = ""
    certificate: bytes = b""
    key: bytes = b""
    pair_at: str = ""
    insecure: bool = False


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A client's context. BadInput names the field that holds no certificate."""
    try:
        context = ssl.create_default_context(cadata=tls.ca.decode("ascii") if tls.ca else None)
    except (ssl.SSLError, ValueError) as error:
        raise BadInput(f"{tls.ca_at}: holds no certificates in PEM: {_reason(error)}") from None
    # Python 3.13 began to refuse authorities without key identifiers, which clusters have; Go takes them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        _load_pair(context, tls)
    return context


def _load_pair(context: ssl.SSLContext, tls: Tls) -> None:
    number = os.memfd_create("kubeway-client-certificate", os.MFD_CLOEXEC)
    with os.fdopen(number, "wb") as file:
        file.write(tls.certificate + b"\n" + tls.key)
        file.flush()
        try:
            # A password that fits none, or OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(f"/proc/self/fd/{number}", password=lambda: " ")
        except (ssl.SSLError, OSError) as error:
            raise BadInput(
                f"{tls.pair_at}: not a certificate and its unencrypted key in PEM: {_reason(error)}"
            ) from None


def _reason(error: Exception) -> str:
    words = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(words).replace("_", " ").lower()
