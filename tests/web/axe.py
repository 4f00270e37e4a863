"""What axe-core finds wrong with a page for people who use it otherwise than most."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

_AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


def serious(page: Page) -> list[str]:
    """Each rule that is broken, and where; minor ones are left out."""
    page.evaluate(_AXE.read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {[node['target'] for node in rule['nodes']]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical", "moderate")
    ]
