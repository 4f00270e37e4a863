"""Every route with every kind of caller. What each may do is written down here once more, by hand: a route that isn't
in the list, and one that lets in whom the list doesn't, fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from node import keys, tokens
from node.errors import Problem
from node.keys import SCOPES, Scope
from router.app import falcon_template
from router.record import Record
from router.routes import ROUTES
from tests import audited
from tests.router.conftest import Running, running, until
from tests.router.credentials import AUTH, bearer, key, own_claims, signed, token, unsigned
from tests.router.test_rules import routed

PERSON = "person"
"""the one whom the path names"""
ANYBODY: frozenset[str] = frozenset()
MAY = {
    "GET /healthz": ANYBODY,
    "GET /readyz": ANYBODY,
    "GET /openapi.json": ANYBODY,
    "GET /metrics": {"metrics", "admin"},
    "GET /api/v3/alerts": {"metrics", "admin"},
    "POST /api/v3/messages": {"deliver"},
    "POST /api/v3/messages/batch": {"deliver"},
    "GET /api/v3/messages/{id}/receipt": {"deliver"},
    "GET /api/v3/users": {"admin"},
    "DELETE /api/v3/users/{user_id}": {"admin"},
    "GET /api/v3/users/{user_id}": {"read", PERSON},
    "PUT /api/v3/users/{user_id}/quota": {"admin"},
    "DELETE /api/v3/users/{user_id}/quota": {"admin"},
    "GET /api/v3/users/{user_id}/export": {"read", PERSON},
    "GET /api/v3/users/{user_id}/messages": {"read", PERSON},
    "GET /api/v3/users/{user_id}/messages/{id}": {"read", PERSON},
    "DELETE /api/v3/users/{user_id}/messages/{id}": {"admin", PERSON},
    "GET /api/v3/users/{user_id}/channels": {"read", PERSON},
    "GET /api/v3/users/{user_id}/open-channels": {"channels", "admin", PERSON},
    "PUT /api/v3/users/{user_id}/channels/{channel_id}": {"channels", "admin", PERSON},
    "DELETE /api/v3/users/{user_id}/channels/{channel_id}": {"channels", "admin", PERSON},
    "PUT /api/v3/users/{user_id}/channels/{channel_id}/mute": {"channels", "admin", PERSON},
    "DELETE /api/v3/users/{user_id}/channels/{channel_id}/mute": {"channels", "admin", PERSON},
    "GET /api/v3/users/{user_id}/devices": {"read", PERSON},
    "DELETE /api/v3/users/{user_id}/devices": {"admin", PERSON},
    "GET /api/v3/users/{user_id}/messages/{id}/devices": {"read", PERSON},
    "GET /api/v3/users/{user_id}/counts": {"read", PERSON},
    "GET /api/v3/users/{user_id}/events": {"read", PERSON},
    "GET /api/v3/push/key": ANYBODY,
    "GET /api/v3/users/{user_id}/push": {"read", PERSON},
    "PUT /api/v3/users/{user_id}/devices/{device}/push": {"admin", PERSON},
    "DELETE /api/v3/users/{user_id}/devices/{device}/push": {"admin", PERSON},
    "GET /api/v3/sync/{user_id}/check": {"read", PERSON},
    "GET /api/v3/sync/{user_id}/download": {"read", PERSON},
    "POST /api/v3/sync/{user_id}/delta": {"read", PERSON},
    "GET /api/v3/sync/{user_id}/read-status": {"read", PERSON},
    "POST /api/v3/sync/{user_id}/read-status": {"admin", PERSON},
    "GET /api/v3/dead-letters": {"admin"},
    "POST /api/v3/dead-letters/{dead_letter_id}/requeue": {"admin"},
    "DELETE /api/v3/dead-letters/{dead_letter_id}": {"admin"},
    "GET /api/v3/channels": {"channels"},
    "PUT /api/v3/channels/{channel_id}": {"channels"},
    "GET /api/v3/channels/{channel_id}": {"channels"},
    "DELETE /api/v3/channels/{channel_id}": {"channels"},
    "GET /api/v3/channels/{channel_id}/members": {"channels"},
    "POST /api/v3/channels/{channel_id}/members": {"channels"},
    "PUT /api/v3/channels/{channel_id}/members/{user_id}": {"channels"},
    "DELETE /api/v3/channels/{channel_id}/members/{user_id}": {"channels"},
}

NEVER, DELIVERY, READ, NOTE, DEED = Record.NEVER, Record.DELIVERY, Record.READ, Record.NOTE, Record.DEED
WRITTEN_DOWN = {
    "GET /healthz": NEVER,
    "GET /readyz": NEVER,
    "GET /openapi.json": NEVER,
    "GET /metrics": NEVER,
    "GET /api/v3/alerts": NEVER,
    "POST /api/v3/messages": DELIVERY,
    "POST /api/v3/messages/batch": DELIVERY,
    "GET /api/v3/messages/{id}/receipt": DELIVERY,
    "GET /api/v3/users": NOTE,
    "DELETE /api/v3/users/{user_id}": DEED,
    "GET /api/v3/users/{user_id}/export": DEED,
    "GET /api/v3/users/{user_id}/messages": READ,
    "GET /api/v3/users/{user_id}/messages/{id}": READ,
    "DELETE /api/v3/users/{user_id}/messages/{id}": DEED,
    "GET /api/v3/users/{user_id}/channels": READ,
    "GET /api/v3/users/{user_id}/open-channels": READ,
    "PUT /api/v3/users/{user_id}/channels/{channel_id}": NOTE,
    "DELETE /api/v3/users/{user_id}/channels/{channel_id}": NOTE,
    "GET /api/v3/users/{user_id}": READ,
    "PUT /api/v3/users/{user_id}/quota": NOTE,
    "DELETE /api/v3/users/{user_id}/quota": NOTE,
    "PUT /api/v3/users/{user_id}/channels/{channel_id}/mute": NOTE,
    "DELETE /api/v3/users/{user_id}/channels/{channel_id}/mute": NOTE,
    "GET /api/v3/users/{user_id}/devices": READ,
    "DELETE /api/v3/users/{user_id}/devices": NOTE,
    "GET /api/v3/users/{user_id}/messages/{id}/devices": READ,
    "GET /api/v3/users/{user_id}/counts": READ,
    "GET /api/v3/users/{user_id}/events": READ,
    "GET /api/v3/push/key": NEVER,
    "GET /api/v3/users/{user_id}/push": READ,
    "PUT /api/v3/users/{user_id}/devices/{device}/push": DEED,
    "DELETE /api/v3/users/{user_id}/devices/{device}/push": NOTE,
    "GET /api/v3/sync/{user_id}/check": READ,
    "GET /api/v3/sync/{user_id}/download": READ,
    "POST /api/v3/sync/{user_id}/delta": READ,
    "GET /api/v3/sync/{user_id}/read-status": READ,
    "POST /api/v3/sync/{user_id}/read-status": NOTE,
    "GET /api/v3/dead-letters": NOTE,
    "POST /api/v3/dead-letters/{dead_letter_id}/requeue": DEED,
    "DELETE /api/v3/dead-letters/{dead_letter_id}": DEED,
    "GET /api/v3/channels": READ,
    "PUT /api/v3/channels/{channel_id}": DEED,
    "GET /api/v3/channels/{channel_id}": READ,
    "DELETE /api/v3/channels/{channel_id}": DEED,
    "GET /api/v3/channels/{channel_id}/members": READ,
    "POST /api/v3/channels/{channel_id}/members": NOTE,
    "PUT /api/v3/channels/{channel_id}/members/{user_id}": NOTE,
    "DELETE /api/v3/channels/{channel_id}/members/{user_id}": NOTE,
}


class Caller(NamedTuple):
    headers: dict[str, str]
    status: int | None
    """what the answer must be; None: what MAY says of ``rights``"""
    rights: frozenset[str] = frozenset()


class Guarded(NamedTuple):
    router: Running
    callers: dict[str, Caller]
    data: Path

    def lines_of(self, request: str, count: int) -> list[dict[str, Any]]:
        """What the audit log has of a request, when it has ``count`` lines; a line that may come is waited for."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [line for line in audited.lines_of(self.data) if line.get("request") == request]
            return len(found) >= count

        until(is_there)
        return found

    def id_of(self, name: str) -> str:
        """The id of a caller's key."""
        return keys.id_of(self.callers[name].headers["authorization"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp("guarded")
    made = callers(data)
    with running(data, 2, auth=AUTH) as router:
        yield Guarded(router, made, data)


def callers(data: Path) -> dict[str, Caller]:
    """Everybody who may come, by what they are."""
    made_up = keys.create(data, "known", ["admin"])
    good = tokens.issue(data, "ann", 86_400)
    secret = tokens.load(data)
    assert secret is not None
    kid = tokens.kid_of(secret)
    everything: tuple[Scope, ...] = SCOPES
    refused = {
        "nobody": {},
        "a scheme without anything": {"authorization": "Bearer"},
        "another scheme": {"authorization": f"Basic {good}"},
        "a key that expired": key(data, "old", *everything, expires_us=1),
        "the id of a key with another secret": bearer(made_up[:-10] + "AAAAAAAAAA"),
        "a key nobody made": bearer("pobox_000000000000_" + "A" * 43),
        "a token that expired": token(data, "ann", -10),
        "a token without a signature": bearer(unsigned(own_claims("ann"), kid=kid)),
        "a token that lost its signature": bearer(good.rpartition(".")[0] + "."),
        "a token signed with another secret": bearer(signed(b"x" * 48, own_claims("ann"), kid=kid)),
        "a token signed with another algorithm": bearer(signed(secret, own_claims("ann"), kid=kid, algorithm="HS384")),
        "a token of another issuer": bearer(signed(secret, own_claims("ann") | {"iss": "other"}, kid=kid)),
        "a token without an end": bearer(signed(secret, {"iss": "pobox", "sub": "ann"}, kid=kid)),
        "a token without a subject": bearer(signed(secret, own_claims("ann") | {"sub": ""}, kid=kid)),
        "a token for later": bearer(signed(secret, own_claims("ann", nbf=9_999_999_999), kid=kid)),
        "a token with the name of no secret": bearer(signed(secret, own_claims("ann"), kid="other")),
    }
    let_in = {f"a key to {scope}": Caller(key(data, scope, scope), None, frozenset({scope})) for scope in everything}
    return {
        **{name: Caller(headers, 401) for name, headers in refused.items()},
        **let_in,
        "another person": Caller(token(data, "bob"), None, frozenset()),
        "the person": Caller(bearer(good), None, frozenset({PERSON})),
    }


def ask(http: httpx.Client, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Status and body, of an answer without an end only its beginning."""
    with http.stream(method, path, headers=headers) as answer:
        if answer.headers.get("content-type") == "text/event-stream":
            return answer.status_code, ""
        return answer.status_code, answer.read().decode()


def filled(route: str) -> tuple[str, str]:
    """Method and path; it concerns ann."""
    method, path = route.split(" ")
    return method, path.replace("{user_id}", "ann").replace("{channel_id}", "crew").replace(
        "{device}", "phone"
    ).replace("{id}", "m1")


def test_the_list_has_every_route_and_no_other() -> None:
    assert {f"{method} {path}" for method, path in routed()} == set(MAY) == set(WRITTEN_DOWN)


def test_every_route_says_how_it_is_written_down() -> None:
    for operation in ROUTES:
        assert operation.record == WRITTEN_DOWN[f"{operation.method} {falcon_template(operation.path)}"]


@pytest.mark.slow
@pytest.mark.parametrize("route", WRITTEN_DOWN)
def test_a_route_writes_down_what_it_says(guarded: Guarded, route: str) -> None:
    """Asked by a service and by the person; each request has a name of its own."""
    method, path = filled(route)
    keys_of = [*sorted(MAY[route] - {PERSON}), *([PERSON] if PERSON in MAY[route] else [])]
    for who in keys_of or ["nobody"]:
        name = "the person" if who == PERSON else who if who == "nobody" else f"a key to {who}"
        mark = f"{route.replace(' ', ':')}:{who}".translate({ord(c): ":" for c in "/{}"})
        headers = {**guarded.callers[name].headers, "x-request-id": mark}
        status, _body = ask(guarded.router.http, method, path, headers)
        by_record: dict[Record, list[Any]] = {
            Record.NEVER: [],
            Record.DELIVERY: [],
            Record.READ: [] if who == PERSON else [status],
            Record.NOTE: [status],
            Record.DEED: ["begins", status],
        }
        expected = by_record[WRITTEN_DOWN[route]]
        lines = guarded.lines_of(mark, len(expected))
        assert [line.get("state", line.get("status")) for line in lines] == expected
        for line in lines:
            assert f"{line['method']} {falcon_template(line['route'])}" == route
            assert line["from"] == "127.0.0.1"
            assert line["who"] == ({"user": "ann"} if who == PERSON else {"key": guarded.id_of(name)})
            if "{user_id}" in route:
                assert line["whom"]["user"] == "ann"


@pytest.mark.parametrize("route", MAY)
def test_a_route_lets_in_those_who_may_and_nobody_else(guarded: Guarded, route: str) -> None:
    method, path = filled(route)
    wrong = {}
    for name, caller in guarded.callers.items():
        status, body = ask(guarded.router.http, method, path, caller.headers)
        if MAY[route] is ANYBODY:
            expected = "let in"
        elif caller.status is not None:
            expected = str(caller.status)
        else:
            expected = "let in" if caller.rights & MAY[route] else "403"
        got = str(status) if status in (401, 403) else "let in"
        if got != expected:
            wrong[name] = (got, expected)
        if status in (401, 403):
            problem = msgspec.json.decode(body, type=Problem)
            assert problem.status == status
            assert "ann" not in body.replace("channel", "")
    assert wrong == {}


def test_head_asks_as_get_does(guarded: Guarded) -> None:
    for route, who in MAY.items():
        method, path = filled(route)
        if method == "GET" and who:
            assert ask(guarded.router.http, "HEAD", path, {})[0] == 401


def test_nobody_who_is_refused_reaches_a_shard(guarded: Guarded) -> None:
    for peer in guarded.router.peers:
        peer.frames.clear()
    body = {"users": ["ann"], "title": "t", "content": "c"}
    for name in ("nobody", "a token without a signature", "another person", "a key to read"):
        headers = guarded.callers[name].headers
        assert guarded.router.http.post("/api/v3/messages", json=body, headers=headers).status_code in (401, 403)
        assert ask(guarded.router.http, "DELETE", "/api/v3/users/ann/messages/m1", headers)[0] in (401, 403)
    assert [frame for peer in guarded.router.peers for frame in peer.frames] == []


def test_what_exists_is_refused_in_the_same_words_as_what_does_not(guarded: Guarded) -> None:
    http, callers = guarded.router.http, guarded.callers
    body = {"id": "there", "users": ["ann"], "title": "t", "content": "c"}
    sent = http.post("/api/v3/messages", json=body, headers=callers["a key to deliver"].headers)
    assert sent.status_code == 202
    seen = ask(http, "GET", "/api/v3/users/ann/messages/there", callers["the person"].headers)
    assert seen[0] == 200
    for caller in ("nobody", "another person", "a key to deliver"):
        headers = callers[caller].headers
        pairs = [
            ("/api/v3/users/ann/messages/there", "/api/v3/users/ann/messages/not-there"),
            ("/api/v3/users/ann/messages", "/api/v3/users/not-there/messages"),
            ("/api/v3/sync/ann/check", "/api/v3/sync/-not-even-a-name/check"),
        ]
        for there, not_there in pairs:
            assert ask(http, "GET", there, headers) == ask(http, "GET", not_there, headers)


def test_a_refusal_says_what_would_do(guarded: Guarded) -> None:
    http, callers = guarded.router.http, guarded.callers
    nothing = http.get("/api/v3/users/ann/messages")
    assert nothing.headers["www-authenticate"] == 'Bearer realm="pobox"'
    stale = http.get("/api/v3/users/ann/messages", headers=callers["a key that expired"].headers)
    assert stale.headers["www-authenticate"] == 'Bearer realm="pobox", error="invalid_token"'
    short = http.post("/api/v3/messages", headers=callers["a key to read"].headers)
    assert short.headers["www-authenticate"] == 'Bearer realm="pobox", error="insufficient_scope", scope="deliver"'


def test_a_path_with_another_spelling_of_the_person_is_not_theirs(guarded: Guarded) -> None:
    headers = guarded.callers["the person"].headers
    for spelling in ("%61nn%00", "ann%2f..%2fbob", "..%2fann", "ANN", "ann%20", "%ef%bd%81nn", "ann%0a", "%2e%2e"):
        path = f"/api/v3/users/{spelling}/messages"
        assert ask(guarded.router.http, "GET", path, headers)[0] in (403, 404), spelling
    assert ask(guarded.router.http, "GET", "/api/v3/users/%61nn/messages", headers)[0] == 200, "it is the same name"


def test_every_route_says_in_the_document_who_may_use_it(guarded: Guarded) -> None:
    paths = guarded.router.http.get("/openapi.json").json()["paths"]
    for operation in ROUTES:
        said = paths[operation.path][operation.method.lower()]["security"]
        named = {scope for entry in said for scopes in entry.values() for scope in scopes or [PERSON]}
        assert named == MAY[f"{operation.method} {falcon_template(operation.path)}"]
