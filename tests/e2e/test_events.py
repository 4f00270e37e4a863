"""Events of a real node: whatever comes for a person, who listens hears of it, also over a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from node.paths import boxes_dir
from tests.support import Node, eventually

pytestmark = pytest.mark.slow


@contextmanager
def _listening(node: Node, user: str, last: str | None = None) -> Iterator[Iterator[tuple[str, bool]]]:
    """Ids as they come, and whether each is an event or only an id."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with (
        httpx.Client(timeout=30, trust_env=False) as http,
        http.stream("GET", f"{node.url}/api/v3/users/{user}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()

        def heard() -> Iterator[tuple[str, bool]]:
            id, has_data = "", False
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    id = line[4:]
                elif line.startswith("data: "):
                    assert json.loads(line[6:]) == {}
                    has_data = True
                elif not line and id:
                    yield id, has_data
                    id, has_data = "", False

        yield heard()


def test_who_listens_hears_of_messages_channels_statuses_and_restarts(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node, httpx.Client(base_url=node.url, timeout=30, trust_env=False) as http:
        assert http.get("/api/v3/users/ada/events").status_code == 404
        assert list(boxes_dir(node.data).glob("*/ada")) == []
        sent = {"id": "first", "users": ["ada"], "title": "t", "content": "c"}
        assert http.post("/api/v3/messages", json=sent).status_code == 202
        assert http.put("/api/v3/channels/news").status_code == 201
        assert http.put("/api/v3/channels/news/members/ada").status_code == 204
        with _listening(node, "ada") as heard:
            id, is_event = next(heard)
            assert not is_event

            def changed() -> None:
                nonlocal id
                before = id
                id, is_event = next(heard)
                assert is_event
                assert id != before

            assert http.post("/api/v3/messages", json=sent | {"id": "second"}).status_code == 202
            changed()
            while True:  # word of storing it may be an event of its own
                check = http.get("/api/v3/sync/ada/check").json()
                again = http.get("/api/v3/sync/ada/check", params={"localVersion": check["serverVersion"]}).json()
                if not again["needSync"]:
                    break
            to_channel = {"id": "third", "channelId": "news", "title": "t", "content": "c"}
            assert http.post("/api/v3/messages", json=to_channel).status_code == 202
            changed()
            read = {"messageId": "first", "status": "read", "at": datetime.now(UTC).isoformat()}
            assert http.post("/api/v3/sync/ada/read-status", json={"changes": [read]}).status_code == 200
            changed()
            node.kill("shard-0")
            node.kill("shard-1")
            changed()
        eventually(lambda: http.get("/readyz").status_code == 200, "both shards")
        with _listening(node, "ada", "what another node said") as heard:
            assert next(heard)[1], "who comes with another id hears at once"
            assert node.stop() == 0
