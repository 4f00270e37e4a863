"""``python -m tests.layouts --tree DIR NAME``: a data directory as the program in ``DIR`` leaves it, for the tests of
all later ones.

A node of that program gets some traffic and answers questions; what it answers is kept beside the directory. Then it
gets more, for somebody whose box is held, and is killed; so logs and journal hold what no box holds yet. It is run
once for each layout, with the program that makes it: ``tests/layouts/NAME.tar.xz`` is what an upgrade meets.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tarfile
import tempfile
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shard import sqlite
from tests.support import Node, eventually

PLACE = Path(__file__).parent
USERS = ("ann", "bob", "cyd", "dan")
HELD = "late"
"""somebody whose box another program has when the node is killed"""
FACTS = "facts.json"
DATA = "data"
_LEFT_OUT = ("run", "snapshots", "node.lock")
_X962, _UNCOMPRESSED = Encoding.X962, PublicFormat.UncompressedPoint
_CREATED = "2026-11-02T08:00:00Z"


class Facts(msgspec.Struct):
    """What the node answered before it was killed, and what it had taken since."""

    answers: dict[str, Any]
    """by path"""
    late: list[str]
    """ids of messages to ``HELD`` that are in no box"""
    deleted: list[str]
    """ids that ``ann`` has deleted"""


def _traffic(client: httpx.Client) -> None:
    for channel, members in (("news", USERS), ("team", USERS[:2])):
        _well(client.put(f"/api/v3/channels/{channel}", json={"name": channel.title(), "createdBy": "ann"}))
        _well(client.post(f"/api/v3/channels/{channel}/members", json={"add": list(members)}))
    for number in range(12):
        message = {
            "id": f"news-{number}",
            "channelId": "news",
            "title": f"News {number}",
            "content": "Grüße, 世界 🙂\n" * number,
            "priority": 1 + number % 10,
            "createdAt": _CREATED,
        }
        _well(client.post("/api/v3/messages", json=message))
    for number, users in enumerate((["ann"], ["ann", "bob"], list(USERS), [HELD])):
        message = {
            "id": f"direct-{number}",
            "users": users,
            "title": f"To {len(users)}",
            "content": "just so",
            "sender": "the shop",
            "metadata": {"order": number, "deep": {"list": [1, 2.5, None, "x"]}},
        }
        _well(client.post("/api/v3/messages", json=message))
    _well(client.delete("/api/v3/channels/team/members/bob"))
    _well(client.get("/api/v3/users/ann/messages"))
    _well(client.delete("/api/v3/users/ann/messages/news-3"))
    _of_later_layouts(client)


def _of_later_layouts(client: httpx.Client) -> None:
    """What an earlier program answers 404."""
    client.put("/api/v3/users/dan/channels/news/mute")
    at = "2026-11-03T09:00:00Z"
    changes = [{"messageId": f"news-{number}", "status": "read", "at": at, "device": "phone"} for number in (1, 2)]
    positions = [{"channelId": "news", "messageId": "news-2", "at": at}]
    client.post("/api/v3/sync/ann/read-status", json={"changes": changes, "positions": positions})
    client.get("/api/v3/sync/ann/check")
    point = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(_X962, _UNCOMPRESSED)
    keys = {"p256dh": _base64(point), "auth": _base64(os.urandom(16))}
    subscription = {"endpoint": "https://push.example/ann", "keys": keys}
    client.put("/api/v3/users/ann/devices/phone/push", json=subscription)


def _base64(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def _answers(client: httpx.Client) -> dict[str, Any]:
    questions = [f"/api/v3/users/{user}/{what}" for user in USERS for what in ("messages?limit=100", "channels")]
    questions += ["/api/v3/channels", "/api/v3/channels/news", "/api/v3/channels/news/members"]
    questions += [f"/api/v3/messages/{message}/receipt" for message in ("news-0", "direct-2")]
    questions += ["/api/v3/users/ann/counts", "/api/v3/sync/ann/read-status", "/api/v3/users/ann/push"]
    answers = {}
    for question in questions:
        answer = client.get(question)
        if answer.status_code == 200:
            answers[question] = answer.json()
    return answers


def _well(answer: httpx.Response) -> None:
    if answer.is_error:
        raise click.ClickException(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")


def make(tree: Path, place: Path) -> Facts:
    """Run the program in ``tree`` on ``place / DATA``, and leave what a crash of the machine leaves."""
    command = [sys.executable, "-m", "node"]
    env = {"PYTHONPATH": str(tree), "POBOX_SHARD_BARRIER_S": "60"}
    with Node(place / DATA, env=env, command=command) as node, httpx.Client(base_url=node.url, timeout=30) as client:
        _traffic(client)
        answers = _answers(client)
        (box,) = (node.data / "user_storage").glob(f"*/{HELD}/messages.db")
        node.stop()  # it lets go of the box
        held = sqlite.lock(box)
        node.start()
        late = [f"late-{number}" for number in range(3)]
        for message in ("dead", *late):
            body = {"id": message, "users": [HELD, "bob"], "title": message, "content": "when you are back"}
            _well(client.post("/api/v3/messages", json=body | ({"timeoutSeconds": 1} if message == "dead" else {})))
        eventually(lambda: client.get(f"/api/v3/messages/{late[-1]}/receipt").json()["stored"] == 1, "bob has them")
        eventually(lambda: client.get("/api/v3/messages/dead/receipt").json()["failed"] == 1, "one is given up")
        if "deadLetters" in client.get("/api/v3/dead-letters").text:
            eventually(lambda: client.get("/api/v3/dead-letters").json()["deadLetters"], "and noted")
        for path in ("/api/v3/users/bob/messages?limit=100", "/api/v3/messages/dead/receipt", "/api/v3/dead-letters"):
            if (answer := client.get(path)).status_code == 200:
                answers[path] = answer.json()
        node.kill_all()
        os.close(held)
    return Facts(answers=answers, late=late, deleted=["news-3"])


@click.command()
@click.option("--tree", type=click.Path(exists=True, path_type=Path), required=True, help="The program's source.")
@click.argument("name")
def main(tree: Path, name: str) -> None:
    """Make tests/layouts/NAME.tar.xz."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = Path(tempfile.mkdtemp(prefix="pobox-layout-"))
    try:
        facts = make(tree.resolve(), place)
        for left_out in _LEFT_OUT:
            found = place / DATA / left_out
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)
        (place / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
        with tarfile.open(PLACE / f"{name}.tar.xz", "w:xz") as archive:
            for part in (DATA, FACTS):
                archive.add(place / part, part, filter=_anonymous)
    finally:
        shutil.rmtree(place)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose machine it was made on is nobody's business."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
