"""One node for all tests of a module, and a person of their own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from client import Device
from client.folder import checksum_of
from tests.support import Node, eventually

_numbers = count()


class Person:
    """A user of a running node, who has got some mail, and whose devices live in ``place``."""

    def __init__(self, node: Node, place: Path) -> None:
        self.node = node
        self.name = f"person{next(_numbers)}"
        self.place = place
        self._http = httpx.Client(base_url=node.url, timeout=30, trust_env=False)
        self._number = 0

    def get_mail(self, number: int = 1, size: int = 3_000) -> list[str]:
        """So many messages more; their ids."""
        ids = []
        for _ in range(number):
            self._number += 1
            id = f"{self.name}-{self._number}"
            message = {"id": id, "users": [self.name], "title": f"letter {self._number}", "content": "x" * size}
            eventually(lambda: self._is_taken(message), f"{id}, taken")  # noqa: B023
            ids.append(id)
        return ids

    def _is_taken(self, message: dict[str, object]) -> bool:
        """A node that is busy may ask whoever sends to come again."""
        status = self._http.post("/api/v3/messages", json=message).status_code
        assert status in (202, 503)
        return status == 202

    def device(self, name: str = "phone", **options: object) -> Device:
        options = {"server": self.node.url, "name": name, "patience_s": 30.0} | options
        return Device(self.name, self.place / name, **options)  # type: ignore[arg-type]

    def check(self) -> dict[str, str]:
        answer: dict[str, str] = self._http.get(f"/api/v3/sync/{self.name}/check").raise_for_status().json()
        return answer

    def statuses(self) -> dict[str, dict[str, str]]:
        """All that the node knows, by message."""
        answer = self._http.get(f"/api/v3/sync/{self.name}/read-status?limit=10000").raise_for_status().json()
        assert not answer["more"]
        return {status.pop("messageId"): status for status in answer["statuses"]}

    def has(self, device: Device) -> bool:
        """Whether ``device`` has, byte for byte, what the node has."""
        return checksum_of(device.directory / "messages.db") == self.check()["serverChecksum"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node") / "data") as running:
        yield running


@pytest.fixture
def person(served: Node, tmp_path: Path) -> Person:
    return Person(served, tmp_path)


@pytest.fixture
def someone(served: Node, tmp_path: Path) -> Callable[[], Person]:
    """Another person each time."""
    return lambda: Person(served, tmp_path)
