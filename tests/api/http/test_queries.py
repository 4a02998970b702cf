"""What stands behind the `?` of an address: honoured or refused by its name, on every route."""

from typing import Any

import openai
import pytest
from sqlalchemy import text

from api.db.session import Database
from api.jobs import listing
from api.tables import Job
from tests.conftest import BASE, Served
from tests.factories import another_base, create_job, upload

JOBS = "/v1/fine_tuning/jobs"


def test_an_unknown_parameter_is_refused_on_every_route(server: Served) -> None:
    http = server.http(server.admin_key)
    document = http.get("/openapi.json").json()
    routes = [(path, method) for path, verbs in document["paths"].items() for method in verbs]
    assert len(routes) > 60
    for path, method in routes:
        answer = http.request(method, path.replace("{", "").replace("}", ""), params={"statu": "x"})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "statu"), (method, path)
        assert error["code"] == "unknown_parameter"


REFUSED = {
    "colour=red": "created_at[gt], created_at[gte], created_at[lt]",
    "limit=1&limit=2": "limit: comes 2 times",
    "limit=1001": "limit: Input should be less than or equal to 1000",
    "limit[]=5": "limit[]: the query of GET /v1/fine_tuning/jobs has no such parameter",
    "status=done": "'succeeded'",
    "order=sideways": "'asc' or 'desc'",
    "created_at[gte]=yesterday": "created_at[gte]",
    "created_at=5": "created_at: the query of GET",
    "metadata=some": "metadata[KEY]=VALUE",
    "metadata=null&metadata[a]=b": "not both",
    "q=": "q: String should have at least 1 character",
}


def test_what_a_list_of_jobs_cannot_be_asked_is_refused_in_words(server: Served) -> None:
    http = server.http()
    for query, says in REFUSED.items():
        answer = http.get(f"{JOBS}?{query}")
        assert (answer.status_code, query) == (400, query)
        assert says in answer.json()["error"]["message"]


def test_jobs_are_listed_by_state_model_time_and_part_of_a_name(
    server: Served, db: Database
) -> None:
    client, file = server.client, upload(server.client).id
    made = [
        create_job(client, file, suffix=f"Cow-{n}", metadata={"n": str(n % 2)}).id for n in range(4)
    ]
    client.fine_tuning.jobs.cancel(made[0])
    client.fine_tuning.jobs.cancel(made[1])
    other = create_job(client, file, model=another_base(db)).id
    with db.as_control() as tx:
        created = {}
        for day, job_id in enumerate([*made, other], 1):
            job = tx.get_one(Job, job_id)
            job.created_at = job.created_at.replace(year=2031, month=1, day=day)
            created[job_id] = int(job.created_at.timestamp())

    def listed(**asked: Any) -> list[str]:
        found = client.fine_tuning.jobs.list(limit=asked.pop("limit", 20), extra_query=asked)
        return [job.id for job in found]

    assert listed(status="cancelled") == [made[1], made[0]]
    assert listed(status="cancelled", order="asc") == made[:2]
    assert listed(status=["queued", "cancelled"], model=BASE) == made[::-1]
    assert listed(status=["queued"], model=BASE, limit=1) == [made[3], made[2]]
    assert listed(model="another") == [other]
    assert listed(model="ft:none") == []
    between = {"created_at[gt]": created[made[0]], "created_at[lte]": created[made[3]]}
    # A second is not the whole time: what is younger within it comes too.
    assert listed(**between, limit=1, order="asc") == made[:3]
    assert listed(**between, status="cancelled") == [made[1], made[0]]
    assert listed(q="cow-2") == [made[2]]
    assert listed(q=made[3][8:20].upper()) == [made[3]]
    assert listed(q="%") == []
    assert listed(q="another:default") == [other]
    assert listed(**{"metadata[n]": "1", "status": "queued"}) == [made[3]]
    assert listed(metadata="") == [other]
    assert listed() == [other, *made[::-1]]


def test_a_search_that_takes_too_long_is_refused_in_words(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_job(server.client)
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.05)
    monkeypatch.setattr(listing, "conditions", lambda _: [text("pg_sleep(60)::text = 'x'")])
    with pytest.raises(openai.BadRequestError, match="Narrow it down"):
        server.client.fine_tuning.jobs.list(extra_query={"q": "cow"})
