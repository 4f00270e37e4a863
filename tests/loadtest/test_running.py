"""Locust, by a plan: what it counts is what was answered, however late and to whichever process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.scenarios import ledger, running
from loadtest.scenarios.names import Outcome
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.watching import Watcher

pytestmark = pytest.mark.slow

_ANSWER_S = 4.0


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(_ANSWER_S)
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def slow() -> Iterator[str]:
    """The URL of a service that takes each letter, long after it was asked."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_answered_long_after_the_last_phase_is_counted(tmp_path: Path, slow: str, processes: int) -> None:
    letters = 10
    (tmp_path / "ledger").mkdir()
    this = Plan(
        run="r",
        url=slow,
        ledger=str(tmp_path / "ledger"),
        users=10,
        processes=processes,
        phases=[Phase(name="late", seconds=1, rate=letters)],
    )
    run = running.run(this, tmp_path / "locust", Watcher(list), Console(quiet=True))
    assert run.rows.letters("late", Outcome.ACCEPTED) == letters
    assert len(set(ledger.accepted(tmp_path / "ledger"))) == letters
    assert (tmp_path / "locust.html").exists()
