"""A job that names a model of a hub: it is registered, fetched by a worker that had nothing, and
trained.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from safetensors.torch import load

from tests.conftest import ROOT, Served
from tests.hub import COMMIT, Repo, serve_hub

NAME = "acme/tiny"


def test_a_job_on_a_model_of_the_hub_runs_on_a_worker_that_had_nothing(
    serve_with: Callable[..., Served], tmp_path: Path
) -> None:
    with serve_hub() as hub:
        hub.repos[NAME] = Repo()
        server = serve_with(hf_endpoint=hub.url, hf_hub_offline=False, hub_models=("acme/*",))
        client = server.client
        rows = (ROOT / "examples" / "pirate.train.jsonl").read_bytes().splitlines()[:8]
        file = client.files.create(file=("a.jsonl", b"\n".join(rows)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=NAME, training_file=file.id, hyperparameters={"n_epochs": 1}
        )
        worker = subprocess.run(
            [sys.executable, "-m", "worker", "--poll", "--idle-exit", "0.1"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "HF_ENDPOINT": hub.url,
                "TUNERY_API_URL": server.url,
                "TUNERY_WORKER_KEY": server.worker_key,
                "TUNERY_WORK_DIR": str(tmp_path / "work"),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert worker.returncode == 0, worker.stderr
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert ended.status == "succeeded", worker.stderr
    examined = server.http().get(f"/v1/models/{NAME}").json()["examined"]
    assert examined["way"] == "packed"
    artifacts = f"/fine_tuning/jobs/{job.id}/artifacts"
    weights = client.get(f"{artifacts}/adapter_model.safetensors", cast_to=httpx.Response)
    assert any(tensor.any() for name, tensor in load(weights.content).items() if "lora_B" in name)
    card = client.get(f"{artifacts}/README.md", cast_to=httpx.Response).text
    assert f"vllm serve {NAME} --revision {COMMIT}" in card
