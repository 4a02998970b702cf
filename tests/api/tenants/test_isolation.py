"""Every route with every scope and with the ids of another project. The routes are the app's own: a
new one is in here by itself, or fails until it is said what its ids are.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine, bindparam, delete, func, null, select, text, update
from sqlalchemy.orm import aliased

from api.admin import create_key
from api.db import session as database
from api.db.session import Database, across_projects
from api.http.edge import Edge
from api.ids import new_id
from api.jobs import state
from api.main import create_app
from api.settings import Settings
from api.tables import (
    ApiKey,
    Checkpoint,
    Event,
    File,
    Job,
    JobMetadata,
    OfProject,
    Table,
    WebhookDelivery,
    WebhookEndpoint,
)
from api.tenants import projects
from api.tenants.projects import Scope
from api.webhooks import outbox
from api.webhooks.outbox import EventType
from tests.conftest import BASE, Served
from tests.factories import create_job, end_by_hand, run_by_hand
from tests.factories import upload as upload_file
from tunery.states import AttemptEnd

Route = tuple[str, str]

# These need no key: they say nothing of any project, or bear a signature instead.
PUBLIC: set[Route] = {
    ("GET", "/openapi.json"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/storage/{key}"),
    ("PUT", "/storage/{key}"),
    # The console's page, and the exchange of a key or a code for a session.
    ("GET", "/"),
    ("GET", "/ui/{version}/{name}"),
    ("POST", "/ui/session"),
    ("DELETE", "/ui/session"),
    ("POST", "/ui/session/project"),
    # And of what a provider says of somebody.
    ("GET", "/ui/oidc"),
    ("POST", "/ui/oidc"),
    ("GET", "/ui/oidc/callback"),
    ("POST", "/ui/oidc/session"),
    # And what a person gives a program: a code, by the session's cookie, and for that a key.
    ("POST", "/ui/program"),
    ("POST", "/ui/program/key"),
}
# They take the secret of one lease. It is good for no other: tests/api/jobs/queue/test_leases.py.
OF_A_LEASE = ("/worker/v1/jobs/", "/worker/v1/completions/{")
# Not GET, and yet for readers.
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "completions": {"prompt": "Hello"},
    "responses": {"input": "Hello"},
    "embeddings": {},
}
CHECKPOINT = "{model}:ckpt-step-1"
SERVING: set[Route] = {("POST", f"/v1/{path}") for path in ASKED}
GRADERS = {("POST", f"/v1/fine_tuning/alpha/graders/{p}") for p in ("run", "validate")}
CODES: Route = ("POST", "/v1/sign_in_codes")
OWN_KEYS: set[Route] = {
    ("POST", "/v1/me/keys"),
    ("POST", "/v1/me/keys/{key_id}/rotate"),
    ("DELETE", "/v1/me/keys/{key_id}"),
}
READS: set[Route] = {("POST", "/v1/fine_tuning/estimate"), CODES, *OWN_KEYS, *SERVING, *GRADERS}
# Bodies with ids, as templates: {file}, {job}, {model} are another project's, {own} is a file of
# the caller's.
BODIES: dict[Route, list[dict[str, Any]]] = {
    **{
        ("POST", f"/v1/{path}"): [asked | {"model": name} for name in ("{model}", CHECKPOINT)]
        for path, asked in ASKED.items()
    },
    ("POST", "/v1/fine_tuning/jobs"): [
        {"model": BASE, "training_file": "{file}"},
        {"model": BASE, "training_file": "{own}", "validation_file": "{file}"},
        {"model": "{model}", "training_file": "{own}"},
    ],
    ("POST", "/v1/fine_tuning/estimate"): [{"model": BASE, "training_file": "{file}"}],
    ("POST", "/v1/fine_tuning/jobs/{job_id}/exports"): [
        {"format": "peft"},
        {"format": "peft", "checkpoint": "{checkpoint}"},
    ],
    ("POST", "/v1/uploads/{upload_id}/complete"): [{"part_ids": ["{part}"]}],
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): [{"event_type": EventType.PAUSED}],
}
# Without an id in body or answer.
WITHOUT_IDS: set[Route] = {
    *GRADERS,
    CODES,
    ("GET", "/v1/me"),
    ("GET", "/v1/me/projects"),
    ("GET", "/v1/me/keys"),
    # Nobody here has such a key: `test_people.py`.
    *OWN_KEYS,
    ("GET", "/v1/usage"),
    ("POST", "/v1/files"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/webhook_endpoints"),
    ("GET", "/v1/webhook_event_types"),
    ("GET", "/v1/project"),
}


ADMINS = ("/v1/admin/", "/v1/fine_tuning/checkpoints/", "/v1/project/integrations/")


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    """No worker is there, and no question waits long for one."""
    return serve_with(answer_wait_seconds=0.1)


def routes(settings: Settings) -> list[Route]:
    """(method, path), what changes or removes something last."""
    edge = create_app(settings)
    assert isinstance(edge, Edge)
    assert isinstance(edge.app, FastAPI)
    found = [
        (method, re.sub(r":\w+}", "}", route.path or ""))
        for route in iter_route_contexts(edge.app.routes)
        if route.path
        for method in (route.methods or set()) - {"HEAD"}
    ]
    return sorted(found, key=lambda route: ("GET", "POST", "PUT", "DELETE").index(route[0]))


def scope_of(route: Route) -> Scope | None:
    method, path = route
    if path == "/metrics":
        return "metrics"
    if path.startswith(ADMINS):
        return "admin"
    if path.startswith(OF_A_LEASE):
        return None
    if path.startswith("/worker/"):
        return "worker"
    return "read" if method == "GET" or route in READS else "write"


def test_every_route_takes_a_key_with_its_scope_and_no_other(server: Served, db: Database) -> None:
    clients = {scope: server.http(create_key(db, "default", [scope])) for scope in get_args(Scope)}
    nobody = server.http()
    del nobody.headers["authorization"]
    for route in set(routes(server.settings)) - PUBLIC:
        method, path = route[0], re.sub(r"{\w+}", "x", route[1])
        assert nobody.request(method, path).status_code == 401, route
        for scope, client in clients.items():
            answer = client.request(method, path)
            if scope_of(route) is None:
                assert answer.status_code == 401, route
            elif scope == scope_of(route) or (scope, path) == ("admin", "/metrics"):
                assert answer.status_code not in {401, 403}, route
            else:
                assert answer.status_code == 403, (route, scope)
                assert repr(scope_of(route)) in answer.json()["error"]["message"]


# A model's name holds its job's id.
KINDS = ("model", "file", "job", "export", "checkpoint", "upload", "part", "endpoint", "delivery")


@dataclass(frozen=True)
class Ids:
    """Of one of each thing, all of one project."""

    file: str
    job: str
    export: str
    model: str
    checkpoint: str
    upload: str
    part: str
    endpoint: str
    delivery: str
    own: str

    def fill(self, path: str) -> str:
        """The path with these ids in it."""
        known = {
            "file_id": self.file,
            "job_id": self.job,
            "export_id": self.export,
            "upload_id": self.upload,
            "endpoint_id": self.endpoint,
            "delivery_id": self.delivery,
            # Nobody here is a person: `test_people.py` has keys of theirs.
            "key_id": "key_x",
            "name": self.model if path.startswith("/v1/models/") else "manifest.json",
        }
        for param in re.findall(r"{(\w+)}", path):
            assert param in known, f"say what {{{param}}} in {path} is in another project"
        return path.format(**known)

    def fill_body(self, body: dict[str, Any]) -> dict[str, Any]:
        filled = json.dumps(body)
        for name, value in vars(self).items():
            filled = filled.replace(f"{{{name}}}", value)
        found: dict[str, Any] = json.loads(filled)
        return found

    def hide(self, said: str) -> str:
        for name in KINDS:
            said = said.replace(getattr(self, name), name)
        return said


@pytest.fixture
def foreign(server: Served, db: Database) -> Ids:
    """What a project has whose job is done, `own` being the stranger's that looks at it."""
    endpoint = server.client.webhooks.create(
        name="ours",
        url="https://hooks.example.com",
        event_types=["fine_tuning.job.cancelled"],
    )
    job = create_job(server.client, metadata={"a": "b"})
    checkpoint = new_id("ftckpt_")
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        facts: dict[str, Any] = {"step": 1, "epoch": 1, "token": 1, "files": []}
        facts |= {"metrics": {"step": 1}, "project_id": tx.get_one(Job, job.id).project_id}
        tx.add(Checkpoint(id=checkpoint, job_id=job.id, **facts))
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
        model = tx.get_one(Job, job.id).fine_tuned_model
        outbox.announce(tx, tx.get_one(Job, job.id), EventType.CANCELLED)
        delivery = tx.scalars(select(WebhookDelivery.id)).one()
        # So that nothing here asks a name server.
        tx.execute(update(WebhookEndpoint).values(url="https://localhost"))
    exports = f"/v1/fine_tuning/jobs/{job.id}/exports"
    export = server.http().post(exports, json={"format": "peft"}).json()["id"]
    with db.as_control() as tx:
        run_by_hand(tx, export)
        end_by_hand(tx, export, AttemptEnd.SUCCEEDED)
    upload = server.client.uploads.create(
        bytes=3, filename="a.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    part = server.client.uploads.parts.create(upload.id, data=b"abc")
    stranger = server.client_for(create_key(db, "stranger", ["read", "write"]))
    return Ids(
        file=job.training_file,
        job=job.id,
        export=export,
        model=model or "",
        checkpoint=checkpoint,
        upload=upload.id,
        part=part.id,
        endpoint=endpoint.id,
        delivery=delivery,
        own=upload_file(stranger).id,
    )


def leaks(server: Served, db: Database, foreign: Ids, of_projects: list[Route]) -> Iterator[Route]:
    """The routes that answer a stranger otherwise than for ids that nobody has, or show any."""
    client = server.http(create_key(db, "stranger", ["read", "write"]))
    unknown = Ids(
        "file-x",
        "ftjob-x",
        "ftexport-x",
        "ft:x",
        "ftckpt_x",
        "upload_x",
        "part_x",
        "whe_x",
        "whd_x",
        own=foreign.own,
    )

    def said(ids: Ids, route: Route, **asked: Any) -> tuple[int, str]:
        answer = client.request(route[0], ids.fill(route[1]), **asked)
        return answer.status_code, ids.hide(answer.text)

    for route in of_projects:
        if "{" in route[1]:
            for body in BODIES.get(route, [{}]):
                answers = [
                    said(ids, route, **({"json": ids.fill_body(body)} if body else {}))
                    for ids in (foreign, unknown)
                ]
                if answers[0] != answers[1]:
                    yield route
                else:
                    assert answers[0][0] == 404, (route, answers)
        elif route[0] == "GET":
            shown = client.get(route[1]).text
            if foreign.hide(shown) != shown:
                yield route
            for name in KINDS:
                of = [{"after": getattr(ids, name)} for ids in (foreign, unknown)]
                if said(foreign, route, params=of[0]) != said(unknown, route, params=of[1]):
                    yield route
        elif route not in WITHOUT_IDS:
            assert route in BODIES, f"say what ids the body of {route} has, or that it has none"
            for body in BODIES[route]:
                answers = [said(ids, route, json=ids.fill_body(body)) for ids in (foreign, unknown)]
                if answers[0] != answers[1]:
                    yield route
                else:
                    assert answers[0][0] == 404, (route, answers)


def test_no_route_tells_a_foreign_id_from_an_unknown_one_by_either_layer_alone(
    server: Served,
    db: Database,
    owner: Engine,
    foreign: Ids,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def row_level_security(word: str) -> None:
        with owner.begin() as connection:
            for table in tables_of_projects():
                connection.execute(text(f"ALTER TABLE {table} {word} ROW LEVEL SECURITY"))

    of_projects = [
        route
        for route in routes(server.settings)
        if route not in PUBLIC and scope_of(route) in {"read", "write"}
    ]
    with_ids = set(of_projects) - WITHOUT_IDS
    assert list(leaks(server, db, foreign, of_projects)) == []
    row_level_security("DISABLE")
    assert list(leaks(server, db, foreign, of_projects)) == [], "the filter alone does not hold"
    row_level_security("ENABLE")
    monkeypatch.setattr(database, "with_loader_criteria", lambda *_, **__: None)
    unfiltered = select(*Job.__table__.columns, null().label("metadata"))
    monkeypatch.setattr(state, "SHOWN", unfiltered.where(Job.id == bindparam("job_id")))
    assert list(leaks(server, db, foreign, of_projects)) == [], (
        "row-level security alone does not hold"
    )
    row_level_security("DISABLE")
    assert set(leaks(server, db, foreign, of_projects)) == with_ids, (
        "without both, this test must see it"
    )


def test_the_filter_is_in_every_kind_of_query(db: Database, owner: Engine, foreign: Ids) -> None:
    """Without row-level security, so that nothing else holds them."""
    with owner.begin() as connection:
        for table in tables_of_projects():
            connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
        stranger = connection.scalar(text("SELECT id FROM project WHERE name = 'stranger'"))
    other = aliased(Job)
    with db.as_project(stranger) as tx:
        assert tx.get(Job, foreign.job) is None
        assert tx.get(File, foreign.file, with_for_update=True) is None
        assert tx.scalars(select(Job)).all() == []
        assert tx.scalar(select(func.count()).select_from(Event)) == 0
        assert tx.scalar(select(func.max(other.sequence))) is None
        assert (
            tx.execute(select(Checkpoint.id, Job.id).join(Job, Job.id == Checkpoint.job_id)).all()
            == []
        )
        tagged = select(JobMetadata).where(JobMetadata.job_id == foreign.job).exists()
        assert tx.scalar(select(tagged)) is False
        assert tx.scalars(update(Job).values(suffix="x").returning(Job.id)).all() == []
        assert tx.scalars(delete(Event).returning(Event.number)).all() == []
        assert [file.id for file in tx.scalars(select(File))] == [foreign.own]


def test_what_a_look_across_projects_found_is_not_found_after_it(
    db: Database, foreign: Ids
) -> None:
    with db.as_control() as tx:
        stranger = projects.ensure_project(tx, "stranger").id
    with db.as_project(stranger) as tx:
        with across_projects(tx):
            assert tx.get(Job, foreign.job)
        assert tx.get(Job, foreign.job) is None
        assert tx.execute(text("SELECT id FROM job")).all() == []
        with suppress(LookupError), across_projects(tx):
            raise LookupError
        assert tx.scalars(select(Job)).all() == []


@pytest.mark.usefixtures("foreign")
def test_row_level_security_holds_what_has_no_filter(db: Database) -> None:
    with db.as_control() as tx:
        (own,) = tx.scalars(select(Job.project_id).distinct())
    for project, rows in ((own, 2), ("proj_x", 0), ("", 0)):
        with db.as_project(project) as tx:
            assert tx.execute(text("SELECT count(*) FROM job")).scalar_one() == rows
            changed = tx.execute(text("UPDATE job SET suffix = 'x' RETURNING id")).all()
            assert len(changed) == rows


def test_every_table_with_a_project_has_both_layers(owner: Engine) -> None:
    under = {
        table.name
        for table in Table.metadata.tables.values()
        if "project_id" in table.c and table.name != ApiKey.__tablename__
    }
    assert tables_of_projects() == under, "its class must inherit from OfProject"
    with owner.connect() as connection:
        forced = connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity "
                "AND EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = pg_class.oid)"
            )
        )
        assert set(forced) == under | {"project"}


def test_a_job_cannot_point_at_a_file_of_another_project(db: Database, server: Served) -> None:
    file = upload_file(server.client)
    with db.as_control() as tx:
        other = projects.ensure_project(tx, "other").id
    job = create_job(server.client, file.id)
    with pytest.raises(Exception, match="violates foreign key"), db.as_control() as tx:
        tx.get_one(Job, job.id).project_id = other


def tables_of_projects() -> set[str]:
    return {
        str(mapper.local_table)
        for mapper in Table.registry.mappers
        if issubclass(mapper.class_, OfProject)
    }
