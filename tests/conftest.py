"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import HealthCheck, settings

from tests import certificates, encrypted
from tests.support import Node

# The machine may be busy: how long an example takes says nothing about what is tested.
settings.register_profile("pobox", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pobox")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIR", help="write the pictures of the documentation there")
    parser.addoption("--encrypted", action="store_true", help="with encryption on, where apsw-sqlite3mc is installed")


def pytest_configure(config: pytest.Config) -> None:
    encrypted.ON = config.getoption("--encrypted")


@pytest.hookimpl(trylast=True)  # what -m leaves out is out by then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first, modules of quick tests come last: in the end no worker waits long for another.

    xdist gives each worker a contiguous part of the list, so each part has its share of every kind; a worker that has
    done its part gets what stands last in another's.
    """
    workers: int = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    slow_modules = {item.path for item in items if item.get_closest_marker("slow")}
    longest, slow, quick = list[pytest.Item](), list[pytest.Item](), list[pytest.Item]()
    for item in items:
        kind = longest if item.get_closest_marker("long") else slow if item.path in slow_modules else quick
        kind.append(item)
    items.clear()
    for worker in range(workers):
        items += longest[worker::workers]
        for kind in (slow, quick):
            items += kind[len(kind) * worker // workers : len(kind) * (worker + 1) // workers]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of whoever runs the tests is not theirs."""
    for variable in [name for name in os.environ if name.startswith("POBOX_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The one that httpx knows, and it is nobody's. Tests speak to loopback, mostly without TLS; still each client of
    httpx, and so each request outside of one, would read the certificates of all the world's authorities, in 20 ms."""
    certificate, _key = certificates.make(tmp_path_factory.mktemp("authority"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(certificate))
        yield


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A running node of two shards and one router, on an empty data directory."""
    with Node(tmp_path / "data") as running:
        yield running
