"""``pobox delete``: what a person may ask of whoever runs the node."""

from __future__ import annotations

import click

from node.apiclient import PATIENCE_S, Api, segment
from node.show import Failures, server_option


@click.command(cls=Failures)
@click.argument("user")
@click.option("--yes", is_flag=True, help="without being asked")
@server_option
def delete(server: str, user: str, yes: bool) -> None:
    """Delete all there is of USER: the box, its backups, memberships, and what is on its way. There is no way back."""
    if not yes:
        click.confirm(f"Delete everything of {user}, for good?", abort=True)
    with Api(server, patience_s=PATIENCE_S) as api:
        api.ask("DELETE", f"/api/v3/users/{segment(user)}", type(None))
    click.echo(f"{user} is deleted")
