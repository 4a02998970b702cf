import time

import openai
import pytest
from sqlalchemy import select

from api import dependencies, projects
from api.db import Database
from api.tables import ApiKey, Job
from tests.conftest import Served
from tests.factories import create_job, upload


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


def test_a_job_cannot_point_at_a_file_of_another_project(db: Database, server: Served) -> None:
    file = upload(server.client)
    with db.as_control() as tx:
        other = projects.ensure_project(tx, "other").id
    job = create_job(server.client, file.id)
    with pytest.raises(Exception, match="violates foreign key"), db.as_control() as tx:
        tx.get_one(Job, job.id).project_id = other
