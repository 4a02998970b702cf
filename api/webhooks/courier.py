"""Takes what is due to its endpoints, each attempt outside of any transaction."""

import asyncio
import logging
import threading
import time

from sqlalchemy.exc import OperationalError

from api.db import sealing
from api.db.session import Database
from api.settings import Settings
from api.storage import signing
from api.tables import WebhookDelivery
from api.webhooks import deliveries, outbound
from api.webhooks.deliveries import Outcome, Parcel
from tunery.errors import Conflict

log = logging.getLogger(__name__)

# More than a project has endpoints: the slow ones of one project leave some for the others.
MOST_AT_ONCE = 16


async def send(settings: Settings, parcel: Parcel) -> Outcome:
    """One attempt, signed now."""
    server_secret = settings.secret.get_secret_value()
    try:
        secrets = [
            sealing.unseal(
                server_secret, sealed, project_id=parcel.project_id, name=parcel.endpoint_id
            )
            for sealed in parcel.sealed
        ]
        status = await outbound.post(
            parcel.url,
            signing.webhook_headers(secrets, parcel.event_id, int(time.time()), parcel.body),
            parcel.body.encode(),
            to_private=settings.webhooks_to_private_addresses,
        )
    except outbound.Blocked as error:
        return Outcome("blocked", error=str(error))
    except (outbound.NotSent, Conflict) as error:
        return Outcome("unreachable", error=str(error))
    if 200 <= status < 300:
        return Outcome("delivered", status)
    redirect = "Redirects are not followed." if 300 <= status < 400 else None
    return Outcome("refused", status, redirect)


class Courier:
    """Any number may be at it, in any number of processes."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.db = db
        self.free = threading.BoundedSemaphore(MOST_AT_ONCE)

    def look(self) -> None:
        """Starts a thread for each delivery that is due, as long as there are some to start, and
        waits for none. They do not hold up the end of the process.
        """
        while self.free.acquire(blocking=False):
            claimed = None
            try:
                claimed = self.claim()
            finally:
                if claimed is None:
                    self.free.release()
            if claimed is None:
                return
            threading.Thread(target=self.carry, args=claimed, daemon=True).start()

    def claim(self) -> tuple[WebhookDelivery, Parcel] | None:
        with self.db.as_control() as tx:
            return deliveries.claim(tx)

    def carry(self, delivery: WebhookDelivery, parcel: Parcel) -> None:
        """What was claimed, and then what else is due."""
        claimed: tuple[WebhookDelivery, Parcel] | None = (delivery, parcel)
        try:
            while claimed:
                self.deliver(*claimed)
                claimed = self.claim()
        except OperationalError as error:
            log.warning("the database is away (%s); what was sent may be sent again", error)
        finally:
            self.free.release()

    def deliver(self, delivery: WebhookDelivery, parcel: Parcel) -> None:
        outcome = asyncio.run(send(self.settings, parcel))
        with self.db.as_control() as tx:
            deliveries.record(tx, delivery, outcome)
        said = outcome.status_code or outcome.error
        log.info(
            "%s to %s: %s (%s)",
            delivery.id,
            parcel.endpoint_id,
            outcome.result,
            said,
            extra={"project": parcel.project_id},
        )
