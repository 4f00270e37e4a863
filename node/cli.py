"""``pobox``: the command line. Only wires; each group of commands has its own module."""

from __future__ import annotations

import click

from node import commands_channel, commands_mail, commands_serve


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
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
):
    main.add_command(command)
