"""``pobox top`` against a real node."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from node.cli import main
from tests.support import Node, eventually


def top(url: str) -> Result:
    return CliRunner().invoke(main, ["top", "--once", "--interval", "0.3", "--server", url])


def table(result: Result, head: str) -> dict[str, dict[str, str]]:
    """The rows below the line that begins with ``head``, by their first cell."""
    lines = [line.split("\t") for line in result.output.splitlines()]
    at = next(number for number, cells in enumerate(lines) if cells[0] == head)
    rows = [cells for cells in lines[at + 1 :] if len(cells) == len(lines[at])]
    return {cells[0]: dict(zip(lines[at], cells, strict=True)) for cells in rows}


@pytest.mark.slow
def test_it_shows_every_process_and_one_that_hangs_as_silent(tmp_path: Path) -> None:
    with Node(tmp_path / "data", routers=2) as node:
        for name in ("ada", "bob", "cyd", "dan"):
            body = {"users": [name], "title": "t", "content": "c", "priority": 9}
            assert httpx.post(f"{node.url}/api/v3/messages", json=body, trust_env=False, timeout=30).status_code == 202

        looks: list[Result] = []

        def is_all_there() -> bool:
            """Each process tells, and all was delivered; one that had no turn for a second is silent."""
            looks.append(shown := top(node.url))
            if shown.exit_code or "no answer" in shown.output:
                return False
            shards = table(shown, "shard").values()
            return [sum(int(shard[what]) for shard in shards) for what in ("boxes", "waiting")] == [4, 0]

        eventually(is_all_there, "what was delivered, in four boxes")
        shown = looks[-1]
        assert set(table(shown, "shard")) == {"0", "1"}
        assert {"router-0", "router-1"} <= set(table(shown, "router"))
        lanes = table(shown, "lane")
        assert [lanes[lane]["letters"] for lane in ("high", "normal", "low")] == ["0", "0", "0"]
        node.kill("shard-1", signal.SIGSTOP)
        try:
            eventually(lambda: "1\tno answer" in top(node.url).output, "the silence of a shard")
            assert "shard_silent\t1\t" in top(node.url).output
        finally:
            node.kill("shard-1", signal.SIGCONT)


def test_a_node_that_isnt_there_is_one_line_and_exit_code_1() -> None:
    shown = top("http://127.0.0.1:9")
    assert (shown.exit_code, shown.output.count("\n")) == (1, 1)
    assert "no answer from" in shown.output
