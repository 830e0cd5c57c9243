"""What keys say, against git-annex itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.datasets.annex_keys import is_key, key_checksum, key_of_link, key_of_pointer, key_size

CONTENT = b"thirty voxels of nothing much\n"


@pytest.fixture(scope="module")
def annex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annex")
    for command in (["git", "init", "-q"], ["git", "annex", "init", "-q", "here"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "shard.bin").write_bytes(CONTENT)
    return folder


@pytest.mark.parametrize(
    "backend",
    ["SHA256E", "SHA256", "MD5E", "SHA1", "SHA512E", "BLAKE2B256E", "BLAKE2B512", "BLAKE2B160E", "BLAKE2S256E"],
)
def test_what_git_annex_says_of_content_is_read_and_computed(annex: Path, backend: str) -> None:
    command = ["git", "annex", "calckey", f"--backend={backend}", "shard.bin"]
    key = subprocess.run(command, cwd=annex, check=True, capture_output=True, text=True).stdout.strip()
    assert is_key(key)
    assert key_size(key) == len(CONTENT)
    checksum = key_checksum(key)
    assert checksum is not None
    checksum[0].update(CONTENT)
    assert checksum[0].hexdigest() == checksum[1]
    assert key_of_pointer(f"/annex/objects/{key}\n".encode()) == key
    assert key_of_link(f"../../.git/annex/objects/xX/0p/{key}/{key}") == key


@pytest.mark.parametrize("key", ["WORM-s3-m1700000000--a.tif", "URL--http&c%%example.org", "XNEW-s3--abc"])
def test_a_key_without_a_checksum_is_still_a_key(key: str) -> None:
    assert is_key(key)
    assert key_checksum(key) is None


def test_what_is_no_key_is_none() -> None:
    for text in ("", "SHA256E", "SHA256E-s1", "SHA256E-s1--", "sha256e-s1--00", "SHA256E-s1--a/b", "SHA256E-s1--a\nb"):
        assert not is_key(text)
        assert key_size(text) is None
        assert key_of_pointer(f"/annex/objects/{text}".encode()) is None or "\n" in text
    assert key_of_pointer(b"see /annex/objects/SHA256E-s1--00") is None
    assert key_of_link("../notes/SHA256E-s1--00") is None


@given(st.binary(max_size=60))
def test_any_bytes_may_be_asked(content: bytes) -> None:
    key = key_of_pointer(content)
    assert key is None or is_key(key)
