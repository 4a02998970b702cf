import time

import openai
import pytest
from sqlalchemy import Engine, select, text

from api import dependencies, projects
from api.admin import create_key
from api.db import Database
from api.tables import ApiKey, File, Job, JobPart, Table
from tests.conftest import Served
from tests.factories import create_job, upload


def test_a_foreign_id_answers_exactly_like_an_unknown_one(server: Served, db: Database) -> None:
    stranger = server.client_for(create_key(db, "stranger", ["read", "write"]))
    job = create_job(server.client)
    calls = {
        "file": (stranger.files.retrieve, stranger.files.content, stranger.files.delete),
        "job": (
            stranger.fine_tuning.jobs.retrieve,
            stranger.fine_tuning.jobs.cancel,
            stranger.fine_tuning.jobs.list_events,
            stranger.fine_tuning.jobs.checkpoints.list,
        ),
    }
    for kind, known, unknown in (("file", job.training_file, "file-x"), ("job", job.id, "ftjob-x")):
        for call in calls[kind]:
            said = []
            for asked in (known, unknown):
                with pytest.raises(openai.NotFoundError) as refused:
                    call(asked)
                said.append(str(refused.value).replace(asked, "ID"))
            assert said[0] == said[1]
    assert stranger.files.list().data == []
    assert stranger.fine_tuning.jobs.list().data == []
    with pytest.raises(openai.NotFoundError):
        create_job(stranger, job.training_file)


def test_row_level_security_holds_even_for_a_query_without_a_filter(
    server: Served, db: Database
) -> None:
    create_job(server.client)
    with db.as_control() as tx:
        own = tx.scalars(select(Job.project_id)).one()
        other = projects.ensure_project(tx, "other").id
    for project, jobs in ((own, 1), (other, 0), ("", 0)):
        with db.as_project(project) as tx:
            assert len(tx.scalars(select(Job)).all()) == jobs
            assert len(tx.scalars(select(File)).all()) == jobs


def test_every_table_with_a_project_is_under_forced_row_level_security(owner: Engine) -> None:
    expected = {
        table.name
        for table in Table.metadata.tables.values()
        if "project_id" in table.c and table.name != "api_key"
    }
    assert {part.__tablename__ for part in JobPart.__subclasses__()} < expected
    with owner.connect() as connection:
        forced = connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity "
                "AND EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = pg_class.oid)"
            )
        )
        assert set(forced) == expected


def test_keys_are_stored_hashed(server: Served, db: Database) -> None:
    with db.as_control() as tx:
        rows = [str(vars(row)) for row in tx.scalars(select(ApiKey))]
    assert len(rows) == 3
    assert not any(server.key in row for row in rows)


def test_a_revoked_key_dies_within_seconds(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0.1)
    server.client.files.list()
    with db.as_control() as tx:
        projects.revoke_key(tx, server.key[:18])
    time.sleep(0.1)
    with pytest.raises(openai.AuthenticationError):
        server.client.files.list()


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/files", "read"),
        ("POST", "/v1/files", "write"),
        ("DELETE", "/v1/files/x", "write"),
        ("POST", "/v1/fine_tuning/jobs/x/cancel", "write"),
        ("POST", "/v1/admin/models", "admin"),
        ("POST", "/worker/v1/claim", "worker"),
        ("POST", "/worker/v1/heartbeat", "worker"),
    ],
)
def test_a_key_without_the_scope_is_refused(
    server: Served, db: Database, method: str, path: str, scope: str
) -> None:
    others: list[projects.Scope] = [s for s in projects.SCOPES if s != scope]
    body: dict[str, object] = {"protocol": 2, "worker": "w", "leases": []}
    answer = server.http(create_key(db, "default", others)).request(method, path, json=body)
    assert answer.status_code == 403
    assert scope in answer.json()["error"]["message"]


def test_a_job_cannot_point_at_a_file_of_another_project(db: Database, server: Served) -> None:
    file = upload(server.client)
    with db.as_control() as tx:
        other = projects.ensure_project(tx, "other").id
    job = create_job(server.client, file.id)
    with pytest.raises(Exception, match="violates foreign key"), db.as_control() as tx:
        tx.get_one(Job, job.id).project_id = other
