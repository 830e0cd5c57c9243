"""Tab-separated tables with one row per key, as BIDS writes them. Pure: text in, text out.

Rows keep their order sorted by key, so that two branches that add different sections merge as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NOTHING = "n/a"
"""How BIDS writes an unknown value."""

Row = Mapping[str, str]


def parse(text: str) -> list[dict[str, str]]:
    """The rows of a table. Raises ValueError where a row has another number of cells than the header."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def render(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The table of `rows`; a missing or empty cell is `n/a`, tabs and line ends in a cell become spaces."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(" ".join(row.get(name, "").split()) or NOTHING for name in columns) for row in rows]
    return "\n".join(lines) + "\n"


def with_row(text: str, columns: Sequence[str], row: Row, key: Sequence[str]) -> str:
    """The table with `row` added, in the place of the row that has the same values in the columns `key`.

    Columns that the table has beyond `columns` are kept.
    """
    rows = parse(text)
    header = [*columns, *(name for name in (rows[0] if rows else ()) if name not in columns)]
    identity = [row[name] for name in key]
    others = [other for other in rows if [other.get(name) for name in key] != identity]
    previous = next((other for other in rows if [other.get(name) for name in key] == identity), {})
    kept = {**previous, **row}
    return render(header, sorted([*others, kept], key=lambda other: [other.get(name, "") for name in key]))
