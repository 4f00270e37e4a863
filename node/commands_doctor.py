"""``pobox doctor``: on the machine where the data is."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from node import config as configuration
from node.options import on_data


@click.command()
@on_data
def doctor(config: configuration.Config) -> None:
    """Check every mailbox and journal; exit code 1, naming what, if anything is wrong."""
    command = [sys.executable, "-m", "shard.doctor", "--data", config.node.data]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("POBOX_")}
    environment = {**inherited, **configuration.environment(config), "POBOX_CONFIG": os.devnull}
    # It inherits secrets that this process alone could open.
    sys.exit(subprocess.run(command, check=False, env=environment, close_fds=False).returncode)
