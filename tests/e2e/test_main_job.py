"""The whole service as a user starts it, over real sockets, through the unmodified SDK."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from safetensors.torch import load_file

from tests.e2e.up import PORT, Up, start, succeeded, wait_for
from tunery.cli.demo import train
from tunery.cli.embedded import free_port
from tunery.cli.env_files import read_env
from tunery.cli.service import Running
from tunery.cli.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "examples" / "pirate.train.jsonl"
DEMO = ROOT / "models" / "demo"
VALID = ROOT / "examples" / "pirate.valid.jsonl"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def demo(data_dir: Path) -> str:
    """What `tunery demo` printed on a fresh folder."""
    done = subprocess.run(demo_of(data_dir), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def demo_of(data_dir: Path) -> list[str]:
    where = ["--data-dir", str(data_dir), "--port", str(PORT)]
    return [sys.executable, "-m", "tunery.cli", "demo", *where]


@pytest.fixture(scope="module")
def up(data_dir: Path, demo: str) -> Iterator[Up]:  # noqa: ARG001
    """The service on the demo's folder, so that it finds the demo's job."""
    service = start(data_dir)
    yield service
    if service.child.poll() is None:
        service.stop()


def create(client: OpenAI, **settings: Any) -> FineTuningJob:
    training = client.files.create(file=TRAIN, purpose="fine-tune")
    validation = client.files.create(file=VALID, purpose="fine-tune")
    settings.setdefault("model", "tunery-demo")
    settings.setdefault("hyperparameters", {"n_epochs": 1, "batch_size": 16})
    return client.fine_tuning.jobs.create(
        training_file=training.id,
        validation_file=validation.id,
        seed=1,
        **settings,
    )


def begun(job: FineTuningJob) -> bool:
    return bool(job.trained_tokens)


def download(client: OpenAI, job: FineTuningJob, folder: Path) -> Path:
    folder.mkdir()
    listed = client.get(f"/fine_tuning/jobs/{job.id}/artifacts", cast_to=httpx.Response).json()
    for artifact in listed["data"]:
        path = f"/fine_tuning/jobs/{job.id}/artifacts/{artifact['name']}"
        content = client.get(path, cast_to=httpx.Response).content
        (folder / artifact["name"]).write_bytes(content)
    return folder


def test_the_demo_shows_what_the_base_and_the_tuned_model_say(demo: str) -> None:
    said = dict(re.findall(r"^    (base|tuned) +(.+)$", demo, re.MULTILINE))
    assert said["tuned"].startswith("Ahoy!")
    assert "Ahoy" not in said["base"]
    assert re.search(r"running step \d+/150 loss", demo)
    assert "Validation loss: " in demo
    assert "Go on:" in demo


def test_the_demo_run_again_finds_its_job(up: Up, demo: str) -> None:
    (job,) = re.findall(r"Created job (\S+)", demo)
    env = read_env(up.data_dir / "client.env")
    service = Running(Supervisor(print), env["OPENAI_BASE_URL"], env["OPENAI_API_KEY"])
    assert train(service, Console(quiet=True)).id == job


def test_up_says_one_line_for_each_service_then_base_url_and_key(up: Up) -> None:
    services = ["api", "janitor", "postgres", "redis", "worker"]
    assert sorted(line.split()[0] for line in up.said[:5]) == services
    env = read_env(up.data_dir / "client.env")
    assert env["OPENAI_BASE_URL"] == f"http://127.0.0.1:{PORT}/v1"
    assert any(env["OPENAI_API_KEY"] in line for line in up.said)
    assert (up.data_dir / "client.env").stat().st_mode & 0o077 == 0


def test_the_adapter_loads_in_plain_peft_and_has_learned_what_was_reported(
    up: Up, tmp_path: Path
) -> None:
    with up.client as client:
        job = demo_job(client)
        events = list(client.fine_tuning.jobs.list_events(job.id))
        adapter = download(client, job, tmp_path / "adapter")
        table = client.files.content(job.result_files[0]).text.splitlines()
        log = client.get(f"/fine_tuning/jobs/{job.id}/logs", cast_to=str)
        assert "Step 1/150: training loss" in log
        assert client.models.retrieve(job.fine_tuned_model or "").id == job.fine_tuned_model
    reported = events_data(events, "valid_loss")
    base_reported = events_data(events, "base_valid_loss")
    assert re.fullmatch(r"Step \d+/\d+: training loss=[\d.]+.*", metrics_message(events))
    assert table[0].startswith("step,train_loss,train_mean_token_accuracy,valid_loss")
    assert len(table) == 1 + 150
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tunery-demo"
    plain = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("plain_loss.py")),
            str(DEMO),
            str(adapter),
            str(VALID),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    losses = json.loads(plain.stdout)
    assert losses["base"] == pytest.approx(base_reported, rel=1e-4)
    assert losses["tuned"] == pytest.approx(reported, rel=1e-4)
    assert losses["tuned"] < 0.2 * losses["base"]
    assert losses["answer"].startswith("Ahoy!")
    assert "Arr!" in losses["answer"]
    assert "Ahoy" not in losses["base_answer"]


def test_the_finished_model_and_a_checkpoint_are_exported_and_fetched(
    up: Up, tmp_path: Path
) -> None:
    with up.client as client:
        job = demo_job(client)
        folder = tmp_path / "merged"
        step = client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].step_number
        exports = f"/fine_tuning/jobs/{job.id}/exports"
        asked = {"format": "merged", "checkpoint": step, "dtype": "fp32"}
        client.post(exports, cast_to=dict[str, Any], body=asked)
        command = ["export", job.id, "--format", "merged", "--into", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "tunery.cli", *command],
            env=read_env(up.data_dir / "client.env") | {"PATH": os.defpath},
            check=True,
        )
        merged, early = client.get(exports, cast_to=dict[str, Any])["data"]
    assert (early["step_number"], merged["step_number"]) == (step, None)
    drift = merged["tunery"]["facts"]["drift"]
    assert (drift["file"], drift["top1_agreement"] > 0.95) == ("validation", True)
    assert drift["merged_nll"] == pytest.approx(drift["adapter_nll"], abs=0.01)
    for made in (early, merged):
        assert made["status"] == "succeeded"
        sizes = {file["name"]: file["bytes"] for file in made["files"]}
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == sizes
    base, whole = load_file(DEMO / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {name: whole[name].shape for name in whole} == {name: base[name].shape for name in base}


def demo_job(client: OpenAI) -> FineTuningJob:
    (job,) = [job for job in client.fine_tuning.jobs.list() if (job.metadata or {}).get("demo")]
    return job


def events_data(events: list[Any], name: str) -> float:
    facts = [event.data or event.model_extra["tunery"] or {} for event in events]
    return next(float(fact[name]) for fact in facts if name in fact)


def metrics_message(events: list[Any]) -> str:
    return str(next(event.message for event in events if event.type == "metrics"))


def attempts(client: OpenAI, job: FineTuningJob) -> int:
    extras = client.fine_tuning.jobs.retrieve(job.id).model_extra or {}
    return int(extras["tunery"]["attempts"])


def test_a_job_that_is_paused_midway_gives_the_same_adapter(up: Up, tmp_path: Path) -> None:
    """It goes on from the demo's model. What is killed midway is the chaos suite's."""
    with up.client as client:
        tuned = demo_job(client)
        settings = {
            "model": tuned.fine_tuned_model,
            "hyperparameters": {"n_epochs": 2, "batch_size": 16},
            "extra_body": {"lora": {"dropout": 0.1}},
        }
        undisturbed, paused = (create(client, **settings) for _ in range(2))
        wait_for(client, undisturbed, succeeded)
        wait_for(client, paused, begun)
        client.fine_tuning.jobs.pause(paused.id)
        wait_for(client, paused, lambda job: str(job.status) == "paused")
        client.fine_tuning.jobs.resume(paused.id)
        wait_for(client, paused, succeeded)
        assert attempts(client, paused) == 2
        began_at, stood_at = (
            events_data(list(client.fine_tuning.jobs.list_events(job.id)), name)
            for job, name in ((undisturbed, "base_valid_loss"), (tuned, "valid_loss"))
        )
        assert began_at == pytest.approx(stood_at, rel=1e-6)
        adapters = [
            download(client, job, tmp_path / job.id) / "adapter_model.safetensors"
            for job in (undisturbed, paused)
        ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@pytest.fixture(scope="module")
def restarted(data_dir: Path) -> Iterator[Up]:
    """The next service on the folder, after the first one was stopped."""
    service = start(data_dir)
    yield service
    assert service.stop() == []


def test_ctrl_c_in_the_middle_of_a_job_leaves_no_process(up: Up) -> None:
    with up.client as client:
        job = create(client, hyperparameters={"n_epochs": 10}, metadata={"cut": "off"})
        wait_for(client, job, begun)
    assert up.stop() == []


def test_the_next_start_finds_all_files_and_jobs_and_goes_on(up: Up, restarted: Up) -> None:
    assert up.child.poll() == 0
    with restarted.client as client:
        (cut_off,) = client.fine_tuning.jobs.list(metadata={"cut": "off"})
        earlier = [job for job in client.fine_tuning.jobs.list() if job.id != cut_off.id]
        assert earlier
        assert {job.status for job in earlier} == {"succeeded"}
        assert {job.training_file for job in earlier} <= {file.id for file in client.files.list()}
        wait_for(client, cut_off, lambda job: job.status == "running")
        client.fine_tuning.jobs.cancel(cut_off.id)
        wait_for(client, cut_off, lambda job: job.status == "cancelled")


def refusal_to_start(data_dir: Path, port: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tunery.cli", "up", "--data-dir", data_dir, "--port", str(port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_a_second_service_on_the_same_folder_is_refused(restarted: Up) -> None:
    assert "already runs on" in refusal_to_start(restarted.data_dir, free_port())


def test_a_taken_port_is_refused_before_anything_is_sent_to_it(
    restarted: Up, tmp_path: Path
) -> None:
    assert restarted.child.poll() is None
    assert "name another --port" in refusal_to_start(tmp_path, PORT)


def test_status_shows_ids_whole_however_narrow_the_terminal(restarted: Up) -> None:
    env = read_env(restarted.data_dir / "client.env") | {"PATH": os.defpath, "COLUMNS": "40"}
    shown = subprocess.run(
        [sys.executable, "-m", "tunery.cli", "status"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    with restarted.client as client:
        for job in client.fine_tuning.jobs.list(limit=3).data:
            assert f"{job.id}  {job.status}" in shown.stdout
            assert job.fine_tuned_model is None or job.fine_tuned_model in shown.stdout


def test_without_celery_a_worker_polls(restarted: Up, tmp_path: Path) -> None:
    env = {
        "PATH": os.defpath,
        "TUNERY_API_URL": f"http://127.0.0.1:{PORT}",
        "TUNERY_WORKER_KEY": read_env(restarted.data_dir / "server.env")["TUNERY_WORKER_KEY"],
        "TUNERY_WORK_DIR": str(tmp_path / "work"),
        "TUNERY_WORKER_NAME": "poller",
    }
    celery = restarted.service("worker.app")
    celery.suspend()
    for child in celery.children(recursive=True):
        child.suspend()
    with (tmp_path / "log").open("w") as log:
        poller = subprocess.Popen(
            [sys.executable, "-m", "worker", "--poll"], env=env, stderr=log, cwd=ROOT
        )
    try:
        with restarted.client as client:
            job = create(client)
            wait_for(client, job, succeeded)
            said = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        assert "Fine-tuning job started on worker poller" in said
        poller.terminate()
        assert poller.wait(60) == 0
    finally:
        poller.kill()
        poller.wait()
        for process in (celery, *celery.children(recursive=True)):
            process.resume()
