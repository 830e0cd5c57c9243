"""Access tokens: short-lived, signed by the hub's key, scoped to actions and datasets. Pure but for randomness.

A token is a JSON Web Token (RFC 7519) with an EdDSA signature (RFC 8037), made and read by PyJWT. Git, git-annex and
browsers send it as the password of HTTP basic authentication; programs may send it as a bearer token.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import jwt

from nissl.errors import NisslError
from nissl.federation.access import Action, Grant
from nissl.federation.keys import PrivateKey, PublicKey

AUDIENCE = "nissl-hub"
LONGEST_LIFE = timedelta(days=366)
_CLOCK_SKEW_S = 60


class TokenError(NisslError):
    """A token that is not this hub's, has expired, or is none."""


def issue_token(key: PrivateKey, grant: Grant, life: timedelta, now: datetime) -> str:
    """A token that carries `grant` for `life` from `now`. Raises TokenError where that is no sensible life."""
    if not timedelta(0) < life <= LONGEST_LIFE:
        raise TokenError(f"a token cannot live {life}: give a time between a second and {LONGEST_LIFE.days} days")
    claims = {
        "iss": key.public.id,
        "aud": AUDIENCE,
        "sub": grant.subject,
        "scope": " ".join(sorted(grant.actions)),
        "datasets": list(grant.datasets),
        "iat": int(now.timestamp()),
        "exp": int((now + life).timestamp()),
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(claims, key.signer, algorithm="EdDSA")


def read_token(token: str, key: PublicKey, now: datetime) -> Grant:
    """The grant in `token`, which must be signed by `key` and valid at `now`. Raises TokenError, saying why not."""
    try:
        claims = jwt.decode(
            token,
            key.verifier,
            algorithms=["EdDSA"],
            audience=AUDIENCE,
            issuer=key.id,
            # The caller's clock decides, so that decisions can be repeated and tested.
            options={"require": ["exp", "iat", "sub"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
        if now.timestamp() < int(claims["iat"]) - _CLOCK_SKEW_S:
            raise TokenError("the token is not valid yet: compare this machine's clock with the hub's")
        if now.timestamp() >= int(claims["exp"]):
            raise TokenError("the token has expired: ask for a new one with `nissl hub token`")
        actions = frozenset(Action(word) for word in str(claims.get("scope", "")).split())
        datasets = tuple(map(str, claims.get("datasets", ())))
    # RecursionError: JSON nested too deeply, which anybody may send.
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TokenError(f"this is not a token of this hub ({error})") from None
    return Grant(str(claims["sub"]), actions, datasets)
