"""What was used, and what it cost: of all projects for those who run the service, and one's own."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.orm import Session

from api.http.dependencies import Admin, AServer, Reader, Server
from api.http.responses import in_json
from api.http.routing import Route
from api.tenants import budgets, usage
from api.tenants.usage import MOST, USUAL, Dimension, Width
from api.tenants.usage_schemas import UsagePage
from tunery.errors import InvalidRequest

router = APIRouter(prefix="/v1", route_class=Route, tags=["Usage"])

Start = Annotated[int, Query(description="When the report begins, in Unix seconds (UTC).")]
End = Annotated[
    int | None, Query(description="When it is over, in Unix seconds (UTC). Left out: now.")
]
BucketWidth = Annotated[
    Width, Query(description="Width of the buckets, which are hours or days of UTC.")
]
GroupBy = Annotated[
    list[Dimension],
    Query(
        default_factory=list,
        description="By what each bucket is divided; may come several times. Left out: not.",
    ),
]
ProjectIds = Annotated[
    list[str],
    Query(
        default_factory=list,
        description="Only these projects; may come several times. Left out: all of them.",
    ),
]
Buckets = Annotated[
    int | None,
    Query(
        ge=1,
        le=max(MOST.values()),
        description="Number of buckets on the page: 7 days, at most 31; or 24 hours, at most 168.",
    ),
]
PageOf = Annotated[str | None, Query(description="`next_page` of the page before.")]
Format = Annotated[
    Literal["json", "csv"],
    Query(
        description="`csv`: a line for each result. It has no pages: the whole time in one answer."
    ),
]
CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}


@dataclass(frozen=True)
class Asked:
    """What a report is asked for: the query of both routes."""

    start_time: Start
    group_by: GroupBy
    end_time: End = None
    bucket_width: BucketWidth = "1d"
    limit: Buckets = None
    page: PageOf = None
    format: Format = "json"

    def answer(
        self, tx: Session, server: Server, project_ids: list[str] | None, *, named: bool
    ) -> Response:
        whole = usage.span_of(tx, self.start_time, self.end_time, self.bucket_width, page=self.page)
        most = MOST[self.bucket_width]
        if self.limit is not None and self.limit > most:
            raise InvalidRequest(
                f"limit is {self.limit}; a page has at most {most} buckets of {self.bucket_width}.",
                param="limit",
            )
        csv = self.format == "csv"
        span = whole.first(self.limit or (most if csv else USUAL[self.bucket_width]))
        if csv and span.until < whole.until:
            raise InvalidRequest(
                f"A CSV has no pages, and this one would have more than {most} buckets. Set "
                "end_time, or ask for wider buckets.",
                param="end_time",
            )
        found = usage.report(tx, server.settings, span, self.group_by, project_ids)
        everything = [one for each in found.values() for one in each]
        names = usage.names_of(tx, everything) if named else {}
        nearly_spent = budgets.near(tx, server.settings, project_ids)
        warnings = [one.in_words(project.name) for project, one in nearly_spent]
        shown = UsagePage.of(span, whole, found, names, warnings)
        if not csv:
            return in_json(shown)
        name = {"content-disposition": 'attachment; filename="usage.csv"'}
        return Response(shown.as_csv(), media_type="text/csv", headers=name)


AsAsked = Annotated[Asked, Depends()]


@router.get("/admin/usage", response_model=UsagePage, responses=CSV)
def everybodys(server: AServer, _: Admin, asked: AsAsked, project_ids: ProjectIds) -> Response:
    """Device seconds, trained tokens, answers and cost, of all projects."""
    with server.db.as_control() as tx:
        return asked.answer(tx, server, project_ids or None, named=True)


@router.get("/usage", response_model=UsagePage, responses=CSV)
def ones_own(server: AServer, caller: Reader, asked: AsAsked) -> Response:
    """The same of the key's own project. Keys and people have no names in it."""
    with server.db.as_project(caller.project_id) as tx:
        return asked.answer(tx, server, [caller.project_id], named=False)
