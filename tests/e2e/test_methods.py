"""One short job of each objective and of full fine-tuning, as a user asks for it; the tutorials."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.e2e.up import Up, start, succeeded, wait_for
from tunery.base_model import describe
from tunery.cli.env_files import read_env
from tunery.cli.register import register

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "examples" / "pirate.train.jsonl").read_text().splitlines()
PIRATES = [json.loads(line) for line in LINES[:32]]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    service = start(tmp_path_factory.mktemp("up"))
    yield service
    service.stop()


@pytest.fixture
def client(up: Up) -> Iterator[OpenAI]:
    with up.client as client:
        yield client


def train(client: OpenAI, rows: list[dict[str, Any]], **settings: Any) -> FineTuningJob:
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
    job = train(client, rows, method=method)
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
    job = train(client, rows, extra_body={"training": training})
    steps = metrics_of(client, job)
    assert steps[-1]["valid_loss"] < steps[0]["train_loss"] - 0.5
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert any("split" in event.message for event in events)


def test_all_weights_are_trained_and_the_model_itself_is_given(client: OpenAI) -> None:
    training = {"finetuning_type": "full", "learning_rate": 1e-3, "num_epochs": 2}
    job = train(client, PIRATES, extra_body={"training": training})
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
    job = train(
        client, texts(40), model="tiny-bert", method=method, extra_body={"training": training}
    )
    steps = metrics_of(client, job)
    assert steps[-1]["valid_loss"] < steps[0]["train_loss"] - 0.3
    assert "model.safetensors" in artifacts_of(client, job)


@pytest.mark.parametrize(
    ("tutorial", "said"),
    [
        ("first-model", "Ahoy! A cow feasts on grass, me hearty. Arr!"),
        ("questions", "The weights are the same to the bit."),
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
