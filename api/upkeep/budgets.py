"""Who has nearly spent a budget is told of it."""

import logging
from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.settings import Settings
from api.tables import NOW, Project
from api.tenants import budgets
from api.tenants.quotas import MONTH_BEGAN
from api.webhooks import outbox
from api.webhooks.outbox import EventType

log = logging.getLogger(__name__)


def warn(tx: Session, settings: Settings) -> None:
    """Tells projects of budgets that they have come near, of each once a month. Any number of
    janitors may do it at once.
    """
    untold = select(Project.id).where(budgets.is_near(settings, untold=True)).limit(budgets.MOST)
    ids = tx.scalars(untold.with_for_update(skip_locked=True, key_share=True)).all()
    if not ids:
        return
    began = tx.scalars(select(MONTH_BEGAN)).one()
    for project, found in budgets.near(tx, settings, ids):
        column = f"{found.budget}_warned_at"
        at = getattr(project, column)
        if at is None or at < began:
            setattr(project, column, tx.scalar(select(NOW)))
            outbox.tell(tx, project.id, EventType.BUDGET, {"id": project.id, **asdict(found)})
            log.warning("%s", found.in_words(project.name), extra={"project": project.id})
