"""``python -m loadtest.downloaders URL``: many devices download the same path, each at its own pace.

A device reads at most so many bytes a second, as one on a line of its own would. It prints what they got
when it is told to stop (SIGTERM) or the time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from urllib.parse import urlsplit

import click
import msgspec
import uvloop

_PORTION = 65_536


class Downloaded(msgspec.Struct, kw_only=True):
    """``failed`` connections were cut, or answered with anything but a 200."""

    bytes: int = 0
    files: int = 0
    failed: int = 0
    seconds: float = 0.0


async def _device(url: str, bytes_per_s: float, got: Downloaded) -> None:
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    while True:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_PORTION)
        try:
            writer.write(request)
            if not (await reader.readline()).startswith(b"HTTP/1.1 200 "):
                got.failed += 1
                await asyncio.sleep(0.1)
                continue
            due = loop.time()
            while portion := await reader.read(_PORTION):
                got.bytes += len(portion)
                due = max(due, loop.time() - 1.0) + len(portion) / bytes_per_s
                await asyncio.sleep(max(0.0, due - loop.time()))
            got.files += 1
        finally:
            writer.close()


async def download(url: str, count: int, bytes_per_s: float, seconds: float) -> Downloaded:
    """``count`` devices at once, for ``seconds``."""
    got, began = Downloaded(), time.monotonic()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    devices = [asyncio.create_task(_device(url, bytes_per_s, got)) for _ in range(count)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ended.wait()
    got.seconds = time.monotonic() - began
    for device in devices:
        device.cancel()
    outcomes = await asyncio.gather(*devices, return_exceptions=True)
    got.failed += sum(isinstance(outcome, Exception) for outcome in outcomes)
    return got


@click.command()
@click.argument("url")
@click.option("--count", type=click.IntRange(1), default=200, show_default=True)
@click.option("--bytes-per-second", type=click.FloatRange(1), default=1e6, show_default=True, help="Of each.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10, show_default=True)
def main(url: str, count: int, bytes_per_second: float, seconds: float) -> None:
    """Download URL with many devices at once and print what they got."""
    got = uvloop.run(download(url, count, bytes_per_second, seconds))
    sys.stdout.buffer.write(msgspec.json.encode(got) + b"\n")


if __name__ == "__main__":
    main()
