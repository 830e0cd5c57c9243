"""Access tokens: this hub's, in time, for this audience, to the last bit."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from nissl.federation.access import Action, Grant
from nissl.federation.keys import PrivateKey
from nissl.federation.tokens import AUDIENCE, LONGEST_LIFE, TokenError, issue_token, read_token

KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
GRANT = Grant("ana", frozenset({Action.READ}), ("brain",))
TOKEN = issue_token(KEY, GRANT, HOUR, NOW)

GRANTS = st.builds(Grant, st.text(), st.frozensets(st.sampled_from(Action)), st.lists(st.text(), max_size=3).map(tuple))


def claims(**changes: object) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(TOKEN, options={"verify_signature": False})
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@given(grant=GRANTS, seconds=st.integers(min_value=0, max_value=3599))
def test_a_token_carries_its_grant_as_long_as_it_lives(grant: Grant, seconds: int) -> None:
    token = issue_token(KEY, grant, HOUR, NOW)
    assert read_token(token, KEY.public, NOW + timedelta(seconds=seconds)) == grant


def test_two_tokens_for_the_same_grant_differ() -> None:
    assert issue_token(KEY, GRANT, HOUR, NOW) != TOKEN


@given(st.timedeltas(min_value=HOUR, max_value=timedelta(days=36500)))
def test_an_expired_token_is_refused_with_the_remedy(later: timedelta) -> None:
    with pytest.raises(TokenError, match="has expired: ask for a new one with `nissl hub token`"):
        read_token(TOKEN, KEY.public, NOW + later)


def test_a_token_of_the_future_is_refused_beyond_what_clocks_differ() -> None:
    assert read_token(TOKEN, KEY.public, NOW - timedelta(seconds=59)) == GRANT
    with pytest.raises(TokenError, match="not valid yet: compare this machine's clock"):
        read_token(TOKEN, KEY.public, NOW - timedelta(seconds=61))


@pytest.mark.parametrize("life", [timedelta(0), -HOUR, LONGEST_LIFE + HOUR])
def test_no_token_is_issued_for_a_senseless_time(life: timedelta) -> None:
    with pytest.raises(TokenError, match="a token cannot live"):
        issue_token(KEY, GRANT, life, NOW)


def test_a_token_of_another_hub_is_refused() -> None:
    with pytest.raises(TokenError, match="not a token of this hub"):
        read_token(issue_token(OTHER, GRANT, HOUR, NOW), KEY.public, NOW)


def test_a_token_that_only_names_this_hub_as_its_issuer_is_refused() -> None:
    with pytest.raises(TokenError, match="not a token of this hub"):
        read_token(jwt.encode(claims(), OTHER.signer, algorithm="EdDSA"), KEY.public, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another-service"},
        {"aud": None},
        {"iss": OTHER.public.id},
        {"iss": None},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"scope": "read everything"},
        {"datasets": 7},
    ],
    ids=str,
)
def test_a_token_with_wrong_or_missing_claims_is_refused_even_if_signed(change: dict[str, Any]) -> None:
    given_claims = claims(**change)
    assert given_claims.get("aud", AUDIENCE)
    # Signed by hand: PyJWT itself would not issue some of these.
    message = part(b'{"alg":"EdDSA","typ":"JWT"}') + "." + part(json.dumps(given_claims).encode())
    token = message + "." + part(KEY.signer.sign(message.encode()))
    with pytest.raises(TokenError, match="not a token of this hub"):
        read_token(token, KEY.public, NOW)


def test_a_token_without_a_signature_is_refused() -> None:
    with pytest.raises(TokenError):
        read_token(jwt.encode(claims(), "", algorithm="none"), KEY.public, NOW)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_the_public_key_is_never_taken_for_a_shared_secret(algorithm: str) -> None:
    public = KEY.signer.public_key()
    message = part(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()) + "." + part(json.dumps(claims()).encode())
    for secret in (
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        hashed = jwt.get_algorithm_by_name(algorithm).sign(message.encode(), secret)
        with pytest.raises(TokenError):
            read_token(f"{message}.{part(hashed)}", KEY.public, NOW)


@given(which=st.integers(min_value=0, max_value=2), bit=st.integers(min_value=0, max_value=10_000))
def test_a_flipped_bit_anywhere_is_refused(which: int, bit: int) -> None:
    parts = TOKEN.split(".")
    content = bytearray(base64.urlsafe_b64decode(parts[which] + "=="))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    parts[which] = part(bytes(content))
    with pytest.raises(TokenError):
        read_token(".".join(parts), KEY.public, NOW)


@given(place=st.integers(min_value=0, max_value=len(TOKEN) - 1), letter=st.characters())
def test_whatever_is_done_to_a_token_it_never_grants_anything_else(place: int, letter: str) -> None:
    try:
        assert read_token(TOKEN[:place] + letter + TOKEN[place + 1 :], KEY.public, NOW) == GRANT
    except TokenError as error:
        assert str(error)  # noqa: PT017 - the last letter has bits that mean nothing


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        read_token(text, KEY.public, NOW)


def test_json_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(TokenError):
        read_token(part(b"[" * 100_000) + ".e30.AA", KEY.public, NOW)
    with pytest.raises(TokenError):
        read_token(part(b'{"alg":"EdDSA","x":' + b"[" * 100_000) + ".e30.AA", KEY.public, NOW)
