"""Deeds of the command line, in a chain of their own: a line is on disk before one is done, another says what came of
it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from node import owner
from node.audit import FOUND, Entry
from node.audit_chain import Chain
from node.clock import now_us
from node.config import Config
from node.errors import ConfigError
from node.ids import is_name

CHAIN = "cli"
_PATIENCE_S = 10.0


class Deed:
    """What is done; what the command adds to ``whom`` and ``what`` is in the line at the end."""

    def __init__(self, whom: dict[str, str]) -> None:
        self.whom = whom
        self.what: dict[str, str | int] = {}
        self.status = "done"


@contextlib.contextmanager
def written_down(config: Config, deed: str, **whom: str) -> Iterator[Deed]:
    """Do the block between two lines. Raises :class:`ConfigError` if the first can't be written: then nothing is
    done."""
    whom = {kind: name if is_name(name) else "?" for kind, name in whom.items()}
    done = Deed(whom)
    try:
        [number] = _append(config, Entry(deed=deed, state="begins", who=_who(), whom=dict(whom)))
    except OSError as error:
        raise ConfigError(f"nothing is done, for the audit log can't be written: {error}") from error
    try:
        yield done
    except BaseException as error:
        done.status = str(getattr(error, "code", type(error).__name__))
        raise
    finally:
        entry = Entry(deed=deed, of=number, who=_who(), whom=done.whom, status=done.status, what=done.what)
        try:
            _append(config, entry)
        except OSError as error:  # it is done: that it was begun is on disk
            click.echo(f"the audit log can't be written: {error}", err=True)


def note(config: Config, deed: str, status: str, what: dict[str, str | int]) -> None:
    """One line about what changed nothing; raises :class:`OSError`."""
    _append(config, Entry(deed=deed, who=_who(), status=status, what=what))


def _append(config: Config, entry: Entry) -> list[int]:
    chain = Chain(Path(config.node.data), CHAIN, config.audit, patience_s=_PATIENCE_S, tell=_tell)
    try:
        now = now_us()
        return chain.append([(now, entry)], now)
    finally:
        chain.close()


def _tell(entry: Entry) -> None:
    if entry.deed == FOUND:
        click.echo("the audit log is not as it was left; pobox audit verify says more", err=True)


def _who() -> dict[str, str]:
    name = owner.name_of(owner.CALLER)
    sudo = os.environ.get("SUDO_USER")
    return {"os": name, "sudo": sudo} if sudo else {"os": name}
