"""Where callers come from: which proxies are believed, and how many connections one address may have.

``X-Forwarded-For`` and ``X-Forwarded-Proto`` count only from proxies that are named; whoever else sends them is who
they are. Proxies and this machine itself may have any number of connections, since many stand behind them.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

from node.errors import ConfigError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(named: str) -> list[_Network]:
    """``trusted_proxies``: addresses or networks, separated by commas. Raises :class:`ConfigError`."""
    try:
        return [ipaddress.ip_network(name.strip()) for name in named.split(",") if name.strip()]
    except ValueError as error:
        raise ConfigError(f"[router] trusted_proxies: {error}") from error


class Crowd:
    """The connections that are open, by the address that they come from; ``most`` for each."""

    def __init__(self, most: int, proxies: list[_Network]) -> None:
        self._most = most
        self._proxies = proxies
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """One more; False if that is one too many. It has to leave either way."""
        self._open[address] += 1
        return self._open[address] <= self._most or self._stands_for_many(address)

    def leave(self, address: str) -> None:
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def __len__(self) -> int:
        """Addresses that have connections."""
        return len(self._open)

    def _stands_for_many(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return ip.is_loopback or any(ip in network for network in self._proxies)
