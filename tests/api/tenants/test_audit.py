import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import ProgrammingError

from api.db.session import Database
from api.tables import Job, Person, WebhookDelivery, WebhookEndpoint
from api.webhooks import outbox
from api.webhooks.outbox import EventType
from tests.api.tenants.test_isolation import PUBLIC, READS, Route, routes, scope_of
from tests.conftest import BASE, ROOT, Served
from tests.factories import (
    another_base,
    create_job,
    data_set,
    end_by_hand,
    run_by_hand,
    upload,
    worker_facts,
)
from tunery.base_model import describe
from tunery.states import AttemptEnd
from worker.client import Client

# What every route that changes something leaves in the audit.
ACTIONS: dict[Route, str] = {
    ("POST", "/v1/files"): "file.create",
    ("DELETE", "/v1/files/{file_id}"): "file.delete",
    ("POST", "/v1/uploads"): "upload.create",
    ("POST", "/v1/uploads/{upload_id}/complete"): "upload.complete",
    ("POST", "/v1/uploads/{upload_id}/cancel"): "upload.cancel",
    ("POST", "/v1/webhook_endpoints"): "webhook_endpoint.create",
    ("POST", "/v1/webhook_endpoints/{endpoint_id}"): "webhook_endpoint.change",
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret"): "webhook_endpoint.rotate_secret",
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): "webhook_endpoint.test",
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/replay"): (
        "webhook_delivery.replay"
    ),
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): "webhook_endpoint.delete",
    ("POST", "/v1/fine_tuning/jobs"): "job.create",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): "job.cancel",
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): "job.delete",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): "job.pause",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): "job.resume",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/exports"): "export.create",
    ("POST", "/v1/fine_tuning/jobs/{job_id}/exports/{export_id}/cancel"): "export.cancel",
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}/exports/{export_id}"): "export.delete",
    ("DELETE", "/v1/models/{name}"): "model.delete",
    ("POST", "/v1/fine_tuning/checkpoints/{name}/permissions"): "permission.create",
    ("DELETE", "/v1/fine_tuning/checkpoints/{name}/permissions/{permission_id}"): (
        "permission.delete"
    ),
    ("PUT", "/v1/project/integrations/wandb"): "integration.put",
    ("DELETE", "/v1/project/integrations/wandb"): "integration.delete",
    ("POST", "/v1/admin/models"): "model.register",
    ("POST", "/v1/admin/models/files"): "model.send_file",
    ("PUT", "/v1/admin/models/{name}"): "model.send_tokenizer",
    ("DELETE", "/v1/admin/models/{name}"): "model.remove",
    ("POST", "/v1/admin/workers/{worker_id}/drain"): "worker.drain",
    ("POST", "/v1/admin/workers/{worker_id}/resume"): "worker.resume",
    ("DELETE", "/v1/admin/workers/{worker_id}"): "worker.delete",
    ("POST", "/v1/admin/endpoints"): "endpoint.create",
    ("DELETE", "/v1/admin/endpoints/{endpoint_id}"): "endpoint.delete",
    ("POST", "/v1/admin/projects"): "project.create",
    ("POST", "/v1/admin/projects/{project_id}"): "project.set_limits",
    ("POST", "/v1/admin/projects/{project_id}/keys"): "key.create",
    ("POST", "/v1/admin/projects/{project_id}/keys/{key_id}/rotate"): "key.rotate",
    ("DELETE", "/v1/admin/projects/{project_id}/keys/{key_id}"): "key.revoke",
    ("POST", "/v1/admin/people/{person_id}/sign_out"): "person.sign_out",
}
# Parts go with their upload.
NOT_AUDITED: set[Route] = {("POST", "/v1/uploads/{upload_id}/parts")}


def sign_somebody_out(server: Served, db: Database) -> None:
    with db.as_control() as tx:
        tx.add(Person(id="person_1", issuer="https://i", subject="s", rights={}))
    server.http(server.admin_key).post("/v1/admin/people/person_1/sign_out")


