"""The page of whoever looks after the node: what can be seen and done there, and by whom."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from tests.support import Node
from tests.web.axe import serious
from tests.web.browser import PATIENCE_MS, soon

pytestmark = pytest.mark.slow
_numbers = itertools.count(1)


class Desk:
    """A browser at the admin page of ``node``. ``complaints`` are the errors of its console."""

    def __init__(self, node: Node, browser: Browser) -> None:
        self.name = f"d{next(_numbers)}"
        """what the names begin with that this test may use"""
        self.node = node
        self.complaints: list[str] = []
        self.http = httpx.Client(base_url=node.url, timeout=30, trust_env=False)
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(self, place: str = "", **options: object) -> Page:
        settings = {"locale": "en-GB", "timezone_id": "UTC", "viewport": {"width": 1280, "height": 800}, **options}
        context = self._browser.new_context(**settings)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{self.node.url}/admin/{place}")
        return page

    def deliver(self, *users: str, title: str = "Hello") -> None:
        body = {"users": list(users), "title": title, "content": "c", "sender": "Somebody"}
        self.http.post("/api/v3/messages", json=body).raise_for_status()

    def channel(self, *members: str) -> str:
        id = f"{self.name}-channel"
        self.http.put(f"/api/v3/channels/{id}", json={"name": "A channel"}).raise_for_status()
        self.http.post(f"/api/v3/channels/{id}/members", json={"add": list(members)}).raise_for_status()
        return id

    def members(self, channel: str) -> list[str]:
        answer = self.http.get(f"/api/v3/channels/{channel}/members?limit=500").raise_for_status()
        return list(answer.json()["members"])

    def boxes(self) -> dict[str, int | None]:
        """How many messages the node lists each user of this test with. Boxes are made, and filled, behind the answer
        to whoever delivers or lets join; a page that asked before that isn't told of the rest."""
        answer = self.http.get(f"/api/v3/users?prefix={self.name}-&limit=500")
        users = answer.json()["users"] if answer.status_code == 200 else []  # the list is being made
        return {user["id"]: user["messages"] for user in users}

    def titles(self, user: str) -> list[str]:
        answer = self.http.get(f"/api/v3/users/{user}/messages")
        return [message["title"] for message in answer.json()["messages"]] if answer.status_code == 200 else []

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self.http.close()


@pytest.fixture
def desk(web_node: Node, browser: Browser) -> Iterator[Desk]:
    desk = Desk(web_node, browser)
    yield desk
    desk.close()
    assert [said for said in desk.complaints if "404" not in said and "net::ERR_" not in said] == []


def heads(page: Page) -> Locator:
    """The first cells of the rows of the table that is shown."""
    return page.locator("tbody th")


def figure(page: Page, name: str) -> Locator:
    return page.locator(f"[data-figure='{name}'] .tile-value")


def test_the_overview_shows_what_the_node_does_just_now(desk: Desk) -> None:
    page = desk.open()
    expect(page.locator(".state")).to_have_text("2 shards, 1 router; all answer")
    expect(heads(page)).to_have_text(["0", "1", "router-0"])

    def moves() -> bool:
        desk.deliver(*(f"{desk.name}-{n}" for n in range(50)))
        return re.search(r"[1-9]", figure(page, "accepted").inner_text()) is not None

    soon(moves, "a rate")
    expect(page.locator("[data-figure='accepted'] polyline")).to_be_attached()


def test_users_are_searched_and_one_is_looked_at(desk: Desk) -> None:
    ada, adam, zoe = (f"{desk.name}-{name}" for name in ("ada", "adam", "zoe"))
    desk.deliver(ada, adam, zoe)
    desk.deliver(ada, title="<img src=x onerror=alert(1)>")
    channel = desk.channel(ada)
    soon(lambda: desk.boxes() == {ada: 2, adam: 1, zoe: 1}, "their boxes")
    page = desk.open("#users")
    page.get_by_label("Search").fill(f"{desk.name}-a")
    expect(heads(page)).to_have_text([ada, adam])
    row = page.locator("tbody tr").first
    expect(row.locator("td").first).to_have_text("2")
    expect(row.locator("time")).to_be_visible()
    page.get_by_label("Search").fill(f"{desk.name}-x")
    expect(page.get_by_text("Nothing begins with")).to_be_visible()
    page.get_by_label("Search").fill(ada)
    desk.http.put(f"/api/v3/users/{ada}/quota", json={"messages": 4}).raise_for_status()
    page.get_by_role("link", name=ada, exact=True).click()
    expect(page.get_by_role("progressbar", name="2 of 4 messages")).to_be_visible()
    expect(heads(page).first).to_have_text("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Leave A channel").click()
    expect(page.get_by_text("In no channel")).to_be_visible()
    assert desk.members(channel) == []
    page.go_back()
    expect(page.get_by_label("Search")).to_be_visible()


