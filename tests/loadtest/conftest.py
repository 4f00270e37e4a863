"""Nodes that loads are tried out on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from loadtest import capacity, inbox, scenario
from loadtest.subjects import PoboxNode, pobox
from tests.support import PATIENT


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load counts what a shard that is taken for hung leaves undone."""

    def patient(base: Path, **given: Any) -> AbstractContextManager[PoboxNode]:
        return pobox(base, **given | {"environ": PATIENT | (given.get("environ") or {})})

    for module in (capacity, inbox, scenario):
        monkeypatch.setattr(module, "pobox", patient)
