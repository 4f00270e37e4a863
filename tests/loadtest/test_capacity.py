"""The page tells what was measured from what was worked out; a tiny table is measured whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtest import capacity, capacity_page
from loadtest.capacity_page import Cell, Costs, extrapolated, page, scaled, split
from loadtest.subjects import divided

_CELL = Cell(users=1_000, postmen=4, queue=10_000, stored_rate=23_456.7, answer_ms=12, rss_mib=345.6)
_ROUNDING = 1e-9
_COSTS = Costs(router_us=100, shard_us=100, router_hundred_us=3, shard_hundred_us=30)


def test_the_page_has_each_cell_the_costs_and_what_follows_from_them() -> None:
    text = page([_CELL], _COSTS, found=1_234_567, shards=2, machine="Machine: this one.", stamp="today")
    assert "| 1,000 | 4 | 10,000 | 23,457 /s | 12 ms | 346 MiB |" in text
    assert "All 1,234,567 deliveries" in text
    assert "| to one user | 100 µs | 100 µs | 4 + 4 | 30,000 to 40,000 |" in text
    assert "Not measured" in text


@given(cores=st.integers(1, 256), sigma=st.floats(0, 1))
def test_more_cores_never_do_less_and_never_more_than_as_many_times(cores: int, sigma: float) -> None:
    assert scaled(1, sigma) == 1
    assert scaled(cores, 0.0) == cores
    assert 1 - _ROUNDING <= scaled(cores, sigma) <= cores + _ROUNDING
    assert scaled(cores + 1, sigma) >= scaled(cores, sigma) - _ROUNDING


@given(router_us=st.floats(0.1, 1e4), shard_us=st.floats(0.1, 1e4), cores=st.integers(2, 64))
def test_cores_are_divided_as_the_work_is_and_promise_no_more_than_they_have(
    router_us: float, shard_us: float, cores: int
) -> None:
    routers, shards = split(router_us, shard_us, cores)
    assert routers >= 1
    assert shards >= 1
    assert routers + shards == cores
    assert extrapolated(router_us, shard_us, 0.0, cores) <= cores * 1e6 / (router_us + shard_us) * 1.000001


def test_settings_of_the_whole_node_are_divided_among_its_shards() -> None:
    settings = divided(2, postmen=20, waiting_max=1_000)
    assert settings["POBOX_SHARD_POSTMEN"] == settings["POBOX_SHARD_POSTMEN_MAX"] == "10"
    assert settings["POBOX_SHARD_WAITING_MAX"] == "500"
    assert divided(2, postmen=2)["POBOX_SHARD_POSTMEN"] == "2"
    assert divided(2) == {}


@pytest.mark.slow
@pytest.mark.long
def test_a_tiny_table_is_measured_and_what_was_acknowledged_is_counted(tmp_path: Path) -> None:
    cells, costs, found = capacity.measure(
        tmp_path, users=[120], postmen=[4], queues=[2_000], seconds=1, shards=1, console=Console(quiet=True)
    )
    assert [(cell.users, cell.postmen, cell.queue) for cell in cells] == [(120, 4, 2_000)]
    assert found > 0
    assert costs.shard_us > 0
    assert capacity_page.number(cells[0].rss_mib)