def test_a_long_list_comes_by_pages(desk: Desk) -> None:
    desk.channel(*(f"{desk.name}-{n:03}" for n in range(120)))
    soon(lambda: len(desk.boxes()) == 120, "their boxes")
    page = desk.open("#users")
    with page.expect_response(lambda answer: f"prefix={desk.name}-" in answer.url):  # until then it is everybody
        page.get_by_label("Search").fill(f"{desk.name}-")
    expect(heads(page)).to_have_count(50)
    for count in (100, 120):
        page.get_by_role("button", name="More").click()
        expect(heads(page)).to_have_count(count)
    expect(page.get_by_role("button", name="More")).to_have_count(0)


def test_a_channel_from_making_to_deleting(desk: Desk) -> None:
    page = desk.open("#channels")
    page.get_by_role("button", name="New channel").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Id").fill("no name")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_text("Only letters, digits")).to_be_visible()
    dialog.get_by_label("Id").fill(f"{desk.name}-ops")
    dialog.get_by_label("Name").fill("Operations")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name=f"{desk.name}-ops")).to_be_visible()
    expect(page.get_by_text("No members")).to_be_visible()
    page.get_by_role("button", name="Import members").click()
    pasted = dialog.get_by_label("Users")
    pasted.fill("ada, b/b\ncyd")
    expect(dialog.get_by_text("Not a name: b/b")).to_be_visible()
    expect(dialog.get_by_role("button", name="Import")).to_be_disabled()
    pasted.fill(f"{desk.name}-ada, {desk.name}-bo\n{desk.name}-ada;{desk.name}-cyd")
    expect(dialog.get_by_text("3 users")).to_be_visible()
    dialog.get_by_role("button", name="Import").click()
    expect(page.locator(".chip")).to_have_count(3)
    page.get_by_label("Description").fill("All of us")
    page.get_by_role("button", name=f"Remove {desk.name}-bo").click()
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.get_by_text("Members: 2")).to_be_visible()
    expect(page.get_by_label("Description")).to_have_value("All of us")
    assert desk.members(f"{desk.name}-ops") == [f"{desk.name}-ada", f"{desk.name}-cyd"]
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved")).to_be_visible()
    assert desk.http.get(f"/api/v3/channels/{desk.name}-ops").json()["description"] == "All of us"
    page.get_by_role("button", name="Delete channel").click()
    expect(dialog.get_by_text("Its 2 members leave it")).to_be_visible()
    dialog.get_by_role("button", name="Delete channel").click()
    expect(page.get_by_role("heading", name="Channels")).to_be_visible()
    assert desk.http.get(f"/api/v3/channels/{desk.name}-ops").status_code == 404


