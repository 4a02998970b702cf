"""HMAC-SHA256: over a few words for the bearer of a lease and the link to a stored file; over what
a webhook carries.
"""

import hmac
import re
from base64 import b64decode, b64encode
from hashlib import sha256

from tunery.errors import Unauthenticated

LEASE = "lease."
TOKEN = re.compile(r"[0-9]{1,18}")


def sign(secret: str, *words: object) -> str:
    """64 hex digits. The words are joined by a newline, which none of them contains."""
    text = "\n".join(str(word) for word in words)
    return hmac.new(secret.encode(), text.encode(), sha256).hexdigest()


def verify(secret: str, signature: str, *words: object) -> None:
    """Raises `Unauthenticated` unless `signature` is that of the words."""
    if not hmac.compare_digest(sign(secret, *words).encode(), signature.encode()):
        raise Unauthenticated("The signature does not fit; ask the API for a fresh link.")


def lease_secret(secret: str, job_id: str, token: int) -> str:
    """The bearer that a claim hands out: good for this job under this claim, nothing else."""
    return f"{LEASE}{job_id}.{token}.{sign(secret, 'lease', job_id, token)}"


def read_lease_secret(secret: str, bearer: str) -> tuple[str, int]:
    """(job id, token) of a lease bearer. Raises `Unauthenticated` for anything else."""
    match bearer.split("."):
        case ["lease", job_id, token, signature] if TOKEN.fullmatch(token):
            verify(secret, signature, "lease", job_id, int(token))
            return job_id, int(token)
    raise Unauthenticated("This route takes the secret of a lease, as `claim` hands it out.")


def webhook_headers(secrets: list[str], event_id: str, timestamp: int, body: str) -> dict[str, str]:
    """As Standard Webhooks has them: one signature for each of the `whsec_...` secrets."""
    signed = f"{event_id}.{timestamp}.{body}".encode()
    signatures = [
        hmac.digest(b64decode(secret.removeprefix("whsec_")), signed, "sha256")
        for secret in secrets
    ]
    return {
        "content-type": "application/json",
        "user-agent": "Tunery",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(one).decode()}" for one in signatures),
    }
