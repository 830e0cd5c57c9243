"""Inner chunks a second over HTTP: the hub's plain Zarr view against nginx with the same bytes.

The hub's one process answers `/zarr/.../c/z/y/x` out of dual shards. One nginx worker, with `sendfile`, serves the
same chunks in two ways: as files of their own, unpacked beforehand, and as `Range` requests on the very same shards.
wrk asks all of them for the same chunks, in random order, over the same number of connections, and takes turns. Every
chunk's bytes are compared once before anything is timed. All files lie in the page cache.

    python -m bench.hub_chunks                  # needs Debian's packages nginx-light and wrk
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nissl.datasets.brain import create_brain
from nissl.datasets.ingest import Order, ingest
from nissl.datasets.names import ImageName
from nissl.formats.image import open_image
from nissl.formats.shards import ShardReader
from nissl.hub.intake import add_dataset
from nissl.hub.root import HubRoot, create_hub

from .made_stack import make_stack

IMAGE = ImageName("01", "0042", "cfos", "SPIM")
SECTION = "brain/sourcedata/sample-0042"

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {log}; sendfile on; keepalive_requests 1000000000; default_type application/octet-stream;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""

_WRK = """
local requests, at = {{}}, 0
function init(args)
  for line in io.lines("{urls}") do
    local path, range = line:match("^(%S+) ?(%S*)$")
    requests[#requests + 1] = wrk.format("GET", path, range ~= "" and {{["Range"] = range}} or nil)
  end
end
function request() at = at % #requests + 1; return requests[at] end
function done(summary, latency)
  io.write(string.format("%d %d %d %d %d\\n", summary.requests, summary.bytes, summary.duration,
    summary.errors.status + summary.errors.read + summary.errors.timeout, latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Target:
    """A server, and how each of the chunks is asked for."""

    name: str
    port: int
    requests: tuple[tuple[str, str], ...]
    """(path, Range or nothing) of each chunk."""


@dataclass(frozen=True)
class Chunk:
    index: tuple[int, ...]
    shard: Path
    offset: int
    nbytes: int


def chunks_of(section: Path) -> list[Chunk]:
    """Every stored inner chunk of level 0."""
    found = []
    with open_image(section / IMAGE.image) as image:
        level = image.levels[0]
        per = level.grid.chunks_per_shard
        for shard in level.grid.shards():
            path = level.shard_path(shard)
            with ShardReader(path, level.grid) as reader:
                for within, (offset, nbytes) in reader.places().items():
                    index = tuple(s * n + w for s, n, w in zip(shard, per, within, strict=True))
                    found.append(Chunk(index, path.resolve(), offset, nbytes))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[int]:
    """A server in a process of its own, on `port`; its process id."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended at once: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def nginx(folder: Path, root: Path, port: int, *, log: bool) -> list[str]:
    config = folder / "nginx.conf"
    where = f"{folder}/access.log" if log else "off"
    config.write_text(_NGINX.format(folder=folder, root=root, port=port, log=where))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(config), "-p", str(folder)]


def hub(root: HubRoot, port: int) -> list[str]:
    return [sys.executable, "-m", "nissl", "hub", "serve", str(root.path), "--port", str(port), "--public"]


def fetch(target: Target, number: int) -> bytes:
    path, part = target.requests[number]
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    connection.request("GET", path, headers={"Range": part} if part else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status not in (200, 206):
        raise SystemExit(f"{target.name} answers {answer.status} for {path}: {body[:200]!r}")
    return body


def measure(target: Target, folder: Path, seconds: int, connections: int) -> dict[str, float]:
    """One run of wrk."""
    urls, script = folder / "urls", folder / "wrk.lua"
    urls.write_text("".join(f"{path} {part}\n" for path, part in target.requests))
    script.write_text(_WRK.format(urls=urls))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{target.port}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^(\d+) (\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"wrk said something else: {said}")
    requests, nbytes, us, errors, p99 = map(int, found.groups())
    if errors:
        raise SystemExit(f"{target.name}: {errors} errors")
    return {"requests_s": requests / us * 1e6, "mb_s": nbytes / us, "p99_ms": p99 / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=0.5, help="size of the stack, uncompressed")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="length of one run")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--access-log", action="store_true", help="nginx writes one, as the hub always does")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker is another user
        targets = list(serve(folder, options, stack))
        for number in range(len(targets[0].requests)):
            bodies = {fetch(target, number) for target in targets}
            if len(bodies) != 1:
                raise SystemExit("the servers answer different bytes: nothing to compare")
        print(f"{len(targets[0].requests)} chunks; requests/s, median of {options.runs} runs of {options.seconds} s")
        for connections in options.connections:
            rates: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
            for _ in range(options.runs):
                for target in targets:
                    rates[target.name].append(measure(target, folder, options.seconds, connections))
            ours = statistics.median(run["requests_s"] for run in rates[targets[0].name])
            for target in targets:
                runs = rates[target.name]
                median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                row = {"connections": connections, "server": target.name, **median}
                rows.append({**row, "hub_is": ours / median["requests_s"]})
                print(
                    f"{connections:3} connections  {target.name:24} {median['requests_s']:8.0f} requests/s "
                    f"{median['mb_s']:7.0f} MB/s  p99 {median['p99_ms']:6.2f} ms  hub is {rows[-1]['hub_is']:.2f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def serve(folder: Path, options: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[Target]:
    """The hub with the section, and nginx beside it."""
    for program in ("nginx", "wrk"):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            raise SystemExit(f"{program} is missing: install Debian's packages nginx-light and wrk")
    files = make_stack(folder / "tiff", options.gb)
    brain = create_brain(folder / "brain", "01")
    ingest(brain, Order(tuple(files), IMAGE, (5.0, 1.0, 1.0)))
    shutil.rmtree(folder / "tiff")
    section = brain.section(IMAGE)
    root = create_hub(folder / "hub", "bench")
    add_dataset(root, brain.path)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=section, capture_output=True, text=True, check=True
    ).stdout.strip()

    chunks = chunks_of(section)
    random.Random(1).shuffle(chunks)
    files_root = folder / "www"
    for chunk in chunks:
        place = files_root.joinpath("c", *map(str, chunk.index))
        place.parent.mkdir(parents=True, exist_ok=True)
        with chunk.shard.open("rb") as shard:
            shard.seek(chunk.offset)
            place.write_bytes(shard.read(chunk.nbytes))
    shards = {path: files_root / f"shard{number}" for number, path in enumerate({chunk.shard for chunk in chunks})}
    for path, link in shards.items():
        link.hardlink_to(path)
        link.chmod(0o644)

    ours, theirs = free_port(), free_port()
    stack.enter_context(running(hub(root, ours), ours, folder / "hub.log"))
    stack.enter_context(
        running(nginx(folder, files_root, theirs, log=options.access_log), theirs, folder / "nginx.log")
    )
    keys = ["/".join(["c", *map(str, chunk.index)]) for chunk in chunks]
    array = f"/zarr/{SECTION}/{commit}/{quote(str(IMAGE.image))}/0"
    yield Target("hub", ours, tuple((f"{array}/{key}", "") for key in keys))
    yield Target("nginx, chunk files", theirs, tuple((f"/{key}", "") for key in keys))
    ranges = [f"bytes={chunk.offset}-{chunk.offset + chunk.nbytes - 1}" for chunk in chunks]
    paths = [f"/{shards[chunk.shard].name}" for chunk in chunks]
    yield Target("nginx, ranges of shards", theirs, tuple(zip(paths, ranges, strict=True)))


if __name__ == "__main__":
    main()
