"""Creates that may be sent twice: the same request again is answered alike and makes nothing.

A client says that a request is the same by sending the same `Idempotency-Key`. Without one, what
the openai SDK says of itself is used: it marks a request that it sends again.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from api.db.session import take_lock
from api.tables import Creation, from_now
from tunery.errors import InvalidRequest, KeyReused

KEPT_SECONDS = 24 * 3600
# The SDK waits 10 minutes for an answer before it sends a request again.
REPEAT_SECONDS = 15 * 60

KEY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[ -~]{1,255}")


@dataclass(frozen=True)
class Sent:
    """How a create came: under which key, whether its client calls it a repeat, and when, by this
    process's monotonic clock.
    """

    key: str | None
    repeat: bool
    came: float


def sent(key: str | None, retry_count: str | None) -> Sent:
    """Out of the headers. A retry count that is no number is no repeat: it is not our header."""
    if key is not None and not KEY.fullmatch(key):
        raise InvalidRequest(
            f"{KEY_HEADER} must have 1 to 255 printable ASCII characters; a UUID will do.",
            param=KEY_HEADER,
        )
    count = retry_count or ""
    return Sent(key, count.isdecimal() and count.strip("0") != "", time.monotonic())


def once(
    tx: Session,
    project_id: str,
    sent: Sent,
    asked: dict[str, Any],
    make: Callable[[], BaseModel],
    stands: Callable[[str], bool],
) -> dict[str, Any]:
    """The answer to a create: that of `make`, or what the same request was answered before. What
    was made and its answer are kept in one transaction. A second request at the same time waits for
    the first. `stands` says of an id whether what was made is neither deleted nor cancelled: its
    client must have had the answer to do that, so a repeat is of a later request.

    Raises `KeyReused` for a known key with another request.
    """
    # orjson's words, which were kept before; it knows no number past 64 bits.
    words = json.dumps(asked, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    fingerprint = sha256(words.encode()).hexdigest()
    take_lock(tx, f"creation {project_id} {sent.key or fingerprint}")
    known = under_key(tx, sent.key, fingerprint) if sent.key else repeated(tx, sent, fingerprint)
    if known:
        answer: dict[str, Any] = known.reply["answer"]
        if sent.key or stands(answer["id"]):
            return answer
    answer = make().model_dump(mode="json")
    tx.add(
        Creation(
            project_id=project_id,
            key=sent.key,
            fingerprint=fingerprint,
            reply={"answer": answer, "to_repeat": sent.repeat},
        )
    )
    tx.flush()
    return answer


def under_key(tx: Session, key: str, fingerprint: str) -> Creation | None:
    known = tx.scalars(select(Creation).where(Creation.key == key)).one_or_none()
    if known and known.fingerprint != fingerprint:
        raise KeyReused(
            f"This {KEY_HEADER} was used for another request. Send this one under a new key.",
            param=KEY_HEADER,
        )
    return known


def repeated(tx: Session, sent: Sent, fingerprint: str) -> Creation | None:
    """The newest create that this one without a key repeats, or by whose repeat it was overtaken
    on its way.
    """
    query = select(Creation).where(Creation.key.is_(None), Creation.fingerprint == fingerprint)
    if sent.repeat:
        query = query.where(Creation.created_at > from_now(-REPEAT_SECONDS))
    else:
        query = query.where(
            Creation.created_at > from_now(sent.came - time.monotonic()),
            Creation.reply["to_repeat"].as_boolean(),
        )
    return tx.scalars(query.order_by(Creation.created_at.desc()).limit(1)).one_or_none()


def sweep(tx: Session) -> None:
    """Forgets creates whose time is over. Idempotent."""
    tx.execute(delete(Creation).where(Creation.created_at < from_now(-KEPT_SECONDS)))
