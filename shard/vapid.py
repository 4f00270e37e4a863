"""The node's own key pair (RFC 8292): by it a push service knows that it is the same node that sends again.

Made once, before any shard starts, and the same for all of them. Devices subscribe for this key: with another one,
every subscription is void. So it is never replaced here, and it belongs into a backup of the node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from node import paths
from node.errors import ConfigError
from node.placement import write_durably


def make(data: Path) -> None:
    """Make the key pair of ``data``, which has none; on disk when this returns."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_durably(paths.vapid_path(data), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load(data: Path) -> ec.EllipticCurvePrivateKey:
    """The key pair of ``data``; raises :class:`ConfigError` if it is missing or none."""
    path = paths.vapid_path(data)
    try:
        key: Any = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path} is no P-256 key")
    return key
