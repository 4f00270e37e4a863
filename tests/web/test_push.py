"""Notifications on a device: the switch, the node, what is pushed, and the way from a notification to the message.

The browser's own push service is somewhere in the world; here one on loopback stands for it. What it decrypts is
handed to the browser as a push event, by the browser's own means for that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Worker, expect

from tests.push_service import PushService
from tests.support import Node, eventually
from tests.web.browser import Person, ready_offline, soon, titles
from tests.web.test_preferences import panel

pytestmark = pytest.mark.slow

_AGAIN_S = 15.0
_FAKE = """
const given = %s;
const made = () => ({
  endpoint: given.endpoint, toJSON: () => given,
  options: { applicationServerKey: Uint8Array.from(JSON.parse(localStorage.getItem("fake"))).buffer },
  unsubscribe: async () => { localStorage.removeItem("fake"); return true; },
});
PushManager.prototype.getSubscription = async () => (localStorage.getItem("fake") ? made() : null);
PushManager.prototype.subscribe = async ({ applicationServerKey, userVisibleOnly }) => {
  if (!userVisibleOnly) throw new TypeError("a browser wants that");
  localStorage.setItem("fake", JSON.stringify([...applicationServerKey]));
  return made();
};
"""


@pytest.fixture
def service() -> Iterator[PushService]:
    with PushService() as running:
        yield running
    assert running.faults == []


class Told:
    """A device of ``person`` whose push service is ``service``."""

    def __init__(self, person: Person, service: PushService, hash: str = "") -> None:
        self.context: BrowserContext = person.device(permissions=["notifications"])
        self.context.add_init_script(_FAKE % json.dumps(service.subscribe(person.name)))
        self.page: Page = person.open(self.context, hash=hash)
        ready_offline(self.page)

    def switch(self, name: str) -> None:
        self.page.get_by_role("button", name="Settings").click()
        choices = self.page.get_by_role("group", name="Notifications on this device")
        clicked = choices.get_by_role("radio", name=name).element_handle()
        clicked.click()
        # The click alone checks it; when node and push service have answered, the choices are drawn anew.
        self.page.wait_for_function("(it) => !it.isConnected", arg=clicked)
        expect(choices.get_by_role("radio", name=name)).to_be_checked()
        self.page.keyboard.press("Escape")

    def push(self, said: Any) -> None:
        """Have the browser's push service bring this."""
        session = self.context.new_cdp_session(self.page)
        found: list[str] = []
        session.on(
            "ServiceWorker.workerRegistrationUpdated",
            lambda event: found.extend(one["registrationId"] for one in event["registrations"]),
        )
        session.send("ServiceWorker.enable")
        soon(lambda: found or self.page.wait_for_timeout(20), "the worker's registration")
        origin = self.page.evaluate("location.origin")
        session.send(
            "ServiceWorker.deliverPushMessage",
            {"origin": origin, "registrationId": found[0], "data": said if isinstance(said, str) else json.dumps(said)},
        )
        session.detach()

    def worker(self) -> Worker:
        """The page knows of it a moment before we do."""
        soon(lambda: self.context.service_workers or self.page.wait_for_timeout(20), "the worker")
        [worker] = self.context.service_workers
        return worker

    def notifications(self) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = self.page.evaluate(
            "async () => (await (await navigator.serviceWorker.ready).getNotifications())"
            ".map(({ title, body, tag, data }) => ({ title, body, tag, data }))"
        )
        return shown


def _listed(node: Node, person: Person) -> list[Any]:
    found: list[Any] = httpx.get(f"{node.url}/api/v3/users/{person.name}/push", timeout=30).json()["devices"]
    return found


