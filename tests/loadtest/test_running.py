"""Locust, by a plan: what it counts is what was answered, however late, to whichever process, and of its own alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.scenarios import ledger, running
from loadtest.scenarios.names import Outcome
from loadtest.scenarios.plan import Phase, Plan
from loadtest.scenarios.running import Run
from loadtest.scenarios.watching import Watcher

pytestmark = pytest.mark.slow

_ANSWER_S = 4.0
_LETTERS = 10


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Slow

    def do_POST(self) -> None:
        letter = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(letter["title"])
        time.sleep(_ANSWER_S)
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


class Slow(ThreadingHTTPServer):
    """Takes each letter, long after it was asked; ``asked`` has the titles."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_is_answered_long_after_the_last_phase_is_counted_by_each_of_several_loads_at_once(
    tmp_path: Path, slow: Slow
) -> None:
    def load(name: str, processes: int) -> Run:
        (tmp_path / name / "ledger").mkdir(parents=True)
        this = Plan(
            run=name,
            url=f"http://127.0.0.1:{slow.server_port}",
            ledger=str(tmp_path / name / "ledger"),
            users=10,
            processes=processes,
            phases=[Phase(name="late", seconds=1, rate=_LETTERS)],
        )
        return running.run(this, tmp_path / name / "locust", Watcher(list), Console(quiet=True))

    names = ("alone", "two", "others")
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(load, names, (1, 2, 2)))
    for name, run in zip(names, runs, strict=True):
        # On a busy machine it may be late for some, and leaves them out.
        asked = sum(title.startswith(f"{name}-") for title in slow.asked)
        assert 0 < asked <= _LETTERS
        assert run.rows.letters("late", Outcome.ACCEPTED) == asked
        assert len(set(ledger.accepted(tmp_path / name / "ledger"))) == asked
        assert (tmp_path / name / "locust.html").exists()
