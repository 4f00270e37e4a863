"""Who may import whom: node nobody, router and shard only node, client only node."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"node", "router", "shard", "client", "loadtest", "tests"}
LOADS = {"gevent", "geventhttpclient", "locust"}
"""gevent changes the standard library under whoever imports it: load tests only"""
MAY = {"node": {"node"}, "router": {"node", "router"}, "shard": {"node", "shard"}, "client": {"node", "client"}}


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
