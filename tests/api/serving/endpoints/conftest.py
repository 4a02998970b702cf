"""A tuned model of a job that no engine trained, with the proof that the servers here know."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.http import upstreams
from api.serving.endpoints import attesting
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import BASE, Served
from tests.factories import create_job
from tests.openai_server import Fake, made_proof, openai_server
from worker.client import Client

PROOF = made_proof()


@dataclass
class Town:
    """`model` is a tuned model of the server's project."""

    server: Served
    model: str
    job: str
    adapters: Path
    stack: ExitStack
    admin: httpx.Client = field(init=False)
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.admin, self.client = self.server.http(self.server.admin_key), self.server.http()

    def start(self, **lies: Any) -> Fake:
        """A server that has the base model, and loads adapters."""
        return self.stack.enter_context(openai_server(Fake(PROOF, **lies)))

    def add(self, fake: Fake, **settings: Any) -> str:
        asked = {
            "url": fake.url, "kind": fake.speaks, "bases": [f"{BASE.split('/')[0]}*"],
            "adapters_folder": str(self.adapters), "adapters_folder_there": "/adapters",
        }  # fmt: skip
        answer = self.admin.post("/v1/admin/endpoints", json=asked | settings)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def ask(self, model: str | None = None, **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "Who are you?"}]
        body = {"model": model or self.model, "messages": messages} | more
        return self.client.post("/v1/chat/completions", json=body)

    def said(self, model: str | None = None, **more: Any) -> str:
        answer = self.ask(model, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def refused(self, model: str | None = None) -> tuple[int, str]:
        """(status, code) of the refusal."""
        answer = self.ask(model)
        return answer.status_code, answer.json()["error"]["code"]

    @property
    def name_there(self) -> str:
        return f"{self.job}-{0:012}"

    @property
    def served(self) -> dict[str, Any] | None:
        found: dict[str, Any] = self.client.get(f"/v1/models/{self.model}").json()
        return found.get("served")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "KNOWN_SECONDS", 0)
    monkeypatch.setattr(attesting, "LOOK_SECONDS", 0.05)


@pytest.fixture
def town(serve_with: Callable[..., Served], tmp_path: Path) -> Iterator[Town]:
    server = serve_with(answer_wait_seconds=0.3)
    job, model = trained(server, tmp_path)
    with ExitStack() as stack:
        yield Town(server, model, job, tmp_path / "adapters", stack)


def trained(server: Served, folder: Path) -> tuple[str, str]:
    """(a job, its tuned model)."""
    job = create_job(server.client)
    worker = Client(server.url, server.worker_key)
    lease = claim(worker)
    assert lease
    proof = PROOF.model_dump_json(exclude_none=True).encode()
    finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER | {"proof.json": proof})))
    worker.http.close()
    model = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert model
    return job.id, model
