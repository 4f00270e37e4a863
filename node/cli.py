"""``pobox``: the command line. Only wires; each group of commands has its own module.

The commands of a device live in ``client``, which node doesn't know: they are named here, and imported when
somebody asks for them. So is what needs libraries that the others don't.
"""

from __future__ import annotations

import importlib

import click

from node import commands_channel, commands_dead_letters, commands_mail, commands_serve

_LAZY = {
    "demo": "node.commands_demo:demo",
    "reshard": "node.commands_reshard:reshard",
    "move": "node.commands_reshard:move",
    "sync": "client.command:sync",
    "mark": "client.command:mark",
    "systemd": "node.commands_systemd:systemd",
    "top": "node.commands_top:top",
    "audit": "node.commands_audit:audit",
    "backup": "shard.backup_command:backup",
    "restore": "shard.backup_command:restore",
    "export": "node.commands_rights:export",
    "encrypt": "shard.encryption_command:encrypt",
    "master-key": "shard.encryption_command:master_key",
    "delete": "node.commands_rights:delete",
    "quota": "node.commands_rights:quota",
    "key": "node.commands_auth:key",
    "token": "node.commands_auth:token",
}


class _Commands(click.Group):
    """Those that were added, and those in ``_LAZY``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        module, _, name = _LAZY[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="pobox")
def main() -> None:
    """Messages are delivered to a person's own box: a SQLite file a user."""


for command in (
    commands_serve.serve,
    commands_serve.doctor,
    commands_mail.deliver,
    commands_mail.read,
    commands_mail.receipt,
    commands_channel.channel,
    commands_dead_letters.dead_letters,
):
    main.add_command(command)
