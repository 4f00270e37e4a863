"""A request's body: read within bounds, decoded into its struct, or refused by the field's name.

Bounds: the bytes of one body, the bytes of all bodies that are still arriving, and (in
:mod:`router.protocol`) the time. What JSON allows and a mailbox can't hold comes in here or never:
integers beyond 64 bit, NaN, lone surrogates, endless depth. The fast path is msgspec's; only a
body that it refuses is looked at again, to find the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import falcon.asgi
import msgspec

from node.errors import BadField, CallerError, Overloaded, TooLarge, WrongType
from node.ids import RULE
from router.access import EVERYBODY, Caller

T = TypeVar("T", bound=msgspec.Struct)

ARRIVING_BYTES_MAX = 256 * 1024 * 1024
DEPTH_MAX = 32
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_FIELD_MAX = 128

_PATH = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(.*?)`$", re.DOTALL)
_TOP = re.compile(r"[^.\[]+(?:\[\d+\](?:\.\w+)?)?")


class Request(falcon.asgi.Request):
    """Falcon's request, with the parts that are needed for every message within easy reach."""

    __slots__ = ("caller", "concerns", "first", "receive")

    def __init__(self, scope: Any, receive: Any, first_event: Any = None, options: Any = None) -> None:
        super().__init__(scope, receive, first_event, options)
        self.caller: Caller = EVERYBODY
        self.concerns = ""
        """the id of the message that was delivered, for the audit log"""
        self.first = first_event
        self.receive = receive

    def header(self, name: bytes) -> bytes | None:
        """A header by its name in lower case, as it came."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None


class Bodies:
    """Reads bodies; knows how many bytes of unfinished ones it holds."""

    def __init__(self) -> None:
        self._arriving = 0

    async def read(self, req: Request, bytes_max: int) -> bytes:
        """The whole body. Raises :class:`TooLarge` as soon as that is known (by the Content-Length, when the first
        bytes of the body are here); :class:`Overloaded` when too much is arriving at once."""
        event = req.first
        body: bytes = event["body"]
        if not event["more_body"]:
            if len(body) > bytes_max:
                raise _too_large(bytes_max)
            return body
        if (req.content_length or 0) > bytes_max:
            raise _too_large(bytes_max)
        return await self._read_on(req, body, bytes_max)

    async def _read_on(self, req: Request, body: bytes, bytes_max: int) -> bytes:
        parts, size, counted = [body], len(body), 0
        try:
            while True:
                if size > bytes_max:
                    raise _too_large(bytes_max)
                self._arriving += size - counted
                counted = size
                if self._arriving > ARRIVING_BYTES_MAX:
                    raise Overloaded()
                event = await req.receive()
                if event["type"] != "http.request":  # nobody is left to read this
                    raise CallerError("the body ended early")
                parts.append(event["body"])
                size += len(event["body"])
                if not event["more_body"]:
                    break
        finally:
            self._arriving -= counted
        if size > bytes_max:
            raise _too_large(bytes_max)
        return b"".join(parts)


def check_type(req: Request, wanted: str) -> None:
    """Raises :class:`WrongType` unless the body is ``wanted``, in UTF-8, as it is."""
    given = req.content_type
    if given != wanted:
        media, _, parameters = (given or "").partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if media.strip().lower() != wanted or charset not in ("", "charset=utf-8"):
            raise WrongType(f"Content-Type must be {wanted}", field="Content-Type")


def decoder(struct: type[T]) -> Callable[[bytes], T]:
    """A function that makes a ``struct`` of a JSON body, and raises :class:`CallerError` naming
    the field where it can't."""
    decode = msgspec.json.Decoder(struct).decode
    nested = "metadata" if "metadata" in struct.__struct_fields__ else None

    def decoded(body: bytes) -> T:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise _explain(str(error)) from None
        except (msgspec.DecodeError, UnicodeError):
            raise find_culprit(body) from None
        except RecursionError:
            raise _too_deep(nested) from None

    return decoded


def check_json(value: Any, field: str, depth: int = 1) -> None:
    """Raises :class:`BadField` for what JSON allows and a mailbox can't hold, anywhere in ``value``."""
    kind = type(value)
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise BadField(f"{field} holds an integer beyond 64 bit", field=field)
    elif kind is dict or kind is list:
        if depth > DEPTH_MAX:
            raise _too_deep(field)
        for item in value.values() if kind is dict else value:
            if type(item) is not str:
                check_json(item, field, depth + 1)


def find_culprit(body: bytes) -> CallerError:
    """Why msgspec found ``body`` malformed: the field that holds what is no Unicode or no number,
    or that it isn't JSON at all."""
    text = body.decode("utf-8", "surrogateescape")
    try:
        value = json.loads(text, parse_constant=_NotANumber, parse_int=_no_number)
    except RecursionError:
        return _too_deep(None)
    except ValueError as error:
        return CallerError(f"the body is not JSON: {_printable(str(error))}")
    for name, item in value.items() if isinstance(value, dict) else ():
        reason = _unstorable(name) or _unstorable(item)
        if reason:
            field = _printable(name)
            return BadField(f"{field} holds {reason}", field=field)
    return CallerError("the body is not JSON")


class _NotANumber:
    def __init__(self, text: str) -> None:
        self.text = text


def _no_number(_text: str) -> None:
    """Integers aren't what is looked for, and one of a million digits would take its time."""


def _unstorable(value: Any) -> str | None:
    """What is wrong with the first bad leaf of ``value``. Its depth is bounded by the parser's."""
    leaves = [value]
    while leaves:
        leaf = leaves.pop()
        if isinstance(leaf, str):
            if not leaf.isascii() and any("\ud800" <= char <= "\udfff" for char in leaf):
                return "text that is not Unicode"
        elif isinstance(leaf, _NotANumber):
            return leaf.text
        elif isinstance(leaf, list):
            leaves += leaf
        elif isinstance(leaf, dict):
            leaves += leaf
            leaves += leaf.values()
    return None


def _explain(message: str) -> CallerError:
    """msgspec's words, with the field it names; the innards of ``metadata`` count as ``metadata``."""
    if located := _PATH.match(message):
        message, path = located.groups()
        top = _TOP.match(path)
        field = top.group() if top else None
    else:
        field = None
    if named := _NAMED.match(message):
        field = _printable(named.group(1))
    if field is None:
        return CallerError(f"the body is not acceptable: {message}")
    if "matching regex" in message:  # Python's; the one pattern that bodies know is that of names
        return BadField(f"{field} must match {RULE}", field=field)
    return BadField(f"{field}: {_printable(message, 512)}", field=field)


def _printable(text: str, length_max: int = _FIELD_MAX) -> str:
    """The caller's own text, made fit for an answer."""
    return text.encode("utf-8", "replace").decode()[:length_max]


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body may have {bytes_max} bytes")


def _too_deep(field: str | None) -> CallerError:
    return BadField(f"nested deeper than {DEPTH_MAX}", field=field)
