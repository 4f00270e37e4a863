"""How a pobox process logs: one line an event."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

from node.lean import structlog


class _Stderr:
    """Standard error that never fails: a log line nobody reads must not disturb an orderly stop."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(name: str, *, supervised: bool = False) -> None:
    """Log to standard error under ``name``: one JSON object a line, with ``time``, ``level`` and ``event``.

    On a terminal, unless ``supervised`` (the supervisor shows the lines), they are made for eyes.
    The standard library's loggers come out the same way, from level warning up.
    """

    def add_name(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = name
        return event

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.types.Processor]
    if sys.stderr.isatty() and not supervised:
        render = [structlog.dev.ConsoleRenderer(timestamp_key="time")]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    stderr: Any = _Stderr()
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
