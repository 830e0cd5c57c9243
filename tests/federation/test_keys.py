"""Keys on disk."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from nissl.federation.keys import KeyFileError, create_key, load_key, public_key


def test_a_new_key_is_for_its_owner_only_and_loads_back(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).public == key.public


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    create_key(path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten, move it away first"):
        create_key(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_a_key_that_others_may_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:o}, so others can read it: run `chmod 600"):
        load_key(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"key\.pem is missing: .*restore it from a backup"):
        load_key(tmp_path / "key.pem")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="is not a private key"):
        load_key(path)


def test_a_truncated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    create_key(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(KeyFileError, match="is not a private key"):
        load_key(path)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = rsa.generate_private_key(65537, 2048)
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="is not an Ed25519 key"):
        load_key(path)
    encryption = BestAvailableEncryption(b"secret")
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    with pytest.raises(KeyFileError, match="is not a private key"):
        load_key(path)
    public = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match="is not a private key"):
        load_key(path)


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_survives_as_text_and_its_id_is_its_checksum(seed: bytes) -> None:
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    from_raw = public_key(base64.b64encode(raw).decode())
    assert public_key(from_raw.text) == from_raw
    assert len(from_raw.text) == 44
    assert from_raw.id == hashlib.sha256(raw).hexdigest()


@given(st.text())
def test_text_that_is_no_key_is_refused(text: str) -> None:
    try:
        assert public_key(text).text == text
    except KeyFileError as error:
        assert "is not an Ed25519 public key" in str(error)  # noqa: PT017 - most texts are none, a few may be
