"""What concerns whoever runs the node."""

from __future__ import annotations

from node.errors import BadField, MailboxFull, NotFound, Unavailable
from node.model import Accepted, Alerts, DeadLetters, Health
from router.access import ADMIN, ANYBODY, FIGURES
from router.operation import PAGE, READ, V3, WRITE, Operation
from router.record import Record

ROUTES: tuple[Operation, ...] = (
    Operation(
        method="GET",
        path=f"{V3}/dead-letters",
        noun="dead_letters",
        action="page",
        who=ADMIN,
        record=Record.NOTE,
        summary="A page of the messages that could not be stored for somebody, newest first",
        response=DeadLetters,
        query=("userId", "reason", *PAGE),
        faults=READ,
    ),
    Operation(
        method="POST",
        path=f"{V3}/dead-letters/{{deadLetterId}}/requeue",
        noun="dead_letters",
        action="requeue",
        who=ADMIN,
        record=Record.DEED,
        summary="Deliver a dead letter after all",
        statuses=(202,),
        response=Accepted,
        faults=(*WRITE, NotFound, MailboxFull),
    ),
    Operation(
        method="DELETE",
        path=f"{V3}/dead-letters/{{deadLetterId}}",
        noun="dead_letters",
        action="drop",
        who=ADMIN,
        record=Record.DEED,
        summary="Forget a dead letter for good",
        statuses=(204,),
        faults=(*WRITE, NotFound),
    ),
    Operation(
        method="GET",
        path="/healthz",
        noun="health",
        action="alive",
        who=ANYBODY,
        record=Record.NEVER,
        summary="The process is up",
        response=Health,
    ),
    Operation(
        method="GET",
        path="/readyz",
        noun="health",
        action="ready",
        who=ANYBODY,
        record=Record.NEVER,
        summary="Every shard answers",
        response=Health,
        faults=(Unavailable,),
    ),
    Operation(
        method="GET",
        path=f"{V3}/alerts",
        noun="alerts",
        action="get",
        who=FIGURES,
        record=Record.NEVER,
        summary="What is wrong with the node just now",
        response=Alerts,
    ),
    Operation(
        method="GET",
        path="/metrics",
        noun="metrics",
        action="get",
        who=FIGURES,
        record=Record.NEVER,
        summary="Figures of every process of the node, or of one, for Prometheus",
        response_type="text/plain",
        query=("shard", "process"),
        faults=(BadField,),
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        noun="openapi",
        action="get",
        who=ANYBODY,
        record=Record.NEVER,
        summary="This document",
    ),
)
