"""Node cards: only what the named key signed, to the last bit."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from nissl.federation.card import PAYLOAD_TYPE, CardError, NodeCard, sign_card, verify_card
from nissl.federation.keys import PrivateKey

KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
CARD = NodeCard("Institute of Brains", KEY.public, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
SIGNED = sign_card(CARD, KEY)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def signed_by(key: PrivateKey, payload: bytes, kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """An envelope around any payload, properly signed."""
    envelope = Envelope(payload, kind, {})
    public = SSlibKey(key.public.id, "ed25519", "ed25519", {"public": key.public.raw.hex()})
    envelope.sign(CryptoSigner(key.signer, public))
    document: dict[str, Any] = envelope.to_dict()
    return document


def payload_with(change: Callable[[dict[str, Any]], object]) -> bytes:
    payload = json.loads(base64.b64decode(SIGNED["payload"]))
    change(payload)
    return json.dumps(payload).encode()


def flipped(text: str, bit: int) -> str:
    content = bytearray(base64.b64decode(text))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    return base64.b64encode(content).decode()


def test_a_card_comes_back_as_it_was_signed() -> None:
    assert verify_card(json.loads(json.dumps(SIGNED))) == CARD


def test_verifying_does_not_change_the_document() -> None:
    document = copy.deepcopy(SIGNED)
    verify_card(document)
    assert document == SIGNED


@given(st.integers(min_value=0, max_value=100_000))
def test_a_flipped_bit_of_the_payload_is_refused(bit: int) -> None:
    with pytest.raises(CardError):
        verify_card({**SIGNED, "payload": flipped(SIGNED["payload"], bit)})


@given(st.integers(min_value=0, max_value=511))
def test_a_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    document = copy.deepcopy(SIGNED)
    document["signatures"][0]["sig"] = flipped(document["signatures"][0]["sig"], bit)
    with pytest.raises(CardError, match="not signed by its own key"):
        verify_card(document)


@given(st.text().filter(lambda text: text != PAYLOAD_TYPE))
def test_another_type_is_refused(kind: str) -> None:
    with pytest.raises(CardError):
        verify_card({**SIGNED, "payloadType": kind})


def test_a_document_of_another_type_is_no_card_even_if_signed() -> None:
    payload = base64.b64decode(SIGNED["payload"])
    with pytest.raises(CardError, match="not a node card"):
        verify_card(signed_by(KEY, payload, "application/vnd.nissl.policy+json"))


def test_a_card_signed_by_another_key_is_refused() -> None:
    with pytest.raises(CardError, match="not signed by its own key"):
        verify_card(sign_card(CARD, OTHER))


def test_a_signature_of_another_key_under_this_key_id_is_refused() -> None:
    document = sign_card(CARD, OTHER)
    document["signatures"][0]["keyid"] = KEY.public.id
    with pytest.raises(CardError, match="not signed by its own key"):
        verify_card(document)


def test_a_card_without_a_signature_is_refused() -> None:
    with pytest.raises(CardError):
        verify_card({**SIGNED, "signatures": []})


def test_a_card_that_claims_another_key_id_is_refused() -> None:
    payload = payload_with(lambda card: card["key"].update(id=OTHER.public.id))
    with pytest.raises(CardError, match="names the key id"):
        verify_card(signed_by(KEY, payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        payload_with(lambda card: card.pop("name")),
        payload_with(lambda card: card.update(name={"first": "a"})),
        payload_with(lambda card: card.update(created="yesterday")),
        payload_with(lambda card: card.update(created="2026-01-01T00:00:00")),
        payload_with(lambda card: card["key"].update(public=7)),
        payload_with(lambda card: card["key"].update(public="AAAA")),
    ],
)
def test_a_signed_payload_that_is_no_card_is_refused(payload: bytes) -> None:
    with pytest.raises(CardError, match="not a node card"):
        verify_card(signed_by(KEY, payload))


@given(st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures"]), JSON, min_size=1))
def test_whatever_stands_in_an_envelope_it_is_the_card_or_refused(change: dict[str, Any]) -> None:
    try:
        assert verify_card({**SIGNED, **change}) == CARD
    except CardError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
