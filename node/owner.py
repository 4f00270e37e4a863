"""Whose a data directory is. A command works on it as that user or not at all: what another user makes in it a node
can't read, and shards answer nobody else.

Root becomes the owner, for good, before a command does anything. Secrets that the settings name and that root alone may
read (``/etc/credstore``) are read before.
"""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path

import msgspec

from node import paths
from node.config import Config
from node.errors import ConfigError

CALLER = os.getuid()
"""whoever has called this program, whatever user it has become"""
_SECRETS = (("backup", "credentials"), ("encryption", "master_key"))
"""what commands need; the others are the routers'"""


def as_owner(config: Config) -> Config:
    """Be the owner of the data directory of ``config``, which is given back with secrets that can be read still: a
    process that is started has to inherit their descriptors. A directory that isn't there is whoever's makes it.

    Raises :class:`ConfigError` where this user isn't the owner, and can't be.
    """
    owner = _other_owner(Path(config.node.data))
    if owner is None:
        return config
    secrets = {place: content for place in _SECRETS if (content := _read(_named(config, place))) is not None}
    _become(owner, Path(config.node.data))
    for (section, field), content in secrets.items():
        path = _named(config, (section, field))
        if not os.access(path, os.R_OK):
            kept = msgspec.structs.replace(getattr(config, section), **{field: _in_memory(path, content)})
            config = msgspec.structs.replace(config, **{section: kept})
    return config


def become(data: Path) -> None:
    """Be the owner of ``data``, who has to be able to read the secrets by himself; otherwise as :func:`as_owner`."""
    if (owner := _other_owner(data)) is not None:
        _become(owner, data)


def name_of(uid: int) -> str:
    """What the user is called; the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def refusal(path: Path, error: OSError) -> str:
    """``error``, which ``path`` in a data directory gave, in words: also whose it is, if it isn't this user's."""
    said = f"{path}: {error.strerror}"
    try:
        uid = path.stat().st_uid
    except OSError:
        return said
    if uid == os.geteuid():
        return said
    return f"{said}: it belongs to {name_of(uid)}, and must to {name_of(os.geteuid())}, like all there (chown)"


def _other_owner(data: Path) -> os.stat_result | None:
    """Of ``data``, if that isn't this user. Raises :class:`ConfigError` if this user can't be the owner."""
    try:
        found = data.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"[node] data: {data}: {error.strerror}") from error
    me = os.geteuid()
    if found.st_uid == me:
        return None
    if me == 0:
        return found
    if os.access(data, os.R_OK | os.X_OK) and not paths.placement_path(data).exists():
        return None  # a copy of the audit log, say
    owner = name_of(found.st_uid)
    command = ["sudo", "-u", f"#{owner}" if owner.isdecimal() else owner]
    if settings := sorted(name for name in os.environ if name.startswith("POBOX_")):
        command.append(f"--preserve-env={','.join(settings)}")
    raise ConfigError(f"{data} belongs to {owner}, and this is {name_of(me)}: {shlex.join([*command, *sys.argv])}")


def _become(owner: os.stat_result, data: Path) -> None:
    name = name_of(owner.st_uid)
    try:
        try:
            group = pwd.getpwuid(owner.st_uid).pw_gid
            os.initgroups(name, group)
        except KeyError:
            group = owner.st_gid
            os.setgroups([group])
        os.setgid(group)
        os.setuid(owner.st_uid)
    except OSError as error:
        raise ConfigError(f"{data} belongs to {name}, whom root can't become here: {error.strerror}") from error
    for path, kind in ((data, os.R_OK | os.W_OK | os.X_OK), (Path(__file__), os.R_OK), (Path(sys.executable), os.X_OK)):
        if not os.access(path, kind):
            raise ConfigError(f"{data} belongs to {name}, who can't get at {path}")


def _named(config: Config, place: tuple[str, str]) -> Path:
    section, field = place
    return Path(getattr(getattr(config, section), field))


def _read(path: Path) -> bytes | None:
    """What no regular file holds, or can't be read, whoever needs it says so."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _in_memory(path: Path, content: bytes) -> str:
    """Where this process, and those who inherit the descriptor, find ``content``."""
    fd = os.memfd_create(path.name, 0)
    os.fchmod(fd, 0o600)
    os.write(fd, content)
    return f"/proc/self/fd/{fd}"
