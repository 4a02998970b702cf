"""Secrets that the service must be able to read again, at rest: AES-256-GCM.

The key is derived from the server's own secret, and what is sealed names its key. A sealed value
opens only under the project and the name that it was sealed for: moved to another row, it is lost.
"""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tunery.errors import Conflict

NONCE_BYTES = 12


def seal(secret: str, text: str, *, project_id: str, name: str) -> str:
    """As "KEY_ID.BASE64": the nonce, then the ciphertext with its tag."""
    key_id, key = key_of(secret)
    nonce = os.urandom(NONCE_BYTES)
    sealed = key.encrypt(nonce, text.encode(), bound_to(project_id, name))
    return f"{key_id}.{urlsafe_b64encode(nonce + sealed).decode()}"


def unseal(secret: str, sealed: str, *, project_id: str, name: str) -> str:
    """Raises `Conflict` for what was sealed under another secret of the server, was changed, or
    belongs elsewhere.
    """
    key_id, key = key_of(secret)
    sealed_under, _, content = sealed.partition(".")
    if sealed_under != key_id:
        raise Conflict(
            f"{name} is sealed under key {sealed_under}; this server's TUNERY_SECRET gives key "
            f"{key_id}. Make a new secret, without keeping the old one.",
            code="sealed_elsewhere",
        )
    raw = urlsafe_b64decode(content)
    nonce, ciphertext = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
    try:
        return key.decrypt(nonce, ciphertext, bound_to(project_id, name)).decode()
    except InvalidTag as error:
        raise Conflict(
            f"What is stored as the secret of {name} is not what was sealed. Make a new one.",
            code="sealed_elsewhere",
        ) from error


def key_of(secret: str) -> tuple[str, AESGCM]:
    """Its id, which says nothing of the key, and the key."""
    derived = HKDF(SHA256(), length=36, salt=None, info=b"tunery: secrets at rest")
    bits = derived.derive(secret.encode())
    return bits[32:].hex(), AESGCM(bits[:32])


def bound_to(project_id: str, name: str) -> bytes:
    return f"{project_id}\n{name}".encode()
