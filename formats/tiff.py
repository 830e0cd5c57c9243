"""TIFF z-stacks: one file per plane, or one multi-page file; strips or tiles, classic TIFF or BigTIFF.

A band of rows is read at a time, never a whole plane: a section's plane may be 10 GB. Structure is parsed and segments
are decoded by `tifffile` with `imagecodecs`; rows of uncompressed strips are read straight from the file.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from nissl.formats.stack import StackError, order_planes, require_planes

# What tifffile logs about a damaged file is said again, better, in our own sentence; unheard logs would go to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_KINDS = {"u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"}

_STACKED_AXES = "ZIQ"  # tifffile's names of focus planes, and of an axis that the file does not name


@dataclass(frozen=True)
class Page:
    """One plane's place: a page of a file, with what must agree between planes."""

    number: int
    """The plane's number in the stack as it was given, from 1; planes left out keep theirs."""
    file: Path
    page: int
    height: int
    width: int
    channels: int | None
    dtype: str

    @property
    def looks(self) -> str:
        colour = "" if self.channels is None else f", {self.channels} channels"
        return f"{self.width}x{self.height} {np.dtype(self.dtype).name}{colour}"


@dataclass
class TiffStack:
    """A z-stack of TIFF pages as a PlaneSource."""

    pages: tuple[Page, ...]
    whole_rows: bool
    _open: dict[Path, tifffile.TiffFile] = field(default_factory=dict, repr=False, compare=False)
    _segments: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(page.file for page in self.pages))

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.pages), self.pages[0].height, self.pages[0].width

    @property
    def channels(self) -> int | None:
        return self.pages[0].channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.pages[0].dtype)

    def read(self, plane: int, rows: range, columns: range) -> NDArray[Any]:
        """Voxels of one plane, shape (channels or 1, rows, columns). Raises StackError naming plane and file."""
        place = self.pages[plane]
        try:
            page = self._page(place)
            if _plain_strips(page):
                voxels = self._read_rows(page, place, rows)[:, columns.start : columns.stop]
            else:
                voxels = self._read_segments(plane, page, rows, columns)
        except (OSError, ValueError, RuntimeError, tifffile.TiffFileError) as error:
            raise StackError(
                f"plane {place.number} ({place.file}) cannot be read at row {rows.start}: {error}; "
                f"rescan it or leave it out with --skip {place.number}"
            ) from None
        native = voxels.astype(self.dtype.newbyteorder("="), copy=False)
        return native[np.newaxis, :, :, 0] if self.channels is None else np.moveaxis(native, 2, 0)

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._segments.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"pages": self.pages, "whole_rows": self.whole_rows, "_open": {}, "_segments": {}}

    def _page(self, place: Page) -> tifffile.TiffPage:
        if place.file not in self._open:
            self.close()  # planes are read one after the other: one open file is enough
            self._open[place.file] = tifffile.TiffFile(place.file)
        page = self._open[place.file].pages[place.page]
        return page if isinstance(page, tifffile.TiffPage) else page.aspage()

    def _read_rows(self, page: tifffile.TiffPage, place: Page, rows: range) -> NDArray[Any]:
        """Rows of uncompressed, contiguous strips: one read, without decoding. Shape (rows, width, samples)."""
        samples = place.channels or 1
        stored = np.dtype(page.parent.byteorder + page.dtype.char)  # type: ignore[union-attr]
        row_bytes = place.width * samples * stored.itemsize
        voxels = np.empty((len(rows), place.width, samples), dtype=stored)
        handle = page.parent.filehandle.fileno()
        wanted = voxels.data.cast("B")
        done = 0
        while done < len(wanted):
            got = os.preadv(handle, [wanted[done:]], page.dataoffsets[0] + rows.start * row_bytes + done)
            if not got:
                raise ValueError("the file ends before its last row")
            done += got
        return voxels

    def _read_segments(self, plane: int, page: tifffile.TiffPage, rows: range, columns: range) -> NDArray[Any]:
        """Rows and columns stitched from decoded strips or tiles. Shape (rows, columns, samples)."""
        samples = self.channels or 1
        voxels = np.zeros((len(rows), len(columns), samples), dtype=page.dtype)
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // width)
        down = -(-page.imagelength // height)
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and samples > 1
        needed: dict[tuple[int, int], NDArray[Any]] = {}
        for sample in range(samples if separate else 1):
            for i in range(rows.start // height, -(-rows.stop // height)):
                for j in range(columns.start // width, -(-columns.stop // width)):
                    number = (sample * down + i) * across + j
                    segment = self._segments.get((plane, number))
                    if segment is None:
                        segment = _decode(page, number)
                    if (i + 1) * height > rows.stop:
                        needed[plane, number] = segment  # the next band of rows begins inside it
                    top, left = i * height, j * width
                    bottom = min(top + segment.shape[0], rows.stop)
                    right = min(left + segment.shape[1], columns.stop)
                    y, x = max(top, rows.start), max(left, columns.start)
                    part = segment[y - top : bottom - top, x - left : right - left]
                    channel = slice(sample, sample + 1) if separate else slice(None)
                    voxels[
                        y - rows.start : bottom - rows.start,
                        x - columns.start : right - columns.start,
                        channel,
                    ] = part
        self._segments = needed
        return voxels


def open_tiff_stack(files: Sequence[Path], *, skip: Collection[int] = ()) -> TiffStack:
    """The stack that `files` hold: one file per plane, or one file of many pages.

    skip: plane numbers (from 1) to leave out. Raises StackError, naming plane and file, where a plane is missing,
    unreadable, cut short, of another size or type than the others, or of a kind that no image can have.
    """
    if not files:
        raise StackError("no files given: name the TIFF files of one z-stack")
    places: list[Path | None]
    if len(files) == 1:
        pages = _pages_of(files[0])
        kept = [page for page in pages if page.number not in skip]
        total = len(pages)
    else:
        places = order_planes(files)
        total = len(places)
        kept = []
        for number, file in enumerate(places, 1):
            if number in skip:
                continue
            if file is None:
                before = next(p for p in reversed(places[: number - 1]) if p is not None)
                after = next(p for p in places[number:] if p is not None)
                raise StackError(
                    f"plane {number} of {total} is missing (no file between {before.name} and {after.name}): "
                    f"rescan it or leave it out with --skip {number}"
                )
            kept.append(_single_page(file, number, total))
    require_planes(skip, total)
    _refuse_strangers(kept, files, total)
    return TiffStack(tuple(kept), whole_rows=_stored_in_strips(kept[0]))


def _single_page(file: Path, number: int, total: int) -> Page:
    # Without its OME header, which in a set of files speaks of all of them; here every file is one plane.
    name, remedy = f"plane {number} of {total} ({file})", f"rescan it or leave it out with --skip {number}"
    pages = _pages_of(file, name, remedy, is_ome=False)
    if len(pages) != 1:
        raise StackError(
            f"{file} holds {len(pages)} pages, but {total} files were given: "
            "name one multi-page file, or one file per plane"
        )
    return replace(pages[0], number=number)


def _pages_of(
    file: Path, name: str = "", remedy: str = "check the path, or scan it again", *, is_ome: bool | None = None
) -> list[Page]:
    """The pages of one file's image, each checked to lie inside the file."""
    name = name or str(file)
    try:
        size = file.stat().st_size
        with tifffile.TiffFile(file, is_ome=is_ome) as tiff:
            pages = _planes_of(tiff, name, size, remedy)
            return [_page(number, file, page, name, size, remedy) for number, page in enumerate(pages, 1)]
    except FileNotFoundError:
        raise StackError(f"{name} does not exist: {remedy}") from None
    except IsADirectoryError:
        raise StackError(f"{name} is a folder: name the TIFF files in it, as in {file}/*.tif") from None
    except PermissionError:
        raise StackError(f"{name} may not be read by this user: change its permissions") from None
    except StackError:
        raise
    # tifffile answers damaged structure with many kinds of error, IndexError and struct.error among them.
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
        raise StackError(f"{name} cannot be read as TIFF ({reason}): {remedy}") from None


def _planes_of(
    tiff: tifffile.TiffFile, name: str, size: int, remedy: str
) -> list[tifffile.TiffPage | tifffile.TiffFrame]:
    """The pages that are planes of the file's first image; raises StackError where they are not simply a z-stack."""
    series = tiff.series[0]
    stacked = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and n > 1]
    foreign = [(axis, n) for axis, n in stacked if axis not in _STACKED_AXES]
    if foreign or len(stacked) > 1:
        axis, count = (foreign or stacked)[0]
        what = {"C": "channels", "T": "times"}.get(axis, "steps along a further axis")
        raise StackError(f"{name} holds {count} {what} as pages: save each as a z-stack of its own")
    if series.kind in ("uniform", "generic", "shaped"):
        # Not `series.pages`: tifffile puts pages that differ into further series, and these would be lost silently.
        pages = [page for page in tiff.pages if page.keyframe is None or not page.keyframe.is_reduced]
    else:
        pages = [page for page in series.pages if page is not None]
    if any(page.parent is not tiff for page in pages):
        raise StackError(f"{name} is one of several files of an OME-TIFF set: name all of them")
    if _next_page(tiff) >= size:
        raise StackError(f"{name} is cut short: it has {size} bytes, and pages beyond them; {remedy}")
    announced = math.prod(n for _, n in stacked)
    if len(pages) < announced:
        if len(pages) == 1 and pages[0].dataoffsets[0] + series.nbytes <= size:
            raise StackError(
                f"{name} stores several planes behind one page (ImageJ hyperstack): save it with one page per plane"
            )
        raise StackError(f"{name} is cut short: it has {len(pages)} of {announced} pages; {remedy}")
    return pages


def _next_page(tiff: tifffile.TiffFile) -> int:
    """Where the last page says that a further one lies, 0 for nowhere: tifffile ends where the file does."""
    layout, handle = tiff.tiff, tiff.filehandle
    start = tiff.pages[-1].offset
    handle.seek(start)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(start + layout.tagnosize + tags * layout.tagsize)
    return int(struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))[0])


