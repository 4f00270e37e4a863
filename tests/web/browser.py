"""A person with a browser, for tests: Debian's Chromium, driven by Playwright, on a box of a real node."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.support import Node, eventually

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000
_numbers = itertools.count(1)

expect.set_options(timeout=PATIENCE_MS)


class Person:
    """Somebody whom no other test knows. ``complaints`` is what their browsers' consoles said of errors. ``service``:
    the header that shows a key, for what the tests do themselves."""

    def __init__(self, node: Node, browser: Browser, name: str, service: dict[str, str] | None = None) -> None:
        self.name = f"{name}{next(_numbers)}"
        self.complaints: list[str] = []
        self._node = node
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._http = httpx.Client(base_url=node.url, timeout=30, trust_env=False, headers=service)

    def deliver(self, title: str, content: str = "", **more: Any) -> str:
        """Send them a message; its id."""
        body = {"title": title, "content": content, "users": [self.name], **more}
        answer = self._http.post("/api/v3/messages", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def deliver_many(self, number: int, content: str = "") -> None:
        """``number`` messages, named ``Letter 0`` and so on; without ``content`` of theirs they can't be packed."""
        noise = random.Random(number)
        for begin in range(0, number, 1000):
            lines = [
                f'{{"title":"Letter {index}","users":["{self.name}"],'
                f'"content":"{content or noise.randbytes(150).hex()} {index}"}}'
                for index in range(begin, min(begin + 1000, number))
            ]
            answer = self._http.post(
                "/api/v3/messages/batch", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
            )
            assert answer.json()["accepted"] == len(lines), answer.text

    def join(self, channel: str, name: str) -> None:
        self._http.put(f"/api/v3/channels/{channel}", json={"name": name}).raise_for_status()
        self._http.put(f"/api/v3/channels/{channel}/members/{self.name}").raise_for_status()

    def offer(self, channel: str, name: str) -> None:
        """A channel that anybody may join."""
        self._http.put(f"/api/v3/channels/{channel}", json={"name": name, "open": True}).raise_for_status()

    def quota(self, **quota: int) -> None:
        self._http.put(f"/api/v3/users/{self.name}/quota", json=quota).raise_for_status()

    def statuses(self) -> dict[str, dict[str, Any]]:
        """What the node knows of what they did, by message."""
        answer = self._http.get(f"/api/v3/sync/{self.name}/read-status").raise_for_status().json()
        return {status["messageId"]: status for status in answer["statuses"]}

    def has(self, message_id: str) -> bool:
        """Whether the node still has the message in their box."""
        return self._http.get(f"/api/v3/users/{self.name}/messages/{message_id}").status_code == 200

    def device(self, **options: Any) -> BrowserContext:
        """Another browser of theirs, with nothing in it yet."""
        context = self._browser.new_context(
            **{"locale": "en-GB", "timezone_id": "UTC", "viewport": {"width": 1280, "height": 800}, **options}
        )
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        return context

    def open(self, context: BrowserContext | None = None, url: str | None = None, hash: str = "") -> Page:
        """The inbox in a new tab, of a new browser if none is given."""
        page = (context or self.device()).new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{url or self._node.url}/inbox/?user={self.name}{hash}")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._http.close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)


def titles(page: Page) -> Locator:
    """The titles in the list, from above."""
    return page.locator(".row-title")


def row(page: Page, title: str) -> Locator:
    return page.locator(".row", has_text=title)


def ready_offline(page: Page) -> None:
    """Wait until the page needs no network any more."""
    page.wait_for_function(
        "() => navigator.serviceWorker.ready.then(async (it) => it.active.state === 'activated'"
        " && (await caches.keys()).length === 1)"
    )


def soon(true: Callable[[], object], what: str) -> None:
    eventually(true, what, PATIENCE_MS / 1000)
