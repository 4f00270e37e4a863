"""Channels and devices: what is muted is muted on every device and makes no noise; people come and go by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.web.axe import serious
from tests.web.browser import Person, ready_offline, row, titles

pytestmark = pytest.mark.slow


def panel(page: Page) -> Locator:
    """The panel, opened by its key."""
    page.keyboard.press("p")
    dialog = page.get_by_role("dialog", name="Channels and devices")
    expect(dialog).to_be_visible()
    return dialog


def choice(dialog: Locator, name: str) -> Locator:
    return dialog.get_by_role("combobox", name=f"Notifications of {name}")


def test_a_mute_shows_on_every_device_and_counts_no_more(person: Person) -> None:
    person.join("ops", "Operations")
    person.deliver("Alarm", channelId="ops")
    person.deliver("Letter")
    page, other = person.open(), person.open()
    for one in (page, other):
        expect(titles(one)).to_have_count(2)
        expect(one).to_have_title(f"(2) Inbox — {person.name}")
    dialog = panel(page)
    choice(dialog, "Operations").select_option("forGood")
    for one in (page, other):
        expect(one).to_have_title(f"(1) Inbox — {person.name}")
        expect(one.locator("[data-place=ops].is-muted .count")).to_have_text("1 Unread")
    expect(choice(dialog, "Operations")).to_have_value("now")
    dialog = panel(other)
    choice(dialog, "Operations").select_option("")
    for one in (page, other):
        expect(one).to_have_title(f"(2) Inbox — {person.name}")
    expect(choice(dialog, "Operations")).to_have_value("")
    choice(dialog, "Operations").select_option("eightHours")
    expect(choice(dialog, "Operations").locator("option:checked")).to_contain_text("Muted until")


def test_a_mute_that_ran_out_ends_by_itself(person: Person) -> None:
    person.join("ops", "Operations")
    person.deliver("Alarm", channelId="ops")
    context = person.device()
    context.clock.install()
    page = person.open(context)
    expect(titles(page)).to_have_count(1)
    choice(panel(page), "Operations").select_option("hour")
    expect(page).to_have_title(f"Inbox — {person.name}")
    page.clock.fast_forward(3_700_000)
    expect(page).to_have_title(f"(1) Inbox — {person.name}")
    expect(choice(page.get_by_role("dialog"), "Operations")).to_have_value("")


def test_people_join_open_channels_and_leave(person: Person) -> None:
    person.offer(f"club-{person.name}", f"Club of {person.name}")
    person.join("ops", "Operations")
    person.deliver("Letter")
    page = person.open()
    expect(titles(page)).to_have_count(1)
    dialog = panel(page)
    dialog.get_by_role("button", name=f"Join Club of {person.name}").click()
    expect(choice(dialog, f"Club of {person.name}")).to_be_enabled()
    dialog.get_by_role("button", name=f"Leave Club of {person.name}").click()
    expect(dialog.get_by_role("button", name=f"Join Club of {person.name}")).to_be_visible()
    dialog.get_by_role("button", name="Leave Operations").click()
    expect(dialog.get_by_role("alert")).to_contain_text("come back by yourself")
    dialog.get_by_role("button", name="Stay").click()
    expect(dialog.get_by_role("alert")).to_have_count(0)
    dialog.get_by_role("button", name="Leave Operations").click()
    dialog.get_by_role("alert").get_by_role("button", name="Leave").click()
    expect(choice(dialog, "Operations")).to_have_count(0)


def test_devices_and_what_they_have(person: Person) -> None:
    person.deliver("First")
    phone = person.open()
    expect(titles(phone)).to_have_count(1)
    laptop = person.open()
    expect(titles(laptop)).to_have_count(1)
    dialog = panel(laptop)
    expect(dialog.locator("section").nth(2).get_by_role("listitem")).to_have_count(2)
    expect(dialog.get_by_text("this one · up to date")).to_be_visible()
    laptop.keyboard.press("Escape")
    phone.context.set_offline(True)
    person.deliver("Second")
    row(laptop, "Second").click()
    expect(laptop.locator(".letter-devices")).to_contain_text("Not yet on")
    phone.context.set_offline(False)
    expect(titles(phone)).to_have_count(2)
    row(laptop, "First").click()
    expect(laptop.locator(".letter-devices")).not_to_contain_text("Not yet on")
    phone.context.close()  # with all of it: a check under way would make it a device again
    dialog = panel(laptop)
    dialog.get_by_role("button", name="Forget").click()
    expect(dialog.get_by_role("button", name="Forget")).to_have_count(0)


def test_room_in_the_mailbox_is_shown_as_a_bar_and_said_to_be_full(person: Person) -> None:
    person.deliver("First")
    page = person.open()
    expect(titles(page)).to_have_count(1)
    dialog = panel(page)
    expect(dialog.get_by_text("1 message", exact=True)).to_be_visible()
    expect(dialog.get_by_role("progressbar")).to_have_count(0)
    page.keyboard.press("Escape")
    person.quota(messages=2, bytes=1_000_000)
    person.deliver("Second")
    expect(titles(page)).to_have_count(2)
    dialog = panel(page)
    expect(dialog.get_by_role("progressbar", name="2 of 2 messages")).to_be_visible()
    expect(dialog.get_by_role("progressbar", name="of 1 MB")).to_be_visible()
    expect(dialog.get_by_text("Your mailbox is full")).to_be_visible()
    assert serious(page) == []


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 320, "height": 640}}],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing_and_offline_it_is_shown_and_says_so(person: Person, options: dict[str, Any]) -> None:
    person.offer(f"club-{person.name}", f"Club of {person.name}")
    person.join("ops", "Operations")
    person.deliver("Alarm", channelId="ops")
    page = person.open(person.device(reduced_motion="reduce", **options))
    expect(titles(page)).to_have_count(1)
    dialog = panel(page)
    choice(dialog, "Operations").select_option("forGood")
    expect(choice(dialog, "Operations")).to_have_value("now")
    dialog.get_by_role("button", name="Leave Operations").click()
    expect(dialog.get_by_role("alert")).to_be_visible()
    assert serious(page) == []
    assert dialog.evaluate("(it) => it.scrollWidth - it.clientWidth") <= 0
    page.keyboard.press("Escape")
    ready_offline(page)
    page.context.set_offline(True)
    page.reload()
    expect(titles(page)).to_have_count(1)
    expect(page.get_by_text("Reading and searching work")).to_be_visible()
    dialog = panel(page)
    expect(choice(dialog, "Operations")).to_be_disabled()
    expect(dialog.get_by_role("status")).to_contain_text("offline")
    expect(choice(dialog, "Operations")).to_have_value("now")
    assert serious(page) == []
