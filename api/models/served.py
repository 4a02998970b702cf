"""What a tuned model is answered from beside workers, and whether that has proved itself."""

from contextlib import nullcontext

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from api.db.session import across_projects
from api.models.tuned import Tuned
from api.tables import ServedModel


def served(tx: Session, model: Tuned) -> ServedModel | None:
    """At the endpoint where it has proved itself, else at any that has it."""
    with across_projects(tx) if model.permission else nullcontext():
        return tx.scalars(
            select(ServedModel)
            .where(ServedModel.model == model.name, ServedModel.attested_at.is_not(None))
            .order_by(
                case((ServedModel.state == "verified", 0), else_=1),
                ServedModel.attested_at.desc(),
            )
            .limit(1)
        ).one_or_none()
