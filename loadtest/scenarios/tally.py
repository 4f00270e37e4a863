"""That every letter that was answered 202 lies in each of its targets' boxes, once.

The boxes are read by another process, from the files of a node that is stopped, or page by page over the
API of one that runs. What was refused may lie in some boxes (another shard may have had room), but there too only once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import httpx
import msgspec

from loadtest.children import reported
from loadtest.count import boxes
from loadtest.scenarios import addressing, ledger, plan
from loadtest.scenarios.addressing import Addressing

WORDS_MAX = 20
_PAGE = 500


class Tally(msgspec.Struct, kw_only=True):
    """``owed``: letters times targets that were acknowledged."""

    letters: int
    owed: int
    found: int = 0
    """of those"""
    doubled: int = 0
    wrong: int = 0
    """in a box of somebody they were not for"""
    others: int = 0
    """of letters that were not acknowledged"""
    boxes: int = 0
    words: list[str] = []
    """the first faults"""

    @property
    def lost(self) -> int:
        return self.owed - self.found


Keys = Iterable[tuple[str, str]]
"""(id, title) of what lies in a box"""


def count(run: str, numbers: Iterable[int], addressed: Addressing, boxes: Iterable[tuple[str, Keys]]) -> Tally:
    """Compare ``boxes`` (user, what lies there) with the accepted ``numbers``."""
    accepted = set(numbers)
    tally = Tally(letters=len(accepted), owed=sum(len(addressed.targets(number)) for number in accepted))
    for user, keys in boxes:
        tally.boxes += 1
        seen: set[int] = set()
        for id, title in keys:
            number = ledger.number_of(run, title)
            if number is None:
                number = ledger.number_of(run, id)
            if number is None:
                continue
            if number in seen:
                tally.doubled += 1
                _tell(tally, f"{user} has letter {number} twice")
            elif not addressed.is_for(number, user):
                tally.wrong += 1
                _tell(tally, f"letter {number} was not for {user}")
            elif number in accepted:
                tally.found += 1
            else:
                tally.others += 1
            seen.add(number)
    if tally.lost:
        _tell(tally, f"{tally.lost} of {tally.owed} deliveries are in no box")
    return tally


def _tell(tally: Tally, words: str) -> None:
    if len(tally.words) < WORDS_MAX:
        tally.words.append(words)


def files(data: Path) -> Iterator[tuple[str, Keys]]:
    """Every box under ``data``, logs included; nothing is changed."""
    for user, db in boxes(data):
        yield user, db.execute("SELECT id, title FROM messages")


def over_api(url: str, users: Iterable[str]) -> Iterator[tuple[str, Keys]]:
    """The boxes of ``users`` as the node at ``url`` shows them; each read delivers first what waits."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for user in users:
            yield user, _pages(client, f"/api/v3/users/{user}/messages")


def _pages(client: httpx.Client, path: str) -> Iterator[tuple[str, str]]:
    cursor: str | None = ""
    while cursor is not None:
        answer = client.get(path, params={"limit": _PAGE} | ({"cursor": cursor} if cursor else {}))
        if answer.status_code == 404:
            return
        page = answer.raise_for_status().json()
        yield from ((message["id"], message["title"]) for message in page["messages"])
        cursor = page["cursor"]


def elsewhere(plan_path: Path, *, data: Path | None) -> Tally:
    """:func:`count` in another process: of the files in ``data``, or (None) over the API of the plan's node. Raises
    :class:`loadtest.errors.BenchError` if a box can't be read."""
    where = ["--data", str(data.resolve())] if data is not None else []
    return reported("loadtest.scenarios.tally", Tally, str(plan_path.resolve()), *where)


@click.command()
@click.argument("plan_path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(plan_path: Path, data: Path | None) -> None:
    """Print the tally of a run as JSON."""
    this = plan.load(plan_path)
    addressed = addressing.of(this)
    numbers = ledger.accepted(Path(this.ledger))
    if data is not None:
        boxes = files(data)
    else:
        boxes = over_api(this.url, sorted({user for number in numbers for user in addressed.targets(number)}))
    sys.stdout.buffer.write(msgspec.json.encode(count(this.run, numbers, addressed, boxes)) + b"\n")


if __name__ == "__main__":
    main()
