"""Who is deleted is gone from every file, whatever is killed; everybody else keeps what is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.holding import held
from node import ops, paths
from node.errors import NotFound, Unavailable
from node.placement import Placement
from node.slots import slot_of
from shard import gone, history, subscriptions
from shard.dead_letters import Death
from shard.doctor import Doctor
from shard.erasures import Erasures
from shard.history import Position
from shard.subscriptions import Subscription
from shard.trouble import BUSY
from tests.shard.asking import change, said
from tests.shard.cluster import Cluster, hold_back
from tests.shard.running import Running, delivery, laid_out, letter, until
from tests.shard.test_backup import KEPT, back_up
from tests.shard.test_sync import check, snapshot

_SPANS = [(0, 0, sys.maxsize)]


class Killed(BaseException):
    """The process ends here."""


def run(test: Callable[[Running, Path], Awaitable[None]], **options: Any) -> None:
    async def go() -> None:
        with laid_out() as data:
            async with Running(data, **options) as running:
                await test(running, data)

    asyncio.run(go())


async def delete(running: Running, user: str) -> None:
    question = ops.DeleteUser(0, running.layout.version, slot_of(user), user)
    await running.while_alive(running.shard.erasures.delete(question))


def traces(data: Path, name: bytes) -> list[str]:
    """Files that are called ``name``, or hold it; journals and counters aside."""
    return [
        str(path.relative_to(data))
        for path in sorted(data.rglob("*"))
        if path.is_file()
        and not path.relative_to(data).parts[0].startswith(("journals-", "run"))
        and (name.decode() in path.parts or f"erased-{name.decode()}" in path.parts or name in path.read_bytes())
    ]


def test_nothing_of_a_person_is_left_and_others_keep_theirs() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.put_channel("crew")
        await running.change("crew", add=["zenobia", "bob"])
        for number in range(3):
            await running.deliver(delivery(letter(f"n{number}", content="for both"), ["zenobia", "bob"]))
        await running.deliver(delivery(letter("own", content="only-for-her"), ["zenobia"]))
        await change(running, "zenobia", said("n0", "read"))
        await check(running, "zenobia", device="phone")
        await snapshot(running, "zenobia")
        await back_up(running)
        device = Subscription("zenobia", "phone", "https://push.example/1", b"p", b"a", 1, 0)
        await running.shard.push.subscriptions.put(device)
        await running.let_go()
        assert traces(data, b"zenobia")
        await delete(running, "zenobia")
        assert not [path for path in traces(data, b"zenobia") if not path.startswith("backups/")]
        assert not running.shard.push.subscriptions.of
        assert not await running.asked(lambda: subscriptions.stored(running.shard.journal.db))
        assert running.shard.members.channels["crew"].members == 1
        for question in (running.ids, running.channels_of):
            with pytest.raises(NotFound):
                await question("zenobia")
        with pytest.raises(NotFound):
            await delete(running, "zenobia")
        assert await running.ids("bob") == ["n2", "n1", "n0"]
        assert len(list(history.since(data, "bob", Position(0, 0), 0, 1, _SPANS))) >= 3
        assert not any(row.users for _at, row in history.since(data, "zenobia", Position(0, 0), 0, 1, _SPANS))

    run(test, backup=KEPT)


@pytest.mark.parametrize("killed", [False, True])
def test_the_files_of_the_journal_hold_nothing_of_them_either(killed: bool) -> None:
    """Long letters and short ones, between others', in the file and in its log."""

    def held_by_journal(data: Path, what: bytes) -> list[str]:
        return [str(path.name) for path in data.glob("journals-*/*") if what in path.read_bytes()]

    async def leave(running: Running) -> None:
        await until(lambda: not running.shard.gone.up_to, "the end of the tombstone", running.life)

    async def scene() -> None:
        with laid_out() as data:
            async with Running(data) as running:
                for number in range(40):
                    content = f"only-for-her {number} " * (1 + number % 5 * 200)
                    await running.deliver(delivery(letter(f"own{number}", content=content), ["zenobia"]))
                    await running.deliver(delivery(letter(f"n{number}", content="others" * 90), ["bob"]))
                await running.settled()  # no other barrier comes: what isn't let go now stays
                await running.let_go()
                assert held_by_journal(data, b"only-for-her")
                await delete(running, "zenobia")
                if killed:
                    await running.kill()
                else:
                    await leave(running)
            if killed:
                async with Running(data) as running:
                    await leave(running)
            for trace in (b"only-for-her", b"zenobia"):
                assert held_by_journal(data, trace) == []
            assert Doctor(data).examine().faults == []

    asyncio.run(scene())


def test_somebody_nobody_knows_can_not_be_deleted() -> None:
    async def test(running: Running, data: Path) -> None:
        with pytest.raises(NotFound):
            await delete(running, "nobody")

    run(test)