def test_channels_and_their_members_come_from_a_json_file(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "members.json"
    file.write_text(f'{{"{desk.name}-a": ["ada", "bo"], "{desk.name}-b": ["ada"]}}')
    page = desk.open("#channels")
    page.get_by_role("button", name="Import members").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("From a file").set_input_files(file)
    expect(dialog.get_by_text("2 channels, 3 memberships")).to_be_visible()
    dialog.get_by_role("button", name="Import").click()
    expect(page.get_by_text("3 users joined")).to_be_visible()
    page.get_by_label("Search").fill(f"{desk.name}-")
    expect(heads(page)).to_have_text([f"{desk.name}-a", f"{desk.name}-b"])
    assert desk.members(f"{desk.name}-a") == ["ada", "bo"]


@pytest.mark.parametrize(
    ("text", "users", "channels", "bad"),
    [
        ("ada bo,cyd\n ada;", ["ada", "bo", "cyd"], None, []),
        ('["ada", "bo"]', ["ada", "bo"], None, []),
        ('["ada", 7, "../x"]', ["ada"], None, ["7", "../x"]),
        ('{"ops": ["ada"], "b/c": ["x"], "d": 4}', None, {"ops": ["ada"]}, ["b/c", "d"]),
        ('{"ops": ["ada"', [], None, ['{"ops": ["ada"']),
        ("", [], None, []),
        ("null", ["null"], None, []),
    ],
)
def test_what_was_pasted_is_understood(
    desk: Desk, text: str, users: list[str] | None, channels: object, bad: list[str]
) -> None:
    page = desk.open("members.js")
    found = page.evaluate("async (text) => (await import('/admin/members.js')).understood(text)", text)
    assert found == {"users": users, "channels": channels, "bad": bad}


def test_a_message_is_seen_as_it_will_be_and_delivered(desk: Desk) -> None:
    page = desk.open("#deliver")
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_text("Say who gets it.")).to_be_visible()
    expect(page.get_by_label("To", exact=True)).to_be_focused()
    page.get_by_label("To", exact=True).fill(f"{desk.name}-ada, {desk.name}-bo")
    page.get_by_label("Title").fill("Disk <b>replaced</b>")
    page.get_by_label("Content").fill("The **north**<script>alert(1)</script>[x](javascript:alert(1))")
    expect(page.locator(".preview strong")).to_have_text("north")
    assert page.locator(".preview :is(script, b, a[href])").count() == 0
    page.get_by_label("Priority").fill("9")
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_text("2 of 2 stored")).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("")
    message = desk.http.get(f"/api/v3/users/{desk.name}-bo/messages").json()["messages"][0]
    assert (message["title"], message["priority"], message["sender"]) == ("Disk <b>replaced</b>", 9, None)


def test_a_message_to_a_channel_reaches_its_members_and_to_none_is_refused(desk: Desk) -> None:
    channel = desk.channel(f"{desk.name}-ada")
    page = desk.open(f"#channels/{channel}")
    page.get_by_role("link", name="Deliver a message").click()
    page.get_by_label("Title").fill("To all")
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_text("1 of 1 stored")).to_be_visible()
    assert desk.titles(f"{desk.name}-ada") == ["To all"]
    page.get_by_label("To", exact=True).fill("nowhere-at-all")
    page.get_by_label("Title").fill("To nobody")
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_text("no such channel")).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("To nobody")


def test_without_an_answer_it_says_so_and_tries_again(desk: Desk) -> None:
    desk.deliver(f"{desk.name}-ada")
    soon(desk.boxes, "the box")
    page = desk.open("#users")
    expect(heads(page).first).to_be_visible()
    page.context.set_offline(True)
    page.get_by_label("Search").fill(f"{desk.name}-")
    expect(page.get_by_role("alert")).to_contain_text("The node")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(heads(page)).to_have_text([f"{desk.name}-ada"])


def test_a_dead_letter_is_delivered_after_all_or_forgotten(desk: Desk) -> None:
    """Of which kinds there are, and how they come to be, is the shard's; here the page meets two."""
    user = f"{desk.name}-ada"
    letters = [_dead(user, number) for number in range(2)]
    page = desk.open("#overview")
    asked: list[str] = []

    def answer(route: Route) -> None:
        method, url = route.request.method, route.request.url
        asked.append(f"{method} {url.partition('/dead-letters')[2]}")
        if method == "GET":
            route.fulfill(json={"deadLetters": letters, "cursor": None})
            return
        letters.pop(0)
        if method == "POST":
            route.fulfill(status=202, json={"id": "m0", "targets": 1, "receipt": "/api/v3/messages/m0/receipt"})
        else:
            route.fulfill(status=204)

    page.route("**/api/v3/dead-letters**", answer)
    page.locator(".places a", has_text="Dead letters").click()
    expect(heads(page)).to_have_text(["Title 0", "Title 1"])
    assert serious(page) == []
    page.get_by_label("Reason").select_option("disk error")
    page.get_by_role("button", name="Deliver after all: Title 0").click()
    expect(heads(page)).to_have_text(["Title 1"])
    page.get_by_role("button", name="Forget for good: Title 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget for good").click()
    expect(page.get_by_text("No dead letters")).to_be_visible()
    assert asked[0] == "GET ?limit=50"
    assert "GET ?limit=50&reason=io_error" in asked
    assert [one for one in asked if not one.startswith("GET")] == [f"POST /{user}~m0/requeue", f"DELETE /{user}~m1"]


