"""A judge who acquits everybody proves nothing: each kind of fault is found."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.kill_boxes import Box
from loadtest.kill_ledger import Faults, Ledger, Letter


def _letter(id: str | None, users: Sequence[str] | None, channel: str | None = None, said: str = "said") -> Letter:
    return Letter(id, users, channel, b"", said)


def _ledger(*, accepted: Sequence[str] = (), unanswered: Sequence[str] = ()) -> Ledger:
    """Messages to ann, each saying its own id."""
    ledger = Ledger(["ann", "bob"], ["news"])
    for id in (*accepted, *unanswered):
        ledger.sending(letter := _letter(id, ["ann"], said=id))
        if id in accepted:
            ledger.accepted(letter, id)
    return ledger


def _judged(ledger: Ledger, *ids: str, **others: str) -> Faults:
    return ledger.judge([Box("ann", {id: id for id in ids} | others, [])])


def test_what_was_acknowledged_and_nothing_else_is_right() -> None:
    assert not _judged(_ledger(accepted=["a", "b"]), "a", "b")


def test_a_lost_message_is_found() -> None:
    assert _judged(_ledger(accepted=["a", "b"]), "a").lost == 1


def test_a_missing_box_is_a_loss_of_all_that_should_be_in_it() -> None:
    assert _ledger(accepted=["a", "b"]).judge([]).lost == 2


def test_a_message_that_nobody_sent_is_found() -> None:
    assert _judged(_ledger(accepted=["a"]), "a", "b").words == ["ann: b was not for this box"]


def test_a_message_in_a_strangers_box_is_found() -> None:
    ledger = _ledger(accepted=["a"])
    assert ledger.judge([Box("ann", {"a": "a"}, []), Box("bob", {"a": "a"}, [])]).wrong == 1


def test_the_same_message_under_another_id_is_doubled() -> None:
    assert _judged(_ledger(accepted=["a"]), "a", other="a").doubled == 1


def test_other_content_is_found() -> None:
    assert _judged(_ledger(accepted=["a"]), a="something else").wrong == 1


def test_what_was_never_answered_may_be_there_or_not_but_as_it_was_said() -> None:
    ledger = _ledger(unanswered=["a"])
    assert not _judged(ledger)
    assert not _judged(ledger, "a")
    assert _judged(ledger, a="half").wrong == 1


def test_an_id_made_by_the_node_is_known_by_what_the_message_says() -> None:
    ledger = Ledger(["ann"], [])
    ledger.sending(unanswered := _letter(None, ["ann"]))
    assert not _judged(ledger, made="said")
    assert _judged(ledger, made="said", again="said").doubled == 1
    ledger.accepted(unanswered, "made")
    assert not _judged(ledger, made="said")
    assert _judged(ledger).lost == 1


def test_a_deleted_message_must_not_come_back_not_even_when_it_is_sent_again() -> None:
    ledger = _ledger(accepted=["a"])
    ledger.deleting("ann", "a")
    assert not _judged(ledger)
    assert not _judged(ledger, "a")
    ledger.deleted("ann", "a")
    ledger.accepted(_letter("a", ["ann"], said="a"), "a")
    assert not _judged(ledger)
    assert _judged(ledger, "a").words == ["ann: a was deleted and is there"]


def test_a_channels_message_is_for_those_who_were_members_all_the_time() -> None:
    ledger = Ledger(["in", "out", "joins", "leaves"], ["news"])
    for user in ("in", "leaves"):
        ledger.changing("news", user)
        ledger.changed("news", user, inside=True)
    ledger.sending(letter := _letter("a", None, "news"))
    for user in ("joins", "leaves"):
        ledger.changing("news", user)
    ledger.changed("news", "joins", inside=True)
    ledger.accepted(letter, "a")
    ledger.changed("news", "leaves", inside=False)

    def judged(*users: str) -> Faults:
        channels = {"in": ["news"], "joins": ["news"]}
        boxes = {user: Box(user, {}, channels.get(user, [])) for user in ledger.users}
        for user in users:
            boxes[user].messages["a"] = "said"
        return ledger.judge(boxes.values())

    assert not judged("in")
    assert not judged("in", "joins", "leaves")
    assert judged("joins").lost == 1
    assert judged("in", "out").words == ["out: a was not for this box"]


def test_a_membership_that_is_not_in_the_box_is_found() -> None:
    ledger = Ledger(["ann"], ["news"])
    assert ledger.judge([Box("ann", {}, ["news"])]).wrong == 1
    ledger.changing("news", "ann")
    assert not ledger.judge([Box("ann", {}, ["news"])])
    ledger.changed("news", "ann", inside=True)
    assert not ledger.judge([Box("ann", {}, ["news"])])
    assert ledger.judge([Box("ann", {}, [])]).words == ["ann: is not in news by the box"]


def test_a_box_that_cannot_be_read_is_a_fault() -> None:
    assert Ledger(["ann"], []).judge([Box("ann", {}, [], error="CorruptError")]).words == ["ann: CorruptError"]
