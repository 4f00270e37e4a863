"""What a command shows the node to be let in: ``--key``, or ``POBOX_KEY`` in the environment.

Every command that asks a node takes it, and none has a use for it but to pass it on. So it lies in the context of
the command that runs, and is looked up where requests are made.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import click

_META = "pobox.key"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def key_option(command: _Command) -> _Command:
    """``--key``."""
    return click.option(
        "--key",
        envvar="POBOX_KEY",
        show_envvar=True,
        expose_value=False,
        callback=_remember,
        help="a service key, or a user's token; given here, everybody on this machine can see it",
    )(command)


def shown_key() -> str | None:
    """What the command that runs was given; None outside of a command."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_META)


def authorization(key: str | None) -> dict[str, str]:
    """The header that shows ``key``."""
    return {"authorization": f"Bearer {key}"} if key else {}


def trust(url: str) -> ssl.SSLContext | bool:
    """Whom to believe that they are ``url``: whom the machine believes (``SSL_CERT_FILE`` says otherwise). Without TLS
    there is nothing to verify, and loading the certificates takes longer than many a request."""
    return ssl.create_default_context() if url.startswith("https:") else False


def _remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    ctx.meta[_META] = value