def _page(
    number: int, file: Path, page: tifffile.TiffPage | tifffile.TiffFrame, name: str, size: int, remedy: str
) -> Page:
    keyframe = page.keyframe
    if keyframe is None:
        raise StackError(f"{name} has a page without a description: {remedy}")
    end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
    if end > size:
        raise StackError(f"{name} is cut short: it has {size} bytes of {end}; {remedy}")
    dtype = keyframe.dtype
    if dtype is None or dtype.str[1:] not in _KINDS:
        raise StackError(
            f"{name} has {keyframe.bitspersample}-bit samples: save it as 8, 16 or 32-bit integers or as floats"
        )
    if keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
        raise StackError(f"{name} uses a colour palette: save it as grey or RGB")
    if keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise StackError(f"{name} is inverted grey, low values are white: save it with low values black")
    channels = keyframe.samplesperpixel if keyframe.samplesperpixel > 1 else None
    return Page(
        number,
        file,
        page.index,
        keyframe.imagelength,
        keyframe.imagewidth,
        channels,
        dtype.newbyteorder("=").str,
    )


def _refuse_strangers(pages: list[Page], files: Sequence[Path], total: int) -> None:
    usual, _ = Counter(page.looks for page in pages).most_common(1)[0]
    for page in pages:
        if page.looks != usual:
            where = page.file.name if len(files) > 1 else f"page {page.page + 1} of {page.file.name}"
            raise StackError(
                f"plane {page.number} of {total} ({where}) is {page.looks}, the others are {usual}: "
                f"rescan it or leave it out with --skip {page.number}"
            )


