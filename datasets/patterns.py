"""Which files belong to which section, by a pattern such as `{sample}_z{z}.tif`. Pure.

Text outside of fields must match exactly. A field may stand twice and then has the same value twice:
`{sample}/{sample}_z{z}.tif`. `{z}` is a number, of any width; `{sample}` and `{stain}` are anything but a slash.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from nissl.errors import NisslError

FIELDS = {"sample": "[^/]+", "stain": "[^/]+", "z": r"\d+"}


class PatternError(NisslError):
    """A pattern that cannot be used, or that fits nothing."""


@dataclass(frozen=True)
class Match:
    """What a path says by a pattern; None for a field that the pattern does not have."""

    sample: str | None
    stain: str | None
    z: int | None


@dataclass(frozen=True)
class Group:
    """The files of one section."""

    sample: str | None
    stain: str | None
    files: tuple[PurePosixPath, ...]
    """In the order of their z."""
    problem: str = ""
    """Why they are no z-stack, empty where they are."""


@dataclass(frozen=True)
class Grouping:
    """What became of all files of a folder."""

    groups: tuple[Group, ...]
    """In the order of samples and stains."""
    ignored: tuple[PurePosixPath, ...]
    """Files that the pattern does not fit, in order."""


class Pattern:
    """A parsed pattern."""

    def __init__(self, text: str) -> None:
        """Raises PatternError, saying what is wrong with it."""
        self.text = text
        parts = re.split(r"\{([^{}]*)\}", text)
        literals, self.fields = parts[::2], tuple(parts[1::2])
        if text.startswith("/") or {"", ".", ".."} & set(text.split("/")):
            raise PatternError(f"pattern {text!r} is no path within the folder: write it as in '{{sample}}_z{{z}}.tif'")
        if "channel" in self.fields:
            raise PatternError(
                f"pattern {text!r} has {{channel}}: each channel is an image of its own; ingest one after the other, "
                "each with its channel written out in the pattern and its own --stain"
            )
        for field in self.fields:
            if field not in FIELDS:
                raise PatternError(f"pattern {text!r} has {{{field}}}: the fields are {{sample}}, {{z}} and {{stain}}")
        if odd := next((sign for literal in literals for sign in literal if sign in "{}*?"), None):
            raise PatternError(f"pattern {text!r} has {odd!r} outside of a field: what varies is {{sample}} or {{z}}")
        if "" in literals[1:-1]:
            raise PatternError(
                f"pattern {text!r} has two fields side by side: nothing says where one ends, put a sign between them"
            )
        if not self.fields:
            raise PatternError(f"pattern {text!r} has no field: write it as in '{{sample}}_z{{z}}.tif'")
        seen: set[str] = set()
        expression = re.escape(literals[0])
        for field, literal in zip(self.fields, literals[1:], strict=True):
            expression += f"(?P={field})" if field in seen else f"(?P<{field}>{FIELDS[field]})"
            seen.add(field)
            expression += re.escape(literal)
        self._expression = re.compile(expression, re.ASCII | re.DOTALL)

    @property
    def depth(self) -> int:
        """How many folders and files deep its paths are: 1 for files in the folder itself."""
        return self.text.count("/") + 1

    def match(self, path: PurePosixPath) -> Match | None:
        """What `path`, within the folder, says; None where the pattern does not fit."""
        found = self._expression.fullmatch(str(path))
        if found is None:
            return None
        said = found.groupdict()
        z = said.get("z")
        return Match(said.get("sample"), said.get("stain"), None if z is None else int(z))

    def only(self, sample: str) -> str:
        """The pattern that fits the files of one sample and no other."""
        return self.text.replace("{sample}", sample)

    def group(self, paths: Iterable[PurePosixPath]) -> Grouping:
        """Put the files of each section together, in the order of their z."""
        stacks: dict[tuple[str | None, str | None], list[tuple[int, PurePosixPath]]] = {}
        ignored = []
        for path in sorted(paths):
            found = self.match(path)
            if found is None:
                ignored.append(path)
            else:
                stacks.setdefault((found.sample, found.stain), []).append((found.z or 0, path))
        groups = []
        for (sample, stain), planes in sorted(stacks.items(), key=lambda item: (item[0][0] or "", item[0][1] or "")):
            planes.sort()
            groups.append(Group(sample, stain, tuple(path for _, path in planes), self._problem(planes)))
        return Grouping(tuple(groups), tuple(ignored))

    def _problem(self, planes: list[tuple[int, PurePosixPath]]) -> str:
        for (z, path), (next_z, next_path) in itertools.pairwise(planes):
            if "z" not in self.fields:
                return f"{path} and {next_path} are one sample by a pattern without {{z}}: write where the z stands"
            if z == next_z:
                return f"{path} and {next_path} both are plane {z}: keep one of them"
        return ""
