"""What ``pobox backup`` and ``pobox restore`` say of a shard that hangs, and that they wait for one that works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from node import ops, paths
from node.config import Config, Node
from node.errors import ConfigError, Unavailable
from node.wire import Framed
from shard import backup_command


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_command, "_PING_S", 0.01)


class _Shard(Framed):
    """Answers a restore when it has been pinged three times."""

    pings = 0
    rid = 0

    def frame_received(self, payload: bytes) -> None:
        request = ops.decode_request(payload)
        if isinstance(request, ops.Ping):
            type(self).pings += 1
            self._answer(self, request.rid, ops.State(1, 1, 2, 0, 0, 0, 0, 0))
            if self.pings % 3 == 0:
                self._answer(self.asked, self.rid, ops.BackupState(day="20261124", whole=True))
        else:
            type(self).asked, type(self).rid = self, request.rid

    asked: _Shard

    @staticmethod
    def _answer(wire: Framed, rid: int, body: object) -> None:
        wire.send(ops.encode(ops.Done(rid, msgspec.Raw(ops.encode(body)))))

    def closed(self) -> None:
        pass


class _Hung(_Shard):
    def frame_received(self, payload: bytes) -> None:
        pass


class _Ending(_Shard):
    def frame_received(self, payload: bytes) -> None:
        self.close()


def asked(tmp_path: Path, shard: Callable[[], Framed] | None) -> ops.BackupState:
    """The answer of shard 1, which is ``shard``, or nobody."""
    path = paths.socket_path(tmp_path, 1)
    path.parent.mkdir()

    async def go() -> ops.BackupState:
        if shard is not None:
            await asyncio.get_running_loop().create_unix_server(shard, paths.socket_address(path))
        config = Config(node=Node(data=str(tmp_path)))
        work: Awaitable[ops.BackupState] = backup_command._ask(config, 1, ops.BackUp(0), ops.BackupState)
        return await work

    return asyncio.run(go())


def test_a_shard_that_takes_its_time_is_waited_for_while_it_answers_pings(tmp_path: Path) -> None:
    assert asked(tmp_path, _Shard).day == "20261124"


def test_one_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_command, "_PONG_S", 0.1)
    with pytest.raises(Unavailable, match="shard 1 does not answer"):
        asked(tmp_path, _Hung)


def test_one_that_ends_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="shard 1 ended before it had answered"):
        asked(tmp_path, _Ending)


def test_where_none_listens_no_node_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no node runs on .*: shard 1: No such file or directory"):
        asked(tmp_path, None)
