"""A person is deleted on a real node, over HTTP and by the command."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from tests.support import Node


@pytest.mark.slow
def test_who_is_deleted_is_unknown_everywhere_and_after_a_kill_too(node: Node) -> None:
    body = {"users": ["ada", "bob"], "title": "t", "content": "c"}
    with httpx.Client(base_url=node.url, trust_env=False) as http:
        assert http.post("/api/v3/messages", json={**body, "id": "m1"}).status_code == 202
        assert http.get("/api/v3/sync/ada/check").status_code == 200
        command = [sys.executable, "-m", "node", "delete", "ada", "--yes", "--server", node.url]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ada is deleted\n"
        unknown = [
            "/api/v3/users/{}/messages", "/api/v3/users/{}/messages/m1", "/api/v3/users/{}/channels",
            "/api/v3/users/{}/counts", "/api/v3/users/{}/devices", "/api/v3/users/{}/events",
            "/api/v3/sync/{}/check", "/api/v3/sync/{}/download", "/api/v3/sync/{}/read-status",
        ]  # fmt: skip
        for path in unknown:
            gone, stranger = http.get(path.format("ada")), http.get(path.format("stranger"))
            assert gone.status_code == stranger.status_code == 404
            assert gone.content == stranger.content
        assert http.delete("/api/v3/users/ada").status_code == 404
        assert [user["id"] for user in http.get("/api/v3/users").json()["users"]] == ["bob"]
    node.kill_all()
    node.start()
    with httpx.Client(base_url=node.url, trust_env=False) as http:
        assert http.get("/api/v3/users/ada/messages").status_code == 404
        assert http.post("/api/v3/messages", json={**body, "id": "m2"}).status_code == 202
        assert [m["id"] for m in http.get("/api/v3/users/ada/messages").json()["messages"]] == ["m2"]
        assert [m["id"] for m in http.get("/api/v3/users/bob/messages").json()["messages"]] == ["m2", "m1"]
