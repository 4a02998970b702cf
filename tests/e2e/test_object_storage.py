"""A real worker trains with a bucket for storage: its bytes go there and come from there."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from api.settings import Settings
from tests import s3
from tests.conftest import ROOT, Served
from tests.factories import create_job, data_set, upload
from tests.worker.conftest import retrieve, wait_for
from tunery.base_model import file_facts


def test_a_training_from_upload_to_adapter_with_an_outage_in_its_middle(
    in_bucket: Settings, serve_with: Callable[..., Served], proxy: s3.Proxy, tmp_path: Path
) -> None:
    server = serve_with(**dict(in_bucket))
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TUNERY_API_URL": server.url,
        "TUNERY_WORKER_KEY": server.worker_key,
        "TUNERY_WORK_DIR": str(tmp_path / "work"),
        "TUNERY_CHECKPOINT_SECONDS": "0.2",
    }
    file = upload(server.client, data_set(40))
    job = create_job(server.client, file.id, hyperparameters={"n_epochs": 3})
    argv = [sys.executable, "-m", "worker", "--poll"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_for(lambda: retrieve(server, job).status == "running")
            proxy.faults.slow_down, proxy.faults.cut = 20, 2
            wait_for(lambda: retrieve(server, job).status == "succeeded")
        finally:
            worker.kill()
    http = server.http()
    artifacts = http.get(f"/v1/fine_tuning/jobs/{job.id}/artifacts").json()["data"]
    for artifact in artifacts:
        path = f"/fine_tuning/jobs/{job.id}/artifacts/{artifact['name']}"
        (tmp_path / artifact["name"]).write_bytes(server.client.get(path, cast_to=bytes))
        assert file_facts(tmp_path / artifact["name"]).sha256 == artifact["sha256"]
    by_workers = [one for one in proxy.faults.passed if one.agent.startswith("python-httpx")]
    moved = Counter[str]()
    for one in by_workers:
        moved[one.method] += one.sent + (one.came if one.method == "GET" else 0)
    assert moved["GET"] >= file.bytes
    assert moved["PUT"] > sum(artifact["bytes"] for artifact in artifacts) / 2
