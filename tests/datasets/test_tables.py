"""Tables of tab-separated values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets import tables

COLUMNS = ("key", "colour", "size")
CELLS = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8)
ROWS = st.fixed_dictionaries(dict.fromkeys(COLUMNS, CELLS))


@given(st.lists(ROWS))
def test_what_is_rendered_is_parsed_back(rows: list[dict[str, str]]) -> None:
    assert tables.parse(tables.render(COLUMNS, rows)) == rows


@given(st.text())
def test_no_cell_breaks_the_table(cell: str) -> None:
    (row,) = tables.parse(tables.render(COLUMNS, [{"key": "a", "colour": cell, "size": "1"}]))
    assert row == {"key": "a", "colour": " ".join(cell.split()) or "n/a", "size": "1"}


@given(st.lists(ROWS))
def test_rows_added_in_turn_are_a_dictionary_sorted_by_key(rows: list[dict[str, str]]) -> None:
    text = ""
    for row in rows:
        text = tables.with_row(text, COLUMNS, row, ("key",))
    model = {row["key"]: row for row in rows}
    assert tables.parse(text) == [model[key] for key in sorted(model)]


@given(st.lists(ROWS, min_size=1))
def test_adding_a_row_again_changes_nothing(rows: list[dict[str, str]]) -> None:
    text = ""
    for row in rows:
        text = tables.with_row(text, COLUMNS, row, ("key",))
    assert tables.with_row(text, COLUMNS, rows[-1], ("key",)) == text


def test_a_column_that_somebody_added_is_kept() -> None:
    text = "key\tcolour\tsize\tremark\na\tred\t1\tlovely\n"
    changed = tables.with_row(text, COLUMNS, {"key": "a", "colour": "blue", "size": "1"}, ("key",))
    changed = tables.with_row(changed, COLUMNS, {"key": "b", "colour": "green", "size": "2"}, ("key",))
    assert changed == "key\tcolour\tsize\tremark\na\tblue\t1\tlovely\nb\tgreen\t2\tn/a\n"


def test_a_row_with_a_missing_cell_is_an_error() -> None:
    with pytest.raises(ValueError):
        tables.parse("key\tcolour\na\n")
