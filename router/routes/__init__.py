"""Every route, once. What Falcon serves, whom it serves, and what ``/openapi.json`` says are all made from this table.

A route that doesn't say who may use it, and how that is written down, is an error when its module is imported.
"""

from __future__ import annotations

from router.operation import Operation
from router.routes import channels, devices, messages, node, people

ROUTES: tuple[Operation, ...] = (
    *messages.ROUTES,
    *people.ROUTES,
    *devices.ROUTES,
    *channels.ROUTES,
    *node.ROUTES,
)
