"""Proof Key for Code Exchange (RFC 7636): whoever began something can show that it was them."""

import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256


def new_verifier() -> str:
    """256 bits, in 43 letters."""
    return secrets.token_urlsafe(32)


def challenge_of(verifier: str) -> str:
    """By the method S256, in 43 letters."""
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
