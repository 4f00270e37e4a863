"""The inbox of a node that asks who somebody is: the link brings a token, and the browser keeps it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from node import keys, tokens
from tests.push_service import PushService
from tests.support import Node
from tests.web.browser import Person, row, soon, titles
from tests.web.test_push import Told

pytestmark = pytest.mark.slow

ENV = {"POBOX_AUTH_MODE": "keys", "POBOX_PUSH_ALLOW_PRIVATE": "true"}
DENIED = "The node wants to know again who you are"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("guarded") / "data", env=ENV) as running:
        shown = {"authorization": f"Bearer {tokens.issue(running.data, 'anybody', 3600)}"}
        path = f"{running.url}/api/v3/users/anybody/messages"
        soon(lambda: httpx.get(path, headers=shown, timeout=30).status_code != 401, "tokens count")
        yield running


@pytest.fixture
def person(guarded: Node, browser: Browser) -> Iterator[Person]:
    shown = keys.create(guarded.data, "tests", ["deliver", "channels", "read"])
    person = Person(guarded, browser, "g", {"authorization": f"Bearer {shown}"})
    soon(lambda: person._http.get("/api/v3/channels").status_code == 200, "the key counts")
    yield person
    person.close()
    keys.revoke(guarded.data, "tests")
    complaints = [said for said in person.complaints if "net::ERR_" not in said and "status of 40" not in said]
    assert not complaints


def link(node: Node, user: str) -> str:
    """What comes behind the address of the page."""
    return f"#token={tokens.issue(node.data, user, 3600)}"


def test_a_link_with_a_token_opens_the_inbox_for_good(guarded: Node, person: Person) -> None:
    first = person.deliver("First")
    page = person.open(hash=link(guarded, person.name))
    expect(titles(page)).to_have_text(["First"])
    assert "token" not in page.url
    person.deliver("Second")
    expect(titles(page)).to_have_text(["Second", "First"])  # by the stream of events
    row(page, "First").click()
    soon(lambda: first in person.statuses(), "the node knows what was read")
    page.reload()
    expect(titles(page)).to_have_text(["Second", "First"])
    person.deliver("Third")
    other = person.open(page.context)
    expect(titles(other)).to_have_text(["Third", "Second", "First"])


def test_without_a_token_nothing_is_shown_until_one_is_brought(guarded: Node, person: Person) -> None:
    person.deliver("Private")
    page = person.open()
    expect(page.get_by_text(DENIED)).to_be_visible()
    assert titles(page).count() == 0
    page.goto(f"{guarded.url}/inbox/?user={person.name}{link(guarded, person.name)}")
    expect(titles(page)).to_have_text(["Private"])


def test_the_token_of_another_person_opens_nothing(guarded: Node, person: Person) -> None:
    person.deliver("Private")
    page = person.open(hash=link(guarded, "somebody-else"))
    expect(page.get_by_text(DENIED)).to_be_visible()
    assert titles(page).count() == 0


def test_a_device_is_told_by_the_right_of_its_token(guarded: Node, person: Person) -> None:
    person.deliver("First")
    with PushService() as service:
        device = Told(person, service, link(guarded, person.name))
        device.switch("On")
        soon(lambda: subscribed(person), "the node to know")
        person.deliver("Second")
        soon(lambda: service.said(person.name), "the push")
        device.switch("Off")
        soon(lambda: not subscribed(person), "the node to know no more")


def subscribed(person: Person) -> list[dict[str, str]]:
    """The devices that the node would push to."""
    found: list[dict[str, str]] = person._http.get(f"/api/v3/users/{person.name}/push").json()["devices"]
    return found
