"""Each acknowledged letter is counted in each box it is for; what is lost, doubled or misplaced is told apart."""

from __future__ import annotations

from pathlib import Path

from loadtest import load
from loadtest.scenarios import ledger, tally
from loadtest.scenarios.addressing import Ring
from loadtest.scenarios.ledger import Ledger

_USERS = 5
_RING = Ring(_USERS, 2)
_NUMBERS = range(20)


def _boxes(numbers: range = _NUMBERS) -> dict[str, list[tuple[str, str]]]:
    """What a faultless node would have stored."""
    boxes: dict[str, list[tuple[str, str]]] = {load.user(number): [("0", "hello")] for number in range(_USERS)}
    for number in numbers:
        for user in _RING.targets(number):
            boxes[user].append((f"id-{number}", ledger.key("run", number)))
    return boxes


def _count(boxes: dict[str, list[tuple[str, str]]], numbers: range = _NUMBERS) -> tally.Tally:
    return tally.count("run", numbers, _RING, boxes.items())


def test_a_faultless_node_is_found_faultless() -> None:
    counted = _count(_boxes())
    assert (counted.letters, counted.owed, counted.found, counted.boxes) == (20, 40, 40, 5)
    assert (counted.lost, counted.doubled, counted.wrong, counted.others, counted.words) == (0, 0, 0, 0, [])


def test_a_letter_that_is_missing_in_one_box_is_lost() -> None:
    boxes = _boxes()
    boxes[_RING.targets(7)[1]].remove(("id-7", "run-7"))
    counted = _count(boxes)
    assert counted.lost == 1
    assert counted.words


def test_a_letter_that_lies_twice_in_a_box_is_doubled_and_does_not_hide_a_loss() -> None:
    boxes = _boxes()
    first, second = _RING.targets(7)
    boxes[first].append(("another id", "run-7"))
    boxes[second].remove(("id-7", "run-7"))
    counted = _count(boxes)
    assert (counted.lost, counted.doubled) == (1, 1)


def test_a_letter_in_a_stranger_s_box_is_wrong() -> None:
    boxes = _boxes()
    stranger = next(user for user in boxes if not _RING.is_for(7, user))
    boxes[stranger].append(("id-7", "run-7"))
    assert (_count(boxes).wrong, _count(boxes).lost) == (1, 0)


def test_what_was_not_acknowledged_may_be_there_and_other_runs_are_nobody_s_business() -> None:
    boxes = _boxes(range(25))
    boxes[load.user(0)] += [("1", "other-7"), ("2", "run-x"), ("3", "run")]
    counted = _count(boxes)
    assert (counted.others, counted.lost, counted.wrong) == (10, 0, 0)


def test_a_recorded_letter_has_its_key_in_its_id() -> None:
    boxes = {user: [(title, "what was recorded") for _id, title in keys] for user, keys in _boxes().items()}
    assert _count(boxes).found == 40


def test_a_ledger_holds_what_all_its_writers_acknowledged(tmp_path: Path) -> None:
    for numbers in ([3, 1], [], [4]):
        book = Ledger(tmp_path)
        book.accepted(numbers)
        book.close()
    assert ledger.accepted(tmp_path) == [3, 1, 4]
