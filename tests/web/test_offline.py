"""Without a network, with a bad one, and with a disk that doesn't keep its word."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.client.line import Fault, Line
from tests.support import Node
from tests.web.browser import Person, ready_offline, row, soon, titles

pytestmark = pytest.mark.slow

# Of the largest file that the page keeps: one byte in each of its pages, behind the pool's own header.
_DAMAGE = """async (everywhere) => {
  const found = [];
  async function walk(folder) {
    for await (const item of folder.values()) {
      if (item.kind === "directory") await walk(item);
      else found.push([(await item.getFile()).size, item]);
    }
  }
  async function writable(item) {
    for (;;) {
      try {
        return await item.createWritable({ keepExistingData: true });
      } catch (error) {  // a page that is closed lets go of its files a moment later
        if (error.name !== "NoModificationAllowedError") throw error;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }
  await walk(await navigator.storage.getDirectory());
  for (const [size, item] of found) {
    const head = new TextDecoder().decode(await (await item.getFile()).slice(0, 64).arrayBuffer());
    if (!head.startsWith("/box-")) continue;
    const file = await writable(item);
    for (let at = 4096 + (everywhere ? 0 : 8192); at + 200 < size; at += 4096) {
      await file.write({ type: "write", position: at, data: new Uint8Array(200).fill(0x5a) });
      if (!everywhere) break;
    }
    await file.close();
    return true;
  }
  return false;
}"""

# How many bytes of a download that isn't complete the page has kept.
_PART = """async () => {
  try {
    let folder = await navigator.storage.getDirectory();
    folder = await folder.getDirectoryHandle("pobox");
    for await (const one of folder.values())
      return (await (await one.getFileHandle("part")).getFile()).size;
  } catch {}
  return 0;
}"""


def test_the_page_opens_and_reads_and_searches_without_a_network(person: Person) -> None:
    person.deliver("Kept here", "with **words**")
    page = person.open()
    expect(titles(page)).to_have_text(["Kept here"])
    ready_offline(page)
    page.context.set_offline(True)
    page.reload()
    expect(titles(page)).to_have_text(["Kept here"])
    expect(page.get_by_text("Reading and searching work")).to_be_visible()
    page.get_by_role("searchbox").fill("words")
    expect(titles(page)).to_have_text(["Kept here"])
    row(page, "Kept here").click()
    expect(page.locator(".letter-body strong")).to_have_text("words")


def test_what_is_done_offline_is_still_there_after_a_reload_and_arrives_later(person: Person) -> None:
    read, starred, archived = (person.deliver(title) for title in ("Read, this one", "Starred", "Archived"))
    page = person.open()
    expect(titles(page)).to_have_count(3)
    ready_offline(page)
    page.context.set_offline(True)
    row(page, "Read, this one").click()
    expect(page.locator(".amount")).to_have_text("2 unread")
    row(page, "Starred").hover()
    row(page, "Starred").get_by_role("button", name="Star").click()
    row(page, "Archived").click()
    page.keyboard.press("e")
    expect(titles(page)).to_have_count(2)
    page.reload()
    expect(titles(page)).to_have_count(2)
    expect(page.locator(".row-star.is-on")).to_have_count(1)
    assert person.statuses() == {}
    page.context.set_offline(False)
    soon(lambda: len(person.statuses()) == 3, "the statuses at the node")
    statuses = person.statuses()
    assert statuses[read]["readAt"]
    assert statuses[starred]["starredAt"]
    assert statuses[archived]["archivedAt"]
    expect(page.get_by_text("Reading and searching work")).to_have_count(0)


def test_only_what_changed_travels(person: Person) -> None:
    person.deliver_many(300, "some words to fill the pages with")
    page = person.open()
    expect(page.locator(".amount")).to_have_text("300 unread")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    person.deliver("One more")
    expect(titles(page).first).to_have_text("One more")
    soon(lambda: any("/delta" in url for url in asked) or page.wait_for_timeout(20), "word of the delta")
    assert not any("/download" in url for url in asked)


def test_a_download_that_breaks_off_goes_on_where_it_was(person: Person, web_node: Node) -> None:
    person.deliver_many(3_000)
    arrived = threading.Event()
    faults = iter([Fault(cut_at=1_000), Fault(cut_at=500_000, at=250_000, then=lambda: arrived.wait(60))])

    def plan(_method: str, target: str) -> Fault | None:
        return next(faults, None) if "/download" in target else None

    with Line(web_node.url, plan) as line:
        page = person.open(url=line.url)
        soon(lambda: page.evaluate(_PART) > 100_000, "a good part of it")  # what is cut off may be thrown away
        arrived.set()
        expect(page.locator(".amount")).to_have_text("3,000 unread")
        ranges = [headers.get("range") for _method, target, headers in line.asked if "/download" in target]
        page.context.close()
    assert len(ranges) == 3
    assert ranges[2] is not None
    assert int(re.findall(r"\d+", ranges[2])[0]) > 100_000


@pytest.mark.parametrize("everywhere", [True, False], ids=["all of it", "one page"])
def test_a_damaged_copy_heals(person: Person, web_node: Node, everywhere: bool) -> None:
    person.deliver_many(200, "some words to fill the pages with")
    page = person.open()
    expect(page.locator(".amount")).to_have_text("200 unread")
    row(page, "Letter 199").click()
    expect(page.locator(".amount")).to_have_text("199 unread")
    soon(person.statuses, "the status at the node")
    context = page.context
    page.close()
    vandal = context.new_page()
    vandal.goto(f"{web_node.url}/inbox/manifest.webmanifest")
    assert vandal.evaluate(_DAMAGE, everywhere)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = person.open(context)
    soon(lambda: _mended(asked) or page.wait_for_timeout(20), "a copy that is whole")
    page.get_by_role("searchbox").fill("Letter 123")
    expect(titles(page)).to_have_text(["Letter 123"])
    row(page, "Letter 123").click()
    expect(page.locator(".letter-body")).to_have_text("some words to fill the pages with 123")
    page.get_by_role("searchbox").fill("")
    expect(page.locator(".amount")).to_have_text("198 unread")


def _mended(asked: list[str]) -> bool:
    """Whether the page has fetched what is damaged, and said to the node what it has since."""
    fetched = next((at for at, url in enumerate(asked) if re.search("/(delta|download)", url)), len(asked))
    return any("/check?" in url and "localVersion=" in url for url in asked[fetched:])


def test_without_storage_the_box_is_held_in_memory_and_the_page_says_so(person: Person) -> None:
    def without(route: Route) -> None:
        answer = route.fetch()
        hidden = "Object.defineProperty(navigator.storage, 'getDirectory', { value: undefined });\n"
        route.fulfill(response=answer, body=answer.text() + hidden)

    person.deliver("Letter", "words")
    context = person.device(service_workers="block")
    context.route("**/box/worker.js", without)
    page = person.open(context)
    expect(titles(page)).to_have_text(["Letter"])
    expect(page.get_by_text("held in memory")).to_be_visible()
    person.deliver("Another")
    expect(titles(page)).to_have_text(["Another", "Letter"])
    page.get_by_role("searchbox").fill("words")
    expect(titles(page)).to_have_text(["Letter"])


def test_a_disk_without_room_is_told_and_the_box_is_read_from_memory(person: Person, web_node: Node) -> None:
    person.deliver_many(5_000)
    context = person.device(service_workers="block")
    blank = context.new_page()
    blank.goto(f"{web_node.url}/inbox/manifest.webmanifest")
    session = context.new_cdp_session(blank)
    session.send("Storage.overrideQuotaForOrigin", {"origin": web_node.url, "quotaSize": 1_500_000})
    page = person.open(context)
    expect(page.locator(".amount")).to_have_text("5,000 unread")
    expect(page.get_by_text("There is no room")).to_be_visible()
    session.send("Storage.overrideQuotaForOrigin", {"origin": web_node.url})
    person.deliver("One more")
    expect(titles(page).first).to_have_text("One more")
    expect(page.get_by_text("There is no room")).to_have_count(0)


def test_a_node_that_dies_is_missed_and_found_again(person: Person, tmp_path: Path, browser: object) -> None:
    with Node(tmp_path / "data") as node:
        person = Person(node, browser, "q")  # type: ignore[arg-type]
        person.deliver("Before")
        page = person.open()
        expect(titles(page)).to_have_text(["Before"])
        node.kill_all()
        page.evaluate("dispatchEvent(new Event('online'))")
        expect(page.get_by_text("Reading and searching work")).to_be_visible()
        node.start()
        person.deliver("After")
        expect(titles(page)).to_have_text(["After", "Before"])
        person.close()
