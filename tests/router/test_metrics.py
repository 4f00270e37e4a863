"""``/metrics`` and ``/api/v3/alerts``: all processes, whichever router is asked; a silent one holds nothing up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node import ops
from node.placement import Placement
from node.scrape import Scrape
from router import processes
from router.links import Links
from router.metrics import Metrics
from router.processes import Processes
from tests.router.conftest import Running, running, until

pytestmark = pytest.mark.slow

ALERT = ops.Alert("memory", 1_795_000_000_000_000, 0.93, 0.9, "Memory is nearly used up")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("node"), 3) as made:
        yield made


def scrape(router: Running, query: str = "") -> Scrape:
    answer = router.http.get(f"/metrics{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text, time.monotonic())


def alerts(router: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = router.http.get("/api/v3/alerts").json()["alerts"]
    return found


def silent(router: Running, shard: int) -> dict[str, Any]:
    """The alert that says so; on a busy machine another may be silent too for a moment."""
    [alert] = [alert for alert in alerts(router) if (alert["name"], alert["shard"]) == ("shard_silent", shard)]
    return alert


def test_all_processes_are_there_each_with_its_label(router: Running) -> None:
    def all_answer() -> bool:
        """Each in its second; not on a busy machine."""
        now = scrape(router)
        assert now.values("shard") == ["0", "1", "2"]
        assert now.values("process") == ["router-0"]
        return (now.sum("pobox_up"), now.sum("pobox_waiting"), now.sum("pobox_waiting", shard="1")) == (4, 21, 7)

    until(all_answer)


@pytest.mark.parametrize(
    ("query", "shards", "routers"),
    [("?shard=2", ["2"], []), ("?process=router", [], ["router-0"]), ("?process=router-0", [], ["router-0"])],
)
def test_one_process_may_be_asked_for(router: Running, query: str, shards: list[str], routers: list[str]) -> None:
    now = scrape(router, query)
    assert (now.values("shard"), now.values("process")) == (shards, routers)


@pytest.mark.parametrize("query", ["shard=3", "shard=x", "process=router-1", "process=shard-0", "shard=0&process=router", "x=1"])  # noqa: E501  # fmt: skip
def test_who_isnt_there_is_a_422(router: Running, query: str) -> None:
    assert router.http.get(f"/metrics?{query}").status_code == 422


def test_answers_are_counted_by_route_and_status(router: Running) -> None:
    def count(route: str, status: str) -> float:
        now = scrape(router, "?process=router")
        return now.sum("pobox_http_seconds_count", route=route, status=status)

    body = {"users": ["ada"], "title": "t", "content": "c"}
    before = count("/api/v3/messages", "202"), count("/api/v3/messages", "422"), count("none", "404")
    assert router.http.post("/api/v3/messages", json=body).status_code == 202
    assert router.http.post("/api/v3/messages", json=body | {"users": ["/"]}).status_code == 422
    assert router.http.get("/nowhere/at/all").status_code == 404
    after = count("/api/v3/messages", "202"), count("/api/v3/messages", "422"), count("none", "404")
    assert after == (before[0] + 1, before[1] + 1, before[2] + 1)


def test_a_silent_shard_is_down_and_holds_up_nobody(router: Running) -> None:
    router.peers[1].silent = True
    try:

        def the_others_answer() -> bool:
            now = scrape(router)
            assert now.sum("pobox_up", shard="1") == 0
            return (now.sum("pobox_up"), now.sum("pobox_waiting")) == (3, 14)

        until(the_others_answer)
        alert = silent(router, 1)
        assert alert["threshold"] == 1.0
        again = silent(router, 1)
        assert again["since"] == alert["since"]
        assert again["value"] > alert["value"]
    finally:
        router.peers[1].silent = False
    until(lambda: alerts(router) == [])


def test_a_shard_that_falls_silent_is_a_line_in_the_log_when_it_begins_and_when_it_ends_though_nobody_asks(
    tmp_path: Path,
) -> None:
    with running(tmp_path, 2, settings={"silence_s": 1.5}) as router:

        def logged() -> list[tuple[str, str, int]]:
            whole = router.log.read_text().rpartition("\n")[0]  # the last line may be on its way
            lines = [json.loads(line) for line in whole.splitlines()]
            return [(line["event"], line["alert"], line["shard"]) for line in lines if line.get("shard") == 1]

        router.peers[1].silent = True
        until(lambda: logged() == [("an alert has begun", "shard_silent", 1)])
        assert silent(router, 1)["value"] > 1
        router.peers[1].silent = False
        until(lambda: logged()[1:] == [("an alert has ended", "shard_silent", 1)])
        router.peers[1].stop()
        until(lambda: logged()[2:] == [("an alert has begun", "shard_silent", 1)])


def test_alerts_of_shards_are_collected(router: Running) -> None:
    router.peers[2].alerts = [ALERT]
    try:
        told = {
            "name": "memory",
            "shard": 2,
            "since": "2026-11-18T11:06:40.000000Z",
            "value": 0.93,
            "threshold": 0.9,
            "summary": "Memory is nearly used up",
        }
        until(lambda: alerts(router) == [told])
    finally:
        router.peers[2].alerts = []


def test_a_router_tells_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ANSWER_S", 60.0)
    (tmp_path / "run").mkdir()

    async def go() -> None:
        links = [Links(tmp_path, Placement(version=1, shards=1), timeout_s=1) for _ in range(2)]
        nodes = [Processes(tmp_path, Metrics(links[k], k), shards=lambda: 1, routers=2) for k in range(2)]
        await nodes[0].start()
        told = await nodes[1].ask_all(nodes[1].routers)
        assert [metrics is not None for _process, metrics in told] == [True, True]
        await nodes[0].close()
        told = await nodes[1].ask_all([*nodes[1].routers, *nodes[1].shards])
        assert [metrics is not None for _process, metrics in told] == [False, True, False]

    asyncio.run(go())


def test_the_ops_channel_hears_of_an_alert_once(tmp_path: Path) -> None:
    with running(tmp_path, 2, node={"ops_channel": "ops"}) as router:
        router.http.put("/api/v3/channels/ops").raise_for_status()

        def posted() -> set[str]:
            """Of this alert; on a busy machine a shard may be silent for a moment, and that is told too."""
            ids = {frame.id for peer in router.peers for frame in peer.deliveries()}
            return {id for id in ids if id.startswith("alert:memory:")}

        router.peers[1].alerts = [ALERT]
        until(lambda: len(posted()) == 1)
        looks = sum(isinstance(frame, ops.AskMetrics) for frame in router.peers[1].frames)
        until(lambda: sum(isinstance(frame, ops.AskMetrics) for frame in router.peers[1].frames) > looks + 1)
        assert posted() == {"alert:memory:1:1795000000000000:began"}


def test_the_ops_channel_hears_of_a_full_disk_when_there_is_room_again(tmp_path: Path) -> None:
    with running(tmp_path, 2, node={"ops_channel": "ops"}) as router:
        router.http.put("/api/v3/channels/ops").raise_for_status()
        for peer in router.peers:
            peer.no_room_for = "alert:disk_full:"  # that it couldn't be delivered means that it was heard of
        full = ops.Alert("disk_full", ALERT.since_us, 1.2, 0.99, "The disk is full")
        router.peers[1].alerts = [full]
        until(lambda: "an alert can't be delivered" in router.log.read_text())
        until(lambda: [alert["name"] for alert in alerts(router)] == ["disk_full"])
        router.peers[1].alerts = []
        for peer in router.peers:
            peer.frames.clear()
            peer.no_room_for = None

        def posted() -> set[str]:
            return {id for peer in router.peers for id in peer.letters if id.startswith("alert:disk_full:")}

        until(lambda: len(posted()) > 0)
        assert posted() == {f"alert:disk_full:1:{full.since_us}:began"}
