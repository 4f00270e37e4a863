"""The way of a new version to the device: by the pages that differ, else whole.

Whatever comes is put together in a file of its own, and counts when size and sha256 are what the server
announced with it. A delta that isn't right costs a download. A download that was cut goes on where it
ended, as long as the server still has that version; one that isn't right begins anew, three times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from client.errors import Damaged, Refused, Trouble
from client.folder import Folder, Part, Version, checksum_of
from client.patience import Patience
from client.server import Server
from node import pages

DOWNLOADS_MAX = 3
_READ_BYTES = 256 * pages.PAGE
_PAGE_HASHES = "application/octet-stream"


class Fetched(msgspec.Struct, frozen=True):
    """A verified file, not yet in its place."""

    path: Path
    of: Version
    how: Literal["delta", "download"]


class Transfer:
    """Of one user's box into ``folder``. ``received`` counts the bytes of files and deltas that came."""

    def __init__(self, server: Server, folder: Folder, device: str | None, patience: Patience) -> None:
        self.received = 0
        self._server = server
        self._folder = folder
        self._params: dict[str, str | int | None] = {"device": device}
        self._patience = patience

    def fetch(self, wanted: str) -> Fetched:
        """A version of the box, ``wanted`` or a later one; an older one only if its download was begun already.

        Raises :class:`Unavailable`, :class:`Damaged`, ``OSError``.
        """
        begun = self._folder.begun()
        if (begun is None or begun[0].of.version != wanted) and self._folder.copy.is_file():
            fetched = self._delta()
            if fetched is not None:
                return fetched
        return self._download()

    # -- the pages that differ ---------------------------------------------------------------------

    def _delta(self) -> Fetched | None:
        """None: a download it is."""
        sums = b"".join(pages.hashes(piece) for piece in _page_runs(self._folder.copy))
        if not sums:
            return None
        while True:
            try:
                with self._server.asked(
                    "POST", "delta", params=self._params, headers={"content-type": _PAGE_HASHES}, content=sums
                ) as response:
                    if response.status_code != 200:
                        return None
                    of = announced(response)
                    self._put_together(of, response)
            except Trouble as trouble:
                self._patience.wait(trouble)
                continue
            except (Refused, pages.DeltaError):
                return None
            self._patience.progress()
            return Fetched(self._folder.fresh, of, "delta") if _is(self._folder.fresh, of) else None

    def _put_together(self, of: Version, response: httpx.Response) -> None:
        self._folder.start_from_copy()
        rest = b""
        with self._folder.fresh.open("r+b") as file:
            for piece in response.iter_raw():
                self.received += len(piece)
                rest += piece
                whole = len(rest) // pages.RECORD * pages.RECORD
                for number, page in pages.records(rest[:whole]):
                    if number * pages.PAGE >= of.size:
                        raise pages.DeltaError(f"page {number} is beyond the end")
                    file.seek(number * pages.PAGE)
                    file.write(page)
                rest = rest[whole:]
            file.truncate(of.size)
        if rest:
            raise pages.DeltaError(f"{len(rest)} bytes are no page")

    # -- whole -------------------------------------------------------------------------------------

    def _download(self) -> Fetched:
        mismatches = 0
        while True:
            try:
                of = self._receive()
            except Trouble as trouble:
                self._patience.wait(trouble)
                continue
            if _is(self._folder.part, of):
                self._patience.progress()
                return Fetched(self._folder.part, of, "download")
            found = checksum_of(self._folder.part)
            self._folder.drop_part()
            mismatches += 1
            if mismatches == DOWNLOADS_MAX:
                raise Damaged(
                    f"what comes from {self._server.url} is damaged on the way, {mismatches} times now: "
                    f"announced was {of.checksum} with {of.size} bytes, the last one was {found}"
                )

    def _receive(self) -> Version:
        """One attempt at what is missing of the part; what the part should be now."""
        headers = {}
        if (begun := self._folder.begun()) is not None and begun[0].etag:
            note, there = begun
            if there == note.of.size:
                return note.of
            headers = {"range": f"bytes={there}-", "if-range": note.etag}
        with self._server.asked("GET", "download", params=self._params, headers=headers) as response:
            going_on = response.status_code == 206 and begun is not None
            if going_on:
                assert begun is not None
                of = begun[0].of
                self._check_range(response, *begun)
            elif response.status_code == 200:
                of = announced(response)
                self._check_whole(response, of)
                self._folder.begin(response.headers.get("etag", ""), of)
            else:
                self._folder.drop_part()
                raise Trouble(f"{self._server.url} answers {response.status_code} when asked for a file")
            with self._folder.part.open("ab") as file:
                for piece in response.iter_raw():
                    file.write(piece)
                    self.received += len(piece)
                    if going_on:
                        self._patience.progress()
                    if file.tell() > of.size:
                        break
                if file.tell() < of.size:
                    raise Trouble(f"the download ended after {file.tell()} of {of.size} bytes")
        return of

    def _check_range(self, response: httpx.Response, note: Part, there: int) -> None:
        expected = f"bytes {there}-{note.of.size - 1}/{note.of.size}"
        if response.headers.get("content-range") != expected or response.headers.get("etag") != note.etag:
            self._folder.drop_part()
            raise Trouble(f"{self._server.url} goes on with another file than the one that was begun")

    def _check_whole(self, response: httpx.Response, of: Version) -> None:
        if response.headers.get("content-length") != str(of.size) or "content-encoding" in response.headers:
            raise Trouble(f"{self._server.url} sends another length than it announces")


def announced(response: httpx.Response) -> Version:
    """What the headers say that the file is."""
    try:
        return Version(
            response.headers["pobox-version"],
            int(response.headers["pobox-size"]),
            response.headers["pobox-checksum"],
        )
    except (KeyError, ValueError) as error:
        raise Trouble(f"{response.url} doesn't answer like pobox: {error}") from error


def _is(path: Path, of: Version) -> bool:
    return path.stat().st_size == of.size and checksum_of(path) == of.checksum


def _page_runs(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole pages. Read, not mapped: a local program may cut it meanwhile."""
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece[: len(piece) // pages.PAGE * pages.PAGE]
