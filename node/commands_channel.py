"""``pobox channel``: make channels, and let people join and leave."""

from __future__ import annotations

import click

from node.apiclient import Api, segment
from node.asking import Failures, server_option
from node.model import USERS_MAX, Channel, Channels, ChannelSpec, MemberChange, MemberChanged, Members
from node.show import printable, table


@click.group()
def channel() -> None:
    """Make channels, and let people join and leave."""


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@click.option("--name", help="for people; the id unless told")
@click.option("--description")
@server_option
def create(server: str, channel_id: str, name: str | None, description: str | None) -> None:
    """Create CHANNEL, or change its name and description."""
    with Api(server) as api:
        _show(api.send("PUT", _path(channel_id), ChannelSpec(name=name, description=description), Channel))


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@server_option
def show(server: str, channel_id: str) -> None:
    """Show CHANNEL and how many are in it."""
    with Api(server) as api:
        _show(api.get(_path(channel_id), Channel))


@channel.command("list", cls=Failures)
@server_option
def list_channels(server: str) -> None:
    """List all channels."""
    rows = []
    with Api(server) as api:
        for page in api.pages("/api/v3/channels", Channels):
            rows += [(c.id, c.name, str(c.members), c.created_at) for c in page.channels]
    table(("channel", "name", "members", "created"), rows)


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@server_option
def delete(server: str, channel_id: str) -> None:
    """Delete CHANNEL; its messages stay in the boxes they are in."""
    with Api(server) as api:
        api.ask("DELETE", _path(channel_id), type(None))
    click.echo(f"{channel_id} deleted")


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@click.argument("users", nargs=-1, required=True)
@server_option
def join(server: str, channel_id: str, users: tuple[str, ...]) -> None:
    """Let USERS (userIds, separated by spaces or commas) join CHANNEL."""
    names = _names(users)
    for at in range(0, len(names), USERS_MAX):
        _change(server, channel_id, MemberChange(add=names[at : at + USERS_MAX]))


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@click.argument("users", nargs=-1, required=True)
@server_option
def leave(server: str, channel_id: str, users: tuple[str, ...]) -> None:
    """Let USERS (userIds, separated by spaces or commas) leave CHANNEL."""
    names = _names(users)
    for at in range(0, len(names), USERS_MAX):
        _change(server, channel_id, MemberChange(remove=names[at : at + USERS_MAX]))


@channel.command(cls=Failures)
@click.argument("channel_id", metavar="CHANNEL")
@server_option
def members(server: str, channel_id: str) -> None:
    """List who is in CHANNEL, one userId a line."""
    with Api(server) as api:
        for page in api.pages(f"{_path(channel_id)}/members", Members):
            for user in page.members:
                click.echo(user)


def _path(channel_id: str) -> str:
    return f"/api/v3/channels/{segment(channel_id)}"


def _names(users: tuple[str, ...]) -> list[str]:
    return [name for part in users for name in part.split(",") if name]


def _change(server: str, channel_id: str, change: MemberChange) -> None:
    with Api(server) as api:
        changed = api.send("POST", f"{_path(channel_id)}/members", change, MemberChanged)
    click.echo(f"{channel_id}: {changed.added} joined, {changed.removed} left, {changed.members} members")


def _show(found: Channel) -> None:
    click.echo(f"{found.id}: {printable(found.name)}, {found.members} members, created {found.created_at}")
    if found.description:
        click.echo(printable(found.description))
