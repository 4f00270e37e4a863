"""Whether a node is ready, asked by its supervisor over HTTP.

By hand, since of the answer only the first line matters: a client library takes longer to import than all that a
supervisor is made of, and stays in memory for as long as the node runs.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

_ANSWER_MAX_S = 2.0


async def is_ready(url: str) -> bool:
    """Whether the node at ``url`` answers ``/readyz`` with 200. Raises :class:`OSError`, as which a
    timeout counts."""
    node = urlsplit(url)
    context = None
    if node.scheme == "https":
        # The certificate names what callers know the node by, which this address need not be; nothing is told to it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(_ANSWER_MAX_S):
        reader, writer = await asyncio.open_connection(node.hostname, node.port, ssl=context)
        try:
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {node.netloc}\r\nConnection: close\r\n\r\n".encode())
            return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        finally:
            writer.close()
