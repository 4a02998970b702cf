"""The adapter folder that users download."""

import csv
import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from tests.engine.conftest import ON_CPU, TINY
from tunery.facts import FileFacts
from tunery.measured import Metrics
from tunery.spec import Lora
from worker.engine.device import device
from worker.engine.errors import Untrainable
from worker.engine.model.base import Base, BaseFolder, WarmBase
from worker.engine.model.way import Verdict
from worker.engine.results.curves import write_events
from worker.engine.sealed import write_tensors
from worker.engine.train import train
from worker.engine.training import weights
from worker.protocol import Checkpointed, Finished, Report, Started, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]
IDS = [[0, 2, 90, 91, 92, 3, 2, 100, 101]]

# What each card says, and then the logits of some ids.
TRY_THEM = """
import json, sys
from safetensors.torch import save_file
*cards, ids, out = sys.argv[1:]
said = {}
for number, card in enumerate(cards):
    exec(card)
    for module in model.modules():  # fp32 arithmetic on CPUs with AVX512-BF16 too
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        at = torch.tensor(json.loads(ids), device=model.device)
        said[str(number)] = model.eval()(input_ids=at).logits.float().cpu()
save_file(said, out)
"""


def logits(base: Base) -> torch.Tensor:
    """What the model in memory says, with the adapter that is on it now."""
    base.model.eval()
    with torch.no_grad():
        answer: torch.Tensor = base.model(input_ids=torch.tensor(IDS, device=device())).logits
    return answer.float().cpu()


METHODS: list[dict[str, Any]] = [
    {"quantization": "nf4"},
    {"quantization": "none"},
    {"quantization": "fp4", "double_quant": False},
    {"quantization": "int8"},
    {"lora": Lora(r=4, alpha=8, target_modules=("q_proj", "down_proj"), rslora=True)},
    {"lora": None, "quantization": "none"},
]