def test_a_device_is_told_once_it_wants_to_and_no_more_when_not(
    person: Person, web_node: Node, service: PushService
) -> None:
    person.deliver("Before")
    service.key = httpx.get(f"{web_node.url}/api/v3/push/key", timeout=30).json()["publicKey"]
    browser = Told(person, service)
    browser.switch("On")
    [listed] = _listed(web_node, person)
    assert listed["device"] == browser.page.evaluate("localStorage.getItem('pobox.device')")
    dialog = panel(browser.page)
    expect(dialog.get_by_text("this one · up to date · notified")).to_be_visible()
    browser.page.keyboard.press("Escape")
    message = person.deliver("While it sleeps", priority=9)
    soon(lambda: service.said(person.name), "the push")
    again(browser, service.said(person.name)[0], browser.notifications, "the notification")
    [shown] = browser.notifications()
    assert (shown["title"], shown["data"]) == ("While it sleeps", {"user": person.name, "id": message})
    browser.page.reload()
    browser.switch("Off")
    assert _listed(web_node, person) == []
    person.deliver("Unsaid")
    expect(titles(browser.page).first).to_contain_text("Unsaid")
    assert len(service.said(person.name)) == 1
    browser.switch("On")
    assert len(_listed(web_node, person)) == 1
    browser.page.get_by_role("button", name="Settings").click()
    browser.page.get_by_role("button", name="Open another box").click()
    expect(browser.page.get_by_label("User")).to_be_visible()
    assert _listed(web_node, person) == []  # who uses the browser next is not told of this one's messages


def test_many_are_counted_in_the_language_of_the_page_and_anything_is_shown(
    person: Person, service: PushService
) -> None:
    person.deliver("Before")
    browser = Told(person, service)
    browser.switch("On")
    seven = {"user": person.name, "count": 7, "priority": 5, "id": "m", "channelId": "news"}
    again(browser, seven, browser.notifications, "the notification")
    [shown] = browser.notifications()
    assert (shown["title"], shown["body"]) == ("New message", "7 new messages")
    newest = {"user": person.name, "count": 8, "priority": 5, "id": "n", "channelId": "news", "title": "Newest"}
    again(
        browser,
        newest,
        lambda: [one["title"] for one in browser.notifications()] == ["Newest"],
        "the newest in its place",
    )
    again(browser, "what is this", lambda: len(browser.notifications()) == 2, "something for what can't be read")


def again(browser: Told, content: object, true: Callable[[], object], what: str) -> None:
    """Push until it is seen: a browser whose cores are busy lets one go now and then, and one more takes its place."""
    for _ in range(5):
        browser.push(content)
        with contextlib.suppress(AssertionError):
            return eventually(true, what, _AGAIN_S)
    return soon(true, what)


def test_a_notification_leads_to_its_message(person: Person, service: PushService) -> None:
    first = person.deliver("The first", "the text of it")
    browser = Told(person, service)
    expect(titles(browser.page)).to_have_text(["The first"])
    worker = browser.worker()
    worker.evaluate("(data) => lead(data)", {"user": person.name, "id": first})
    expect(browser.page.locator(".letter h2")).to_have_text("The first")
    later = person.deliver("The next")
    worker.evaluate("(data) => lead(data)", {"user": person.name, "id": later})
    expect(browser.page.locator(".letter h2")).to_have_text("The next")
    address = worker.evaluate("([user, id]) => address(user, id)", ["ann@x", later])
    assert address.endswith(f"/inbox/?user=ann%40x#inbox/m/{later}")
    assert worker.evaluate("(user) => pages(user).then((found) => found.length)", "somebody-else") == 0


def test_what_the_browser_forbids_is_said(person: Person) -> None:
    person.deliver("Before")
    context = person.device()
    context.add_init_script("Object.defineProperty(Notification, 'permission', { get: () => 'denied' })")
    page = person.open(context)
    page.get_by_role("button", name="Settings").click()
    choices = page.get_by_role("group", name="Notifications on this device")
    expect(choices.get_by_role("radio", name="On")).to_be_disabled()
    expect(choices.get_by_role("status")).to_contain_text("This browser forbids it")
