"""SIGKILL before any line of the client: what is there then is old or new and whole, and the next sync goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client.folder import checksum_of
from tests.client.conftest import Person
from tests.client.dying import Mortal, Order

pytestmark = pytest.mark.slow


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    with Mortal() as running:
        yield running


def _order(person: Person, **more: object) -> Order:
    directory = str(person.place / "phone")
    return Order(person.name, directory, person.node.url, "phone", **more)  # type: ignore[arg-type]


_STEP = 11
"""lines between two kills; two runs in which the client comes to other lines hit others"""


@pytest.mark.parametrize("whole", [False, True])
def test_a_sync_killed_anywhere_leaves_the_old_copy_or_the_new_one(person: Person, mortal: Mortal, whole: bool) -> None:
    ids = person.get_mail(30)
    device = person.device()
    device.sync()
    copy = device.directory / "messages.db"
    marked = set()
    for at in range(0, 10_000, _STEP):
        old = checksum_of(copy)
        if whole:
            copy.unlink()
        ids += person.get_mail()
        device.mark(ids[at % len(ids)], "starred")
        marked.add(ids[at % len(ids)])
        new = person.check()["serverChecksum"]
        done = mortal.do(_order(person, kill_at=at))
        assert done.error is None
        assert (checksum_of(copy) if copy.exists() else None) in (None if whole else old, new)
        device.sync()
        assert person.has(device)
        assert set(person.statuses()) == marked
        if not done.killed:
            break
    assert at > 300


def test_a_mark_killed_anywhere_is_made_or_not_and_holds_nothing_up(person: Person, mortal: Mortal) -> None:
    ids = person.get_mail(100)
    device = person.device()
    device.sync()
    marked = set()
    for at, id in enumerate(ids):
        if not mortal.do(_order(person, kill_at=3 * at, mark=(id, "read"))).killed:
            marked.add(id)
    assert 0 < len(marked) < len(ids)
    device.sync()
    known = set(person.statuses())
    assert marked <= known
    assert person.has(device)
