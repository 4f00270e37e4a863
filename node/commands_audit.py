"""``pobox audit``: whether the audit log is as it was written, and how far it reaches."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import click

from node import audit_deed, audit_verify, placement
from node.commands_auth import Local
from node.config import Config
from node.options import on_data
from node.show import counted


@click.group()
def audit() -> None:
    """Who did what to whom: verify that nothing was changed or cut off since."""


@audit.command(cls=Local)
@click.option("--head", type=click.File(), help="what pobox audit head printed once, kept elsewhere; - for stdin")
@on_data
def verify(config: Config, head: TextIO | None) -> None:
    """Read every line again, also while the node runs; exit code 1, naming what, if anything is wrong."""
    anchors = audit_verify.heard(head.read()) if head is not None else []
    found = audit_verify.verify(Path(config.node.data), anchors)
    for text in found.notes:
        click.echo(f"note   {text}")
    for text in found.faults:
        click.echo(f"FAULT  {text}")
    for chain, place in found.reach.items():
        click.echo(f"{chain}: {counted(place.n, 'line')}, the last is {place.hash}")
    click.echo(f"{counted(found.files, 'file')}, {counted(len(found.faults), 'fault')}")
    status = "faults" if found.faults else "done"
    if placement.load(Path(config.node.data)) is not None:  # in a copy of a log nothing is written
        try:
            audit_deed.note(config, "audit.verify", status, {"faults": len(found.faults), "anchors": len(anchors)})
        except OSError as error:
            click.echo(f"that it was verified could not be written down: {error}", err=True)
    if found.faults:
        raise SystemExit(1)


@audit.command(cls=Local)
@on_data
def head(config: Config) -> None:
    """How far each chain reaches: keep it on another machine, and hold it against the log with verify --head."""
    for anchor in audit_verify.heads(Path(config.node.data)):
        click.echo(audit_verify.said(anchor))
