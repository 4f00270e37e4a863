"""The pictures of docs/screenshots. They are written when ``make screenshots`` asks for them, of the same people,
messages and moment each time; otherwise it is only tested that they can be taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from node.demo_mail import generated
from tests.support import Node
from tests.web.browser import Person, row, titles

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
MESSAGES = 12
BYTES_MAX = 150_000
_NAMES = {"kitchen": "Kitchen", "deploys": "Deploys", "garden": "Garden", "incidents": "Incidents"}


class Camera:
    """Keeps pictures in ``directory``, if there is one."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def take(self, page: Page, name: str) -> None:
        picture = page.screenshot(animations="disabled", caret="hide")
        assert 10_000 < len(picture) < BYTES_MAX
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / f"{name}.png").write_bytes(picture)


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Camera:
    directory = request.config.getoption("--screenshots")
    return Camera(None if directory is None else Path(directory))


def _box(person: Person) -> None:
    """A small set of mail, at hours before ``NOW``."""
    for channel, name in _NAMES.items():
        person.join(channel, name)
    for number, message in enumerate(generated().messages[:MESSAGES]):
        person.deliver(
            message.title,
            message.content,
            channelId=message.channel_id,
            priority=message.priority,
            sender=message.sender,
            createdAt=(NOW - timedelta(hours=2.7 * (MESSAGES - number) - 2.2)).isoformat(),
        )


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [("inbox-light", "light", (1280, 800)), ("inbox-dark", "dark", (1280, 800)), ("inbox-phone", "light", (390, 844))],
)
def test_the_inbox(person: Person, camera: Camera, name: str, scheme: str, size: tuple[int, int]) -> None:
    _box(person)
    context = person.device(color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
    context.clock.set_fixed_time(NOW)
    page = person.open(context)
    expect(titles(page)).to_have_count(MESSAGES)
    if size[0] > 1000:
        row(page, "Slow answers: over").click()
        expect(page.locator(".letter-body")).to_be_visible()
    camera.take(page, name)


def test_the_admin_page(person: Person, web_node: Node, camera: Camera) -> None:
    page = person.device().new_page()
    page.goto(f"{web_node.url}/admin/#deliver")
    page.get_by_label("To", exact=True).fill("ada, bo, chen")
    page.get_by_label("Title").fill("Release 4.2 is out")
    page.get_by_label("Content").fill(
        "Both regions run it since **10:20**.\n\n| service | before | now |\n|---|---|---|\n| web | 4.1.7 | 4.2.0 |\n"
        "| mail | 2.0.3 | 2.1.0 |\n\n- no data is touched\n- `rollback 4.2` takes it back\n"
    )
    expect(page.locator(".preview table")).to_be_visible()
    page.locator("main h1").click()
    camera.take(page, "admin")
