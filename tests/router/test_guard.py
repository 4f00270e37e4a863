"""What pages of other sites can't do, and what programs don't notice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.guard import is_here
from tests.router.conftest import Running

HERE = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "a.localhost:1",
    "127.0.0.1",
    "127.8.8.8:80",
    "[::1]",
    "[::1]:8080",
]
ELSEWHERE = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "0.0.0.0",
]
ELSEWHERE += ["[::]:80", "[fe80::1]", "", ":8080", "localhost:80x", "localhost:80@evil.example", "2130706433", "127.1"]
MESSAGE = {"users": ["guarded"], "title": "t", "content": ""}


@pytest.mark.parametrize("host", HERE)
def test_names_and_addresses_of_this_machine_are_here(host: str) -> None:
    assert is_here(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_nothing_else_is(host: str) -> None:
    assert not is_here(host)


@given(st.text(max_size=40))
def test_whatever_host_says_there_is_an_answer(host: str) -> None:
    is_here(host)


@pytest.mark.parametrize("path", ["/api/v3/channels", "/inbox/", "/admin/", "/metrics", "/nothing"])
def test_a_page_whose_name_was_made_to_lead_here_gets_nothing(router: Running, path: str) -> None:
    answer = router.http.get(path, headers={"Host": f"evil.example:{router.address[1]}"})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (421, "misdirected", "Host")
    assert router.http.get(path, headers={"Host": f"localhost:{router.address[1]}"}).status_code in (200, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_change_that_another_sites_page_asks_for_is_refused(
    router: Running, method: str, headers: dict[str, str]
) -> None:
    before = router.writes()
    answer = router.http.request(method, "/api/v3/channels/guarded", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert router.http.post("/api/v3/messages", json=MESSAGE, headers=headers).status_code == 403
    assert router.writes() == before


def test_our_own_page_and_programs_go_on(router: Running) -> None:
    origin = {"Origin": router.url}
    for headers in ({}, origin, origin | {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert router.http.post("/api/v3/messages", json=MESSAGE, headers=headers).status_code == 202
    for site in ("cross-site", "same-site"):
        assert router.http.get("/healthz", headers={"Sec-Fetch-Site": site}).status_code == 200
