"""Who may import whom: node nobody, router and shard only node, client only node. And what no process waits for that
may never need it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"node", "router", "shard", "client", "loadtest", "tests"}
LOADS = {"gevent", "geventhttpclient", "locust"}
"""gevent changes the standard library under whoever imports it: load tests only"""
MAY = {"node": {"node"}, "router": {"node", "router"}, "shard": {"node", "shard"}, "client": {"node", "client"}}

SPARED = {
    "node.cli": {"asyncio", "httpx", "msgspec", "rich", "structlog"},
    "node.commands_serve": {"attr", "cryptography", "httpx", "jwt", "rich"},
    "node.commands_auth": {"asyncio", "httpx", "jwt", "structlog"},
    "shard.layout": {"httpcore", "jwt", "structlog", "cryptography.hazmat.primitives.serialization"},
    "shard.__main__": {"attr", "click", "httpcore", "httpx", "jwt", "rich"},
    "router.__main__": {"apsw", "attr", "httpx", "jwt", "prometheus_client", "rich"},
}
"""what takes long to import, or much memory, by the module that a process begins with"""


def _imported(source: str) -> Iterator[str]:
    """The packages that ``source`` imports, also inside functions; a relative import counts as its own."""
    for item in ast.walk(ast.parse(source)):
        if isinstance(item, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in item.names)
        elif isinstance(item, ast.ImportFrom) and item.level == 0 and item.module:
            yield item.module.partition(".")[0]


@pytest.mark.parametrize("package", MAY)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in _imported(path.read_text())
        if name in (OURS | LOADS) - MAY[package]
    }
    assert wrong == set()


def test_the_scan_sees_imports_wherever_they_are() -> None:
    source = "import a.b, c\ndef f():\n    from d.e import g\n    from . import h\n"
    assert list(_imported(source)) == ["a", "c", "d"]


@pytest.mark.parametrize("module", SPARED)
def test_a_process_begins_without_what_it_may_never_need(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    loaded = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split()
    assert module in loaded
    assert SPARED[module] & set(loaded) == set()
