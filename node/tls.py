"""What a router speaks TLS with."""

from __future__ import annotations

import ssl
from pathlib import Path

from node.config import Tls
from node.errors import ConfigError


def context(tls: Tls) -> ssl.SSLContext:
    """Of the certificate and the key that ``tls`` names. Raises :class:`ConfigError` if they can't be used."""
    for name, path in (("certificate", tls.certificate), ("key", tls.key)):
        if not path:
            raise ConfigError(f"[tls] {name} is empty: certificate and key go together")
        try:
            Path(path).read_bytes()  # what the library says names no file
        except OSError as error:
            raise ConfigError(f"[tls] {name}: {path}: {error.strerror}") from error
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load(made, tls)
    return made


def load(made: ssl.SSLContext, tls: Tls) -> None:
    """Have ``made`` show what is in the files now. Raises :class:`ConfigError`."""
    try:
        made.load_cert_chain(tls.certificate, tls.key, password="")  # nobody is there to be asked for one
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"[tls] {tls.certificate}, {tls.key}: {error.strerror or error}") from error
