"""The OpenAPI 3.1 document, made from the table of routes and the structs themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

import falcon.asgi
import msgspec

from node.errors import NodeError, PoboxError, Problem
from node.ids import PATTERN
from node.model import DeadReason
from router import problems, query
from router.access import Who
from router.body import Request
from router.operation import Operation

_PARAMETERS: dict[str, dict[str, Any]] = {
    "since": {"type": "string", "format": "date-time", "description": "the since of an earlier answer"},
    "localVersion": {"type": "string", "maxLength": 64, "description": "the serverVersion of the file it has"},
    "shard": {"type": "string", "description": "only this shard, by its number"},
    "process": {"type": "string", "description": "only this router: router-0, or router for the one that answers"},
    "device": {"type": "string", "maxLength": 128, "description": "what the device calls itself"},
    "prefix": {"type": "string", "maxLength": 128, "description": "what the names begin with"},
    "deadLetterId": {"type": "string", "description": "the id of a dead letter, as the list has it"},
    "reason": {"type": "string", "enum": list(get_args(DeadReason))},
    "cursor": {"type": "string", "description": "the cursor of an earlier answer"},
}
_PARAMETERS |= {name: {"type": "string"} for name in ("Accept-Encoding", "If-None-Match", "If-Range", "Range")}
_KEY, _TOKEN = "serviceKey", "userToken"
_SCHEMES = {
    _KEY: {"type": "http", "scheme": "bearer", "description": "a service key that has the scope which is named"},
    _TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "a token whose subject is the userId in the path",
    },
}
"""asked for with [auth] mode = keys"""
_BINARY: dict[str, Any] = {}
"""what is no JSON has no schema"""
_WITH_BODY = (200, 206)
_RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
_LIMITS = {
    "RateLimit-Policy": {"description": "the quota, and the seconds for which it is", "schema": {"type": "string"}},
    "RateLimit": {"description": "what is left of it", "schema": {"type": "string"}},
}


class OpenApi:
    """``/openapi.json``."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._document = msgspec.json.encode(document(operations))

    async def get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """This document."""
        query.parameters(req)
        resp.data = self._document


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document for ``operations``. Pure."""
    structs = {op.request for op in operations} | {op.response for op in operations} | {Problem}
    structs.discard(None)
    _refs, schemas = msgspec.json.schema_components(
        sorted(structs, key=lambda struct: struct.__name__), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pobox",
            "version": "3",
            "description": "Messages are delivered to a person's own box. A 202 means: on disk, and "
            "it will be in every target's box exactly once.",
        },
        "paths": paths,
        "components": {"schemas": _ecma(schemas), "securitySchemes": _SCHEMES},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": f"{operation.noun}_{operation.action}",
        "tags": [operation.noun],
        "summary": operation.summary,
        "security": _security(operation.who),
        "parameters": [_parameter(name, "path") for name in re.findall(r"{(\w+)}", operation.path)]
        + [_limit(operation) if name == "limit" else _parameter(name, "query") for name in operation.query]
        + [_parameter(name, "header") for name in operation.headers],
        "responses": _responses(operation),
    }
    if operation.request is None and operation.media_type != "application/json":
        made["requestBody"] = {"required": True, "content": {operation.media_type: _BINARY}}
    elif operation.request is not None:
        made["requestBody"] = {
            "required": operation.body_required,
            "content": {operation.media_type: {"schema": _ref(operation.request)}},
        }
    return made


def _security(who: Who) -> list[dict[str, Sequence[str]]]:
    """Any of these will do; for an http scheme the names in the list are roles."""
    if who.anybody:
        return []
    keys: list[dict[str, Sequence[str]]] = [{_KEY: [scope]} for scope in who.scopes]
    return [*keys, {_TOKEN: []}] if who.person else keys


def _parameter(name: str, place: str) -> dict[str, Any]:
    schema = _PARAMETERS.get(name, {"type": "string", "pattern": _ecma(PATTERN)})
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _limit(operation: Operation) -> dict[str, Any]:
    default, most = operation.page
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": "limit", "in": "query", "required": False, "schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in operation.statuses:
        responses[str(status)] = {"description": operation.summary}
        if operation.response_type != "application/json" and status in _WITH_BODY:
            responses[str(status)]["content"] = {operation.response_type: _BINARY}
        elif operation.response is not None:
            content = {"application/json": {"schema": _ref(operation.response)}}
            responses[str(status)]["content"] = content
    by_status: dict[int, list[type[PoboxError]]] = {}
    for problem in operation.problems:
        by_status.setdefault(problem.status, []).append(problem)
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(f"{kind.code}: {kind.title}" for kind in kinds),
            "content": {problems.MEDIA_TYPE: {"schema": _ref(Problem)}},
        }
        if headers := _headers(kinds[0]):
            responses[str(status)]["headers"] = headers
    return responses


def _headers(kind: type[PoboxError]) -> dict[str, Any]:
    """What a caller is told beside the problem of when to come again."""
    if issubclass(kind, problems.TooMany):
        return _RETRY | _LIMITS
    return _RETRY if issubclass(kind, NodeError) else {}


def _ref(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _ecma(schema: Any) -> Any:
    r"""Patterns in the dialect of JSON Schema, which has no ``\Z``: there ``$`` means just that."""
    if isinstance(schema, dict):
        return {key: _ecma(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_ecma(value) for value in schema]
    if isinstance(schema, str) and schema.endswith(r"\Z"):
        return schema.removesuffix(r"\Z") + "$"
    return schema
