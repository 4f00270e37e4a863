"""A box in the browser: it comes, it follows the node, it is read, searched and sorted."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.browser import Person, row, soon, titles

pytestmark = pytest.mark.slow


def test_a_box_is_listed_newest_first_with_what_is_unread_counted(person: Person) -> None:
    person.join("ops", "Operations")
    person.deliver("First", "**bold** words", sender="Grace", channelId="ops")
    person.deliver("Second", priority=9)
    page = person.open()
    expect(titles(page)).to_have_text(["High priority: Second", "First"])
    expect(page.locator(".amount")).to_have_text("2 unread")
    expect(page).to_have_title(f"(2) Inbox — {person.name}")
    expect(page.get_by_role("button", name="Operations 1 Unread")).to_be_visible()
    row(page, "First").click()
    expect(page.locator(".letter h2")).to_have_text("First")
    expect(page.locator(".letter-body strong")).to_have_text("bold")
    expect(page.locator(".amount")).to_have_text("1 unread")
    expect(page).to_have_title(f"(1) Inbox — {person.name}")
    page.get_by_role("button", name="Operations").first.click()
    expect(titles(page)).to_have_text(["First"])


def test_a_new_message_shows_by_itself_and_is_announced(person: Person) -> None:
    person.deliver("Old")
    page = person.open()
    expect(titles(page)).to_have_text(["Old"])
    person.deliver("New")
    expect(titles(page)).to_have_text(["New", "Old"])
    expect(page.locator("[aria-live=polite]")).to_have_text("1 new message")


def test_a_box_that_is_not_there_yet_is_waited_for(person: Person) -> None:
    page = person.open()
    expect(page.locator(".nothing .nothing-title")).to_have_text(f"There is no box for “{person.name}” yet")
    person.deliver("The first")
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(titles(page)).to_have_text(["The first"])


def test_who_is_unknown_is_asked_for_and_remembered(person: Person, web_node: object) -> None:
    person.deliver("Hello")
    page = person.open()
    expect(titles(page)).to_have_text(["Hello"])
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Open another box").click()
    page.get_by_label("User").fill("no/such")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_contain_text("Letters, digits")
    page.get_by_label("User").fill(person.name)
    page.get_by_role("button", name="Open").click()
    expect(titles(page)).to_have_text(["Hello"])
    page.goto(page.url.partition("?")[0])
    expect(titles(page)).to_have_text(["Hello"])


def test_words_are_found_while_they_are_typed(person: Person) -> None:
    person.deliver("Invoice for November", "The café on the corner")
    person.deliver("会议改到周四下午三点", "请提前看一下新的收件箱方案")
    person.deliver("Something else", "nothing to see")
    page = person.open()
    expect(titles(page)).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("novem")
    expect(titles(page)).to_have_text(["Invoice for November"])
    expect(page.locator(".row-title mark")).to_have_text("Novem")
    for text, title in (
        ("CAFE corn", "Invoice for November"),
        ("周四", "会议改到周四下午三点"),
        ("收件箱", "会议改到周四下午三点"),
    ):
        page.get_by_role("searchbox").fill(text)
        expect(titles(page)).to_have_text([title])
    page.get_by_role("searchbox").fill('" OR * (')
    expect(page.locator(".nothing .nothing-title")).to_have_text("Nothing found")
    page.keyboard.press("Escape")
    expect(titles(page)).to_have_count(3)


def test_the_list_is_narrowed_by_what_is_unread_starred_and_urgent(person: Person) -> None:
    person.deliver("Plain")
    person.deliver("Urgent", priority=9)
    page = person.open()
    expect(titles(page)).to_have_count(2)
    row(page, "Plain").hover()
    row(page, "Plain").get_by_role("button", name="Star").click()
    filters = page.get_by_role("group", name="Filters")
    filters.get_by_role("button", name="Starred").click()
    expect(titles(page)).to_have_text(["Plain"])
    filters.get_by_role("button", name="Starred").click()
    page.get_by_label("Priority").select_option("high")
    expect(titles(page)).to_have_text(["High priority: Urgent"])
    page.get_by_label("Priority").select_option("low")
    expect(page.locator(".nothing .nothing-title")).to_have_text("Nothing matches")
    page.get_by_role("button", name="Clear filters").click()
    filters.get_by_role("button", name="Unread").click()
    row(page, "Plain").click()
    expect(page.locator(".letter h2")).to_have_text("Plain")
    expect(titles(page)).to_have_count(2)
    row(page, "Urgent").click()
    expect(titles(page)).to_have_text(["High priority: Urgent"])


def test_everything_can_be_done_with_keys(person: Person) -> None:
    ids = [person.deliver(f"Letter {number}") for number in range(4)]
    page = person.open()
    expect(titles(page)).to_have_count(4)
    heading = page.locator(".letter h2")
    for key, title in (("j", "Letter 3"), ("j", "Letter 2"), ("k", "Letter 3"), ("j", "Letter 2")):
        page.keyboard.press(key)
        expect(heading).to_have_text(title)
    page.keyboard.press("s")
    expect(page.get_by_role("toolbar").get_by_role("button", name="Remove star")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_role("toolbar").get_by_role("button", name="Mark read")).to_be_visible()
    page.keyboard.press("e")
    expect(heading).to_have_text("Letter 1")
    expect(titles(page)).to_have_text(["Letter 3", "Letter 1", "Letter 0"])
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    page.keyboard.press("z")
    expect(titles(page)).to_have_count(4)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next message")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)  # an open one has the keys for itself
    page.keyboard.press("A")
    expect(page.locator(".amount")).to_have_text("4 messages")
    page.keyboard.press("Escape")
    expect(page.locator(".reader-empty")).to_be_visible()
    soon(lambda: set(person.statuses()) == set(ids), "every status at the node")
    assert person.statuses()[ids[2]]["starredAt"] is not None
    assert all(status["readAt"] for status in person.statuses().values())


def test_what_is_deleted_can_be_taken_back_and_otherwise_goes_for_good(person: Person) -> None:
    kept, gone = person.deliver("Kept"), person.deliver("Gone")
    page = person.open()
    row(page, "Kept").click()
    page.keyboard.press("#")
    expect(titles(page)).to_have_text(["Gone"])
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text(["Gone", "Kept"])
    row(page, "Gone").click()
    expect(page.locator(".letter h2")).to_have_text("Gone")  # until then the button is for the one before
    page.get_by_role("button", name="Delete").click()
    expect(titles(page)).to_have_text(["Kept"])
    assert person.has(gone)
    soon(lambda: not person.has(gone), "the deletion at the node")
    assert person.has(kept)
    expect(titles(page)).to_have_text(["Kept"])


def test_what_stays_as_it_is_can_be_clicked_while_the_box_changes(person: Person) -> None:
    person.join("ops", "Operations")
    person.deliver("Alarm", channelId="ops")
    person.deliver("Letter")
    page = person.open()
    row(page, "Letter").click()
    expect(page.get_by_role("toolbar").get_by_role("button", name="Mark unread")).to_be_visible()
    page.keyboard.press("p")
    dialog = page.get_by_role("dialog")
    things = [
        page.get_by_role("toolbar").locator("[data-does='#']"),
        page.locator("[data-place=ops]"),
        dialog.get_by_role("button", name="Leave Operations"),
    ]
    expect(dialog.get_by_text("this one · up to date")).to_be_visible()
    before = [thing.element_handle() for thing in things]
    person.deliver("Another")
    expect(page).to_have_title(f"(2) Inbox — {person.name}")
    expect(dialog.get_by_text("3 messages", exact=True)).to_be_visible()
    assert [it.evaluate("(it) => it.isConnected") for it in before] == [True, True, True]


def test_what_one_browser_does_shows_on_another(person: Person) -> None:
    person.deliver("Letter")
    here, there = person.open(), person.open()
    expect(there.locator(".amount")).to_have_text("1 unread")
    row(here, "Letter").click()
    expect(there.locator(".amount")).to_have_text("1 message")


def test_links_and_buttons_of_a_message_are_offered(person: Person) -> None:
    metadata = {
        "actions": [
            {"label": "Approve", "url": "https://example.org/approve"},
            {"label": "Bad", "url": "javascript:1"},
        ],
        "url": "https://example.org/more",
        "build": 7,
    }
    person.deliver("Review", "see https://example.org/a and [relative](/etc)", metadata=metadata)
    page = person.open()
    row(page, "Review").click()
    buttons = page.get_by_role("group", name="Actions").get_by_role("link")
    expect(buttons).to_have_text(["Approve"])
    expect(buttons.first).to_have_attribute("href", "https://example.org/approve")
    expect(buttons.first).to_have_attribute("rel", "noopener noreferrer")
    expect(page.get_by_role("group", name="Links").get_by_role("link")).to_have_attribute(
        "href", "https://example.org/more"
    )
    expect(page.locator(".letter-body a[href]")).to_have_count(1)
    page.get_by_text("Details").click()
    expect(page.locator(".letter-details dd")).to_have_text("7")


def test_a_long_list_is_walked_through_without_drawing_it(person: Person) -> None:
    person.deliver_many(2_000)
    page = person.open()
    expect(page.locator(".amount")).to_have_text("2,000 unread")
    page.locator("#messages").evaluate("(it) => { it.scrollTop = it.scrollHeight / 2 }")
    expect(row(page, "Letter 999").first).to_be_visible()
    assert titles(page).count() < 40
    before = titles(page).all_inner_texts()
    person.deliver("On top")
    expect(page.locator(".amount")).to_have_text("2,001 unread")
    expect(page.get_by_role("button", name="1 new message")).to_be_visible()
    assert set(before) & set(titles(page).all_inner_texts())
    page.get_by_role("button", name="1 new message").click()
    expect(row(page, "On top")).to_be_visible()
