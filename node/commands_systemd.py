"""``pobox systemd install``: the units of a node, and what of them depends on the machine.

The units themselves are files in ``systemd/``; nothing is made up here. What a machine has of its own, the number of
shards, the cores, the port, which Python, goes into drop-ins and ``/etc/pobox/node.env`` beside them, which are
written anew each time. Nothing is started: the command says what to type.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import click

from node import process
from node.config import Config
from node.options import loaded

_UNITS = Path("etc/systemd/system")
_ETC = Path("etc/pobox")
_SHIPPED_PYTHON = "/opt/pobox/bin/python"
_SHIPPED_DATA = "/var/lib/pobox"
_TIMER = "pobox-backup.timer"
_EACH, _ALL = "30-instance.conf", "20-node.conf"
"""the drop-ins that are written here: of an instance, and of all of a kind. Of two with one name the first would
take the place of the second."""


@click.group()
def systemd() -> None:
    """Run a node as systemd units, one a process."""


@systemd.command()
@click.option("--shards", type=click.IntRange(1, 256), required=True, help="one a core, best")
@click.option("--routers", type=click.IntRange(1, 64), default=1)
@click.option("--data", default=_SHIPPED_DATA, help="the data directory")
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), default=Path("/"), help="of an image")
def install(shards: int, routers: int, data: str, root: Path) -> None:
    """Write the units for SHARDS shards, and say how to start them. Address, port and the time of the daily backup are
    those of /etc/pobox/pobox.toml, if there is one."""
    settings = root / _ETC / "pobox.toml"
    config = loaded(settings if settings.exists() else None, {"shards": shards, "routers": routers, "data": data})
    try:
        write(root, config, cores=process.cores(), python=sys.executable)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    click.echo(f"written below {root / _UNITS}. Now:")
    click.echo("  systemd-sysusers && systemd-tmpfiles --create")
    click.echo("  systemctl daemon-reload && systemctl enable --now pobox.target")


def shipped() -> Path:
    """Where the unit files lie: in the checkout, or where an installation puts them. Raises ClickException."""
    places = (Path(__file__).parent.parent / "systemd", Path(sysconfig.get_path("data")) / "share/pobox/systemd")
    for place in places:
        if (place / "pobox.target").is_file():
            return place
    raise click.ClickException("the unit files are missing from this installation")


def write(root: Path, config: Config, *, cores: list[int], python: str) -> None:
    """The units, drop-ins and settings of a node with ``config``, below ``root``, for a machine with ``cores`` where
    ``python`` has pobox."""
    node, source, units = config.node, shipped(), root / _UNITS
    units.mkdir(parents=True, exist_ok=True)
    _forget(units)
    for path in sorted(source.iterdir()):
        if path.suffix in (".target", ".slice", ".service", ".socket", ".timer"):
            shutil.copyfile(path, units / path.name)
        elif path.suffix == ".d":
            shutil.copytree(path, units / path.name, dirs_exist_ok=True)
    for kind in ("sysusers", "tmpfiles"):
        place = root / f"etc/{kind}.d"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / f"pobox.{kind}", place / "pobox.conf")
    if config.backup.at:
        _drop_in(units, _TIMER, "Timer", OnCalendar=["", f"*-*-* {config.backup.at}:00 UTC"])
    settings = {"POBOX_NODE_DATA": node.data, "POBOX_NODE_SHARDS": node.shards, "POBOX_NODE_ROUTERS": node.routers}
    (root / _ETC).mkdir(parents=True, exist_ok=True)
    (root / _ETC / "node.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    (root / _ETC / "pobox.toml").touch()

    shard_cores, router_cores = process.affinities(node.shards, node.routers, cores)
    shards = [f"pobox-shard@{index}.service" for index in range(node.shards)]
    routers = [f"pobox-router@{index}" for index in range(node.routers)]
    everywhere = set(cores)
    for name, own in zip(shards, shard_cores, strict=True):
        if own != everywhere:
            _drop_in(units, name, "Service", CPUAffinity=_listed(own))
    for name in routers:
        address = f"[{node.host}]" if ":" in node.host else node.host
        _drop_in(units, f"{name}.socket", "Socket", ListenStream=["", f"{address}:{node.port}"])
        if router_cores != everywhere:
            _drop_in(units, f"{name}.service", "Service", CPUAffinity=_listed(router_cores))
        # Down in the other order: an answer is never owed by somebody who is gone.
        _drop_in(units, f"{name}.service", "Unit", After=" ".join(shards))
    if node.data != _SHIPPED_DATA:
        _drop_in(units, "pobox-.service", "Service", WorkingDirectory=node.data, ReadWritePaths=node.data)
    if python != _SHIPPED_PYTHON:
        _write_python(units, python)
    wanted = units / "pobox.target.wants"
    wanted.mkdir()
    for name in [*shards, *(f"{router}{kind}" for router in routers for kind in (".socket", ".service"))]:
        template = name.partition("@")[0] + "@" + name[name.rindex(".") :]
        (wanted / name).symlink_to(Path("..") / template)
    if config.backup.at:
        (wanted / _TIMER).symlink_to(Path("..") / _TIMER)


def _forget(units: Path) -> None:
    """What an earlier installation wrote of its own: there may be fewer shards now."""
    shutil.rmtree(units / "pobox.target.wants", ignore_errors=True)
    for path in [*units.glob(f"pobox-*.d/{_EACH}"), *units.glob(f"pobox-*.d/{_ALL}")]:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _drop_in(units: Path, unit: str, section: str, **keys: str | list[str]) -> None:
    """Append to the drop-in of ``unit``; an empty value takes back what the unit says."""
    path = units / f"{unit}.d" / (_EACH if re.search(r"@\d", unit) else _ALL)
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"{key}={value}" for key, values in keys.items() for value in ([values] if isinstance(values, str) else values)
    ]
    with path.open("a") as file:
        file.write("\n".join((f"[{section}]", *lines, "")))


def _write_python(units: Path, python: str) -> None:
    """Each command with ``python``."""
    for path in units.glob("pobox-*.service"):
        for line in path.read_text().splitlines():
            if line.startswith(f"ExecStart={_SHIPPED_PYTHON} "):
                command = line.partition("=")[2].replace(_SHIPPED_PYTHON, python, 1)
                _drop_in(units, path.name, "Service", ExecStart=["", command])


def _listed(cores: set[int]) -> str:
    return " ".join(map(str, sorted(cores)))
