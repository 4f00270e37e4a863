"""``pobox dead-letters``: what could not be delivered, sent on its way again or deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, get_args

import click

from node.apiclient import PATIENCE_S, Api, ApiError, InTheWay, Missing, segment
from node.asking import Failures, server_option
from node.model import Accepted, DeadLetter, DeadLetters, DeadReason
from node.show import table

_PATH = "/api/v3/dead-letters"
_PAGE = 500

user_option = click.option("--user", help="only those of this userId")
reason_option = click.option("--reason", type=click.Choice(get_args(DeadReason)), help="only those given up for this")


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not be stored: list, requeue or delete them."""


@dead_letters.command("list", cls=Failures)
@user_option
@reason_option
@click.option("--limit", type=click.IntRange(1), default=50, help="at most so many")
@server_option
def list_dead(server: str, user: str | None, reason: str | None, limit: int) -> None:
    """List dead letters, the newest first."""
    with Api(server) as api:
        listed = list(islice(_all(api, user, reason, limit), limit))
    table(
        ("dead letter", "reason", "tries", "given up", "title"),
        [(found.id, found.reason, str(found.tries), found.died_at, found.title) for found in listed],
    )


def _some(action: Callable[..., None]) -> Callable[..., None]:
    """The options and arguments that say which."""
    for option in (
        click.argument("ids", metavar="[ID]...", nargs=-1),
        user_option,
        reason_option,
        click.option("--all", "everything", is_flag=True, help="all there are"),
        server_option,
    ):
        action = option(action)
    return action


@dead_letters.command(cls=Failures)
@_some
def requeue(server: str, ids: tuple[str, ...], user: str | None, reason: str | None, everything: bool) -> None:
    """Deliver the dead letters ID after all, or those that the options name."""
    with Api(server, patience_s=PATIENCE_S) as api:
        _each(api, ids, user, reason, everything, "requeued", lambda path: api.ask("POST", f"{path}/requeue", Accepted))


@dead_letters.command(cls=Failures)
@_some
def delete(server: str, ids: tuple[str, ...], user: str | None, reason: str | None, everything: bool) -> None:
    """Delete the dead letters ID for good, or those that the options name."""
    with Api(server, patience_s=PATIENCE_S) as api:
        _each(api, ids, user, reason, everything, "deleted", lambda path: api.ask("DELETE", path, type(None)))


def _each(
    api: Api,
    ids: tuple[str, ...],
    user: str | None,
    reason: str | None,
    everything: bool,
    done: str,
    action: Callable[[str], Any],
) -> None:
    """Those that are there when it begins: what dies meanwhile is left alone."""
    chosen = bool(user or reason)
    if bool(ids) + chosen + everything != 1:
        raise click.UsageError("say which: one or more ID, or --user and --reason, or --all")
    names = list(ids) if ids else [found.id for found in _all(api, user, reason, _PAGE)]
    count = 0
    missing, full = [], []
    for name in names:
        try:
            action(f"{_PATH}/{_segment(name)}")
            count += 1
        except Missing:
            missing.append(name)
        except InTheWay:
            full.append(name)
    click.echo(f"{count} {done}")
    if ids and missing:
        raise ApiError(f"there is no such dead letter: {', '.join(missing)}")
    if full:
        raise ApiError(f"left as they are, since the mailbox is full: {', '.join(full)}")


def _segment(name: str) -> str:
    return "~".join(segment(part) for part in name.split("~"))


def _all(api: Api, user: str | None, reason: str | None, page: int) -> Iterator[DeadLetter]:
    for found in api.pages(_PATH, DeadLetters, userId=user, reason=reason, limit=min(page, _PAGE)):
        yield from found.dead_letters
