"""nginx serving a directory: what a download is measured against."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from loadtest.children import Child, answers, kept_port, running
from loadtest.errors import BenchError
from loadtest.subjects import Floor

_CONFIG = """
daemon off;
pid {base}/nginx.pid;
error_log stderr;
worker_processes {workers};
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {base}/body;
    proxy_temp_path {base}/proxy;
    fastcgi_temp_path {base}/fastcgi;
    uwsgi_temp_path {base}/uwsgi;
    scgi_temp_path {base}/scgi;
    server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""


@contextlib.contextmanager
def nginx(base: Path, files: Path, *, workers: int) -> Iterator[Floor]:
    """nginx with ``sendfile``, on the files of one directory."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise BenchError("nginx is not installed (Debian: apt-get install nginx-light)")
    base.mkdir(parents=True, exist_ok=True)
    config, user = base / "nginx.conf", "user root;" if os.geteuid() == 0 else ""
    with kept_port() as port:
        config.write_text(_CONFIG.format(base=base, files=files, port=port, workers=workers, user=user))
        child = Child("nginx", [program, "-c", str(config), "-p", str(base)], base / "nginx.log")
        url = f"http://127.0.0.1:{port}"
        with running(child):
            child.wait_ready(lambda: answers(url))
            yield Floor("nginx", url, [child])
