"""What a shard tells of itself, after it has done something."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import apsw
import pytest
import structlog

from loadtest.holding import held
from node import ops, paths
from node.clock import DAY_US, now_us
from node.config import Backup
from node.errors import Refused
from node.slots import slot_of
from shard.alerts import BACKUP, DISK_FULL, DISK_LOW, LANES, LOCKS, OFFSITE
from shard.disk import Disk
from shard.mailboxes import Mailboxes
from tests.shard.asking import change, said, statuses
from tests.shard.playing import played
from tests.shard.running import START_US, Running, delivery, laid_out, letter, until


async def told(running: Running) -> dict[str, float]:
    """Samples by name and label values: ``pobox_lane_users high``."""
    metrics = await running.shard.metrics.ask(ops.AskMetrics(0))
    samples = [sample for family in metrics.families for sample in family.samples]
    return {" ".join([s.name, *s.labels.values()]): s.value for s in samples}


@played
async def test_what_is_delivered_is_counted() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m", priority=9), ["ada", "bob"]))
            await running.deliver(delivery(letter("n"), ["ada"]))
            await running.settled()
            await running.let_go()
            now = await told(running)
            assert now["pobox_letters_accepted_total"] == now["pobox_accept_seconds_count"] == 2
            assert now["pobox_deliveries_accepted_total"] == now["pobox_deliveries_stored_total"] == 3
            assert now["pobox_stored_seconds_count high"] == 2
            assert now["pobox_stored_seconds_count normal"] == 1
            assert now["pobox_transactions_total"] == 3
            assert now["pobox_commit_seconds_count"] >= 2
            assert now["pobox_barrier_seconds_count"] == 1
            assert now["pobox_mailboxes_open"] == now["pobox_mailboxes_opened_total kept"] == 2
            assert now["pobox_waiting"] == now["pobox_journal_rows"] == 0


@played
async def test_what_waits_is_seen_by_lane() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            running.shard.postmen._gather = lambda: 3600
            await running.deliver(delivery(letter("m", priority=2), ["ada", "bob"]))
            await running.deliver(delivery(letter("n", priority=5), ["ada"]))
            await asyncio.sleep(0.01)
            now = await told(running)
            lanes = [now[f"pobox_lane_users {lane}"] for lane in ("high", "normal", "low")]
            assert (lanes, now["pobox_waiting"]) == ([0, 1, 2], 3)
            assert now["pobox_lane_wait_seconds low"] >= now["pobox_lane_wait_seconds normal"] > 0
            assert now["pobox_lane_wait_seconds high"] == 0


@played
async def test_what_waits_in_a_lane_is_counted_in_its_window_and_behind_it() -> None:
    with laid_out() as data:
        async with Running(data, window_letters=2) as running:
            go = held(running.shard.postmen)
            await running.put_channel("news")
            await running.change("news", add=["ada", "bob", "cy"])
            for name in "abc":
                await running.deliver(delivery(letter(name, priority=2), ["ada", "bob"]))
            await running.deliver(delivery(letter("d", priority=5, channel_id="news"), channel="news"))
            await until(lambda: not running.shard.expander.busy, "the members", running.life)
            now = await told(running)
            joins = now["pobox_lane_letters high"]
            assert [now[f"pobox_lane_letters {lane}"] for lane in ("normal", "low")] == [3, 6]
            assert now["pobox_tail_letters low"] == 2
            assert now["pobox_waiting"] == joins + 9
            go.set()
            await running.settled()
            now = await told(running)
            assert [now[f"pobox_lane_letters {lane}"] for lane in ("high", "normal", "low")] == [0, 0, 0]


@played
async def test_what_is_refused_is_counted_by_its_reason() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            for request in (delivery(letter("m"), ["ada"], digest=b"other"), delivery(letter("n"), channel="none")):
                with pytest.raises(Exception, match=r"."):
                    await running.deliver(request)
            now = await told(running)
            assert now["pobox_letters_refused_total conflict"] == now["pobox_letters_refused_total not_found"] == 1


@played
async def test_devices_are_counted() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada"]))
            ask = ops.AskSync(0, running.layout.version, slot_of("ada"), "ada", None)
            for _ in range(2):
                await running.while_alive(running.shard.devices.check(ask))
            get = ops.AskSnapshot(0, running.layout.version, slot_of("ada"), "ada", "gzip", None, None)
            await running.while_alive(running.shard.devices.snapshot(get))
            now = await told(running)
            assert (now["pobox_sync_checks_total known"], now["pobox_sync_checks_total copied"]) == (1, 1)
            assert (now["pobox_sync_snapshots_asked_total kept"], now["pobox_snapshots_made_total"]) == (1, 1)
            assert (now["pobox_snapshots_packed_total"], now["pobox_snapshots_kept"]) == (1, 2)
            assert now["pobox_snapshots_made_bytes_total"] > 10_000


@played
async def test_what_devices_say_of_read_status_is_counted_by_what_became_of_it() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            await running.deliver(delivery(letter("m"), ["ada", "bob"]))
            place = ops.PositionRow("direct", "m", START_US + 5_000_000, 1)
            first = await change(running, "ada", said("m", "read", 5), positions=[place])
            await change(running, "ada", said("m", "unread", 4), said("m", "starred"), said("gone", "read"))
            await change(running, "bob", said("gone", "read"))
            await statuses(running, "ada", first.since)
            now = await told(running)
            results = [now[f"pobox_read_status_changes_total {result}"] for result in ("taken", "newer", "no_message")]
            assert results == [3, 1, 2]
            answers = [now[f"pobox_read_status_answers_total {holds}"] for holds in ("changes", "full")]
            assert answers == [1, 3]
            assert now["pobox_read_status_damaged_total"] == 0


@played
async def test_tries_that_fail_are_counted_and_end_in_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Mailboxes, user: str, *, create: bool) -> None:
        raise apsw.BusyError("another program")

    with laid_out() as data:
        async with Running(data) as running:
            monkeypatch.setattr(Mailboxes, "hold", busy)
            for number in range(20):
                await running.deliver(delivery(letter(f"m{number:02}"), [f"u{number}"]))
            await until(lambda: running.shard.watch.alerts.active, "the alert", running.life)
            now = await told(running)
            assert now["pobox_deliveries_put_off_total"] >= 20
            assert now["pobox_alert_active failures"] == 1
            alerts = (await running.shard.metrics.ask(ops.AskMetrics(0))).alerts
            assert [(alert.name, alert.threshold) for alert in alerts] == [("failures", 0.05)]


@played
async def test_a_wait_for_a_mailbox_is_seen_while_it_lasts_and_once_afterwards() -> None:
    with laid_out() as data:
        async with Running(data) as running:
            running.shard.watch.look = lambda now: None  # type: ignore[method-assign]  # whoever asks first is told
            await running.deliver(delivery(letter("m"), ["ada"]))
            await running.settled()
            boxes = running.shard.mailboxes
            assert boxes.longest_wait_s() == 0
            async with boxes.hold("ada", create=False):
                reading = asyncio.create_task(running.page("ada"))
                await until(lambda: boxes.longest_wait_s() >= 0.02, "a reader that waits", running.life)
            await reading
            assert boxes.longest_wait_s() >= 0.02
            assert boxes.longest_wait_s() == 0
            assert (await told(running))["pobox_mailbox_wait_seconds_count"] == 1


@played
async def test_an_alert_is_one_line_when_it_begins_and_one_when_it_ends() -> None:
    with laid_out() as data:
        async with Running(data, waiting_max=10) as running:
            watch = running.shard.watch
            await until(lambda: watch.readings, "the first look", running.life)
            with structlog.testing.capture_logs() as lines:
                running.shard.backlog.waiting += 9
                for second in range(5):
                    watch.look(1e9 + second)
                assert [alert.name for alert in watch.alerts.active] == [LANES]
                running.shard.backlog.waiting -= 9
                for second in range(5, 30):
                    watch.look(1e9 + second)
            assert watch.alerts.active == []
            assert watch.readings[LOCKS] == 0
            said = [(line["event"], line["alert"], line["log_level"]) for line in lines if "alert" in line]
            assert said == [("an alert has begun", LANES, "warning"), ("an alert has ended", LANES, "info")]


@played
async def test_a_disk_that_gets_full_is_an_alert_before_and_when_everything_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 1_000_000
    monkeypatch.setattr(Disk, "free_bytes", lambda self: free)
    with laid_out() as data:
        async with Running(data, disk_reserve_bytes=100_000) as running:
            watch, house = running.shard.watch, running.shard.house

            async def looked(at: float) -> list[str]:
                """What is on, when the reading of now has been so for three seconds."""
                await until(lambda: house.disk_free_bytes == free, "the next reading", running.life)
                for second in range(3):
                    watch.look(1e9 + at + second)
                return [alert.name for alert in watch.alerts.active]

            with structlog.testing.capture_logs() as lines:
                assert await looked(0) == []
                free = 110_000
                assert await looked(10) == [DISK_LOW]
                free = 99_999
                assert await looked(20) == [DISK_LOW, DISK_FULL]
                await until(lambda: running.shard.office.refusal(10), "the refusals", running.life)
                with pytest.raises(Refused) as refused:
                    await running.deliver(delivery(letter("m", priority=10), ["ada"]))
                assert refused.value.status == 507
                now = await told(running)
                assert (now["pobox_disk_free_bytes"], now["pobox_disk_reserve_bytes"]) == (99_999, 100_000)
                assert now["pobox_alert_active disk_full"] == 1
                free = 1_000_000
                await looked(30)
                assert await looked(50) == []
            said = [(line["alert"], line["event"]) for line in lines if "alert" in line]
            begun, ended = "an alert has begun", "an alert has ended"
            assert said == [(DISK_LOW, begun), (DISK_FULL, begun), (DISK_LOW, ended), (DISK_FULL, ended)]


@played
async def test_a_disk_that_a_delivery_met_full_counts_as_full_whatever_it_says_to_have_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shard.house._FULL_S", 60.0)
    with laid_out() as data:
        async with Running(data) as running:
            assert running.shard.house.disk_fill == 0
            running.shard.house.no_room()
            assert running.shard.house.disk_fill == 1


def began(data: Path, ago_us: int) -> None:
    """Make it a node that was begun so long ago."""
    lock = paths.shard_lock(data, 0)
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    os.utime(lock, ns=(then := (now_us() - ago_us) * 1_000, then))


@pytest.mark.parametrize(
    ("at", "store", "old"),
    [
        ("03:10", "file:///elsewhere", [BACKUP, OFFSITE]),
        ("03:10", "", [BACKUP]),
        ("", "file:///elsewhere", []),
    ],
)
def test_a_node_that_never_made_a_backup_has_an_alert_from_its_second_day_on_unless_it_is_to_make_none(
    at: str, store: str, old: list[str]
) -> None:
    async def go(ago_us: int) -> list[str]:
        with laid_out() as data:
            began(data, ago_us)
            async with Running(data, backup=Backup(at=at, store=store)) as running:
                watch = running.shard.watch
                for minute in range(62):  # a start has an hour to make up for it
                    watch.look(1e9 + 60 * minute)
                    if minute < 59:
                        assert watch.alerts.active == []
                assert ("pobox_offsite_whole_seconds" in await told(running)) == bool(store)
                return [alert.name for alert in watch.alerts.active]

    assert asyncio.run(go(DAY_US)) == []
    assert asyncio.run(go(2 * DAY_US)) == old
