"""``python -m router``: the configuration comes by environment, the socket by ``--fd`` if there is one."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import click
import uvicorn

from node import config, listen, notify, placement, preflight, process
from node.errors import ConfigError
from node.lean import structlog
from node.logs import configure_logging
from router import app, protocol
from router.allowance import Allowance
from router.audit import Audit
from router.delivery import Deliverer, Delivery, Floor
from router.fairness import Limiter
from router.links import Links
from router.metrics import Metrics
from router.room import Room
from router.sync import FloorVersions, Versions
from router.tls import Certificate

_BACKLOG = 2048
_STOP_S = 8
"""for what is under way; the supervisor waits for 10"""


@click.command()
@click.option("--index", default=0, help="which of the node's routers this is")
@click.option("--fd", type=int, help="the listening socket, inherited; otherwise it binds one itself")
@click.option("--supervised", is_flag=True, help="end with the process that started this one")
@click.option("--floor", is_flag=True, help="for load tests: check messages, answer, keep nothing")
def main(index: int, fd: int | None, supervised: bool, floor: bool) -> None:
    """Serve HTTP for the node whose data directory the configuration names."""
    # uvicorn hands the signal on when it has stopped in order; then, and before it runs, this ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if supervised:
        process.die_with_parent()
    configure_logging(f"router-{index}", supervised=supervised)
    process.raise_file_limit()
    try:
        serve(config.load(), fd, index=index, floor=floor)
    except (ConfigError, listen.PortTaken) as error:
        raise click.ClickException(str(error)) from error


def serve(settings: config.Config, fd: int | None, *, index: int, floor: bool) -> None:
    """Serve until SIGTERM or SIGINT; raises :class:`ConfigError` for what can't be served."""
    data = Path(settings.node.data)
    placed = placement.load(data)
    if placed is None:
        raise ConfigError(f"{data} has no placement.json: it is not laid out yet")
    sock = socket.socket(fileno=fd) if fd is not None else bind(settings.node)
    host, port = sock.getsockname()[:2]
    if settings.auth.mode == "open" and not listen.is_loopback(host):
        raise ConfigError(f"[auth] mode = open serves loopback only, not {host}")
    preflight.check_router(settings)
    certificate = Certificate(settings.tls) if settings.tls.certificate else None
    signal.signal(signal.SIGHUP, lambda *_: certificate.ask() if certificate is not None else None)
    credentials = None
    if settings.auth.mode == "keys":
        from router.credentials import FileCredentials  # with libraries for tokens, which an open node does without

        credentials = FileCredentials(data, settings.auth, routers=settings.node.routers)
    links = Links(data, placed, timeout_s=settings.router.shard_timeout_s, silence_s=settings.router.silence_s)
    delivery: Deliverer = Floor() if floor else Room(Delivery(links), links)
    versions = FloorVersions(links) if floor else Versions(links)
    if settings.router.user_rate:
        # Each router counts for itself: each has its part.
        rate, burst = settings.router.user_rate / settings.node.routers, settings.router.user_burst
        delivery = Allowance(delivery, Limiter("user", rate=rate, burst=max(1, burst // settings.node.routers)))

    metrics = Metrics(links, index)

    async def watch() -> None:
        notify.tell("READY=1\nWATCHDOG=1")  # it serves now, and its loop goes round
        metrics.connections = len(server.server_state.connections)
        protocol.end_late(server.server_state.connections, asyncio.get_running_loop().time())
        if credentials is not None:
            credentials.look()
        if certificate is not None:
            certificate.look()

    server = uvicorn.Server(
        uvicorn.Config(
            app.build(
                links,
                delivery,
                settings.router,
                versions=versions,
                node=settings.node,
                metrics=metrics,
                credentials=credentials,
                audit=Audit(data, index, settings.audit),
                is_open=credentials is None,
            ),
            loop="uvloop",
            http=protocol.bounded_by(settings.router),
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            log_level="error",  # what callers do wrong is told to them
            access_log=False,
            proxy_headers=bool(settings.router.trusted_proxies),
            forwarded_allow_ips=settings.router.trusted_proxies,
            server_header=False,
            headers=protocol.security_headers(tls=certificate is not None),
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
            backlog=_BACKLOG,
            callback_notify=watch,
            timeout_notify=0,  # each time it is asked, which is once a second
            timeout_graceful_shutdown=_STOP_S,
        )
    )
    structlog.get_logger().info("serving", host=host, port=port, floor=floor)
    server.run(sockets=[sock])


def bind(node: config.Node) -> socket.socket:
    """A socket of our own, for a router without a supervisor; others may share the port."""
    return listen.bind(node.host, node.port, 1)[0]


if __name__ == "__main__":
    main()
