"""What a device does under load: it checks, syncs when it has to, and knows then what it has."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace

import httpx
import pytest

from loadtest import load
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.sending import Requests
from tests.support import Node

_runs = count()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("sending") / "data") as running:
        yield running


@contextlib.contextmanager
def _requests(node: Node, users: int) -> Iterator[Requests]:
    run = f"r{next(_runs)}"
    plan = Plan(run=run, url=node.url, ledger="/x", users=users, phases=[Phase(name="mixed", seconds=1, rate=1)])
    with contextlib.closing(Requests(plan, random.Random(1), connections=1, device="phone")) as requests:
        yield requests


@pytest.fixture
def device(node: Node) -> Iterator[Requests]:
    """Of the first user, that knows nothing yet."""
    with _requests(node, users=1) as requests:
        yield requests


def _deliver(device: Requests, number: int) -> None:
    assert device.deliver([number]).error is None


def test_a_device_syncs_once_for_what_came(device: Requests) -> None:
    user = load.user(0)
    for number in range(2):
        _deliver(device, number)
        assert device.check().outdated == user
        synced = device.sync(user)
        assert synced.error is None
        assert synced.bytes > 0
        assert device.check().outdated is None


def test_the_node_is_told_what_the_device_has(device: Requests, node: Node) -> None:
    _deliver(device, 0)
    device.sync(load.user(0))
    device.check()
    [told] = httpx.get(f"{node.url}/api/v3/users/{load.user(0)}/devices", timeout=30).json()["devices"]
    assert (told["name"], told["newest"]) == ("phone", True)


def test_a_file_that_is_not_what_was_announced_is_a_failure(device: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    _deliver(device, 0)
    another = SimpleNamespace(sha256=lambda _content: hashlib.sha256(b"another"))
    monkeypatch.setattr("loadtest.scenarios.sending.hashlib", another)
    assert device.sync(load.user(0)).error == "not the file that was announced"
    assert device.check().outdated == load.user(0)


def test_a_box_that_is_not_there_is_a_failure(node: Node) -> None:
    with _requests(node, users=1_000) as device:
        assert device.check().error == "404"
        assert device.sync(load.user(999)).error == "404"
