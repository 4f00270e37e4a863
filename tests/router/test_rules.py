"""Invariants of the pure parts."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
from falcon.inspect import inspect_routes
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from node import ids, model, ops
from node.config import Router
from node.errors import CallerError
from node.placement import Placement
from node.slots import slot_of
from router import app, body, letters
from router.delivery import Delivery, split
from router.links import Links
from router.openapi import document
from router.problems import ALL
from router.routes import ROUTES
from tests.router.conftest import ROOT

NAMES = st.from_regex(re.compile(ids.PATTERN, re.ASCII))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(allow_nan=False, allow_infinity=False)  # noqa: E501  # fmt: skip
METADATA = st.dictionaries(
    st.text(),
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
)
MESSAGES = st.fixed_dictionaries(
    {"title": st.text(min_size=1), "content": st.text(), "users": st.lists(NAMES, min_size=1, max_size=20)},
    optional={
        "channelId": NAMES,
        "priority": st.integers(1, 10),
        "sender": st.text(max_size=256),
        "metadata": METADATA,
        "timeoutSeconds": st.integers(1, 1000),
    },
)
decode = body.decoder(model.NewMessage)


@given(st.lists(NAMES, unique=True), st.integers(1, 8))
def test_splitting_puts_each_user_once_at_its_owner(users: list[str], shards: int) -> None:
    table = Placement(version=1, shards=shards).table
    shares = split(table, users)
    assert sorted(user for named, _slots in shares.values() for user in named) == sorted(users)
    for shard, (named, slots) in shares.items():
        assert named
        assert slots == [slot_of(user) for user in named]
        assert {table.owner(slot) for slot in slots} == {shard}


def shuffled(value: Any, chance: random.Random) -> Any:
    """``value`` with the keys of every object in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def digest(fields: dict[str, Any]) -> bytes:
    message = decode(msgspec.json.encode(fields))
    return letters.digest(message, letters.targets(message), letters.created(message))


@given(MESSAGES, st.randoms(use_true_random=False))
def test_the_digest_knows_no_order_of_keys_or_users(fields: dict[str, Any], chance: random.Random) -> None:
    other = shuffled(fields, chance)
    chance.shuffle(other["users"])
    other["users"].append(other["users"][0])
    other["id"] = "an-id-is-no-part-of-it"
    assert digest(other) == digest(fields)


@given(MESSAGES, st.sampled_from(["title", "content", "sender"]))
def test_the_digest_tells_bodies_apart(fields: dict[str, Any], field: str) -> None:
    assert digest(fields | {field: fields.get(field, "")[:200] + "x"}) != digest(fields)


def test_the_digest_takes_a_default_for_what_is_left_out() -> None:
    fields = {"users": ["a"], "title": "t", "content": "c"}
    said = {"channelId": "direct", "priority": 5, "messageType": "text", "metadata": None, "createdAt": None}
    assert digest(fields | said) == digest(fields)
    assert digest(fields | {"createdAt": "2026-01-01T01:00:00+01:00"}) == digest(
        fields | {"createdAt": "2026-01-01T00:00:00Z"}
    )


@given(MESSAGES)
def test_a_letter_holds_what_was_posted(fields: dict[str, Any]) -> None:
    message = decode(msgspec.json.encode(fields))
    letter = msgspec.msgpack.decode(letters.letter(message, "m", letters.created(message), 0), type=ops.Letter)
    assert (letter.title, letter.content) == (fields["title"], fields["content"])
    stored = None if letter.metadata is None else msgspec.json.decode(letter.metadata)
    assert stored == fields.get("metadata")


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except CallerError as error:
        msgspec.json.encode(error.problem())


@given(MESSAGES, st.data())
def test_a_body_with_a_byte_changed_is_decoded_or_refused(fields: dict[str, Any], data: st.DataObject) -> None:
    encoded = bytearray(msgspec.json.encode(fields))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        letters.targets(decode(bytes(encoded)))
    except CallerError as error:
        msgspec.json.encode(error.problem())


def routed() -> set[tuple[str, str]]:
    """Every method and path that Falcon answers by more than its own 405 and OPTIONS, but for the pages."""
    links = Links(ROOT, Placement(version=1, shards=1), timeout_s=1)
    made = app.build(links, Delivery(links), Router())
    return {
        (method.method, route.path)
        for route in inspect_routes(made)
        for method in route.methods
        if not method.internal
        and method.method != "HEAD"
        and not route.path.startswith(("/inbox", "/admin"))
        and route.path != "/"
    }


def test_the_document_is_valid_openapi_and_holds_every_route_and_problem() -> None:
    made = document(ROUTES)
    OpenAPIV31SpecValidator(made).validate()
    documented = {
        (method.upper(), app.falcon_template(path)) for path, item in made["paths"].items() for method in item
    }
    assert documented == routed()
    said = " ".join(
        answer["description"]
        for item in made["paths"].values()
        for operation in item.values()
        for answer in operation["responses"].values()
    )
    assert all(f"{problem.code}: " in said for problem in ALL)


def test_the_document_says_with_which_headers_a_caller_is_told_to_come_again() -> None:
    told = {"429": {"Retry-After", "RateLimit-Policy", "RateLimit"}, "503": {"Retry-After"}, "507": {"Retry-After"}}
    for item in document(ROUTES)["paths"].values():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                assert set(answer.get("headers", ())) == told.get(status, set())


def test_the_reference_names_every_route_and_problem() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for operation in ROUTES:
        assert f"{operation.method} {operation.path}" in text
    for problem in ALL:
        assert f"`{problem.code}`" in text
