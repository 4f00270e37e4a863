"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import encrypted
from tests.support import Node

# The machine may be busy: how long an example takes says nothing about what is tested.
settings.register_profile("pobox", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pobox")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIR", help="write the pictures of the documentation there")
    parser.addoption("--encrypted", action="store_true", help="with encryption on, where apsw-sqlite3mc is installed")


def pytest_configure(config: pytest.Config) -> None:
    encrypted.ON = config.getoption("--encrypted")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of whoever runs the tests is not theirs."""
    for variable in [name for name in os.environ if name.startswith("POBOX_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A running node of two shards and one router, on an empty data directory."""
    with Node(tmp_path / "data") as running:
        yield running
