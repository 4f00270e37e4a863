"""The package as it is installed: from a wheel, away from the directory that it was built of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BUILT_OF = ("node", "router", "shard", "client", "loadtest", "systemd")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "out")


@pytest.mark.slow
@pytest.mark.long
def test_a_wheel_has_all_that_its_commands_need(tmp_path: Path) -> None:
    source, place, image = tmp_path / "source", tmp_path / "venv", tmp_path / "image"
    for name in _BUILT_OF:  # a build leaves files beside what it is of
        shutil.copytree(ROOT / name, source / name, ignore=_LEFT_OUT)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    run(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path, source)
    [wheel] = tmp_path.glob("pobox-*.whl")
    run(*pip, "--python", python, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel)
    # What it stands on is that of these tests; a .pth of theirs, which may name this directory, isn't read.
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    pobox = place / "bin" / "pobox"
    where = run(python, "-c", "import node, router, shard; print(node.__file__)")
    assert Path(where.strip()).is_relative_to(place)
    assert run(pobox, "--version").startswith("pobox, version ")
    assert "systemd" in run(pobox, "--help")
    assert "pobox.target" in run(pobox, "systemd", "install", "--shards", "2", "--root", image)
    shipped = {path.name for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    installed = {path.name for path in (image / "etc/systemd/system").rglob("*") if path.is_file()}
    elsewhere = {"pobox.sysusers", "pobox.tmpfiles", "pobox-alerts.rules.yml"}
    assert shipped - installed == elsewhere
    assert elsewhere <= {path.name for path in (place / "share/pobox/systemd").iterdir()}
    pages = {path.relative_to(ROOT) for path in (ROOT / "router").glob("web*/**/*") if path.is_file()}
    assert {path for path in pages if not (own / path).is_file()} == set()


def run(*command: object) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd="/",
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
