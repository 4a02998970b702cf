"""What a step back of the database's clock leaves behind: times in the future that nothing can have
written. They would be waited for as long as the clock went back.

A step forward needs nothing of the kind: leases that seem to have run out are not taken back before
an API has been there to hear heartbeats for a whole lease (`api.jobs.queue.leases.rescue`).
"""

from typing import Any

from sqlalchemy import CursorResult, text
from sqlalchemy.orm import Session

from api.files.files import CHECK_CLAIM_SECONDS
from api.jobs.queue.endings import LONGEST_RETRY_SECONDS
from api.settings import Settings
from api.trackers.runs import LONGEST_PAUSE_SECONDS
from api.webhooks.deliveries import CLAIM_SECONDS

# Each names the rows that are too far ahead and brings them back to the latest that they could be.
# `:late` seconds are more than two transactions' clocks may differ by.
CORRECTIONS = (
    """UPDATE attendance SET since = least(since, clock_timestamp()),
        seen_at = least(seen_at, clock_timestamp())
    WHERE seen_at > clock_timestamp() + make_interval(secs => :late)""",
    """UPDATE lease SET until = clock_timestamp() + make_interval(secs => :lease)
    WHERE until > clock_timestamp() + make_interval(secs => :lease + :late)""",
    """UPDATE attempt SET started_at = clock_timestamp()
    WHERE ended_at IS NULL AND started_at > clock_timestamp() + make_interval(secs => :late)""",
    # A job that was never claimed waits for nothing; any other for its pause at most.
    """UPDATE job SET available_at = clock_timestamp()
    WHERE state = 'queued' AND available_at > clock_timestamp()
        + make_interval(secs => CASE WHEN token = 0 THEN 0 ELSE :retry END + :late)""",
    """UPDATE file SET checking_until = clock_timestamp() + make_interval(secs => :check)
    WHERE status = 'uploaded'
        AND checking_until > clock_timestamp() + make_interval(secs => :check + :late)""",
    """UPDATE worker SET seen_at = clock_timestamp()
    WHERE seen_at > clock_timestamp() + make_interval(secs => :late)""",
    """UPDATE worker
    SET quarantined_until = clock_timestamp() + make_interval(secs => :quarantine)
    WHERE quarantined_until > clock_timestamp() + make_interval(secs => :quarantine + :late)""",
    """UPDATE webhook_endpoint SET free_at = clock_timestamp()
    WHERE free_at > clock_timestamp() + make_interval(secs => :delivery + :late)""",
    """UPDATE webhook_delivery SET next_at = clock_timestamp()
    WHERE state = 'pending' AND attempts = 0
        AND next_at > clock_timestamp() + make_interval(secs => :late)""",
    """UPDATE tracked_run SET next_at = clock_timestamp()
    WHERE next_at > clock_timestamp() + make_interval(secs => :tracker + :late)""",
)


def correct(tx: Session, settings: Settings) -> int:
    """Brings such times back; how many rows had one. Idempotent; needs the control role."""
    limits = {
        "lease": settings.lease_seconds,
        "retry": 1.2 * LONGEST_RETRY_SECONDS,  # with its jitter
        "check": CHECK_CLAIM_SECONDS,
        "quarantine": settings.quarantine_seconds,
        "delivery": CLAIM_SECONDS,
        "tracker": LONGEST_PAUSE_SECONDS,
        "late": 2.0,
    }
    corrected = 0
    for statement in CORRECTIONS:
        names = {name: value for name, value in limits.items() if f":{name}" in statement}
        result: CursorResult[Any] = tx.execute(text(statement), names)  # type: ignore[assignment]
        corrected += result.rowcount
    return corrected
