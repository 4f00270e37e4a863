"""``pobox``: the command line. Only wires; each group of commands has its own module.

A command's module is imported when somebody asks for it: what one needs the others would wait for. So the commands of a
device can be here, too, which live in ``client``, and node doesn't know that.
"""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "serve": "node.commands_serve:serve",
    "doctor": "node.commands_doctor:doctor",
    "deliver": "node.commands_mail:deliver",
    "read": "node.commands_mail:read",
    "receipt": "node.commands_mail:receipt",
    "channel": "node.commands_channel:channel",
    "dead-letters": "node.commands_dead_letters:dead_letters",
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
    """Those in ``_COMMANDS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:  # click itself knows of none that could be meant
            raise click.NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="pobox")
def main() -> None:
    """Messages are delivered to a person's own box: a SQLite file a user."""
