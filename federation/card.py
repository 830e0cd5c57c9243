"""The card by which a node introduces itself: its name and key, in a DSSE envelope signed by that key.

DSSE (https://github.com/secure-systems-lab/dsse) signs the exact bytes of the payload together with their type, so
nothing needs a canonical form. Whoever meets the key for the first time checks its id by another way, as with an SSH
host.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from nissl.errors import NisslError
from nissl.federation.keys import KeyFileError, PrivateKey, PublicKey, public_key

PAYLOAD_TYPE = "application/vnd.nissl.node-card+json"


class CardError(NisslError):
    """A node card that does not prove what it says."""


@dataclass(frozen=True)
class NodeCard:
    """A node's own description."""

    name: str
    key: PublicKey
    created: datetime


def sign_card(card: NodeCard, key: PrivateKey) -> dict[str, Any]:
    """The envelope of `card`, as JSON."""
    payload = {
        "name": card.name,
        "key": {"type": "ed25519", "public": card.key.text, "id": card.key.id},
        "created": card.created.isoformat(timespec="seconds"),
    }
    envelope = Envelope(json.dumps(payload, sort_keys=True).encode(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key.signer, _described(key.public)))
    document: dict[str, Any] = envelope.to_dict()
    return document


def verify_card(document: Mapping[str, Any]) -> NodeCard:
    """The card in the envelope `document`, which must be signed by the very key that it names. Raises CardError."""
    try:
        envelope = Envelope.from_dict(copy.deepcopy(dict(document)))  # from_dict changes what it reads
        payload = json.loads(envelope.payload)
        key = public_key(payload["key"]["public"])
        card = NodeCard(payload["name"], key, datetime.fromisoformat(payload["created"]))
        kind, claimed = envelope.payload_type, payload["key"]["id"]
        if not isinstance(card.name, str) or card.created.tzinfo is None:
            raise TypeError("the name is no text, or the time has no zone")
    # RecursionError: JSON nested too deeply, which anybody may send.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, FormatError, KeyFileError) as error:
        raise CardError(f"this is not a node card ({error!r})") from None
    if kind != PAYLOAD_TYPE:
        raise CardError(f"this is a signed {kind}, not a node card")
    if claimed != key.id:
        raise CardError(f"the card of {card.name} names the key id {claimed}, but its key has the id {key.id}")
    try:
        envelope.verify([_described(key)], 1)
    except VerificationError:
        raise CardError(f"the card of {card.name} is not signed by its own key {key.id}") from None
    return card


def _described(key: PublicKey) -> SSlibKey:
    """The key in the form in which securesystemslib, TUF and in-toto name keys."""
    return SSlibKey(key.id, "ed25519", "ed25519", {"public": key.raw.hex()})
