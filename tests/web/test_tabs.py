"""Several tabs and one box: one has it open, the others ask, and its place is taken when it closes."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.browser import Person, row, soon, titles

pytestmark = pytest.mark.slow


def test_a_second_tab_follows_and_takes_over_when_the_first_closes(person: Person) -> None:
    person.deliver("First")
    context = person.device()
    owner = person.open(context)
    expect(titles(owner)).to_have_text(["First"])
    other = person.open(context)
    expect(titles(other)).to_have_text(["First"])
    other.get_by_role("searchbox").fill("first")
    expect(titles(other)).to_have_text(["First"])
    other.get_by_role("searchbox").fill("")
    row(other, "First").click()
    expect(owner.locator(".amount")).to_have_text("1 message")
    second = person.deliver("Second")
    for page in (owner, other):
        expect(titles(page)).to_have_text(["Second", "First"])
    owner.close()
    third = person.deliver("Third")
    expect(titles(other)).to_have_text(["Third", "Second", "First"])
    row(other, "Third").click()
    expect(other.locator(".letter h2")).to_have_text("Third")
    soon(lambda: third in person.statuses(), "the status at the node")
    assert second not in person.statuses()


def test_the_place_goes_on_down_the_line(person: Person) -> None:
    person.deliver("Letter")
    context = person.device()
    pages = [person.open(context) for _ in range(3)]
    for page in pages:
        expect(titles(page)).to_have_text(["Letter"])
    for number, page in enumerate(pages[:2]):
        page.close()
        person.deliver(f"More {number}")
        expect(titles(pages[2]).first).to_have_text(f"More {number}")
