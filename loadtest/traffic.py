"""Traffic like that of a team's channels: commit logs, sent to whoever is in the channel.

The same seed gives the same traffic, on any machine. The shape follows recorded traffic: few channels
carry most messages, and the busy ones have the most members; titles are a line, contents mostly
short and now and then long; some text isn't ASCII; now and then several messages share a moment.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

TITLE_MIN, TITLE_MAX = 20, 120
CONTENT_BYTES_MAX = 8_192
_CONTENT_MEDIAN = 80
_CONTENT_SIGMA = 1.4
_ZIPF = 1.1
_UNICODE_SHARE = 0.02
_EMPTY_SHARE = 0.01
_START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_GAP_S = 240.0

_TEXT = """
fix add remove update refactor test tests docs for the a in of to when with from channel reader writer parser
config option default error warning message field value type check import release version build setup cache
index table query cursor socket frame loop task queue worker timeout retry commit branch merge revert unused
broken slow faster safe unsafe empty missing duplicate order sort limit page header body response request
"""
_WORDS = _TEXT.split()
_UNICODE_WORDS = ("Müller", "naïve", "日本語", "тест", "résumé", "→", "🙂", "العربية", "e\u0301", "ß")
_CHANNEL_WORDS = ("compiler", "website", "release", "infra", "mobile", "search", "billing", "docs", "design", "ops")


class Message(msgspec.Struct, frozen=True):
    """One recorded message; ``created_at`` is ISO 8601 with an offset."""

    id: str
    channel_id: str
    title: str
    content: str
    sender: str
    created_at: str


Members = dict[str, list[str]]


class Traffic:
    """Members by channel, and any number of messages to them. All arguments are at least 1."""

    def __init__(self, *, users: int, channels: int, seed: int) -> None:
        if users < 1 or channels < 1:
            raise ValueError("traffic needs at least one user and one channel")
        self._random = random.Random(seed)
        self._at = _START
        names = sorted({f"u{self._random.getrandbits(40):010x}" for _ in range(users)})
        while len(names) < users:  # two of 2**40 were the same
            names = sorted({*names, f"u{self._random.getrandbits(40):010x}"})
        self._weights = [1 / (rank + 1) ** _ZIPF for rank in range(channels)]
        self.members: Members = {
            self._channel(rank): sorted(self._random.sample(names, max(1, round(users * weight))))
            for rank, weight in enumerate(self._weights)
        }
        self._channels = list(self.members)

    def messages(self, count: int) -> Iterator[Message]:
        """The next ``count`` messages, in the order of their time."""
        for _ in range(count):
            yield self._message()

    def _channel(self, rank: int) -> str:
        word = _CHANNEL_WORDS[rank % len(_CHANNEL_WORDS)]
        return word if rank < len(_CHANNEL_WORDS) else f"{word}-{rank // len(_CHANNEL_WORDS)}"

    def _message(self) -> Message:
        rng = self._random
        [channel] = rng.choices(self._channels, self._weights)
        if rng.random() > 0.05:
            self._at += timedelta(seconds=round(rng.expovariate(1 / _GAP_S)))
        local = self._at + timedelta(hours=(offset := rng.choice((-7, 0, 1, 2))))
        unicode = rng.random() < _UNICODE_SHARE
        return Message(
            id=f"{rng.getrandbits(160):040x}",
            channel_id=channel,
            title=self._text(rng.randint(TITLE_MIN, TITLE_MAX), " ", unicode),
            content=self._content(unicode),
            sender=rng.choice(self.members[channel]),
            created_at=f"{local:%Y-%m-%dT%H:%M:%S}{offset:+03d}:00",
        )

    def _content(self, unicode: bool) -> str:
        if self._random.random() < _EMPTY_SHARE:
            return ""
        length = int(self._random.lognormvariate(0, _CONTENT_SIGMA) * _CONTENT_MEDIAN)
        text = self._text(max(1, min(length, CONTENT_BYTES_MAX)), "\n", unicode)
        return text.encode()[:CONTENT_BYTES_MAX].decode(errors="ignore")

    def _text(self, length: int, separator: str, unicode: bool) -> str:
        """``length`` characters of words, with ``separator`` between some of them."""
        words, size = [], 0
        while size < length:
            source = _UNICODE_WORDS if unicode and self._random.random() < 0.3 else _WORDS
            word = source[self._random.randrange(len(source))]
            words.append(word + (separator if self._random.random() < 0.1 else " "))
            size += len(words[-1])
        text = "".join(words)[:length]
        return text if not text.endswith((" ", "\n")) else text[:-1] + "."


def write(directory: Path, traffic: Traffic, messages: int) -> None:
    """``traffic.ndjson.gz`` and ``members.json`` in ``directory``, as recorded traffic comes."""
    directory.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as lines:
        for message in traffic.messages(messages):
            lines.write(msgspec.json.encode(message) + b"\n")
    (directory / "traffic.ndjson.gz").write_bytes(packed.getvalue())
    (directory / "members.json").write_text(json.dumps(traffic.members, indent=0) + "\n")


@click.command()
@click.option("--messages", type=click.IntRange(0), default=10_000, show_default=True)
@click.option("--users", type=click.IntRange(1), default=1_000, show_default=True)
@click.option("--channels", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Made if need be.")
def main(messages: int, users: int, channels: int, seed: int, out: Path) -> None:
    """Write traffic.ndjson.gz and members.json into a directory."""
    write(out, Traffic(users=users, channels=channels, seed=seed), messages)
    click.echo(f"{messages} messages to {channels} channels of {users} users in {out}")


if __name__ == "__main__":
    main()
