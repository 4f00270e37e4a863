"""The certificate that a router shows. When there is another one, new connections see it, and the old ones go on."""

from __future__ import annotations

import structlog

from node import tls as node_tls
from node.config import Tls
from node.errors import ConfigError

_log = structlog.get_logger()


class Certificate:
    """Of ``tls``, which names one. Raises :class:`ConfigError` if it can't be used."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._due = False
        self.context = node_tls.context(tls)

    def ask(self) -> None:
        """Have it read again soon; may be called by a signal handler."""
        self._due = True

    def look(self) -> None:
        """Read it again if that was asked for. One that can't be used changes nothing, and is a line in the log."""
        if not self._due:
            return
        self._due = False
        try:
            node_tls.context(self._tls)  # else half of it might be in use when the other half turns out to be missing
            node_tls.load(self.context, self._tls)
        except ConfigError as error:
            _log.error("the certificate stays as it was", error=str(error))
        else:
            _log.info("the certificate was read again")
