"""A page keeps what is not ours and what was not measured now; figures are computed per round."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtest import machine, report
from loadtest.figures import Result, Row, number, ratio, spread

ORDER = ["one", "hundred", "growth"]


def _replace(page: str, preface: str = "machine", **sections: str) -> str:
    return report.replace(page, preface=preface, sections=sections, order=ORDER)


def test_the_text_around_the_markers_stays() -> None:
    page = f"# Title\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    made = _replace(page, one="new figures")
    assert made.startswith("# Title\n\nbefore\n\n")
    assert made.endswith(f"{report.END}\n\nafter\n")
    assert "new figures" in made
    assert "old" not in made


def test_a_section_that_was_not_measured_keeps_its_figures() -> None:
    page = _replace("", one="first one", growth="first growth")
    made = _replace(page, preface="another machine", growth="second growth", hundred="first hundred")
    assert "first one" in made
    assert "first growth" not in made
    assert [made.index(text) for text in ("another machine", "first one", "first hundred", "second growth")] == sorted(
        made.index(text) for text in ("another machine", "first one", "first hundred", "second growth")
    )


def test_writing_the_same_twice_changes_nothing() -> None:
    page = _replace("# Page\n", one="figures", hundred="more")
    assert _replace(page, one="figures", hundred="more") == page


def test_a_page_with_one_marker_only_is_refused() -> None:
    for page in (report.BEGIN, report.END, f"{report.END}\n{report.BEGIN}"):
        with pytest.raises(ValueError, match="must hold"):
            _replace(page, one="figures")


def test_a_page_that_is_not_there_is_made(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    report.write(page, preface="machine", sections={"one": "figures"}, order=ORDER)
    report.write(page, preface="machine", sections={"hundred": "more"}, order=ORDER)
    text = page.read_text()
    assert text.startswith("# Benchmarks\n")
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert text.index("figures") < text.index("more")


def test_a_ratio_is_made_round_by_round() -> None:
    made = ratio("x", [10, 40, 90], [10, 20, 30], at_least=2.0)
    assert made.values == [1, 2, 3]
    assert made.median == 2  # of the medians it would be 40/20, and so it would for [40, 10, 90]
    assert ratio("x", [40, 10, 90], [10, 20, 30]).values == [4, 0.5, 3]


def test_a_ratio_of_unequal_numbers_of_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio("x", [1, 2], [1])


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1))
def test_a_ratio_lies_between_the_least_and_the_greatest_of_its_rounds(rounds: list[tuple[float, float]]) -> None:
    made = ratio("x", [ours for ours, _ in rounds], [theirs for _, theirs in rounds])
    assert min(made.values) <= made.median <= max(made.values)
    assert len(made.values) == len(rounds)


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row(label="", values=[1, 2, 9], unit="x", at_least=2), True),
        (Row(label="", values=[1, 1.9, 9], unit="x", at_least=2), False),
        (Row(label="", values=[1, 2, 9], unit="x", at_most=2), True),
        (Row(label="", values=[1, 2.1, 9], unit="x", at_most=2), False),
        (Row(label="", values=[1], unit="x"), None),
    ],
)
def test_what_is_wanted_is_compared_with_the_median(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_numbers_are_short() -> None:
    values = [0.0123, 0.5, 1.234, 12.345, 123.45, 12_345.6, 3.0]
    assert [number(value) for value in values] == ["0.012", "0.500", "1.23", "12.3", "123", "12,346", "3"]
    assert spread([2.0, 1.0]) == "1 to 2"
    assert spread([2.0]) == ""


def test_a_missed_figure_is_marked_on_the_page_and_on_the_terminal() -> None:
    result = Result(
        name="one",
        title="one user a request",
        how="How it was done.",
        rows=[ratio("ours | theirs", [1.0], [1.0], at_least=2.5), ratio("other", [3.0], [1.0], at_least=2.5)],
        notes=["counted"],
    )
    text = report.section(result, stamp="today")
    assert "| ours \\| theirs | 1 x |  | ≥ 2.50 x | missed |" in text
    assert "| other | 3 x |  | ≥ 2.50 x | met |" in text
    assert "How it was done. (today)" in text
    assert "- counted" in text
    console = Console(record=True, width=200, file=None, quiet=False)
    with console.capture() as capture:
        console.print(report.table(result))
    assert "missed" in capture.get()


def test_the_cpu_is_named_whatever_the_architecture() -> None:
    assert machine.cpu_model("processor\t: 0\nmodel name\t: A Fast One\n") == "A Fast One"
    assert machine.cpu_model("processor\t: 0\n") != ""
