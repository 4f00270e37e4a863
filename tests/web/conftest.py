"""A node for all tests of the page, a browser for each module of them, a person for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support import Node
from tests.web.browser import CHROMIUM, Person


@pytest.fixture(scope="session")
def web_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    # push services are on loopback here
    env = {"POBOX_PUSH_ALLOW_PRIVATE": "true"}
    with Node(tmp_path_factory.mktemp("web") / "data", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ended with its module: while it is there, nothing else in this process can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("Debian's package chromium isn't installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def person(web_node: Node, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody who got no message yet. Their browsers must not have complained in the end, but of a missing network."""
    person = Person(web_node, browser, "p")
    yield person
    person.close()
    complaints = [said for said in person.complaints if "net::ERR_" not in said and "404" not in said]
    assert not complaints
