"""The role that API and janitor log in as."""

from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.db import logins
from api.db.session import Database
from api.janitor import Janitor
from api.settings import Settings
from tests.api.speaking import claim
from tests.conftest import Served
from tests.factories import create_job
from worker.client import Client


@pytest.fixture
def login(db: Database) -> Iterator[SecretStr]:
    """Made twice, as an operator who runs the command again would."""
    logins.create(db, "test_login")
    yield SecretStr(logins.create(db, "test_login"))
    with db.engine.begin() as owner:
        owner.execute(text("DROP ROLE test_login"))


def test_the_service_runs_on_a_login_that_owns_nothing_and_has_no_rights_of_its_own(
    login: SecretStr, settings: Settings, serve_with: Callable[..., Served]
) -> None:
    server = serve_with(database_url=login)
    job = create_job(server.client)
    janitor = Janitor(settings.model_copy(update={"database_url": login}))
    for step in (janitor.correct_times, janitor.rescue, janitor.expire, janitor.check_files):
        step()
    worker = Client(server.url, server.worker_key)
    assert (lease := claim(worker))
    assert lease.job_id == job.id
    worker.http.close()
    server.client.fine_tuning.jobs.cancel(job.id)

    own = Database(login.get_secret_value())
    for words in ("SELECT FROM job", "TRUNCATE job", "ALTER TABLE job DISABLE ROW LEVEL SECURITY"):
        with own.as_project("proj_x") as tx:
            tx.execute(text("RESET ROLE"))
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                tx.execute(text(words))
            tx.rollback()
    own.close()
    janitor.db.close()
