"""A real worker with a real engine answers through a real API, as OpenAI's SDK asks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIError

from api.db.session import Database
from api.serving import completions
from api.tables import Completion
from tests.conftest import BASE, ROOT, Served
from tests.factories import create_job
from tests.worker.conftest import retrieve, wait_for

# Generous: other tests run on the same cores.
WARM_SECONDS = 10
# The tiny model's ways to end.
NO_END = {"1": -100, "3": -100}


@pytest.fixture
def worker(server: Served, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TUNERY_API_URL": server.url,
        "TUNERY_WORKER_KEY": server.worker_key,
        "TUNERY_WORK_DIR": str(tmp_path / "work"),
    }
    argv = [sys.executable, "-m", "worker", "--poll"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as child:
        yield child
        child.kill()


def ask(server: Served, model: str) -> list[str]:
    """The texts as they come; the first of them soon."""
    began = time.monotonic()
    with server.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=8,
        temperature=2,
        stream=True,
    ) as chunks:
        first = next(chunks)
        assert time.monotonic() - began < WARM_SECONDS
        texts = [chunk.choices[0].delta.content or "" for chunk in (first, *chunks)]
    return list(filter(None, texts))


def test_base_and_tuned_model_answer_and_who_leaves_or_dies_frees_the_place(
    server: Served,
    db: Database,
    worker: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_rows() -> int:
        with db.as_control() as tx:
            return tx.query(Completion).count()

    job = create_job(server.client, hyperparameters={"n_epochs": 1})
    wait_for(lambda: retrieve(server, job).status == "succeeded")
    for model in (BASE, retrieve(server, job).fine_tuned_model or ""):
        assert ask(server, model)
    leaving = server.client.completions.create(
        model=BASE, prompt="Once", max_tokens=500, logit_bias=NO_END, stream=True
    )
    next(leaving)
    leaving.response.close()
    wait_for(lambda: open_rows() == 0)
    monkeypatch.setattr(completions, "LEASE_SECONDS", 1.0)
    cut = server.client.completions.create(
        model=BASE, prompt="Once", max_tokens=500, logit_bias=NO_END, stream=True
    )
    next(cut)
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(APIError, match="gone"):
        list(cut)
    wait_for(lambda: open_rows() == 0)