@pytest.mark.slow
def test_what_waits_goes_to_nobody_and_the_receipts_say_so() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.put_channel("crew")
        await running.change("crew", add=["ada", "bob"])
        await running.settled()
        running.shard.postmen.hold_back("ada", "for a test")
        running.shard.postmen.hold_back("bob", "for a test")
        await running.deliver(delivery(letter("both"), ["ada", "bob"]))
        await running.deliver(delivery(letter("hers"), ["ada"]))
        await running.deliver(delivery(letter("crew1", channel_id="crew"), channel="crew"))
        await delete(running, "ada")
        running.shard.postmen.let_in("bob")
        await running.settled()
        await running.let_go()
        for message_id, targets in (("both", 1), ("hers", 0), ("crew1", 1)):
            receipt = await running.receipt(message_id)
            assert (receipt.targets, receipt.pending, receipt.failed) == (targets, 0, 0)
        assert running.shard.journal.rows == 0
        await until(lambda: not running.shard.gone.up_to, "the end of the tombstone", running.life)
        assert await running.asked(lambda: gone.stored(running.shard.journal.db)) == []
        assert await running.asked(lambda: gone.withdrawn(running.shard.journal.db)) == set()
        assert not paths.user_dir(data, "ada").exists()

    run(test)


def test_dead_letters_go_too_and_what_was_given_up_a_moment_ago() -> None:
    async def test(running: Running, data: Path) -> None:
        shard = running.shard
        shard.postmen.hold_back("ada", "for a test")
        await running.deliver(delivery(letter("first"), ["ada", "bob"]))
        await running.deliver(delivery(letter("second"), ["ada", "bob"]))
        await until(lambda: shard.backlog.waiting == 2 and not shard.backlog.lanes.count, "all held back", running.life)
        first, second = shard.put_off.take("ada")
        shard.put_off.given_up.deaths.append(Death(first.seq, "ada", first.id, BUSY, 9, 1, 1))
        shard.backlog.gave_up(first)
        await until(lambda: shard.dead.count, "a dead letter", running.life)
        shard.put_off.given_up.deaths.append(Death(second.seq, "ada", second.id, BUSY, 9, 1, 1))
        shard.backlog.gave_up(second)
        await delete(running, "ada")
        assert shard.dead.count == 0
        assert await running.asked(lambda: shard.dead.page(None, None, None, 9)) == []
        await running.settled()
        for message_id in ("first", "second"):
            receipt = await running.receipt(message_id)
            assert (receipt.targets, receipt.pending, receipt.failed) == (1, 0, 0)
        await running.let_go()
        await until(lambda: not shard.put_off.given_up.withdrawn, "that it is noted", running.life)
        assert shard.dead.count == 0
        receipt = await running.receipt("second")
        assert (receipt.targets, receipt.pending, receipt.failed) == (1, 0, 0)

    run(test)


def test_mail_that_comes_later_makes_a_new_empty_box() -> None:
    async def test(running: Running, data: Path) -> None:
        await running.deliver(delivery(letter("old"), ["ada"]))
        await delete(running, "ada")
        await running.deliver(delivery(letter("new"), ["ada"]))
        assert await running.ids("ada") == ["new"]
        await running.deliver(delivery(letter("old"), ["ada"]))  # sent again, it is known
        assert await running.ids("ada") == ["new"]

    run(test)


def test_what_waits_in_the_tail_goes_to_nobody() -> None:
    async def test(running: Running, data: Path) -> None:
        held(running.shard.postmen)
        for number in range(20):
            await running.deliver(delivery(letter(f"n{number}"), ["ada", "bob"]))
        assert running.shard.backlog.window.behind
        await delete(running, "ada")
        with pytest.raises(NotFound):
            await running.ids("ada")
        assert len(await running.ids("bob")) == 20
        await running.kill()
        async with Running(data, window_letters=4) as again:
            await again.settled()
            await again.let_go()
            with pytest.raises(NotFound):
                await again.ids("ada")
            assert len(await again.ids("bob")) == 20
            for number in range(20):
                receipt = await again.receipt(f"n{number}")
                assert (receipt.targets, receipt.pending) == (1, 0)

    run(test, window_letters=4)


