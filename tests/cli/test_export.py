"""The command against a real API, with a worker that is played."""

import threading
from pathlib import Path

import pytest

from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import Served
from tests.factories import create_job
from tunery import messages
from tunery.cli import export
from tunery.states import FailureClass
from worker.client import Client


def test_a_model_is_exported_and_fetched_or_it_is_said_why_not(
    server: Served,
    worker: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    monkeypatch.setattr(export, "LOOK_SECONDS", 0.05)
    job = create_job(server.client)
    with pytest.raises(SystemExit, match="has no finished model"):
        export.run(job.id, {"format": "merged"}, None)
    lease = claim(worker)
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    files = {"model.safetensors": b"weights" * 1000, "config.json": b"{}"}

    def make(*, well: bool, files: dict[str, bytes] = files) -> None:
        while (lease := worker.claim(facts, wait=5)) is None:
            pass
        word: messages.Exported | messages.Failed = messages.Failed(
            failure_class=FailureClass.USER, code="c", message="no such form"
        )
        if well:
            event = messages.JobEvent(message="Merged onto the base")
            worker.add_events(lease, messages.EventBatch(first=0, events=[event]))
            word = messages.Exported(files=send(worker, lease, tmp_path, files))
        worker.finish(lease, messages.FinishRequest(result=word), patience=0)

    facts = messages.WorkerFacts(protocol=messages.PROTOCOL, worker="w1")
    for well in (True, False):
        making = threading.Thread(target=make, kwargs={"well": well})
        making.start()
        into = tmp_path / "here"
        if well:
            export.run(job.id, {"format": "merged"}, into)
        else:
            with pytest.raises(SystemExit, match="no such form"):
                export.run(job.id, {"format": "merged", "dtype": "fp16"}, into)
        making.join()
    assert {path.name: path.read_bytes() for path in into.iterdir()} == files
    lines = capsys.readouterr().out.splitlines()
    assert "  Merged onto the base" in lines
    served = f"ft:{job.model}:default::{job.id[-8:]}"
    assert f"2 files in {into}" in lines
    assert f"serve it: vllm serve {into} --served-model-name {served}" in lines

    making = threading.Thread(target=make, kwargs={"well": True, "files": ADAPTER})
    making.start()
    export.run(job.id, {"format": "peft"}, tmp_path / "adapter")
    making.join()
    said = " ".join(capsys.readouterr().out.split())
    assert "serve it: vllm serve FOLDER --enable-lora" in said
    assert said.endswith(
        f"FOLDER stands for the folder with the files of {job.model}: its operator knows which."
    )
