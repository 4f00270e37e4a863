"""How quick the inbox is with a box of 100,000 messages: ``python -m loadtest.inbox``.

A node, Debian's Chromium and the page itself. First it syncs and indexes the box; what is measured is what somebody
meets who comes back: the first rows after a warm start, search as one types, and the frames of scrolling.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import httpx
import msgspec
from playwright.sync_api import BrowserContext, Page, sync_playwright

from loadtest.machine import facts
from loadtest.subjects import pobox

_LINES = 2_000
_PATIENCE_MS = 300_000
_WORDS = ("bread", "oven", "disk", "release", "north", "garden", "frost", "soup", "report", "region", "answer", "lemon")
_TYPED = ("frost", "letter 4242", "lemon disk", "zzz")
_FRAME_MS = 1000 / 60
_SCROLL = """async () => {
  const list = document.querySelector("#messages");
  const frames = [];
  let last = performance.now();
  await new Promise((done) => {
    let left = 180;
    const step = (now) => {
      frames.push(now - last);
      last = now;
      list.scrollBy(0, 240);
      if (--left > 0) requestAnimationFrame(step);
      else done();
    };
    requestAnimationFrame(step);
  });
  return frames.slice(2);
}"""
_SEARCH = """async (text) => {
  const [box, actions] = await Promise.all([import("/inbox/box.js"), import("/inbox/actions.js")]);
  const began = performance.now();
  await box.ask("page", { ...actions.view(), text }, 0, 50);
  return performance.now() - began;
}"""


@click.command()
@click.option("--messages", type=click.IntRange(100), default=100_000, show_default=True)
@click.option("--starts", type=click.IntRange(1), default=5, show_default=True, help="warm starts that are measured")
def main(messages: int, starts: int) -> None:
    """Measure, and print what a table of docs/inbox.md holds."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("Debian's package chromium is needed")
    with (
        tempfile.TemporaryDirectory(prefix="pobox-inbox-") as directory,
        pobox(Path(directory), shards=2, routers=1) as node,
        sync_playwright() as playwright,
    ):
        _fill(node.url, messages)
        context = playwright.chromium.launch_persistent_context(
            f"{directory}/browser", executable_path=chromium, args=["--no-sandbox"], locale="en-GB"
        )
        context.set_default_timeout(_PATIENCE_MS)
        began = time.monotonic()
        page = _opened(context, node.url)
        first_s = time.monotonic() - began
        page.wait_for_function("() => !/searchable/.test(document.querySelector('.side-state')?.textContent ?? '')")
        click.echo(f"Machine: {facts(Path(directory))}.")
        click.echo(f"box of {messages:,} messages; first sync to the first rows {first_s:.1f} s")
        warm = []
        for _ in range(starts):
            page.close()
            began = time.monotonic()
            page = _opened(context, node.url)
            warm.append(time.monotonic() - began)
        click.echo(f"warm start to the first rows: {_spread(warm, 's', 2)}")
        searches = [_searched(page, text) for text in _TYPED for _ in range(5)]
        click.echo(f"a search, question to answer: {_spread(searches, 'ms', 1)}")
        page.locator("#search").fill("")
        frames: list[float] = page.evaluate(_SCROLL)
        dropped = sum(max(0, round(frame / _FRAME_MS) - 1) for frame in frames)
        click.echo(f"scrolling {len(frames)} frames: {dropped} dropped, the longest {max(frames):.0f} ms")
        context.close()


def _fill(url: str, messages: int) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for begin in range(0, messages, _LINES):
            lines = [_line(number) for number in range(begin, min(begin + _LINES, messages))]
            answer = http.post(
                "/api/v3/messages/batch", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
            )
            if answer.status_code != 202:
                raise click.ClickException(answer.text)


def _line(number: int) -> bytes:
    words = " ".join(_WORDS[(number * step) % len(_WORDS)] for step in range(1, 13))
    message = {"id": f"m{number}", "users": ["reader"], "title": f"Letter {number}", "content": f"{words} {number}."}
    return msgspec.json.encode(message | {"channelId": f"channel{number % 12}", "sender": f"Sender {number % 40}"})


def _opened(context: BrowserContext, url: str) -> Page:
    """The page, with its first rows."""
    page = context.new_page()
    page.goto(f"{url}/inbox/?user=reader", wait_until="commit")
    page.locator(".row-title").first.wait_for()
    return page


def _searched(page: Page, text: str) -> float:
    """From the last key to the answer of the box, in ms."""
    asked: float = page.evaluate(_SEARCH, text)
    return asked


def _spread(values: Sequence[float], unit: str, digits: int) -> str:
    ordered = sorted(values)
    middle, worst = statistics.median(ordered), ordered[-1]
    return f"median {middle:.{digits}f} {unit}, worst {worst:.{digits}f} {unit} of {len(ordered)}"


if __name__ == "__main__":
    main()
