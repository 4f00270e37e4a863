"""Push on a real node: subscribe over HTTP, deliver, be told; through a kill and another number of shards."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.push_service import PushService
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

USERS = ["ada", "bo", "cy"]
ENV = {"POBOX_PUSH_ALLOW_PRIVATE": "true", "POBOX_PUSH_REST_S": "0.1", "POBOX_PUSH_SUBJECT": "mailto:ops@example.org"}


def test_devices_are_told_before_and_after_everything_was_killed_and_moved(tmp_path: Path) -> None:
    with PushService() as service, Node(tmp_path / "data", env=ENV) as node:

        def deliver(title: str) -> None:
            body = {"title": title, "content": "", "users": USERS}
            assert httpx.post(f"{node.url}/api/v3/messages", json=body, timeout=30).status_code == 202

        def told(title: str) -> bool:
            return all(title in [said["title"] for said in service.said(user)] for user in USERS)

        service.key = httpx.get(f"{node.url}/api/v3/push/key", timeout=30).json()["publicKey"]
        for user in USERS:
            path = f"{node.url}/api/v3/users/{user}/devices/Chrome Linux/push"
            assert httpx.put(path, json=service.subscribe(user), timeout=30).status_code == 201
        private = service.subscribe("x") | {"endpoint": "ftp://10.0.0.1/"}
        assert httpx.put(path, json=private, timeout=30).status_code == 422
        deliver("first")
        eventually(lambda: told("first"), "the first push")
        node.kill_all()
        node.start(shards=3)
        assert httpx.get(f"{node.url}/api/v3/push/key", timeout=30).json()["publicKey"] == service.key
        deliver("second")
        eventually(lambda: told("second"), "the push after the kill")
        devices = httpx.get(f"{node.url}/api/v3/users/ada/push", timeout=30).json()["devices"]
        assert [(one["device"], one["host"]) for one in devices] == [("Chrome Linux", "127.0.0.1")]
        assert httpx.delete(f"{node.url}/api/v3/users/ada/devices/Chrome Linux/push", timeout=30).status_code == 204
        # A shard that is busy for a second is left out.
        eventually(
            lambda: httpx.get(f"{node.url}/metrics", timeout=30).text.count("pobox_push_subscriptions{") == 3,
            "the subscriptions of each shard",
        )
        node.stop()
        assert service.faults == []
    assert (tmp_path / "data" / "vapid.pem").stat().st_mode & 0o777 == 0o600
