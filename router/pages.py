"""The pages of a node: the files of a folder, each under a name that is known at start, and nothing else. The inbox is
``router/web``, the page of whoever looks after the node ``router/web_admin``, which uses parts of the inbox.

What is served is read once; a path of a request is looked up and never becomes a path of the disk. Every file has
a strong ETag and is asked for again each time (``no-cache``): the service worker of the page holds the whole set,
and fetches another one when ``files.js`` says that there is one. No script runs but those of this node.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import falcon.asgi

from node.errors import NotFound

ROOT = Path(__file__).parent / "web"
PREFIX = "/inbox/"
ADMIN_ROOT = Path(__file__).parent / "web_admin"
ADMIN_PREFIX = "/admin/"
INDEX = "index.html"
FILES = "files.js"
"""made here: the names of all files and a version that stands for all their contents, for the service worker"""

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
"""what is served, by the ending of its name"""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
TRUSTED = f"{POLICY}; require-trusted-types-for 'script'; trusted-types dompurify pobox"
"""of the page itself: no text becomes markup or a script's address but through these two"""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""beside those of every answer (:func:`router.protocol.security_headers`)"""


class File:
    """A file as it is sent."""

    def __init__(self, name: str, content: bytes) -> None:
        self.media_type = TYPES[Path(name).suffix]
        self.content = content
        self.digest = hashlib.sha256(content).hexdigest()

    @cached_property
    def packed(self) -> bytes | None:
        """The same in gzip; None if that doesn't make it smaller."""
        packed = gzip.compress(self.content, 6, mtime=0)
        return packed if len(packed) < len(self.content) else None


class Pages:
    """``prefix`` and what belongs to it."""

    def __init__(self, root: Path = ROOT, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        names = sorted(
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in TYPES and path.is_file()
        )
        self.files = {name: File(name, (root / name).read_bytes()) for name in names}
        if prefix == PREFIX:
            self.files[FILES] = File(FILES, _listing(self.files))

    def install(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Serve them; to the inbox ``/`` leads too."""
        if self._prefix == PREFIX:
            app.add_route("/", self, suffix="front")
        app.add_route(self._prefix.rstrip("/"), self, suffix="front")
        app.add_route(self._prefix, self, suffix="index")
        app.add_route(self._prefix + "{name:path}", self)

    async def on_get_front(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """To the page, with what was asked."""
        resp.status = 307
        resp.set_header("Location", self._prefix + (f"?{req.query_string}" if req.query_string else ""))

    async def on_get_index(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The page itself."""
        await self.on_get(req, resp, INDEX)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        """One file, or 304 if the caller has it. Raises :class:`NotFound`."""
        file = self.files.get(name)
        if file is None:
            raise NotFound("there is nothing at this path")
        resp.set_headers(HEADERS)
        if name == INDEX:
            resp.set_header("Content-Security-Policy", TRUSTED)
        resp.set_header("Vary", "Accept-Encoding")
        packed = file.packed if "gzip" in (req.get_header("Accept-Encoding") or "") else None
        etag = f'"{file.digest};gzip"' if packed else f'"{file.digest}"'
        resp.set_header("ETag", etag)
        known = {tag.strip().removeprefix("W/") for tag in (req.get_header("If-None-Match") or "").split(",")}
        if etag in known or "*" in known:
            resp.status = 304
            return
        resp.content_type = file.media_type
        if packed:
            resp.set_header("Content-Encoding", "gzip")
        resp.data = packed or file.content

    on_head = on_get
    on_head_front = on_get_front
    on_head_index = on_get_index


def _listing(files: dict[str, File]) -> bytes:
    """``self.POBOX = {version, files}``, the version a digest of all contents."""
    version = hashlib.sha256("".join(f"{name} {file.digest}\n" for name, file in files.items()).encode()).hexdigest()
    return f"self.POBOX = {json.dumps({'version': version, 'files': list(files)})};\n".encode()
