"""Requests made from /openapi.json, good ones and bad ones: none of them is a fault of the node's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from node import keys
from node.keys import SCOPES
from router.routes import ROUTES
from tests.support import Node, eventually

pytestmark = pytest.mark.slow

ENDLESS = "/api/v3/users/{userId}/events"
OPERATIONS = [(route.method, route.path) for route in ROUTES if route.path != ENDLESS]
BOUNDED = settings(
    max_examples=12,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)


@schemathesis.serializer("application/x-ndjson")
def _lines(_ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Two lines of what is one body in the schema."""
    return b"\n".join([json.dumps(value).encode()] * 2)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, dict[str, str], Any]]:
    """A node, the header that shows a key to everything, and the schema."""
    env = {"POBOX_AUTH_MODE": "keys", "POBOX_PUSH_ENABLED": "false"}
    with Node(tmp_path_factory.mktemp("schema") / "data", env=env) as node:
        shown = {"authorization": f"Bearer {keys.create(node.data, 'all', SCOPES)}"}
        eventually(
            lambda: httpx.get(f"{node.url}/metrics", headers=shown, timeout=30).status_code == 200, "the key counts"
        )
        document = httpx.get(f"{node.url}/openapi.json", timeout=30).json()
        yield node, shown, schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_is_a_fault_of_the_nodes(known: tuple[Node, dict[str, str], Any], method: str, path: str) -> None:
    node, shown, schema = known
    operation = schema[path][method]
    documented = {int(status) for status in schema.raw_schema["paths"][path][method.lower()]["responses"]}
    wrong: list[tuple[int, str]] = []

    def check(case: Case) -> None:
        answer = case.call(base_url=node.url, headers=shown, timeout=30, allow_redirects=False)
        if answer.status_code >= 500 or answer.status_code not in documented:
            wrong.append((answer.status_code, case.as_curl_command()))

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        cases: st.SearchStrategy[Case] = operation.as_strategy(generation_mode=mode)
        try:
            BOUNDED(given(case=cases)(check))()
        except Unsatisfiable:  # there is nothing to be said wrongly
            assert mode is GenerationMode.NEGATIVE
    assert wrong == []


def test_the_node_has_logged_no_error(known: tuple[Node, dict[str, str], Any]) -> None:
    assert '"level": "error"' not in known[0].output()
