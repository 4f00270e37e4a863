"""The peer stores what it answers 202 to, once, and its cluster leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest import postgres
from loadtest.errors import BenchError
from loadtest.rounds import Account
from loadtest.subjects import postgresql

pytestmark = pytest.mark.slow


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that the user postgres can reach: pytest's own are private."""
    try:
        postgres.version()
    except BenchError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_what_the_peer_accepts_is_in_its_table_once(base: Path) -> None:
    with postgresql(base, processes=2) as peer:
        account = Account(peer)
        account.warm_up(250)
        assert peer.stored() == 250
        with httpx.Client(base_url=peer.url, timeout=30) as client:
            for _ in range(2):
                body = {"id": "m-1", "users": ["ada"], "title": "t", "content": "c", "metadata": {"k": [1]}}
                assert client.post("/api/v3/messages", json=body).status_code == 202
            members = {"add": [f"u{number}" for number in range(7)]}
            assert client.post("/api/v3/channels/ops/members", json=members).json() == {"added": 7}
            to_all = {"channelId": "ops", "title": "t", "content": "c"}
            assert client.post("/api/v3/messages", json=to_all).json()["targets"] == 7
        assert peer.stored() == 250 + 1 + 7
        assert peer.run("SELECT metadata->'k'->>0 FROM inbox WHERE user_id = 'ada'") == "1"
        assert {peer.run(f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")} == {"on"}
        cpu = peer.cpu_s()
        assert cpu["postgres"] > 0
        assert cpu["web"] > 0
    assert not list(base.glob("pg-*"))


def test_a_peer_that_is_short_of_rows_gives_no_figure(base: Path) -> None:
    with postgresql(base, processes=1) as peer, pytest.raises(BenchError, match="1 were accepted"):
        peer.settle(1, limit_s=1)
