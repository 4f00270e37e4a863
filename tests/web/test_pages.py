"""The files of the page over HTTP: exactly those, each with the right headers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import falcon.asgi
import falcon.testing
import pytest

from router import pages, problems

ROOT = Path(__file__).parents[2]
Client = falcon.testing.TestClient


@pytest.fixture(scope="module")
def http() -> Client:
    app: falcon.asgi.App = falcon.asgi.App()  # type: ignore[type-arg]
    problems.install(app)
    pages.Pages().install(app)
    return Client(app)


def test_every_file_of_the_folder_is_served_with_its_type_and_nothing_else_is(http: Client) -> None:
    served = set(pages.Pages().files)
    there = {path.relative_to(pages.ROOT).as_posix() for path in pages.ROOT.rglob("*") if path.is_file()}
    assert served - there == {"files.js"}
    assert {Path(name).name for name in there - served} == {"LICENSE", "vendor.json"}
    for name in served:
        answer = http.simulate_get(f"/inbox/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == pages.TYPES[Path(name).suffix]
    for name in ("", "../pages.py", "..%2fpages.py", "vendor/", "vendor/vendor.json", "nothing.js", "%00"):
        assert http.simulate_get(f"/inbox/x{name}").status_code == 404
    assert http.simulate_get("/inbox/vendor/sqlite-wasm/sqlite3.wasm").headers["content-type"] == "application/wasm"


def test_no_script_but_our_own_may_run(http: Client) -> None:
    headers = http.simulate_get("/inbox/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["trusted-types"] == "dompurify pobox"
    assert not re.search(r"<script(?![^>]*src)|\son\w+=|style=", (pages.ROOT / "index.html").read_text())


def test_what_is_known_is_not_sent_again(http: Client) -> None:
    for packing in ("identity", "gzip"):
        first = http.simulate_get("/inbox/main.js", headers={"Accept-Encoding": packing})
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers.get("content-encoding", "identity") == packing
        again = http.simulate_get(
            "/inbox/main.js", headers={"Accept-Encoding": packing, "If-None-Match": first.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        other = http.simulate_get("/inbox/main.js", headers={"Accept-Encoding": packing, "If-None-Match": '"other"'})
        assert other.status_code == 200


def test_the_front_door_leads_to_the_inbox(http: Client) -> None:
    for path in ("/", "/inbox"):
        answer = http.simulate_get(path, query_string="user=ada")
        assert (answer.status_code, answer.headers["location"]) == (307, "/inbox/?user=ada")
    assert http.simulate_head("/inbox/").status_code == 200


def test_the_list_of_files_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    before = pages.Pages(tmp_path).files["files.js"].content
    (tmp_path / "a.js").write_text("2")
    assert pages.Pages(tmp_path).files["files.js"].content != before


@pytest.mark.parametrize("folder", ["router/web/vendor", "tests/web/vendor"])
def test_what_is_of_others_is_what_they_published(folder: str) -> None:
    root = ROOT / folder
    listed = json.loads((root / "vendor.json").read_text())
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {item["file"] for item in listed} == there - {"vendor.json"}
    for item in listed:
        assert hashlib.sha256((root / item["file"]).read_bytes()).hexdigest() == item["sha256"], item["file"]
        assert (root / item["file"]).parent.joinpath("LICENSE").is_file()
        assert item["version"]
        assert item["licence"]


def test_both_languages_have_the_same_words() -> None:
    source = (pages.ROOT / "words.js").read_text()
    english, chinese = (re.findall(r"^  (\w+):", part, re.M) for part in source.split("const ZH = {")[:2])
    assert english == chinese
    used = set()
    for path in pages.ROOT.rglob("*.js"):
        if "vendor" not in path.parts:
            used |= set(re.findall(r"\bt\(\"(\w+)\"", path.read_text()))
    assert used <= set(english)
