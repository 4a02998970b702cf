"""A realistic life: every operation is called, and every state of a job is seen."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.answering_worker import AnsweringWorker, speaks
from tests.api.sink import sink
from tests.api.speaking import ADAPTER, claim, failed, finish, send, succeeded
from tests.conftest import BASE, Served
from tests.factories import data_set
from tunery import messages
from tunery.measured import Metrics, Progress
from tunery.states import FailureClass
from worker.client import Client

# A file above this waits for the janitor, who is not there.
CHECKED_AT_ONCE = 20_000
GRADER = {
    "type": "multi",
    "name": "both",
    "graders": {
        "type": "string_check",
        "name": "exact",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.reference }}",
        "operation": "eq",
    },
    "calculate_output": "exact / 2",
}
STATES = {"validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"}


@dataclass
class Life:
    """`answers` are all that were given, by operation; `states` those that jobs were seen in."""

    server: Served
    worker: Client
    folder: Path
    answers: dict[str, list[httpx.Response]] = field(default_factory=lambda: defaultdict(list))
    states: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.http = self.server.http(self.server.admin_key)

    def say(self, operation: str, names: dict[str, str] | None = None, **sent: Any) -> Any:
        """Does it, and returns what came: JSON if it is that. `names` fill the braces."""
        method, path = operation.split()
        answer = self.http.request(method, path.format(**names or {}), **sent)
        self.answers[operation].append(answer)
        return answer.json() if answer.headers["content-type"] == "application/json" else None

    def upload(self, content: bytes) -> dict[str, Any]:
        form = {"file": ("data.jsonl", content), "purpose": (None, "fine-tune")}
        file: dict[str, Any] = self.say("POST /v1/files", files=list(form.items()))
        self.say("GET /v1/files/{file_id}", {"file_id": file["id"]})
        return file

    def upload_in_parts(self, content: bytes) -> None:
        """Once to its end, once cancelled."""
        asked = {"bytes": len(content), "filename": "data.jsonl", "mime_type": "application/jsonl"}
        for end in ("complete", "cancel"):
            upload = self.say("POST /v1/uploads", json={**asked, "purpose": "fine-tune"})["id"]
            of = {"upload_id": upload}
            form = {"data": ("upload", content)}
            part = self.say("POST /v1/uploads/{upload_id}/parts", of, files=form)["id"]
            body = {"json": {"part_ids": [part]}} if end == "complete" else {}
            self.say(f"POST /v1/uploads/{{upload_id}}/{end}", of, **body)

    def create(self, file: dict[str, Any], **settings: Any) -> str:
        asked = {"model": BASE, "training_file": file["id"], **settings}
        job: str = self.say("POST /v1/fine_tuning/jobs", json=asked)["id"]
        self.look_at(job)
        return job

    def look_at(self, job: str) -> dict[str, Any]:
        seen: dict[str, Any] = self.say("GET /v1/fine_tuning/jobs/{job_id}", {"job_id": job})
        self.states.add(seen["status"])
        self.say("GET /v1/fine_tuning/jobs")
        self.say("GET /v1/fine_tuning/jobs/{job_id}/events", {"job_id": job})
        self.say("GET /v1/fine_tuning/jobs/{job_id}/checkpoints", {"job_id": job})
        return seen

    def wish(self, job: str, wish: str) -> None:
        self.say(f"POST /v1/fine_tuning/jobs/{{job_id}}/{wish}", {"job_id": job})
        self.look_at(job)

    def live(self) -> None:
        for operation in ("GET /v1/files", "GET /v1/fine_tuning/jobs", "GET /v1/models"):
            self.say(operation)
        good, faulty = self.upload(data_set(12)), self.upload(b"not JSON\n")
        self.upload_in_parts(data_set(12))
        unchecked = self.upload(data_set(400))
        self.wish(self.create(unchecked), "cancel")
        stopped = self.create(good)
        for wish in ("pause", "resume", "pause"):
            self.wish(stopped, wish)
        self.fail(self.create(good, metadata={"team": "a"}))
        self.http.put("/v1/project/integrations/wandb", json={"api_key": "a" * 40})
        told = [{"type": "wandb", "wandb": {"project": "cows"}}]
        source = self.succeed(self.create(good, integrations=told))
        settings = {"model": source, "validation_file": good["id"], "suffix": "mine", "seed": 7}
        model = self.succeed(self.create(good, **settings))
        self.say("DELETE /v1/models/{model}", {"model": source})
        self.say("GET /v1/models")
        for name in (BASE, model):
            self.say("GET /v1/models/{model}", {"model": name})
        self.ask(model)
        self.share(model)
        for order in ("asc", "desc"):
            self.say("GET /v1/files", params={"order": order})
        graders, asked = "/v1/fine_tuning/alpha/graders", {"grader": GRADER}
        self.say(f"POST {graders}/validate", json=asked)
        self.say(f"POST {graders}/run", json=asked | {"model_sample": "One.", "item": {"a": "b"}})
        self.say("DELETE /v1/files/{file_id}", {"file_id": faulty["id"]})
        with sink() as receiver:
            self.be_told(receiver.url)

    def ask(self, tuned: str) -> None:
        """Base model, tuned model and checkpoint, streamed or not."""
        message = {"role": "user", "content": "Hello"}
        tool = {"type": "function", "function": {"name": "weather"}}
        with AnsweringWorker(self.server, speaks):
            for model in (BASE, tuned, f"{tuned}:ckpt-step-2"):
                for stream in (False, True):
                    asked = {"model": model, "stream": stream}
                    chat = {"messages": [message], "n": 2, "tools": [tool], "logprobs": True}
                    self.say("POST /v1/chat/completions", json=asked | chat)
                    self.say("POST /v1/completions", json=asked | {"prompt": "Hi", "logprobs": 1})
                    tools = {"tools": [{"type": "function", "name": "weather"}], "top_logprobs": 1}
                    self.say("POST /v1/responses", json=asked | tools | {"input": [message]})

    def share(self, model: str) -> None:
        permissions, name = "/v1/fine_tuning/checkpoints/{name}/permissions", {"name": model}
        others = [
            self.http.post("/v1/admin/projects", json={"name": other}).json()["id"]
            for other in ("a", "b", "c")
        ]
        made = self.say(f"POST {permissions}", name, json={"project_ids": others})
        first = {**name, "permission_id": made["first_id"]}
        self.say(f"DELETE {permissions}/{{permission_id}}", first)
        self.say(f"GET {permissions}", name)

    def be_told(self, url: str) -> None:
        self.say("GET /v1/webhook_event_types")
        hooks, ended = "/v1/webhook_endpoints", "fine_tuning.job.succeeded"
        asked = {"name": "ours", "url": url, "event_types": [ended]}
        for _ in range(3):
            hook = {"webhook_id": self.say(f"POST {hooks}", json=asked)["id"]}
        self.say(f"GET {hooks}")
        self.say(f"GET {hooks}/{{webhook_id}}", hook)
        self.say(f"POST {hooks}/{{webhook_id}}", hook, json={"name": "new"})
        self.say(f"POST {hooks}/{{webhook_id}}/rotate_secret", hook)
        self.say(f"POST {hooks}/{{webhook_id}}/test", hook, json={"event_type": ended})
        self.say(f"DELETE {hooks}/{{webhook_id}}", hook)

    def fail(self, job: str) -> None:
        lease = claim(self.worker)
        assert lease
        assert lease.job_id == job
        self.look_at(job)
        finish(self.worker, lease, failed(FailureClass.USER))
        self.look_at(job)

    def succeed(self, job: str) -> str:
        """Returns the tuned model's name."""
        lease = claim(self.worker)
        assert lease
        assert lease.job_id == job
        for step in (1, 2):
            metrics = Metrics(
                step=step, train_loss=0.5, train_mean_token_accuracy=0.5, valid_loss=0.7
            )
            events = [messages.JobEvent(message=f"Step {step}/2", metrics=metrics)]
            progress = Progress(step=step, total_steps=2, trained_tokens=7, seconds_left=30)
            batch = messages.EventBatch(first=step - 1, events=events, progress=progress)
            self.worker.add_events(lease, batch)
            files = send(self.worker, lease, self.folder, {"state.bin": b"%d" % step, **ADAPTER})
            written = messages.CheckpointWritten(
                step=step, epoch=step, metrics=metrics, files=files
            )
            self.worker.add_checkpoint(lease, written, patience=0)
            self.look_at(job)
        files = send(self.worker, lease, self.folder, ADAPTER)
        finish(self.worker, lease, succeeded(files))
        ended = self.look_at(job)
        self.say("GET /v1/files/{file_id}", {"file_id": ended["result_files"][0]})
        self.say("GET /v1/files/{file_id}/content", {"file_id": ended["result_files"][0]})
        model: str = ended["fine_tuned_model"]
        return model
