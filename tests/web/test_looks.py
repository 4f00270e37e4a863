"""How it looks, and whether everybody can use it: axe-core, widths from 320 px on, both languages and appearances."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support import Node
from tests.web.axe import serious
from tests.web.browser import Person, row, soon, titles

pytestmark = pytest.mark.slow


def _box(person: Person) -> None:
    person.join("ops", "Operations")
    person.deliver("Nightly build passed", "1,204 tests", sender="Continuous build", priority=2)
    person.deliver(
        "Latency is above its objective",
        "The p99 of `/checkout` is **910 ms**.\n\n| Region | p99 |\n|---|---|\n| eu | 910 ms |\n\n```\nscale\n```",
        sender="Argus monitoring",
        channelId="ops",
        priority=9,
        metadata={"actions": [{"label": "Acknowledge", "url": "https://example.org/a"}], "service": "checkout"},
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(person: Person, scheme: str) -> None:
    _box(person)
    page = person.open(person.device(color_scheme=scheme, reduced_motion="reduce"))
    expect(titles(page)).to_have_count(2)
    assert serious(page) == []
    row(page, "Latency").click()
    expect(page.locator(".letter h2")).to_be_visible()
    expect(page.locator(".amount")).to_have_text("1 unread")  # what follows from that is drawn
    assert serious(page) == []
    for key in ("?", "Escape", "e"):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        assert serious(page) == [], key
    page.keyboard.press("Escape")
    expect(page.locator(".letter")).to_have_count(0)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("group", name="Notifications on this device")).to_be_visible()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 320, "height": 640})
    page.get_by_role("button", name="Menu").click()
    assert serious(page) == []


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_nothing_sticks_out_at_any_width(person: Person, tmp_path: Path, width: int) -> None:
    _box(person)
    page = person.open(person.device(viewport={"width": width, "height": 720}))
    expect(titles(page)).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(page.screenshot()) > 10_000
    row(page, "Latency").click()
    expect(page.locator(".letter-body")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".reader").evaluate("(it) => it.scrollWidth - it.clientWidth") <= 0
    if width == 320:
        expect(page.locator(".list-pane")).not_to_be_visible()
        page.go_back()
        expect(titles(page).first).to_be_visible()
        expect(page.locator(".letter")).to_have_count(0)


def test_the_first_question_fits_a_phone_and_axe_finds_nothing(person: Person, web_node: Node) -> None:
    page = person.device(viewport={"width": 320, "height": 600}).new_page()
    page.goto(f"{web_node.url}/inbox/")
    expect(page.get_by_role("textbox", name="User")).to_be_visible()
    assert page.get_by_role("button", name="Open").evaluate("(it) => it.getBoundingClientRect().right <= innerWidth")
    assert serious(page) == []


def test_it_speaks_chinese(person: Person) -> None:
    _box(person)
    page = person.open(person.device(locale="zh-CN"))
    expect(page.get_by_role("heading", name="收件箱")).to_be_visible()
    expect(page.locator(".amount")).to_have_text("2 条未读")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_focus_walks_from_the_bar_over_the_side_to_the_list_and_the_message(person: Person) -> None:
    _box(person)
    message = person.deliver("On top")
    page = person.open(hash=f"#inbox/m/{message}")
    expect(page.locator(".letter h2")).to_have_text("On top")
    expect(titles(page)).to_have_count(3)
    expect(page.locator(".amount")).to_have_text("2 unread")
    seen: list[str] = []
    for _ in range(24):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "document.activeElement.closest('.skip, .bar, .side, .list-head, .rows, .reader')?.className"
        )
        if place and (not seen or seen[-1] != place):
            seen.append(place)
    assert seen[:6] == ["skip", "bar", "side", "list-head", "rows", "reader"]


def test_it_can_be_installed(person: Person) -> None:
    page = person.open()
    session = page.context.new_cdp_session(page)
    assert session.send("Page.getAppManifest")["errors"] == []

    def can_be() -> bool:
        errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        return [error["errorId"] for error in errors if error["errorId"] != "in-incognito"] == []

    soon(can_be, "nothing in the way")
