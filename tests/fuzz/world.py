"""A server with a bit of everything in it, and who asks it."""

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from api.admin import create_key
from api.db.session import Database
from api.tenants.projects import Scope
from tests.api.speaking import claim
from tests.conformance.life import Life
from tests.conftest import BASE, ROOT, Served
from tests.factories import create_job, upload, worker_facts
from tunery.base_model import describe
from worker.client import Client

SCOPES: tuple[list[Scope], ...] = (
    ["read"],
    ["write"],
    ["read", "write"],
    ["read", "write", "admin"],
    ["worker"],
)
CHECKPOINTS = "GET /v1/fine_tuning/jobs/{job_id}/checkpoints"
WORKERS_OWN = {"/worker/v1/claim", "/worker/v1/heartbeat"}


@dataclass
class World:
    """`keys` by whose they are; `known` are values that lead somewhere, by the parameter or field
    that takes them.
    """

    server: Served
    worker: Client
    folder: Path
    db: Database
    keys: dict[str, str] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        life = Life(self.server, self.worker, self.folder)
        life.live()
        self.document: dict[str, Any] = self.server.http().get("/openapi.json").json()
        self.keys = {
            **{" ".join(each): create_key(self.db, "default", each) for each in SCOPES},
            "nobody": "",
            "stranger": "sk-unknown",
        }
        jobs = [job.id for job in self.server.client.fine_tuning.jobs.list()]
        files = [file.id for file in self.server.client.files.list()]
        models = [model.id for model in self.server.client.models.list()]
        admin = self.server.http(self.server.admin_key)
        (worker,) = admin.get("/v1/admin/workers").json()["data"]
        # Of another project: its keys are not those that ask.
        other = admin.post("/v1/admin/projects", json={"name": "other"}).json()["id"]
        keys = f"/v1/admin/projects/{other}/keys"
        others_keys = [admin.post(keys, json={}).json()["id"] for _ in range(4)]
        mine = next(name for name in models if ":mine:" in name)
        of_job = next(job for job in jobs if job.endswith(mine[-8:]))
        exports = f"/v1/fine_tuning/jobs/{of_job}/exports"
        made = [admin.post(exports, json={"format": "peft"}).json()["id"] for _ in range(2)]
        (checkpoint, *_) = life.answers[CHECKPOINTS][-1].json()["data"]
        begun = [
            self.server.client.uploads.create(
                bytes=9, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
            ).id
            for _ in range(8)
        ]
        self.known = {
            "upload_id": begun,
            "endpoint_id": [hook.id for hook in self.server.client.webhooks.list()],
            "job_id": jobs,
            "export_id": made,
            "after": jobs + files,
            **dict.fromkeys(("file_id", "training_file", "validation_file"), files),
            "model": [BASE, *models],
            "name": [
                BASE,
                *models,
                checkpoint["fine_tuned_model_checkpoint"],
                "adapter_config.json",
            ],
            "project_id": [other],
            "key_id": others_keys,
            "worker_id": [worker["id"]],
        }
        self.file = upload(self.server.client).id
        self.numbers = count(2)
        self.lend()

    def lend(self) -> None:
        """A running job, and the secret of its lease among the keys: the routes of a worker."""
        create_job(self.server.client, self.file)
        lease = claim(self.worker, f"w{next(self.numbers)}")
        assert lease
        self.keys["lease"] = lease.secret
        self.known["job_id"] = [*self.known["job_id"][-8:], lease.job_id]

    def lend_for(self, path: str) -> None:
        if path.startswith("/worker/v1/jobs"):
            self.lend()

    def bodies(self) -> dict[str, Any]:
        """One that is good, or nearly, for each operation that takes JSON texts."""
        file = {"name": "state.bin", "bytes": 1, "sha256": "0" * 64}
        metrics = {"step": 1, "train_loss": 0.5}
        worker = worker_facts("w9").model_dump()
        base = describe(ROOT / "models" / "tiny", id_="fuzzed").model_dump(mode="json")
        job = {
            "model": BASE,
            "training_file": self.known["file_id"][-1],
            "suffix": "mine",
            "metadata": {"team": "a"},
            "method": {"type": "supervised"},
        }
        message = {"role": "user", "content": "Hello"}
        tool = {"type": "function", "function": {"name": "f", "parameters": {"a": "b"}}}
        return {
            "POST /v1/chat/completions": {
                "model": BASE,
                "messages": [message],
                "tools": [tool],
                "stop": ["a"],
                "user": "b",
            },
            "POST /v1/completions": {"model": BASE, "prompt": ["a", "b"], "stop": "c"},
            "POST /v1/responses": {"model": BASE, "input": [message], "instructions": "Be brief."},
            "POST /v1/fine_tuning/jobs": job,
            "POST /v1/fine_tuning/estimate": job,
            "POST /v1/fine_tuning/jobs/{job_id}/exports": {"format": "gguf", "checkpoint": 1},
            "POST /v1/admin/models/files": file,
            "POST /v1/admin/models": base | {"files": base["files"][:1]},
            "POST /worker/v1/claim": worker,
            "POST /worker/v1/heartbeat": {"worker": worker, "leases": []},
            "POST /worker/v1/jobs/{job_id}/uploads": file,
            "POST /worker/v1/jobs/{job_id}/checkpoints": {
                "step": 1,
                "epoch": 1,
                "metrics": metrics,
                "files": [file],
            },
            "POST /worker/v1/jobs/{job_id}/events": {
                "first": 0,
                "events": [{"message": "hello", "data": {"plan": "x"}, "metrics": metrics}],
            },
            "POST /worker/v1/jobs/{job_id}/finish": {
                "result": {
                    "outcome": "failed",
                    "failure_class": "user",
                    "code": "c",
                    "message": "m",
                    "log_tail": "l",
                }
            },
        }

    def mix(self, asked: dict[str, Any], dice: Random) -> dict[str, Any]:
        """The same with some of its values replaced by such as lead somewhere."""
        return {
            name: dice.choice(self.known[name])
            if name in self.known and dice.random() < 0.6
            else value
            for name, value in asked.items()
        }

    def authorization(self, path: str, dice: Random) -> dict[str, str]:
        """Of somebody who may, most of the time."""
        may = "lease" if path.startswith("/worker/v1/jobs") else "read write admin"
        whose = "worker" if path in WORKERS_OWN else may
        key = self.keys[whose if dice.random() < 0.8 else dice.choice(list(self.keys))]
        return {"authorization": f"Bearer {key}"} if key else {}
