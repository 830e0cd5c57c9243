"""The main job on a real picture of tissue: `make demo`.

Takes scikit-image's immunohistochemistry picture (colon, DAB and haematoxylin, 512 x 512 RGB), makes a z-stack of it by
defocusing, and runs the commands that a lab runs: create a brain, ingest the stack, make a hub, serve it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data
import skimage.filters
import tifffile

PLANES = 9
DEFOCUS = 0.8  # voxels of blur per plane away from the focus


def make_stack(folder: Path) -> list[Path]:
    """A z-stack of TIFF planes, sharpest in the middle, with a little of a camera's noise."""
    noise = np.random.default_rng(1)
    picture = skimage.data.immunohistochemistry()  # type: ignore[no-untyped-call]
    folder.mkdir(parents=True)
    files = []
    for plane in range(PLANES):
        blur = abs(plane - PLANES // 2) * DEFOCUS
        seen = skimage.filters.gaussian(picture, sigma=blur, channel_axis=2, preserve_range=True)  # type: ignore[no-untyped-call]
        seen += noise.normal(0, 1.5, seen.shape)
        files.append(folder / f"colon_z{plane:02}.tif")
        tifffile.imwrite(files[-1], seen.round().clip(0, 255).astype(np.uint8), photometric="rgb")
    return files


def run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    shown = words if len(words) < 12 else [*words[:2], f"{Path(words[2]).parent}/*.tif", *words[2 + PLANES :]]
    print("\n$", " ".join(word if "*" in word else shlex.quote(word) for word in shown), flush=True)
    subprocess.run(words, check=True)


def remove(folder: Path) -> None:
    """Remove an earlier demo; git-annex protects its objects against writing."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes; emptied first")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--no-serve", action="store_true", help="stop before the hub is served")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if subprocess.run(["git", "var", "GIT_COMMITTER_IDENT"], capture_output=True, check=False).returncode:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ |= {f"GIT_{role}_NAME": "Nissl demo", f"GIT_{role}_EMAIL": "demo@localhost"}
    remove(options.folder)
    files = make_stack(options.folder / "scanner")
    print(f"made a z-stack of {len(files)} planes in {files[0].parent}")
    brain, hub = options.folder / "brain", options.folder / "hub"
    run("nissl", "brain", "create", brain, "--subject", "01")
    meaning = ["--sample", "0001", "--stain", "DAB", "--suffix", "BF", "--pixel-size", "2", "0.5", "0.5"]
    run("nissl", "ingest", *files, "--into", brain, *meaning)
    run("nissl", "hub", "init", hub, "--name", "Demo hub")
    run("nissl", "hub", "add", hub, brain)
    if not options.no_serve:
        image = "sub-01/micr/sub-01_sample-0001_stain-DAB_BF.ome.zarr"
        url = f"http://localhost:{options.port}"
        print(f"\nOpen {url}/ for the catalogue, or see the section at once:")
        print(f"  {url}/view/brain/main/sourcedata/sample-0001/{image}")
        print("Ctrl-C ends the hub.")
        run("nissl", "hub", "serve", hub, "--port", str(options.port), "--public")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\ndone")
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
