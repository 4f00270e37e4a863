"""The means of the download benches: wrk on a list of paths, nginx, and many devices at a pace."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from loadtest import gets
from loadtest.children import Child, answers, kept_port, python, running
from loadtest.downloaders import Downloaded
from loadtest.errors import BenchError
from loadtest.nginx import nginx

pytestmark = pytest.mark.slow
_needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
_needs_nginx = pytest.mark.skipif(shutil.which("/usr/sbin/nginx") is None, reason="nginx is not installed")


def _files(base: Path) -> Path:
    files = base / "files"
    files.mkdir()
    (files / "a.db").write_bytes(b"a" * 100_000)
    (files / "b.db").write_bytes(b"b" * 300_000)
    return files


@contextlib.contextmanager
def _served(base: Path) -> Iterator[str]:
    """The files of :func:`_files` under a URL."""
    files = _files(base)
    with kept_port() as port:
        command = [sys.executable, "-m", "http.server", "--protocol", "HTTP/1.1", "--bind", "127.0.0.1", str(port)]
        server = Child("files", [*command, "--directory", str(files)], base / "log")
        with running(server):
            server.wait_ready(lambda: answers(f"http://127.0.0.1:{port}/"))
            yield f"http://127.0.0.1:{port}"


@_needs_wrk
def test_wrk_counts_what_it_fetched_and_takes_no_refusal_for_an_answer(tmp_path: Path) -> None:
    with _served(tmp_path) as url:
        got = gets.run(url, ["/a.db", "/b.db"], tmp_path, seconds=1, connections=2)
        assert got.answered > 0
        assert 100_000 < got.bytes / got.answered < 300_500
        assert got.rate > 0
        with pytest.raises(BenchError, match="refusals"):
            gets.run(url, ["/none"], tmp_path, seconds=1, connections=1)


def test_devices_download_again_and_again_and_not_faster_than_they_may(tmp_path: Path) -> None:
    def run(url: str, *options: str) -> Downloaded:
        command = python("loadtest.downloaders", f"{url}/b.db", "--count", "4", *options)
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
        return msgspec.json.decode(done.stdout, type=Downloaded)

    with _served(tmp_path) as url:
        fast = next(got for seconds in "148" if (got := run(url, "--seconds", seconds)).files > 4)
        assert fast.failed == 0
        began = time.monotonic()
        slow = run(url, "--seconds", "2", "--bytes-per-second", "100000")
        assert slow.bytes <= 4 * (100_000 * (time.monotonic() - began + 1) + 65_536)
        (tmp_path / "files" / "b.db").unlink()
        assert any(run(url, "--seconds", seconds).failed for seconds in ("0.5", "4", "8"))


@_needs_nginx
def test_nginx_serves_the_files_and_leaves_nothing_running(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", _files(tmp_path), workers=1) as peer:
        assert httpx.get(f"{peer.url}/a.db", trust_env=False, timeout=30).content == b"a" * 100_000
        processes = peer.children[0].tree()
        assert processes
    assert not any(process.is_running() for process in processes)
