"""The plain Zarr view: chunks of any version, as Zarr readers and hostile clients ask for them."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the zstd filter with HDF5
import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from zarr.storage import FsspecStore

from nissl.datasets.ingest import Order, ingest
from nissl.datasets.labelling import LabelOrder, add_labels
from nissl.federation.access import Action
from nissl.formats.image import open_image
from nissl.formats.shards import ShardReader
from nissl.hub.intake import add_dataset
from tests.hub.client import ask
from tests.hub.conftest import IMAGE, SECTION, RunningHub, a_served_hub
