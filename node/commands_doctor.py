"""``pobox doctor``: on the machine where the data is."""

from __future__ import annotations

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
    # It inherits secrets that this process alone could open.
    doctor = subprocess.run(command, check=False, env=configuration.handed_on(config), close_fds=False)
    sys.exit(doctor.returncode)
