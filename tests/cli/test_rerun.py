"""A training once more, from its manifest; the engine here answers as it is told."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.db.session import Database
from api.tables import BaseModel
from tests.api.speaking import ADAPTER, finish, send, succeeded
from tests.conftest import Served
from tests.factories import create_job, upload, worker_facts
from tunery.cli import rerun, watch
from tunery.spec import TrainingSpec
from worker.client import Client

SETTINGS: dict[str, Any] = {
    "training": {
        "learning_rate": 3e-4,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "optimizer": "adamw_8bit",
        "lr_scheduler": "cosine",
        "max_length": 64,
        "bnb_4bit_use_double_quant": False,
        "train_on_inputs": True,
        "early_stopping_patience": 2,
        "load_best_model_at_end": True,
    },
    "lora": {"r": 4, "target_modules": ["q_proj"], "rslora": True},
}


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    monkeypatch.setattr(watch, "TEND_SECONDS", 0.05)


def train(worker: Client, folder: Path, weights: bytes) -> TrainingSpec:
    """Publishes these weights for the next job, with a manifest as the engine writes it."""
    lease = None
    while lease is None:
        lease = worker.claim(worker_facts(), wait=1)
    manifest = {
        "spec": lease.spec.model_dump(mode="json"),
        "plan": {"quantization": "nf4"},
        "device": "cpu",
        "libraries": {"torch": str(len(weights))},
        "files": [{"name": "adapter_model.safetensors", "sha256": digest(weights)}],
    }
    files = ADAPTER | {
        "adapter_model.safetensors": weights,
        "manifest.json": json.dumps(manifest).encode(),
    }
    folder.mkdir()
    finish(worker, lease, succeeded(send(worker, lease, folder, files)))
    return lease.spec


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_rerun_asks_for_the_same_spec_and_tells_whether_the_weights_are_the_same(
    server: Served, worker: Client, db: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = b'{"prompt": "a", "completion": "b"}\n'
    data, valid = tmp_path / "rows.jsonl", upload(server.client, rows * 2).id
    data.write_bytes(rows * 20)
    first = create_job(
        server.client,
        upload(server.client, rows * 20).id,
        validation_file=valid,
        extra_body=SETTINGS,
    )
    spec = train(worker, tmp_path / "first", b"weights")
    manifest = tmp_path / "first" / "manifest.json"
    again: list[TrainingSpec] = []
    for number, weights in enumerate((b"weights", b"others!!")):
        name = tmp_path / f"again-{number}"
        engine = threading.Thread(target=lambda: again.append(train(worker, name, weights)))  # noqa: B023
        engine.start()
        if weights == b"weights":
            rerun.run(manifest, [], "again")
            assert "the same to the bit" in capsys.readouterr().out
            newest = server.client.fine_tuning.jobs.list().data[0]
            assert ":again:" in (newest.fine_tuned_model or "")
        else:
            server.client.files.delete(first.training_file)
            with pytest.raises(SystemExit, match=r"weights differ.*'torch': '7'.*then"):
                rerun.run(manifest, [data], as_json=True)
            told = json.loads(capsys.readouterr().out)
            assert (told["status"], told["weights_are_the_same"]) == ("succeeded", False)
        engine.join()
    planned = spec.model_copy(update={"quantization": "nf4"})
    assert again[0] == planned
    kept = again[1].training_file
    assert again[1] == planned.model_copy(update={"training_file": kept})
    assert kept.sha256 == spec.training_file.sha256

    server.client.files.delete(kept.id)
    with pytest.raises(SystemExit, match="Give the file with --data"):
        rerun.run(manifest, [])
    with db.as_control() as tx:
        tx.execute(update(BaseModel).values(revision="2"))
    with pytest.raises(SystemExit, match="at revision 2, the training was on"):
        rerun.run(manifest, [data])
    known = json.loads(manifest.read_text())
    for torn in ("{}", "{", *(json.dumps(known | {part: None}) for part in ("plan", "files"))):
        data.write_text(torn)
        with pytest.raises(SystemExit, match="no manifest"):
            rerun.run(data, [])
