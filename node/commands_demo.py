"""``pobox demo``: a repository's log as living mail, for whoever sees pobox for the first time.

It asks the node as any service does. The messages have ids of their own, so that running it again doubles nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from node import gitlog, placement, tokens
from node.apiclient import PATIENCE_S, Api
from node.asking import Failures, server_option
from node.audit_deed import written_down
from node.config import Config
from node.demo_mail import READER, WELCOME, Mail, generated, of_log
from node.ingest import create_channels
from node.model import Accepted, NewMessage
from node.options import naming_data
from node.owner import as_owner
from node.show import counted, printable
from node.shown import shown_key

_GIT_S = 60.0
_TOKEN_S = 86_400
_AT_ONCE = 0.5
"""share of the messages that are there when somebody looks for the first time"""
_FEW = 12
"""so many commits of its own are no living inbox: a copy that has only the newest"""
_OWN = Path(__file__).parents[1]


@click.command(cls=Failures)
@click.option(
    "--repo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="whose log it is  [default: pobox's own]",
)
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, help="messages a second")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, help="the newest so many commits")
@naming_data
@server_option
def demo(config: Config, repo: Path | None, speed: float, limit: int, server: str) -> None:
    """Fill an inbox with the log of a git repository, live.

    A top-level folder is a channel, an author is a user, a commit is a message; you are a member of every channel.
    Half of them come at once, the others at --speed. Where people need a token, the link has one if the node's data is
    here (--data).
    """
    mail = _mail(repo, limit)
    messages = mail.messages
    with Api(server, patience_s=PATIENCE_S) as api:
        create_channels(api, mail.members_with(READER))
        for message in (*messages[: int(len(messages) * _AT_ONCE)], WELCOME):
            _send(api, message)
        token = _token(config) if shown_key() else ""
        click.echo(f"Your inbox: {server.rstrip('/')}/inbox/?user={READER}{token}")
        click.echo(
            f"{mail.source}: {counted(len(messages), 'message')}, "
            f"{counted(len(mail.members), 'channel')}, {counted(len(mail.users), 'author')}"
        )
        _live(api, messages[int(len(messages) * _AT_ONCE) :], speed)
    click.echo("That was all of it; run again, it doubles nothing.")


def _token(config: Config) -> str:
    """What the link needs more where people have to say who they are."""
    data = Path(config.node.data)
    if placement.load(data) is None:
        click.echo(
            f"{data} holds no node: on its machine, pobox token {READER} makes the token that the inbox asks for"
        )
        return ""
    config = as_owner(config)
    with written_down(config, "tokens.issue", user=READER) as done:
        shown = tokens.issue(data, READER, _TOKEN_S)
        done.what["seconds"] = _TOKEN_S
    return f"#token={shown}"


def _mail(repo: Path | None, limit: int) -> Mail:
    """Of the log of ``repo`` if one was named, else of pobox's own, or of a small set where that has little to say."""
    try:
        log = _log(repo or _OWN, limit)
    except (OSError, subprocess.SubprocessError) as error:
        if repo is not None:
            raise click.ClickException(f"no git log of {repo}: {_said(error)}") from error
        return generated()
    mail = of_log(gitlog.commits(log))
    return mail if repo is not None or len(mail.messages) >= min(_FEW, limit) else generated()


def _log(repo: Path, limit: int) -> str:
    """Nothing that the repository configures is run."""
    git = ["git", "-C", str(repo), "-c", "log.showSignature=false", "log", "-z", "--numstat", "--no-renames"]
    git += ["--no-ext-diff", "--no-textconv", "--encoding=UTF-8", f"--max-count={limit}", f"--format={gitlog.FORMAT}"]
    answer = subprocess.run(
        git,
        capture_output=True,
        check=True,
        timeout=_GIT_S,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
    )
    return answer.stdout.decode(errors="replace")


def _said(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    return printable(said.decode(errors="replace").strip().partition("\n")[0] if said else str(error))


def _live(api: Api, messages: Sequence[NewMessage], speed: float) -> None:
    """One after the other at ``speed`` a second, each with a line that says so."""
    began = time.monotonic()
    for number, message in enumerate(messages, 1):
        time.sleep(max(0.0, began + number / speed - time.monotonic()))
        _send(api, message)
        click.echo(f"  {printable(message.channel_id or ''):16} {printable(message.sender or '')}: ", nl=False)
        click.echo(printable(message.title))
        sys.stdout.flush()


def _send(api: Api, message: NewMessage) -> None:
    api.send("POST", "/api/v3/messages", message, Accepted)
