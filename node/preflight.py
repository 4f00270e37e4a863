"""What is looked at before anything is started: settings, and the files that they name."""

from __future__ import annotations

from node import listen, tls
from node.config import Config
from node.errors import ConfigError
from node.ids import is_name

SQLITE_MIN = (3, 51, 3)


def check(config: Config) -> None:
    """What must be true before a node touches anything. Raises :class:`ConfigError`."""
    if config.auth.mode == "open" and not listen.is_loopback(config.node.host):
        raise ConfigError(
            f'[node] host = "{config.node.host}" with [auth] mode = "open" would let anybody read every box: '
            'only loopback addresses (127.0.0.1, ::1) are served without authentication; set mode = "keys"'
        )
    import apsw  # which a router has no use for

    if not sqlite_is_safe(apsw.sqlite_lib_version()):
        raise ConfigError(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a database when its WAL is started over; "
            f"{'.'.join(map(str, SQLITE_MIN))} or later is needed"
        )
    check_router(config)


def check_router(config: Config) -> None:
    """What must be true before a router is started. Raises :class:`ConfigError`."""
    if config.auth.mode == "open" and config.router.trusted_proxies:
        raise ConfigError("[auth] mode = open serves this machine only: behind a proxy it would serve everybody")
    if config.node.ops_channel and not is_name(config.node.ops_channel):
        raise ConfigError(f"[node] ops_channel: {config.node.ops_channel!r} is no channelId")
    if config.tls.certificate or config.tls.key:
        tls.context(config.tls)
    if config.auth.mode == "keys":
        from node import issuers  # with libraries that other commands would wait for

        issuers.others(config.auth)


def sqlite_is_safe(version: str) -> bool:
    """Whether SQLite ``version`` has the fix of the WAL reset."""
    return tuple(int(part) for part in version.split(".")) >= SQLITE_MIN
