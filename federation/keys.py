"""Ed25519 keys on disk. A key's id is the SHA-256 of its raw public bytes, in hexadecimal."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from nissl.errors import NisslError


class KeyFileError(NisslError):
    """A key that is missing, damaged, of another kind or readable by others."""


@dataclass(frozen=True)
class PublicKey:
    """Somebody's public key."""

    raw: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def text(self) -> str:
        """The key as 44 characters of base64."""
        return base64.b64encode(self.raw).decode()

    @property
    def verifier(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.raw)


def public_key(text: str) -> PublicKey:
    """The key that `PublicKey.text` wrote. Raises KeyFileError."""
    try:
        raw = base64.b64decode(text, validate=True)
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise KeyFileError(f"{text!r} is not an Ed25519 public key: {error}") from None
    return PublicKey(raw)


@dataclass(frozen=True)
class PrivateKey:
    """One's own key."""

    signer: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def create_key(path: Path) -> PrivateKey:
    """Make a new key and store it at `path` (PEM, mode 600), which must not exist."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} exists already: a key is never overwritten, move it away first") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a full disk leaves no half of a key
        path.unlink()
        raise
    return PrivateKey(key)


def load_key(path: Path) -> PrivateKey:
    """The key at `path`. Raises KeyFileError where it is missing, damaged or open to other users."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pem = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"{path} is missing: without its key this node cannot sign, restore it from a backup"
        ) from None
    except PermissionError:
        raise KeyFileError(f"{path} may not be read by this user: run as the user who owns it") from None
    if mode & 0o077:
        raise KeyFileError(f"{path} has mode {mode:o}, so others can read it: run `chmod 600 {path}`")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is not a private key ({error}): restore it from a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key: restore it from a backup")
    return PrivateKey(key)
