"""The Falcon app: the table of routes, bound to the resources that answer them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import falcon.asgi

from node.config import Node, Router
from node.errors import ConfigError
from router import problems
from router.access import Credentials
from router.alerts import AlertsPage, NodeAlerts
from router.audit import Audit
from router.batch import Batch
from router.body import Bodies, Request
from router.boxes import Boxes
from router.channels import ChannelList
from router.dead_letters import DeadLetterList
from router.delivery import Deliverer
from router.delta import Deltas
from router.devices import DeviceList
from router.download import Downloads
from router.events import Events
from router.export import Exports
from router.gate import Gate
from router.guard import Guard
from router.health import Healths
from router.links import Links
from router.members import MemberList
from router.memberships import Memberships
from router.messages import Messages, Receipts
from router.metrics import Metrics
from router.metrics_page import MetricsPage
from router.openapi import OpenApi
from router.ops_channel import OpsChannel
from router.pages import ADMIN_PREFIX, ADMIN_ROOT, Pages
from router.processes import Processes
from router.push import PushDeviceList
from router.routes import ROUTES
from router.statuses import Statuses
from router.sync import Checks, Versions
from router.usages import Usages
from router.users import UserList

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]+)?|https?://\[[0-9a-f:]+\](?::[0-9]+)?")
_EXPOSED = ["ETag", "Pobox-Checksum", "Pobox-Size", "Pobox-Version", "RateLimit", "RateLimit-Policy", "Retry-After"]
App = falcon.asgi.App[Request, falcon.asgi.Response]


class _Lifespan:
    """Falcon calls it when the server starts and stops; it has no part in a request."""

    def __init__(
        self,
        links: Links,
        processes: Processes,
        alerts: NodeAlerts,
        ops_channel: OpsChannel | None,
        audit: Audit | None,
    ) -> None:
        self._alerts = alerts
        self._audit = audit
        self._links = links
        self._processes = processes
        self._ops_channel = ops_channel

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        if self._audit is not None:
            self._audit.start()
        self._links.start()
        await self._processes.start()
        self._alerts.start()
        if self._ops_channel is not None:
            self._ops_channel.start()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        if self._ops_channel is not None:
            await self._ops_channel.close()
        await self._alerts.close()
        await self._processes.close()
        await self._links.close()
        if self._audit is not None:
            await self._audit.close()


class _Path:
    """What Falcon wants for a path: an object with ``on_<method>`` for each method."""


def build(
    links: Links,
    delivery: Deliverer,
    config: Router,
    *,
    versions: Versions | None = None,
    node: Node | None = None,
    metrics: Metrics | None = None,
    credentials: Credentials | None = None,
    audit: Audit | None = None,
    is_open: bool = False,
) -> App:
    """The app that serves every route over ``links``; messages go in by ``delivery``, what boxes there are ``versions``
    know. What it counts is in ``metrics``. ``credentials`` know who asks; without them nobody has to say who they are.
    ``audit`` is where it is written down who did what. ``is_open``: and so only this machine may ask."""
    node, metrics = node or Node(), metrics or Metrics(links)
    metrics.audit = audit
    bodies = Bodies()
    versions = metrics.versions = versions or Versions(links)
    events = metrics.events = Events(links, config.listeners_max)
    processes = Processes(links.data, metrics, shards=lambda: len(links.shards), routers=node.routers)
    alerts = NodeAlerts(processes, links)
    ops_channel = None
    if node.ops_channel and metrics.index == 0:
        ops_channel = OpsChannel(alerts, delivery, node.ops_channel)
    turn = asyncio.Lock()
    resources: Mapping[str, object] = {
        "messages": Messages(links, delivery, bodies, config.body_bytes_max),
        "batch": Batch(
            delivery,
            bodies,
            line_bytes_max=config.body_bytes_max,
            batch_bytes_max=config.batch_bytes_max,
        ),
        "receipts": Receipts(links),
        "users": UserList(links),
        "usages": Usages(links, bodies),
        "boxes": Boxes(links),
        "exports": Exports(links, turn),
        "channels": ChannelList(links, bodies, config.body_bytes_max),
        "members": MemberList(links, bodies, config.body_bytes_max),
        "memberships": Memberships(links, bodies, config.body_bytes_max),
        "devices": DeviceList(links),
        "checks": Checks(versions),
        "downloads": Downloads(links, versions, turn),
        "deltas": Deltas(links, bodies, config.delta_bytes_max, turn),
        "statuses": Statuses(links, bodies),
        "events": events,
        "dead_letters": DeadLetterList(links),
        "push": PushDeviceList(links, bodies),
        "alerts": AlertsPage(alerts),
        "metrics": MetricsPage(processes),
        "health": Healths(links),
        "openapi": OpenApi(ROUTES),
    }
    origins = _origins(config.cors_origins)
    cors: list[Any] = [falcon.CORSMiddleware(allow_origins=origins, expose_headers=_EXPOSED)] if origins else []
    app: App = falcon.asgi.App(
        request_type=Request,
        middleware=[
            *cors,
            Guard(is_open=is_open, origins=origins, audit=audit),
            _Lifespan(links, processes, alerts, ops_channel, audit),
            metrics.requests,
        ],
    )
    problems.install(app)
    gate = Gate(credentials, audit)
    paths: dict[str, _Path] = {}
    for operation in ROUTES:
        path = paths.setdefault(operation.path, _Path())
        action = gate.before(operation, getattr(resources[operation.noun], operation.action))
        setattr(path, f"on_{operation.method.lower()}", action)
        if operation.method == "GET":  # Falcon sends the headers and leaves out the body
            path.on_head = action  # type: ignore[attr-defined]
    for template, path in paths.items():
        app.add_route(falcon_template(template), path)
    Pages().install(app)
    Pages(ADMIN_ROOT, ADMIN_PREFIX).install(app)
    return app


def _origins(named: str) -> list[str]:
    """``cors_origins``; raises :class:`ConfigError`."""
    origins = [origin.strip() for origin in named.split(",") if origin.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"[router] cors_origins: {origin} is no origin like https://mail.example")
    return origins


def falcon_template(path: str) -> str:
    """``{userId}`` of the documents is ``user_id`` of the responders."""
    return re.sub(r"{(\w+)}", lambda name: "{" + re.sub("([A-Z])", r"_\1", name.group(1)).lower() + "}", path)
