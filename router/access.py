"""Who may do what: by the rule that a route declares.

A request comes from a service, which shows a key with scopes, or from a person, who shows a token and may do what
concerns their own box: the user in the path must be the token's subject. The answer depends on the route, the path and
what was shown, never on what there is: 401 and 403 say the same about a box, a channel or a message that exists and
about one that doesn't.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import falcon.asgi
import msgspec

from node.keys import Scope
from router.fairness import Limiter, Verdict
from router.problems import Forbidden, KeyLimit

USER = "{userId}"
"""in a path: whose box it is about"""


class Who(msgspec.Struct, frozen=True):
    """The rule of a route."""

    scopes: tuple[Scope, ...] = ()
    """a service whose key has one of these"""
    person: bool = False
    """the person whom the path names"""
    anybody: bool = False
    """without a word"""


ANYBODY = Who(anybody=True)
DELIVER = Who(("deliver",))
CHANNELS = Who(("channels",))
READ_BOX = Who(("read",), person=True)
"""to see what is in somebody's box"""
CHANGE_BOX = Who(("admin",), person=True)
"""to change something in it, other than by delivering"""
SUBSCRIBE = Who(("channels", "admin"), person=True)
"""to say in which channels somebody is, and which of them is heard"""
ADMIN = Who(("admin",))
FIGURES = Who(("metrics", "admin"))
"""what the node says of itself, and nothing of anybody"""


class Share:
    """What one key may ask for of a router."""

    def __init__(self, *, rate: float, burst: int) -> None:
        self._limiter = Limiter("key", rate=rate, burst=burst, keys_max=1)
        self._verdict = Verdict(True, burst, burst, 0, None)

    def take(self) -> None:
        """One unit; raises :class:`KeyLimit` if there is none left."""
        self._verdict = self._limiter.take("", asyncio.get_running_loop().time())
        if not self._verdict.allowed:
            raise KeyLimit(self._limiter.policy(), self._limiter.state(self._verdict), self._verdict.retry_after_s or 1)

    def tell(self, resp: falcon.asgi.Response) -> None:
        """Say in the headers how much is left."""
        resp.set_header("RateLimit-Policy", self._limiter.policy())
        resp.set_header("RateLimit", self._limiter.state(self._verdict))


class Caller(msgspec.Struct, frozen=True):
    """Who asks: a service by its key's id, or a person by their userId."""

    key: str | None = None
    user: str | None = None
    scopes: tuple[Scope, ...] = ()
    share: Share | None = None


EVERYBODY = Caller()
"""who asks a node that asks nobody who they are"""


class Credentials(Protocol):
    def caller(self, shown: bytes | None) -> Caller:
        """Whose ``Authorization`` header this is; raises :class:`router.problems.Unauthorized`."""


def check(rule: Who, caller: Caller, user: str | None) -> None:
    """Raises :class:`Forbidden` unless ``rule`` lets ``caller`` at what concerns ``user``. Pure."""
    if rule.person and caller.user is not None and caller.user == user:
        return
    if not any(scope in caller.scopes for scope in rule.scopes):
        raise Forbidden(rule.scopes)