@pytest.mark.long
def test_each_method_loads_in_a_fresh_process_as_its_card_says(
    bases: WarmBase,
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart: list[Base] = []

    def lend(folder: BaseFolder, verdict: Verdict) -> Base:
        apart.append(WarmBase.apart(bases, folder, verdict))
        return apart[-1]

    monkeypatch.setattr(bases, "apart", lend)
    trained: list[torch.Tensor] = []
    cards, after = [], []
    for method in METHODS:
        reports: list[Report] = []

        def report(line: Report, reports: list[Report] = reports) -> None:
            reports.append(line)
            if isinstance(line, Started | Checkpointed):
                trained.append(logits(bases.base or apart[-1]))

        train(make_order(rows, **method), bases, report, lambda: None)
        last = reports[-1]
        assert isinstance(last, Finished)
        after.append(trained[-1])
        assert (after[-1] - trained[0]).abs().max() > 0.1
        trained.clear()
        _, _, code = (last.folder / "README.md").read_text().partition("```python")
        code = code.partition("```")[0].replace("tunery/tiny", str(TINY))
        cards.append(code.replace("this/folder", str(last.folder)))
    out = tmp_path / "logits.safetensors"
    subprocess.run(
        [sys.executable, "-c", TRY_THEM, *cards, json.dumps(IDS), out],
        check=True,
        capture_output=True,
    )
    off = 1e-5 if ON_CPU else 0.02  # bf16 has three digits
    for number, fresh in load_file(out).items():
        torch.testing.assert_close(fresh, after[int(number)], rtol=off, atol=off)


@pytest.fixture
def adapter(run: Run, make_order: MakeOrder, rows: Rows) -> Path:
    last = run(make_order(rows, valid=rows[:2]))[-1]
    assert isinstance(last, Finished)
    return last.folder


def test_the_config_names_the_bases_own_id_and_revision(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tunery/tiny"
    assert config["revision"] == "r1"
    assert config["inference_mode"] is True
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    # PEFT 0.12 reads it, and refuses names that came later.
    later = {"corda_config", "eva_config", "lora_bias", "peft_version", "trainable_token_indices"}
    assert later.isdisjoint(config)
    assert later & LoraConfig().to_dict().keys() == later


@pytest.mark.parametrize("settings", [{}, {"lora": None, "quantization": "none"}])
def test_no_file_of_it_names_the_folder_of_the_base(
    run: Run, make_order: MakeOrder, rows: Rows, settings: dict[str, Any]
) -> None:
    order = make_order(rows, n_epochs=1, **settings)
    spec = order.spec.model_copy(update={"base_model": "tiny"})  # a name that no hub has
    last = run(order.model_copy(update={"spec": spec}))[-1]
    assert isinstance(last, Finished)
    for file in last.folder.iterdir():
        assert str(TINY).encode() not in file.read_bytes(), file.name
    if not settings:
        card = (last.folder / "README.md").read_text()
        assert "vllm serve FOLDER --enable-lora" in card
        assert "FOLDER stands for the folder with the files of tiny" in card


def test_the_manifest_names_every_file_with_its_sha256(adapter: Path) -> None:
    manifest = json.loads((adapter / "manifest.json").read_text())
    facts = [FileFacts(**each) for each in manifest["files"]]
    assert {each.name for each in facts} | {"manifest.json"} == {
        path.name for path in adapter.iterdir()
    }
    assert {each.name for each in facts} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "events.out.tfevents.0.tunery",
        "metrics.csv",
        "proof.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for each in facts:
        content = (adapter / each.name).read_bytes()
        assert (each.bytes, each.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest["spec"]["learning_rate"] == 1e-2
    assert manifest["base_revision"] == "r1"
    assert manifest["training_data_sha256"] == manifest["spec"]["training_file"]["sha256"]
    assert manifest["libraries"]["torch"] == torch.__version__


def test_a_jobs_own_chat_template_is_trained_on_and_goes_with_the_adapter(
    run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    template = "{% for m in messages %}{{ m.role + '>' + m.content + eos_token }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant>' }}{% endif %}"
    reports = run(make_order(rows, chat_template=template))
    last = reports[-1]
    assert isinstance(last, Finished)
    assert (last.folder / "chat_template.jinja").read_text() == template
    with pytest.raises(Untrainable, match=r"training.chat_template: .* broken"):
        run(make_order(rows, chat_template="{% if %}"))


def test_metrics_csv_has_one_row_a_step_as_it_was_reported(
    run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    reports = run(make_order(rows, valid=rows[:2]))
    last = reports[-1]
    assert isinstance(last, Finished)
    assert last.metrics_csv == last.folder / "metrics.csv"
    with last.metrics_csv.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == [
        "step",
        "train_loss",
        "train_mean_token_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
        "learning_rate",
        "grad_norm",
        "epoch",
    ]
    steps = [line.metrics for line in reports if isinstance(line, Stepped)]
    assert [float(row["train_loss"]) for row in written] == [step.train_loss for step in steps]
    assert written[0]["valid_loss"] == ""
    assert float(written[-1]["valid_loss"]) == steps[-1].valid_loss


def test_tensorboards_file_has_each_metric_of_each_step_and_no_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = [
        Metrics(step=1, train_loss=0.5, train_mean_token_accuracy=0.25),
        Metrics(step=2, train_loss=0.125, valid_loss=2.0, valid_reward_margin=-1.5),
    ]
    paths = [tmp_path / "first", tmp_path / "again"]
    for path in paths:
        write_events(history, path)
        monkeypatch.setattr("time.time", lambda: 1.0)
    first, again = (path.read_bytes() for path in paths)
    assert first == again
    version, *events = (Event.FromString(record) for record in records(first))
    assert version.file_version == "brain.Event:2"
    found = [
        Metrics(step=event.step, **{one.tag: one.simple_value for one in event.summary.value})
        for event in events
    ]
    assert found == history
    assert [event.wall_time for event in events] == [1, 2]


def records(written: bytes) -> Iterator[bytes]:
    """Of a TFRecord file: length, its checksum, the record, its checksum."""
    at = 0
    while at < len(written):
        (length,) = struct.unpack_from("<Q", written, at)
        yield written[at + 12 : at + 12 + length]
        at += 16 + length


def test_the_card_says_what_was_trained(adapter: Path) -> None:
    card = (adapter / "README.md").read_text()
    assert card.startswith('---\nbase_model: "tunery/tiny"\nlibrary_name: peft\n')
    assert "10 rows used of 10" in card
    assert "6, each on 4 rows of at most 256 tokens" in card
    assert "before," in card


Tensors = dict[str, torch.Tensor]


def lose_one(tensors: Tensors) -> None:
    tensors.popitem()


def reshape_one(tensors: Tensors) -> None:
    name, tensor = tensors.popitem()
    tensors[name] = tensor.flatten()


def change_one_bit(tensors: Tensors) -> None:
    next(iter(tensors.values())).view(torch.int32)[0, 0] ^= 1


def add_one(tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)


@pytest.mark.parametrize("damage", [lose_one, reshape_one, change_one_bit, add_one])
def test_an_adapter_that_does_not_read_back_is_never_published(
    bases: WarmBase,
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Tensors], None],
) -> None:
    def write_damaged(path: Path, tensors: Tensors) -> None:
        damage(tensors)
        write_tensors(path, tensors)

    order, reports = make_order(rows, n_epochs=1), list[Report]()

    def report(line: Report) -> None:
        reports.append(line)
        if isinstance(line, Checkpointed):
            monkeypatch.setattr(weights, "write_tensors", write_damaged)

    with pytest.raises(RuntimeError, match=r"does not read back|were not trained"):
        train(order, bases, report, lambda: None)
    assert isinstance(reports[-2], Checkpointed)
    assert [path.name for path in order.folder.iterdir()] == ["checkpoint-3"]


def test_an_adapter_that_is_not_finite_is_never_published(
    base: Base, bases: WarmBase, make_order: MakeOrder, rows: Rows
) -> None:
    order, reports = make_order(rows, n_epochs=1), list[Report]()

    def report(line: Report) -> None:
        reports.append(line)
        if isinstance(line, Checkpointed):
            last = next(p for p in base.model.parameters() if p.requires_grad)
            last.data[0, 0] = torch.inf

    with pytest.raises(Untrainable, match="Choose a smaller learning_rate_multiplier") as caught:
        train(order, bases, report, lambda: None)
    assert caught.value.code == "loss_not_finite"
    assert isinstance(reports[-2], Checkpointed)
    assert [path.name for path in order.folder.iterdir()] == ["checkpoint-3"]