def test_the_list_of_dead_letters_is_the_nodes(desk: Desk) -> None:
    page = desk.open("#dead")
    expect(page.get_by_text("No dead letters")).to_be_visible()


def _dead(user: str, number: int) -> dict[str, object]:
    at = "2026-11-24T08:44:00.000000Z"
    return {
        "id": f"{user}~m{number}",
        "userId": user,
        "messageId": f"m{number}",
        "channelId": "direct",
        "title": f"Title {number}",
        "priority": 5,
        "reason": "io_error",
        "tries": 12,
        "acceptedAt": at,
        "firstFailedAt": at,
        "diedAt": at,
    }


PLACES = ("", "#users", "#users/{user}", "#channels", "#channels/{channel}", "#deliver")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_axe_finds_nothing_and_nothing_sticks_out(desk: Desk, scheme: str, width: int) -> None:
    user = f"{desk.name}-ada"
    channel = desk.channel(user)
    desk.deliver(user, title="A title that goes on " * 9)
    soon(lambda: desk.boxes() == {user: 1}, "the box")
    page = desk.open(color_scheme=scheme, viewport={"width": width, "height": 700}, reduced_motion="reduce")
    for place in PLACES:
        page.goto(f"{desk.node.url}/admin/{place.format(user=user, channel=channel)}")
        expect(page.locator("tbody tr, .chip, .preview").first).to_be_visible()
        assert serious(page) == [], place
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for what in ("main", ".places ul"):
            assert page.locator(what).evaluate("(it) => it.scrollWidth - it.clientWidth") <= 0, (what, place)
    page.goto(f"{desk.node.url}/admin/#channels")
    page.get_by_role("button", name="Import members").click()
    assert serious(page) == []


def test_the_keyboard_reaches_the_places_and_what_is_open(desk: Desk) -> None:
    desk.deliver(f"{desk.name}-ada")
    soon(desk.boxes, "the box")
    page = desk.open("#users")
    expect(heads(page).first).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search")).to_be_focused()
    page.locator(".places a", has_text="Channels").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Channels")).to_be_visible()
    expect(page.locator("main")).to_be_focused()
    assert page.title() == "Channels · pobox"


def test_it_speaks_chinese(desk: Desk) -> None:
    page = desk.open("#channels", locale="zh-CN")
    expect(page.get_by_role("heading", name="频道")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_a_node_with_keys_asks_for_one_that_may_administer(browser: Browser, tmp_path: Path) -> None:
    data = tmp_path / "data"

    def key(*scopes: str) -> str:
        command = [sys.executable, "-m", "node", "key", "create", "--name", scopes[0], "--scope", ",".join(scopes)]
        made = subprocess.run([*command, "--data", data], capture_output=True, text=True, check=True)
        return made.stdout.strip()

    deliverers, admins = key("deliver"), key("admin", "channels", "deliver", "read")
    with Node(data, env={"POBOX_AUTH_MODE": "keys"}) as node:
        shown = {"authorization": f"Bearer {admins}"}
        users = f"{node.url}/api/v3/users"
        soon(lambda: httpx.get(users, headers=shown, timeout=30).status_code == 200, "the list of users")
        desk = Desk(node, browser)
        page = desk.open("#users")
        field = page.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        assert serious(page) == []
        for wrong in ("nonsense", deliverers):
            field.fill(wrong)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_text("This key is not accepted here.")).to_be_visible()
        field.fill(admins)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("Nobody has a box yet")).to_be_visible()
        page.locator(".places a", has_text="Overview").click()
        expect(page.locator(".state")).to_have_text("2 shards, 1 router; all answer")
        page.locator(".places a", has_text="Deliver").click()
        page.get_by_label("To", exact=True).fill("ada")
        page.get_by_label("Title").fill("Hello")
        page.get_by_role("button", name="Deliver").click()
        expect(page.get_by_text("1 of 1 stored")).to_be_visible()
        page.get_by_role("button", name="Forget the key").click()
        expect(field).to_be_visible()
        desk.close()
