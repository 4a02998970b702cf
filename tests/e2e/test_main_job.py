"""The whole service as a user starts it, over real sockets, through the unmodified SDK."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from safetensors.torch import load_file

from tests.e2e.up import Up, start, succeeded, wait_for
from tunery.base_model import describe
from tunery.cli.demo import show, train
from tunery.cli.embedded import free_port
from tunery.cli.env_files import read_env
from tunery.cli.register import register
from tunery.cli.service import Running
from tunery.cli.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "examples" / "pirate.train.jsonl"
DEMO = ROOT / "models" / "demo"
VALID = ROOT / "examples" / "pirate.valid.jsonl"
PIRATES = [json.loads(line) for line in TRAIN.read_text().splitlines()[:32]]


@dataclass(frozen=True)
class Shown(Running):
    """A service as `tunery demo` has it, with one client, which is closed."""

    one: OpenAI

    def client(self) -> OpenAI:
        return self.one


@pytest.fixture(scope="module")
def running(up: Up) -> Iterator[Running]:
    with up.client as client:
        key = client.api_key
        yield Shown(Supervisor(print), str(client.base_url), key, key, client)


@pytest.fixture(scope="module")
def demo(up: Up, running: Running) -> str:
    """What `tunery demo` prints once its service runs."""
    said = StringIO()
    show(running, up.data_dir, Console(file=said, highlight=False, soft_wrap=True))
    return said.getvalue()


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


def test_up_says_one_line_for_each_service_then_base_url_and_key(up: Up) -> None:
    services = ["api", "janitor", "postgres", "redis", "worker"]
    assert sorted(line.split()[0] for line in up.said[:5]) == services
    env = read_env(up.data_dir / "client.env")
    assert env["OPENAI_BASE_URL"] == f"http://127.0.0.1:{up.port}/v1"
    assert any(env["OPENAI_API_KEY"] in line for line in up.said)
    assert (up.data_dir / "client.env").stat().st_mode & 0o077 == 0


def test_the_demo_shows_what_the_base_and_the_tuned_model_say(demo: str) -> None:
    said = dict(re.findall(r"^    (base|tuned) +(.+)$", demo, re.MULTILINE))
    assert said["tuned"].startswith("Ahoy!")
    assert "Ahoy" not in said["base"]
    assert re.search(r"running step \d+/150 loss", demo)
    assert "Validation loss: " in demo
    assert "Go on:" in demo


def test_the_demo_run_again_finds_its_job(running: Running, demo: str) -> None:
    (job,) = re.findall(r"Created job (\S+)", demo)
    assert train(running, Console(quiet=True)).id == job


@pytest.mark.usefixtures("demo")
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


@pytest.mark.usefixtures("demo")
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


@pytest.mark.long
@pytest.mark.usefixtures("demo")
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


@pytest.fixture
def client(up: Up) -> Iterator[OpenAI]:
    with up.client as client:
        yield client


def trained(client: OpenAI, rows: list[dict[str, Any]], **settings: Any) -> FineTuningJob:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    files = [
        client.files.create(file=("rows.jsonl", part), purpose="fine-tune").id
        for part in (content, content)
    ]
    job = client.fine_tuning.jobs.create(
        **{
            "model": "tunery-demo",
            "training_file": files[0],
            "validation_file": files[1],
            "seed": 1,
            **settings,
        }
    )
    wait_for(client, job, succeeded)
    return client.fine_tuning.jobs.retrieve(job.id)


def metrics_of(client: OpenAI, job: FineTuningJob) -> list[dict[str, float]]:
    """Of each step, the first one first."""
    path = f"/fine_tuning/jobs/{job.id}/metrics"
    table = client.get(path, cast_to=httpx.Response).json()
    return [dict(zip(table["columns"], point, strict=True)) for point in table["points"]]


def artifacts_of(client: OpenAI, job: FineTuningJob) -> set[str]:
    listed = client.get(f"/fine_tuning/jobs/{job.id}/artifacts", cast_to=httpx.Response).json()
    return {artifact["name"] for artifact in listed["data"]}


def test_dpo_learns_which_answer_is_preferred(client: OpenAI) -> None:
    rows = [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": row["messages"][1:],
            "non_preferred_output": [{"role": "assistant", "content": "I will not say."}],
        }
        for row in PIRATES
    ]
    settings = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 50, "beta": 0.2}
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": settings}}
    job = trained(client, rows, method=method)
    steps = metrics_of(client, job)
    assert steps[0]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert steps[-1]["valid_loss"] < 0.3
    assert steps[-1]["valid_reward_accuracy"] == 1
    assert job.method
    assert job.method.type == "dpo"


def test_texts_are_trained_on_in_whole_though_each_is_longer_than_a_row(client: OpenAI) -> None:
    texts = [" ".join(row["messages"][1]["content"] for row in PIRATES[n::4]) for n in range(4)]
    training = {"max_length": 64, "learning_rate": 2e-3, "num_epochs": 3}
    rows = [{"text": text} for text in texts]
    job = trained(client, rows, extra_body={"training": training})
    steps = metrics_of(client, job)
    assert steps[-1]["valid_loss"] < steps[0]["train_loss"] - 0.5
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert any("split" in event.message for event in events)


def test_all_weights_are_trained_and_the_model_itself_is_given(client: OpenAI) -> None:
    training = {"finetuning_type": "full", "learning_rate": 1e-3, "num_epochs": 2}
    job = trained(client, PIRATES, extra_body={"training": training})
    steps = metrics_of(client, job)
    assert steps[-1]["valid_loss"] < 0.6 * steps[0]["train_loss"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= artifacts_of(client, job)


def test_an_encoder_learns_what_is_masked(up: Up, client: OpenAI, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # torch, transformers and peft warn about each other while they are imported.
        warnings.simplefilter("ignore")
        from tests.engine.encoders import encoder, texts

        folder = encoder(tmp_path / "bert", "bert")
    env = read_env(up.data_dir / "server.env")
    with OpenAI(base_url=client.base_url, api_key=env["TUNERY_ADMIN_KEY"]) as admin:
        register(admin, describe(folder, id_="tiny-bert"))
    method: Any = {"type": "masked_lm", "masked_lm": {"hyperparameters": {"n_epochs": 10}}}
    # Its embeddings are random: an adapter alone has nothing to work with.
    training = {"finetuning_type": "full", "learning_rate": 3e-3}
    job = trained(
        client, texts(40), model="tiny-bert", method=method, extra_body={"training": training}
    )
    steps = metrics_of(client, job)
    assert steps[-1]["valid_loss"] < steps[0]["train_loss"] - 0.3
    assert "model.safetensors" in artifacts_of(client, job)


@pytest.mark.parametrize(
    ("tutorial", "said"),
    [
        pytest.param(
            "first-model", "Ahoy! A cow feasts on grass, me hearty. Arr!", marks=pytest.mark.long
        ),
        pytest.param("questions", "The weights are the same to the bit.", marks=pytest.mark.long),
        ("from-openai", "adapter_model.safetensors"),
    ],
)
def test_the_commands_of_a_tutorial_do_what_it_says(
    up: Up, tmp_path: Path, tutorial: str, said: str
) -> None:
    """In a folder that looks like the checkout; the service runs already."""
    for name in ("examples", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").symlink_to(up.data_dir)
    text = (ROOT / "docs" / "tutorials" / f"{tutorial}.md").read_text()
    for name, code in re.findall(r"<!-- (\w+\.py) -->\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    commands = re.findall(r"<!-- run -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert len(commands) == text.count("<!-- run -->")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # noqa: TID251
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},  # noqa: TID251
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    if tutorial == "questions":
        made = tmp_path / "medical-qa"
        assert "FROM" in (made / "ollama" / "Modelfile").read_text()
        assert (made / "merged" / "config.json").is_file()


@pytest.fixture(scope="module")
def restarted(up: Up) -> Iterator[Up]:
    """The next service on the folder, after the first one was stopped."""
    service = start(up.data_dir)
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
    assert "name another --port" in refusal_to_start(tmp_path, restarted.port)


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
        "TUNERY_API_URL": f"http://127.0.0.1:{restarted.port}",
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
            settings = {"n_epochs": 1, "batch_size": 16}
            job = trained(client, PIRATES, hyperparameters=settings)
            said = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        assert "Fine-tuning job started on worker poller" in said
        poller.terminate()
        assert poller.wait(60) == 0
    finally:
        poller.kill()
        poller.wait()
        for process in (celery, *celery.children(recursive=True)):
            process.resume()