STEPS = ("_close", "_mark", "_advance", "_move_out", "_remove")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_on_at_the_next_start(
    step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        with laid_out() as data:
            running = await Running(data).__aenter__()
            await running.deliver(delivery(letter("old"), ["ada", "bob"]))
            await running.settled()
            await running.deliver(delivery(letter("waits"), ["ada", "bob"]))
            whole = getattr(Erasures, step)

            def dies(self: Erasures, *args: Any) -> Any:
                if not after:
                    raise Killed
                done = whole(self, *args)
                if not asyncio.iscoroutine(done):
                    raise Killed

                async def and_then() -> None:
                    await done
                    raise Killed

                return and_then()

            with monkeypatch.context() as patch:
                patch.setattr(Erasures, step, dies)
                with contextlib.suppress(BaseExceptionGroup, Killed):
                    await delete(running, "ada")
            journal = running.shard.journal
            marked = bool(await journal.read(lambda: gone.stored(journal.db)))  # of a shard that has ended
            assert running.life is not None
            await asyncio.wait([running.life])
            running.life.exception()
            await running.kill()
            async with Running(data) as again:
                await again.deliver(delivery(letter("new"), ["ada"]))
                if marked:
                    assert again.shard.gone.phases
                    await until(lambda: 2 in again.shard.gone.phases.values(), "the end of the deletion", again.life)
                assert sorted(await again.ids("ada")) == (["new"] if marked else ["new", "old", "waits"])
                assert sorted(await again.ids("bob")) == ["old", "waits"]
            assert not list((data / "user_storage").glob("erased-*"))

    asyncio.run(test())


@pytest.mark.slow
@pytest.mark.parametrize("phase", [gone.MARKED, gone.EMPTIED])
def test_another_number_of_shards_keeps_a_half_done_deletion_going(phase: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        with laid_out(2) as data:
            async with Cluster(data, 2) as cluster:
                for number in range(4):
                    await cluster.deliver(letter(f"n{number}"), ["ada", "bob", "cy"])
                await cluster.settled()
                hold_back(cluster)
                await cluster.deliver(letter("waits"), ["ada", "bob", "cy"])
                step = "_move_out" if phase == gone.MARKED else "_remove"
                with monkeypatch.context() as patch:
                    patch.setattr(Erasures, step, lambda *_: (_ for _ in ()).throw(OSError("no")))
                    owner = cluster.at_home("ada")
                    with pytest.raises(Unavailable):
                        await delete(owner, "ada")
                    if phase == gone.MARKED:
                        with pytest.raises(Unavailable):
                            await owner.ids("ada")
                    await cluster.deliver(letter("new"), ["ada", "bob"])
                    await cluster.change(3)
                owner = cluster.at_home("ada")
                phases = owner.shard.gone.phases
                await until(lambda: not phases or 2 in phases.values(), "the end", owner.life)
                assert await owner.ids("ada") == ["new"]
                assert len(await cluster.at_home("bob").ids("bob")) == 6
                await cluster.settled()
                receipt = await cluster.receipt("waits")
                assert (receipt.targets, receipt.pending) == (2, 0)
                assert not paths.erased_dir(data, "ada").exists()

    asyncio.run(test())


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sets(st.sampled_from(["ada", "bob", "cy"]), min_size=1)),
            st.tuples(st.sampled_from(["delete", "read"]), st.sets(st.sampled_from(["ada", "bob"]), min_size=1)),
            st.tuples(st.sampled_from(["kill", "let go", "crew"]), st.just(set[str]())),
        ),
        max_size=14,
    )
)
def test_everybody_has_what_came_since_they_were_deleted_last(deeds: list[tuple[str, set[str]]]) -> None:
    async def test() -> None:
        with laid_out() as data:
            running = await Running(data, window_letters=3).__aenter__()
            wanted: dict[str, set[str]] = {"ada": set(), "bob": set(), "cy": set()}
            await running.put_channel("crew")
            await running.change("crew", add=sorted(wanted))
            members = set(wanted)
            for number, (deed, users) in enumerate(deeds):
                name = f"n{number}"
                if deed == "send":
                    await running.deliver(delivery(letter(name), sorted(users)))
                    for user in users:
                        wanted[user].add(name)
                elif deed == "crew":
                    await running.deliver(delivery(letter(name, channel_id="crew"), channel="crew"))
                    for user in members:
                        wanted[user].add(name)
                elif deed == "delete":
                    for user in sorted(users):
                        with contextlib.suppress(NotFound):
                            await delete(running, user)
                        wanted[user].clear()
                        members.discard(user)
                elif deed == "read":
                    for user in sorted(users):
                        with contextlib.suppress(NotFound):
                            assert set(await running.ids(user)) == wanted[user]
                elif deed == "let go":
                    await running.let_go()
                else:
                    await running.kill()
                    running = await Running(data, window_letters=3).__aenter__()
            await running.settled()
            for user, names in wanted.items():
                if names:
                    assert set(await running.ids(user)) == names
                else:
                    with contextlib.suppress(NotFound):
                        assert await running.ids(user) == []
            await running.kill()

    asyncio.run(test())


def test_rows_of_a_history_lose_a_name_and_no_other() -> None:
    with laid_out() as data:
        layout = Placement(version=1, shards=1)
        kept = history.History(data, layout, 0)
        kept.keep([(1, 0, "a", None, "ada\nbob", b""), (2, 0, "b", None, "ada", b""), (3, 0, "c", "crew", "", b"")])
        kept.keep([(4, 0, "d", None, "adam\nada", b""), (9, 0, "e", None, "ada", b"")])
        kept.close()
        history.erase(data, "ada", Position(1, 5), _SPANS, 0)
        [segment] = history.directory(data, layout, 0).iterdir()
        assert [(row.seq, row.users) for row in history.read(segment)] == [
            (1, "bob"), (3, ""), (4, "adam"), (9, "ada"),
        ]  # fmt: skip
