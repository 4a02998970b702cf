"""A job on two processes through the whole service: paused, resumed, and a process killed."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.up import Up, start
from tests.factories import data_set

pytestmark = pytest.mark.long
PATIENCE = 300


def test_a_job_is_paused_resumed_loses_a_process_and_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNERY_GPUS_PER_JOB", "2")
    up = start(tmp_path)
    try:
        client = up.client
        file = client.files.create(file=("data.jsonl", data_set(400)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="tunery-demo",
            training_file=file.id,
            extra_body={"training": {"gpus": 2, "num_epochs": 10}},
        )
        first = ranks_of(up)
        client.post(f"/fine_tuning/jobs/{job.id}/pause", cast_to=object)
        until(lambda: str(client.fine_tuning.jobs.retrieve(job.id).status) == "paused")
        gone(first)
        client.post(f"/fine_tuning/jobs/{job.id}/resume", cast_to=object)
        second = ranks_of(up)
        second[1].send_signal(signal.SIGKILL)
        gone(second)
        until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")
        assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
        events = client.fine_tuning.jobs.list_events(job.id, limit=100)  # page after page
        said = " ".join(event.message for event in events)
        assert "on 2 GPUs" in said
        assert "processes of this training is gone" in said
        assert said.count("Resumed from the checkpoint of step") == 2
        gone(ranks_now(up))
        client.close()
    finally:
        assert up.stop() == []


def ranks_now(up: Up) -> dict[int, psutil.Process]:
    found = {}
    for process in up.descendants():
        try:
            if "worker.engine.ranks.rank" in process.cmdline():
                found[int(process.environ()["RANK"])] = process
        except psutil.Error:
            continue
    return found


def ranks_of(up: Up) -> dict[int, psutil.Process]:
    """Once they train."""
    log = next(up.data_dir.rglob("engine.log"))
    before = log.read_text().count(": training loss")
    until(lambda: log.read_text().count(": training loss") > before + 2)
    return ranks_now(up)


def gone(processes: dict[int, psutil.Process]) -> None:
    until(lambda: not any(each.is_running() for each in processes.values()))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)
