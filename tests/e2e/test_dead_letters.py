"""Dead letters over HTTP and from a shell, on a real node with boxes in trouble."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from node import paths
from node.cli import main
from tests.e2e.people import owned_by
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

ANN, BOB, CYD = owned_by(0, 2)[0], owned_by(1, 2)[0], owned_by(1, 2, 2)[1]
LIST = "/api/v3/dead-letters"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that gives up soon."""
    settings = {"POBOX_RETRY_BASE_S": "0.01", "POBOX_RETRY_CAP_S": "0.02", "POBOX_RETRY_TRIES_MAX": "4"}
    with Node(tmp_path_factory.mktemp("dead") / "data", env=settings) as running:
        yield running


@pytest.fixture
def http(served: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        yield client


@contextlib.contextmanager
def in_the_way(data: Path, *users: str) -> Iterator[None]:
    """A directory lies where each box should be."""
    boxes = [paths.user_dir(data, user) / "messages.db" for user in users]
    for box in boxes:
        box.mkdir(parents=True)
    yield
    for box in boxes:
        box.rmdir()


def pobox(node: Node, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["dead-letters", *map(str, arguments), "--server", node.url])


def test_what_could_not_be_stored_is_listed_requeued_once_and_deleted(served: Node, http: httpx.Client) -> None:
    with in_the_way(served.data, ANN, BOB):
        for number in range(3):
            body = {"id": f"m{number}", "users": [ANN, BOB, CYD], "title": f"t{number}", "content": "c"}
            assert http.post("/api/v3/messages", json=body).status_code == 202
            eventually(lambda n=number: len(http.get(LIST).json()["deadLetters"]) == 2 * n + 2, "two deaths")
        assert len(http.get(f"/api/v3/users/{CYD}/messages").json()["messages"]) == 3
        receipt = http.get("/api/v3/messages/m0/receipt").json()
        assert (receipt["targets"], receipt["stored"], receipt["pending"], receipt["failed"]) == (3, 1, 0, 2)
        whole = http.get(LIST).json()
        assert whole["cursor"] is None
        assert {one["messageId"] for one in whole["deadLetters"][:2]} == {"m2"}
        first = whole["deadLetters"][0]
        assert (first["title"], first["reason"], first["tries"], first["channelId"]) == ("t2", "io_error", 4, "direct")
        assert first["acceptedAt"] < first["firstFailedAt"] <= first["diedAt"]
        paged, cursor = [], ""
        while cursor is not None:
            page = http.get(LIST, params={"limit": 1, "cursor": cursor}).json()
            paged, cursor = paged + page["deadLetters"], page["cursor"]
        assert paged == whole["deadLetters"]
        of_ann = http.get(LIST, params={"userId": ANN}).json()["deadLetters"]
        assert [one["id"] for one in of_ann] == [f"{ANN}~m2", f"{ANN}~m1", f"{ANN}~m0"]
        assert http.get(LIST, params={"reason": "busy"}).json()["deadLetters"] == []
        eventually(
            lambda: "dead_letters" in {alert["name"] for alert in http.get("/api/v3/alerts").json()["alerts"]},
            "the alert",
        )
    for _ in range(2):
        again = http.post(f"{LIST}/{ANN}~m0/requeue")
        assert (again.status_code, again.json()["targets"]) == (202, 1)
    assert [one["id"] for one in http.get(f"/api/v3/users/{ANN}/messages").json()["messages"]] == ["m0"]
    receipt = http.get("/api/v3/messages/m0/receipt").json()
    assert (receipt["targets"], receipt["stored"], receipt["pending"], receipt["failed"]) == (3, 2, 0, 1)
    assert http.delete(f"{LIST}/{ANN}~m1").status_code == 204
    for gone in (http.delete(f"{LIST}/{ANN}~m1"), http.post(f"{LIST}/{ANN}~m1/requeue")):
        assert (gone.status_code, gone.json()["field"]) == (404, "deadLetterId")

    listed = pobox(served, "list", "--user", BOB)
    assert [line.split("\t")[:3] for line in listed.output.splitlines()] == [
        [f"{BOB}~m{number}", "io_error", "4"] for number in (2, 1, 0)
    ]
    assert pobox(served, "requeue", f"{BOB}~m0", f"{BOB}~m1").output == "2 requeued\n"
    assert pobox(served, "delete", "--user", BOB, "--reason", "io_error").output == "1 deleted\n"
    missing = pobox(served, "delete", f"{BOB}~m2")
    assert (missing.exit_code, f"{BOB}~m2" in missing.output) == (1, True)
    assert pobox(served, "requeue").exit_code == 2
    assert pobox(served, "requeue", "--all").output == "1 requeued\n"
    assert pobox(served, "list").output == ""
    ids = {
        user: sorted(message["id"] for message in http.get(f"/api/v3/users/{user}/messages").json()["messages"])
        for user in (ANN, BOB, CYD)
    }
    assert ids == {ANN: ["m0", "m2"], BOB: ["m0", "m1"], CYD: ["m0", "m1", "m2"]}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"{LIST}?reason=sadness", "reason"),
        (f"{LIST}?userId=-", "userId"),
        (f"{LIST}?limit=0", "limit"),
        (f"{LIST}?cursor=x", "cursor"),
        (f"{LIST}?cursor=1~a", "cursor"),
        (f"{LIST}?cursor={'9' * 19}~a~b", "cursor"),
        (f"{LIST}?other=1", "other"),
    ],
)
def test_what_is_wrong_in_a_question_is_named(http: httpx.Client, path: str, field: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_an_id_that_is_none_is_refused_before_a_shard_is_asked(http: httpx.Client) -> None:
    for name in ("x", "~m", "a~", "a~b~c"):
        answer = http.delete(f"{LIST}/{name}")
        assert answer.status_code == 422
        assert answer.json()["detail"] == "deadLetterId must be an id from the list of dead letters"


def test_a_box_that_cannot_be_opened_is_a_503_for_who_reads(served: Node, http: httpx.Client) -> None:
    user = owned_by(0, 2, 3)[2]
    with in_the_way(served.data, user):
        answer = http.get(f"/api/v3/users/{user}/messages")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
