"""What a service is asked for: one method a request. The commands and the MCP server both speak
through these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from openai import OpenAI

Answer = dict[str, Any]

JOBS = "/fine_tuning/jobs"


def of_job(job_id: str, below: str = "") -> str:
    return f"{JOBS}/{quote(job_id, safe='')}{below}"


class Verbs:
    """Each returns the API's answer as it came, and raises the SDK's errors. The docstrings are
    what an agent reads of them.
    """

    def __init__(self, client: "OpenAI") -> None:
        self.client = client

    def whoami(self) -> Answer:
        """Show the API key's project: its name, its limits, and what it uses of them."""
        return self.get("/project")

    def list_jobs(
        self,
        limit: int = 20,
        status: str | None = None,
        model: str | None = None,
        q: str | None = None,
        after: str | None = None,
    ) -> Answer:
        """List fine-tuning jobs, the newest first. `status` is one of queued, running, paused,
        succeeded, failed, cancelled and the like; `q` is a part of the id, the suffix or the tuned
        model's name; `after` is the last id of the page before.
        """
        return self.get(JOBS, limit=limit, status=status, model=model, q=q, after=after)

    def get_job(self, job_id: str) -> Answer:
        """Show one job: its status, settings, progress, error, and what it waits for."""
        return self.get(of_job(job_id))

    def create_job(
        self,
        model: str,
        training_file: str,
        validation_file: str | None = None,
        method: Answer | None = None,
        training: Answer | None = None,
        lora: Answer | None = None,
        suffix: str | None = None,
        seed: int | None = None,
        evaluation: Answer | None = None,
    ) -> Answer:
        """Start a fine-tuning job of a base model on an uploaded file. `method` is OpenAI's, such
        as {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}; `training`
        and `lora` hold Tunery's own settings, such as {"max_length": 2048} and {"r": 16}.
        `evaluation` compares the result with its base on held-out rows, such as {"grader": {"type":
        "string_check", "name": "exact", "input": "{{ sample.output_text }}", "reference": "{{
        item.reference }}", "operation": "eq"}}.
        """
        asked = {
            "model": model,
            "training_file": training_file,
            "validation_file": validation_file,
            "method": method,
            "training": training,
            "lora": lora,
            "suffix": suffix,
            "seed": seed,
            "evaluation": evaluation,
        }
        return self.post(JOBS, {name: value for name, value in asked.items() if value is not None})

    def cancel_job(self, job_id: str) -> Answer:
        """Cancel a job for good. A running one stops at its next step."""
        return self.post(of_job(job_id, "/cancel"))

    def pause_job(self, job_id: str) -> Answer:
        """Pause a job: a running one keeps a checkpoint and frees its device."""
        return self.post(of_job(job_id, "/pause"))

    def resume_job(self, job_id: str) -> Answer:
        """Resume a paused job from its checkpoint."""
        return self.post(of_job(job_id, "/resume"))

    def delete_job(self, job_id: str) -> Answer:
        """Delete an ended job and its model, for good. Its result file stays."""
        return self.delete(of_job(job_id))

    def list_events(self, job_id: str, limit: int = 20, after: str | None = None) -> Answer:
        """List a job's events, the newest first: messages, warnings, and the metrics of steps."""
        return self.get(of_job(job_id, "/events"), limit=limit, after=after)

    def get_metrics(self, job_id: str, limit: int = 100) -> Answer:
        """Show a job's loss and other metrics by step, thinned to at most `limit` points."""
        return self.get(of_job(job_id, "/metrics"), limit=limit)

    def list_checkpoints(self, job_id: str) -> Answer:
        """List the checkpoints that are kept of a job, with their validation figures."""
        return self.get(of_job(job_id, "/checkpoints"), limit=100)

    def list_artifacts(self, job_id: str) -> Answer:
        """List the files of a finished job's model, with their sizes and SHA-256."""
        return self.get(of_job(job_id, "/artifacts"))

    def list_samples(self, job_id: str) -> Answer:
        """List what the base and the tuned model answered to held-out rows, checkpoint by
        checkpoint, and the held-out rows with the least and the most loss.
        """
        return self.get(of_job(job_id, "/samples"))

    def get_evaluation(self, job_id: str) -> Answer:
        """Show whether a job's model is better than its base: the verdict, and the answers of both
        to the first 100 held-out rows with their scores.
        """
        return self.get(of_job(job_id, "/evaluation"))

    def download_job(self, job_id: str, into: Path) -> Answer:
        """Download a finished job's model into a local folder. Each file is checked against its
        SHA-256; one that is there already is not fetched again.
        """
        files = self.list_artifacts(job_id)["data"]
        if not files:
            status = self.get_job(job_id)["status"]
            raise FileNotFoundError(f"Job {job_id} is {status} and has no model to download.")
        return self.fetch_all(of_job(job_id, "/artifacts"), files, into)

    def export_job(
        self,
        job_id: str,
        format: str,  # noqa: A002 (its name in the API)
        checkpoint: int | None = None,
        onto: str | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
    ) -> Answer:
        """Begin to export a job's model as peft, merged, gguf or ollama; of a `checkpoint` by its
        step. `merged` goes `onto` the base as `trained` or the `original`, in a `dtype` such as
        bf16; `gguf` and `ollama` are the whole model with a `quantization` such as q4_k_m, else
        the adapter alone. Then look with get_export until it has succeeded.
        """
        asked = {
            "format": format,
            "checkpoint": checkpoint,
            "onto": onto,
            "dtype": dtype,
            "quantization": quantization,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        return self.post(of_job(job_id, "/exports"), body)

    def list_exports(self, job_id: str) -> Answer:
        """List the exports of a job."""
        return self.get(of_job(job_id, "/exports"))

    def get_export(self, job_id: str, export_id: str) -> Answer:
        """Show one export: its status, its files, and the command that serves it."""
        return self.get(of_job(job_id, f"/exports/{quote(export_id, safe='')}"))

    def download_export(self, job_id: str, export_id: str, into: Path) -> Answer:
        """Download an export that has succeeded into a local folder."""
        files = self.get_export(job_id, export_id)["files"]
        path = of_job(job_id, f"/exports/{quote(export_id, safe='')}/files")
        return self.fetch_all(path, files, into)

    def get_logs(self, job_id: str, tail: int = 100) -> str:
        """Show the last lines of the log of a job's newest attempt."""
        log = self.client.get(
            of_job(job_id, "/logs"), cast_to=bytes, options={"params": {"tail": tail}}
        )
        return log.decode()

    def list_files(self, limit: int = 100, purpose: str | None = None) -> Answer:
        """List uploaded and result files, the newest first."""
        return self.get("/files", limit=limit, purpose=purpose)

    def get_file(self, file_id: str) -> Answer:
        """Show one file. Its status is `processed` once its rows are checked and good."""
        return self.get(f"/files/{quote(file_id, safe='')}")

    def get_file_report(self, file_id: str, model: str | None = None) -> Answer:
        """Show what the check of a data set found: rows, formats, every fault and how to fix it.
        With a `model`, also its tokens and how rows are rendered and trained.
        """
        return self.get(f"/files/{quote(file_id, safe='')}/report", model=model)

    def upload_file(self, path: Path, columns: dict[str, str] | None = None) -> Answer:
        """Upload a local data set to train on: JSON lines, CSV, Parquet, Excel. `columns` are its
        own names for a row's fields, such as {"prompt": "question", "completion": "answer"}.
        """
        named = {"columns": columns} if columns else None
        file = self.client.files.create(file=path, purpose="fine-tune", extra_body=named)
        return file.model_dump()

    def download_file(self, file_id: str, into: Path) -> Answer:
        """Download a file to a local path, checked against its SHA-256."""
        from tunery.cli.download import fetch_to

        file = self.get_file(file_id)
        fetch_to(self.client, f"/files/{quote(file_id, safe='')}/content", file, into)
        return file

    def delete_file(self, file_id: str) -> Answer:
        """Delete a file for good. It is refused while an unfinished job needs it."""
        return self.delete(f"/files/{quote(file_id, safe='')}")

    def list_models(self) -> Answer:
        """List the base models that jobs can start from, and the tuned models."""
        return self.get("/models")

    def get_model(self, name: str) -> Answer:
        """Show one model, base or tuned, by its name."""
        return self.get(f"/models/{quote(name, safe='')}")

    def delete_model(self, name: str) -> Answer:
        """Delete a tuned model for good."""
        return self.delete(f"/models/{quote(name, safe='')}")

    def estimate_job(
        self, model: str, training_file: str, training: Answer | None = None
    ) -> Answer:
        """Estimate steps, tokens, memory and time of a job on this service's workers, without
        creating it.
        """
        body: Answer = {"model": model, "training_file": training_file, "training": training or {}}
        return self.post("/fine_tuning/estimate", body)

    def fetch_all(self, path: str, files: list[Answer], folder: Path) -> Answer:
        from tunery.cli.download import fetch_all

        fetch_all(self.client, path, files, folder)
        return {"folder": str(folder), "files": files}

    def get(self, path: str, **params: str | int | None) -> Answer:
        given = {name: value for name, value in params.items() if value is not None}
        return self.client.get(path, cast_to=Answer, options={"params": given})

    def post(self, path: str, body: Answer | None = None) -> Answer:
        return self.client.post(path, cast_to=Answer, body=body)

    def delete(self, path: str) -> Answer:
        return self.client.delete(path, cast_to=Answer)


@contextmanager
def verbs(*, admin: bool = False) -> Iterator[Verbs]:
    """Of the service that is known here, as `tunery.cli.access.service`."""
    # The SDK takes a second to import, which no help should wait for.
    from tunery.cli.access import service

    with service(admin=admin) as client:
        yield Verbs(client)
