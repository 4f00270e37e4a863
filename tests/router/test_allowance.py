"""A person who is flooded: what is too much is refused, whole, before anything is written; nobody else notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.router.conftest import running
from tests.router.test_bad_input import refused


@pytest.mark.slow
def test_what_is_too_much_for_one_user_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path, 2, settings={"user_rate": 0.001, "user_burst": 3}) as router:

        def send(*users: str) -> int:
            body = {"users": list(users), "title": "t", "content": "c"}
            return router.http.post("/api/v3/messages", json=body).status_code

        assert [send("ann") for _ in range(4)] == [202, 202, 202, 429]
        before = router.deliveries()
        answer = router.http.post("/api/v3/messages", json={"users": ["bob", "ann"], "title": "t", "content": "c"})
        problem = refused(answer, 429, "users")
        assert problem["code"] == "too_many"
        assert int(answer.headers["retry-after"]) > 100
        assert answer.headers["ratelimit-policy"].startswith('"user";q=3;w=')
        assert answer.headers["ratelimit"].startswith('"user";r=0;t=')
        assert router.deliveries() == before
        assert [send("bob") for _ in range(4)] == [202, 202, 202, 429], "the refusal took nothing from bob"
        line = b'{"users":["cyd"],"title":"t","content":"c"}\n{"users":["ann"],"title":"t","content":"c"}\n'
        batch = router.http.post(
            "/api/v3/messages/batch", content=line, headers={"content-type": "application/x-ndjson"}
        ).json()
        assert batch["accepted"] == 1
        assert [(r["line"], r["status"]) for r in batch["rejected"]] == [(2, 429)]
        assert batch["rejected"][0]["retryAfter"] > 100
