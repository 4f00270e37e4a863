"""``pobox deliver``, ``read`` and ``receipt``: messages, from a shell."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from node.apiclient import PATIENCE_S, Api, segment
from node.asking import Failures, server_option
from node.ids import new_id
from node.ingest import Figures, create_channels, members_of, opened, send
from node.model import Accepted, Message, Messages, NewMessage, Receipt
from node.show import printable, table

_PAGE = 100


@click.command(cls=Failures)
@click.option("--users", help="who gets it: userIds, separated by commas")
@click.option("--channel", help="with --users the label, without: all its members get it")
@click.option("--title")
@click.option("--content")
@click.option("--priority", type=click.IntRange(1, 10), help="5 unless said")
@click.option("--sender")
@click.option("--id", "message_id", help="the same id again delivers nothing twice")
@click.option(
    "--ndjson",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="deliver a file, one message a line (.gz is fine, - is standard input)",
)
@click.option(
    "--members",
    "members_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="with --ndjson: {channel: [userId, ...]} to create first",
)
@click.option("--first-members", type=click.IntRange(1), help="only so many members of each channel")
@server_option
def deliver(
    server: str,
    users: str | None,
    channel: str | None,
    title: str | None,
    content: str | None,
    priority: int | None,
    sender: str | None,
    message_id: str | None,
    ndjson: str | None,
    members_file: Path | None,
    first_members: int | None,
) -> None:
    """Deliver one message, or a file of them."""
    if ndjson is not None:
        if any(option is not None for option in (users, channel, title, content, priority, sender, message_id)):
            raise click.UsageError("--ndjson takes everything from the file")
        _deliver_file(server, ndjson, members_file, first_members)
        return
    if members_file or first_members:
        raise click.UsageError("--members and --first-members go with --ndjson")
    if title is None or content is None or not (users or channel):
        raise click.UsageError("--title, --content and one of --users, --channel are needed (or --ndjson)")
    message = NewMessage(
        id=message_id or new_id(),
        users=users.split(",") if users else None,
        channel_id=channel,
        title=title,
        content=content,
        priority=5 if priority is None else priority,
        sender=sender,
    )
    with Api(server) as api:
        accepted = api.send("POST", "/api/v3/messages", message, Accepted)
    click.echo(f"{accepted.id} accepted for {accepted.targets}")


def _deliver_file(server: str, name: str, members_file: Path | None, first_members: int | None) -> None:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[messages]} messages"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with opened(name) as source, Api(server, patience_s=PATIENCE_S) as api, bar:
        task = bar.add_task("channels", total=None, messages=0)
        if members_file is not None:
            create_channels(api, members_of(members_file, first_members))
        bar.update(task, description="messages", total=source.size)

        def progress(figures: Figures) -> None:
            bar.update(task, completed=source.position, messages=figures.messages)

        figures = send(api, source, progress=progress)
    for refusal in figures.refusals:
        click.echo(f"line {refusal.line}: {printable(refusal.error)}", err=True)
    if figures.rejected > len(figures.refusals):
        click.echo(f"… and {figures.rejected - len(figures.refusals)} more", err=True)
    click.echo(figures.closing_line())
    if figures.rejected:
        sys.exit(1)


@click.command(cls=Failures)
@click.argument("user")
@click.option("--channel", help="only of this channel")
@click.option("--limit", type=click.IntRange(1), default=20, help="the newest so many")
@click.option("--id", "message_id", help="this one, whole")
@server_option
def read(server: str, user: str, channel: str | None, limit: int, message_id: str | None) -> None:
    """Show what is in USER's box, newest first."""
    path = f"/api/v3/users/{segment(user)}/messages"
    with Api(server) as api:
        if message_id is not None:
            _show(api.get(f"{path}/{segment(message_id)}", Message))
            return
        pages = api.pages(path, Messages, channelId=channel, limit=min(_PAGE, limit))
        messages = list(islice((message for page in pages for message in page.messages), limit))
    table(
        ("created", "channel", "from", "title", "id"),
        [(m.created_at, m.channel_id, m.sender or "", m.title, m.id) for m in messages],
    )


def _show(message: Message) -> None:
    click.echo(f"id       {message.id}")
    click.echo(f"channel  {message.channel_id}")
    click.echo(f"from     {printable(message.sender or '')}")
    click.echo(f"created  {message.created_at}")
    click.echo(f"title    {printable(message.title)}")
    click.echo()
    click.echo(printable(message.content, lines=True))


@click.command(cls=Failures)
@click.argument("message_id", metavar="ID")
@server_option
def receipt(server: str, message_id: str) -> None:
    """Show how far the message ID has come."""
    with Api(server) as api:
        found = api.get(f"/api/v3/messages/{segment(message_id)}/receipt", Receipt)
    click.echo(
        f"accepted {found.accepted}: {found.targets} targets, "
        f"{found.stored} stored, {found.pending} pending, {found.failed} failed"
    )