def test_every_change_is_in_the_audit_with_who_when_and_from_where(
    server: Served, worker: Client, db: Database
) -> None:
    admin = server.http(server.admin_key)
    job = create_job(server.client)
    jobs = server.client.fine_tuning.jobs
    jobs.pause(job.id)
    jobs.resume(job.id)
    cancelled = server.http().post(f"/v1/fine_tuning/jobs/{job.id}/cancel")
    server.client.files.delete(job.training_file)
    send_parts(server)
    change_webhooks(server, db)
    admin.put("/v1/project/integrations/wandb", json={"api_key": "a" * 40})
    admin.delete("/v1/project/integrations/wandb")
    change_base_models(server, db)
    worker.claim(worker_facts("w1"))
    for wish in ("drain", "resume"):
        admin.post(f"/v1/admin/workers/worker-w1/{wish}")
    admin.delete("/v1/admin/workers/worker-w1")
    endpoint = admin.post("/v1/admin/endpoints", json={"url": "http://127.0.0.1:9"}).json()
    admin.delete(f"/v1/admin/endpoints/{endpoint['id']}")
    project = admin.post("/v1/admin/projects", json={"name": "p"}).json()
    path = f"/v1/admin/projects/{project['id']}"
    admin.post(path, json={"limits": {"files": 3}})
    export_share_and_delete_a_model(server, db, project["id"])
    key = admin.post(f"{path}/keys", json={}).json()
    admin.post(f"{path}/keys/{key['id']}/rotate")
    admin.delete(f"{path}/keys/{key['id']}")
    sign_somebody_out(server, db)

    shown = admin.get("/v1/admin/audit", params={"limit": 100}).json()["data"]
    changing = (
        {
            route
            for route in routes(server.settings)
            if route[0] != "GET" and scope_of(route) in {"write", "admin"}
        }
        - PUBLIC
        - READS
        - NOT_AUDITED
    )
    assert changing == set(ACTIONS), "say what this route leaves in the audit"
    assert {entry["action"] for entry in shown if entry["key_id"]} == set(ACTIONS.values())
    (entry,) = [entry for entry in shown if entry["action"] == "job.cancel"]
    assert entry["subject"] == job.id
    assert entry["request_id"] == cancelled.headers["x-request-id"]
    assert entry["address"] == "127.0.0.1"
    keys = admin.get(f"/v1/admin/projects/{entry['project_id']}/keys").json()["data"]
    (used,) = [key for key in keys if key["id"] == entry["key_id"]]
    assert server.key.startswith(used["prefix"])
    assert not any(secret in str(shown) for secret in (server.key, server.admin_key, key["key"]))

    of_project = {"project_id": project["id"], "limit": 2}
    first = admin.get("/v1/admin/audit", params=of_project).json()
    rest = admin.get("/v1/admin/audit", params=of_project | {"after": first["last_id"]}).json()
    actions = [entry["action"] for entry in first["data"] + rest["data"]]
    assert actions == ["key.revoke", "key.create", "key.rotate", "key.create"]
    assert rest["has_more"]
    cancels = admin.get("/v1/admin/audit", params={"action": "job.cancel"}).json()["data"]
    assert cancels == [entry]
    assert admin.get("/v1/admin/audit", params={"after": "audit-x"}).status_code == 400


def change_base_models(server: Served, db: Database) -> None:
    admin = server.http(server.admin_key)
    facts = describe(ROOT / "models" / "tiny", id_=BASE, licence="MIT")
    admin.post("/v1/admin/models", json=facts.model_dump(mode="json"))
    admin.post("/v1/admin/models/files", json=facts.files[0].model_dump(mode="json"))
    tokenizer = (ROOT / "models" / "tiny" / "tokenizer.json").read_bytes()
    admin.put("/v1/admin/models/tokenizer.json", params={"model": BASE}, content=tokenizer)
    admin.delete(f"/v1/admin/models/{another_base(db)}")


def send_parts(server: Served) -> None:
    uploads = server.client.uploads
    size = len(data_set())
    for end in ("complete", "cancel"):
        upload = uploads.create(
            bytes=size, filename="a.jsonl", mime_type="application/jsonl", purpose="fine-tune"
        )
        part = uploads.parts.create(upload.id, data=data_set())
        if end == "complete":
            uploads.complete(upload.id, part_ids=[part.id])
        else:
            uploads.cancel(upload.id)


def export_share_and_delete_a_model(server: Served, db: Database, project_id: str) -> None:
    job = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
        name = tx.get_one(Job, job.id).model_name
    exports = f"/v1/fine_tuning/jobs/{job.id}/exports"
    export = server.http().post(exports, json={"format": "peft"}).json()["id"]
    server.http().post(f"{exports}/{export}/cancel")
    server.http().delete(f"{exports}/{export}")
    permissions = server.client_for(server.admin_key).fine_tuning.checkpoints.permissions
    (made,) = permissions.create(name, project_ids=[project_id]).data
    permissions.delete(made.id, fine_tuned_model_checkpoint=name)
    server.client.models.delete(name)
    server.http().delete(f"/v1/fine_tuning/jobs/{job.id}")


def change_webhooks(server: Served, db: Database) -> None:
    client = server.http()
    asked = {
        "name": "ours",
        "url": "https://hooks.example.com",
        "event_types": [EventType.CANCELLED],
    }
    endpoint = client.post("/v1/webhook_endpoints", json=asked).json()
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    client.post(path, json={"name": "theirs"})
    client.post(f"{path}/rotate_secret")
    with db.as_control() as tx:
        # So that nothing here asks a name server.
        tx.execute(update(WebhookEndpoint).values(url="https://localhost"))
        outbox.announce(tx, tx.scalars(select(Job)).one(), EventType.CANCELLED)
        delivery = tx.scalars(select(WebhookDelivery.id)).one()
    client.post(f"{path}/test", json={"event_type": EventType.CANCELLED})
    client.post(f"{path}/deliveries/{delivery}/replay")
    client.delete(path)


def test_what_did_not_happen_is_not_in_the_audit_and_nothing_in_it_changes(
    server: Served, db: Database
) -> None:
    file = upload(server.client)
    create_job(server.client, file.id)
    assert server.http().delete(f"/v1/files/{file.id}").status_code == 409
    entries = server.http(server.admin_key).get("/v1/admin/audit").json()["data"]
    assert [entry["action"] for entry in entries][:2] == ["job.create", "file.create"]
    for change in ("UPDATE audit SET action = 'x'", "DELETE FROM audit"):
        with pytest.raises(ProgrammingError, match="permission denied"), db.as_control() as tx:
            tx.execute(text(change))
    with pytest.raises(ProgrammingError, match="permission denied"), db.as_project("p") as tx:
        tx.execute(text("SELECT * FROM audit"))
