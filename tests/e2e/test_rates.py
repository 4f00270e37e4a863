"""Limits of a node as it is run, and the command line that comes again when it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from node import keys
from tests.support import Node

pytestmark = pytest.mark.slow


def test_a_file_is_delivered_whole_by_a_key_and_to_users_that_have_rates(tmp_path: Path) -> None:
    env = {"POBOX_AUTH_MODE": "keys", "POBOX_ROUTER_USER_RATE": "20", "POBOX_ROUTER_USER_BURST": "4"}
    lines = [{"users": [f"u{n % 3}"], "title": str(n), "content": "c"} for n in range(45)]
    file = tmp_path / "file.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shop = keys.create(data, "shop", ["deliver"], rate=40, burst=8)
    reader = keys.create(data, "reader", ["read"])
    with Node(data, env=env) as node:
        command = [sys.executable, "-m", "node", "deliver", "--ndjson", str(file), "--server", node.url]
        said = subprocess.run(
            command, check=False, capture_output=True, text=True, env={**os.environ, "POBOX_KEY": shop}
        )
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith("45 messages: 45 accepted, 0 rejected")
        shown = {"authorization": f"Bearer {reader}"}
        with httpx.Client(base_url=node.url, timeout=30, trust_env=False, headers=shown) as http:
            for user in ("u0", "u1", "u2"):
                answer = http.get(f"/api/v3/users/{user}/messages")
                titles = sorted(int(message["title"]) for message in answer.json()["messages"])
                assert titles == list(range(int(user[1]), 45, 3))
