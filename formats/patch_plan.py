"""Which patches are read, in which order and by whom, and which inner chunks hold them. Pure: no files, no state.

A *lattice* numbers every place that a patch may have in any of the sections; a plan maps the index of a patch to one of
these numbers. Both are arithmetic, so a plan of 10^9 patches over 7,000 sections costs nothing until it is read.

Shapes and starts of sections and patches are (z, y, x) here, in voxels of the level that is read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nissl.errors import NisslError
from nissl.formats.grid import Index, ShardGrid

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class RandomPlan:
    """`count` patches, each drawn with replacement from all places that a patch may have in any section.

    A section is therefore drawn in proportion to the number of its patches, and every place is equally likely. Patch i
    depends on `seed`, the epoch and i only: raising `count` adds patches and changes none.
    """

    count: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise NisslError(f"a random plan needs at least one patch and a seed of 0 or more, not {self}")


@dataclass(frozen=True)
class GridPlan:
    """Patches `stride` apart along (y, x) or (z, y, x), section by section, in C order; the same in every epoch.

    The last patch of an axis moves back to end at the section's edge. With a stride no larger than the patch, which is
    the default (None: the patch's own shape), every voxel is covered. A stride (y, x) steps by the patch's depth in z.
    """

    stride: Index | None = None


Plan = RandomPlan | GridPlan


def random(count: int, seed: int) -> RandomPlan:
    """`count` patches at places that follow from `seed`."""
    return RandomPlan(count, seed)


def grid(stride: Index | None = None) -> GridPlan:
    """Patches side by side, or `stride` voxels apart."""
    return GridPlan(stride)


@dataclass(frozen=True, eq=False)
class Places:
    """Where patches lie: `sections`, shape (n,), and first voxels `starts`, shape (n, 3)."""

    sections: Integers
    starts: Integers


@dataclass(frozen=True, eq=False)
class Lattice:
    """All places `step` voxels apart that a patch may have, numbered section by section, in C order within each."""

    room: Integers
    """Largest start along each axis, shape (sections, 3)."""
    step: Integers
    """Voxels between neighbours, shape (3,)."""

    @functools.cached_property
    def counts(self) -> Integers:
        """Places along each axis, shape (sections, 3); one more where the step does not end at the edge."""
        return -(-self.room // self.step) + 1

    def __len__(self) -> int:
        return int(self._ends[-1])

    def places(self, numbers: Integers) -> Places:
        """The places with these numbers, each in 0 .. len(self)."""
        ends = self._ends
        sections = np.searchsorted(ends, numbers, side="right")
        within = numbers - (ends - self.counts.prod(axis=1))[sections]
        _, rows, columns = self.counts[sections].T
        positions = np.stack([within // (rows * columns), within // columns % rows, within % columns], axis=1)
        return Places(sections.astype(np.int64), np.minimum(positions * self.step, self.room[sections]))

    @functools.cached_property
    def _ends(self) -> Integers:
        """Number of the first place after each section, shape (sections,)."""
        return np.cumsum(self.counts.prod(axis=1))


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches of one plan in one epoch that one of `world` ranks reads: each `world`-th, from the `rank`-th on.

    The ranks' patches are disjoint and together all of them; their numbers differ by at most one.
    """

    lattice: Lattice
    plan: Plan
    epoch: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise NisslError(f"rank {self.rank} is not one of {self.world} ranks, which count from 0")

    @property
    def total(self) -> int:
        """Patches of all ranks."""
        return self.plan.count if isinstance(self.plan, RandomPlan) else len(self.lattice)

    def __len__(self) -> int:
        return len(range(self.rank, self.total, self.world))

    def places(self, indices: Sequence[int] | range) -> Places:
        """Where patches lie, by their indices, each in 0 .. len(self)."""
        numbers = np.asarray(indices, dtype=np.int64) * self.world + self.rank
        if isinstance(self.plan, RandomPlan):
            numbers = _draw(numbers, self.plan.seed, self.epoch, len(self.lattice))
        return self.lattice.places(numbers)

    def share(self, part: int, parts: int) -> range:
        """Indices of the patches that worker `part` of `parts` reads, all of them within this rank."""
        return range(part, len(self), parts)


def plan_patches(
    shapes: Sequence[Index], patch: Index, plan: Plan, *, epoch: int = 0, rank: int = 0, world: int = 1
) -> Patches:
    """The patches of `plan` over sections of `shapes`. Raises NisslError where a section is smaller than a patch."""
    step: Index = (1, 1, 1)
    if isinstance(plan, GridPlan):
        stride = plan.stride or patch
        if len(stride) not in (2, 3) or min(stride) < 1:
            raise NisslError(f"a stride is (y, x) or (z, y, x) of at least one voxel, not {stride}")
        step = (patch[0], *stride)[-3:]
    for number, shape in enumerate(shapes):
        if any(n < p for n, p in zip(shape, patch, strict=True)):
            raise NisslError(f"section {number} is {shape}, smaller than a patch of {patch}: leave it out")
    room = np.array(shapes, dtype=np.int64).reshape(-1, 3) - np.array(patch, dtype=np.int64)
    return Patches(Lattice(room, np.array(step, dtype=np.int64)), plan, epoch, rank, world)


def _draw(indices: Integers, seed: int, epoch: int, below: int) -> Integers:
    """One number in 0 .. `below` for each index, each by itself: SplitMix64, whose i-th output needs no earlier one.

    Not NumPy's Generator, whose streams may change between releases; SeedSequence is promised not to.
    Source: https://doi.org/10.1145/2660193.2660195 (mixing constants of variant 13, as in Java and xoshiro's seeding).
    """
    key = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)
    bits = _mix(key + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    # A remainder favours low numbers by below / 2^64: one in 10^4 for 2 PB of voxels, and far less for a section.
    return (bits % np.uint64(below)).astype(np.int64)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Piece(NamedTuple):
    """The part of an inner chunk that one patch needs: `patch[target] = chunk[source]`."""

    patch: int
    target: tuple[slice, ...]
    source: tuple[slice, ...]


class NeededChunk(NamedTuple):
    """An inner chunk and everything that a batch needs of it."""

    section: int
    shard: Index
    chunk: Index
    """Within the shard."""
    pieces: list[Piece]

    def voxels_up_to_the_last(self, chunk_shape: Index) -> int:
        """Voxels, in C order, from the chunk's first to the last that any piece needs."""
        furthest = 0
        for piece in self.pieces:
            last = 0
            for part, length in zip(piece.source, chunk_shape, strict=True):
                last = last * length + part.stop - 1
            furthest = max(furthest, last + 1)
        return furthest


def needed_chunks(grids: Sequence[ShardGrid], places: Places, patch: Index) -> list[NeededChunk]:
    """The inner chunks that hold these patches, each once, in the order of the files.

    grids: of each section, (z, y, x) or (c, z, y, x); a patch holds all of c.
    """
    pieces: dict[tuple[int, Index], list[Piece]] = {}
    starts: list[list[int]] = places.starts.tolist()
    for number, (section, start) in enumerate(zip(places.sections.tolist(), starts, strict=True)):
        of = grids[section]
        channels = of.array_shape[:-3]
        axes = map(_along_axis, (0,) * len(channels) + tuple(start), channels + patch, of.chunk_shape)
        for along in itertools.product(*axes):
            chunk, target, source = zip(*along, strict=True)
            pieces.setdefault((section, chunk), []).append(Piece(number, target, source))
    needed = []
    for section, chunk in pieces:
        shard, within = grids[section].locate(chunk)
        needed.append(NeededChunk(section, shard, within, pieces[section, chunk]))
    needed.sort(key=lambda one: one[:3])
    return needed


def _along_axis(start: int, length: int, chunk: int) -> list[tuple[int, slice, slice]]:
    """(chunk, where in the patch, where in the chunk) along one axis, for a patch of `length` voxels from `start`."""
    stop = start + length
    found = []
    for index in range(start // chunk, math.ceil(stop / chunk)):
        origin = index * chunk
        first, last = max(start, origin), min(stop, origin + chunk)
        found.append((index, slice(first - start, last - start), slice(first - origin, last - origin)))
    return found
