"""Budgets of a month, in money or device hours, of which most is spent: the project is told before
its new jobs are rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from sqlalchemy import ColumnElement, and_, false, func, or_, select, true
from sqlalchemy.orm import Session

from api.settings import Settings
from api.tables import Project
from api.tenants import quotas
from api.tenants.quotas import MONTH_BEGAN, Budget

SHARE = 0.8
MOST = 1_000


@dataclass(frozen=True)
class Near:
    """A budget of this month of which `SHARE` is spent, or more. `currency` is None of hours."""

    budget: Budget
    used: float
    limit: float
    currency: str | None

    def in_words(self, project: str) -> str:
        unit = self.currency or "device hours"
        said = f"Project {project!r} has used {self.used:,.2f} of its {self.limit:,.2f} {unit} of "
        if self.used >= self.limit:
            return said + "this month (UTC): new jobs are rejected, and queued ones wait."
        share = min(99, round(100 * self.used / self.limit))
        return said + f"this month (UTC), {share} %. When it is spent, no more jobs start."


def near(
    tx: Session, settings: Settings, project_ids: Sequence[str] | None = None
) -> list[tuple[Project, Near]]:
    """Of these projects, or of all; by their names, a thousand projects at most."""
    of = quotas.budgets(settings)
    query = (
        select(Project, *of["device_hours"], *of["cost"])
        .where(is_near(settings))
        .order_by(Project.name)
        .limit(MOST)
    )
    if project_ids is not None:
        query = query.where(Project.id.in_(project_ids))
    found = []
    for project, hours, hours_used, money, money_used in tx.execute(query):
        amounts: dict[Budget, tuple[float, float]] = {
            "device_hours": (float(hours or 0), float(hours_used or 0)),
            "cost": (float(money or 0), float(money_used or 0)),
        }
        for budget, (limit, used) in amounts.items():
            if limit > 0 and used >= SHARE * limit:
                currency = settings.currency if budget == "cost" else None
                found.append((project, Near(budget, round(used, 2), limit, currency)))
    return found


def is_near(settings: Settings, *, untold: bool = False) -> ColumnElement[bool]:
    """Whether a budget of the query's project is nearly spent; `untold`: and it was not told."""
    told = {"device_hours": Project.device_hours_warned_at, "cost": Project.cost_warned_at}
    return or_(
        *(
            and_(
                func.coalesce((limit > 0) & (used >= SHARE * limit), false()),
                func.coalesce(told[budget] < MONTH_BEGAN, true()) if untold else true(),
            )
            for budget, (limit, used) in quotas.budgets(settings).items()
        )
    )


def again(project: Project, budget: str) -> None:
    """Of a budget that has changed the project is told anew."""
    if budget in get_args(Budget):
        setattr(project, f"{budget}_warned_at", None)