def _stored_in_strips(place: Page) -> bool:
    with tifffile.TiffFile(place.file) as tiff:
        keyframe = tiff.pages[place.page].keyframe
        return keyframe is not None and not keyframe.is_tiled


def _plain_strips(page: tifffile.TiffPage) -> bool:
    """Whether the page's rows lie uncompressed one after the other."""
    return (
        page.compression == tifffile.COMPRESSION.NONE
        and not page.is_tiled
        and page.is_contiguous
        and page.fillorder == tifffile.FILLORDER.MSB2LSB
        and (page.samplesperpixel == 1 or page.planarconfig == tifffile.PLANARCONFIG.CONTIG)
    )


def _decode(page: tifffile.TiffPage, number: int) -> NDArray[Any]:
    """One decoded strip or tile, shape (rows, columns, samples)."""
    offset, nbytes = page.dataoffsets[number], page.databytecounts[number]
    payload = os.pread(page.parent.filehandle.fileno(), nbytes, offset)
    if len(payload) != nbytes:
        raise ValueError("the file ends inside a strip or tile")
    segment, _, shape = page.decode(payload, number, jpegtables=page.jpegtables)
    if segment is None:  # an empty segment stands for zeros
        return np.zeros(shape[1:], dtype=page.dtype)
    return segment.reshape(segment.shape[-3:])
