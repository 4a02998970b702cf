"""What an OpenID Connect provider says of somebody, and whether it holds (OpenID Connect Core 1.0,
3.1.3.7).
"""

import hmac
from collections.abc import Iterable
from typing import Any

import jwt
from jwt import PyJWK

from tunery.errors import Unauthenticated

# Signatures that need a key which only the provider has. What is signed with a shared secret, or
# not at all, is refused.
ALGORITHMS = {
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
}
LEEWAY_SECONDS = 60
SHOWN_CHARACTERS = 200


class UnknownKey(Exception):
    """No key that is known has signed the token. The provider may have a new one."""


def read(
    token: str,
    *,
    keys: list[dict[str, Any]],
    algorithms: Iterable[str],
    issuer: str,
    client_id: str,
    nonce: str,
) -> dict[str, Any]:
    """The claims of an ID token, signed with one of the `keys` (RFC 7517) in one of the
    `algorithms`. Raises `Unauthenticated`, and `UnknownKey`.
    """
    try:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS or algorithm not in algorithms:
            raise failed(f"The id_token is signed with {cut(str(algorithm))}, which is not taken.")
        claims = verified(token, keys, header.get("kid"), str(algorithm), issuer, client_id)
    except jwt.PyJWTError as error:
        raise failed(f"The id_token does not hold: {cut(str(error))}.") from error
    if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
        raise failed("The id_token is of another sign-in: its nonce differs.")
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else client_id) != client_id:
        raise failed("The id_token was made for another program: its azp differs.")
    if not claims["sub"]:
        raise failed("The id_token names nobody.")
    return claims


def verified(
    token: str,
    keys: list[dict[str, Any]],
    kid: object,
    algorithm: str,
    issuer: str,
    client_id: str,
) -> dict[str, Any]:
    """The claims under the signature of one of the keys. Raises `UnknownKey`, and PyJWT's errors
    for claims that do not hold.
    """
    for key in keys:
        named = kid is None or key.get("kid") == kid
        for_signatures = key.get("use", "sig") == "sig"
        if not (named and for_signatures and key.get("alg", algorithm) == algorithm):
            continue
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                PyJWK.from_dict(key, algorithm=algorithm),
                algorithms=[algorithm],
                audience=client_id,
                issuer=issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (jwt.InvalidSignatureError, jwt.PyJWKError, jwt.InvalidKeyError):
            continue  # keys of other kinds may have no name either
        return claims
    raise UnknownKey


def failed(why: str) -> Unauthenticated:
    return Unauthenticated(f"{why} Sign in again.", code="sign_in_failed")


def label(said: object) -> str | None:
    """What can be shown of what the provider calls somebody."""
    if not isinstance(said, str):
        return None
    return "".join(letter for letter in said if letter.isprintable())[:SHOWN_CHARACTERS] or None


def cut(words: str) -> str:
    return (label(words) or "").rstrip(".")
