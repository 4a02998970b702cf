"""Each family of models against plain transformers and PEFT, and in one pack."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, BitsAndBytesConfig

from tests.engine.conftest import LOSS_RTOL, ON_CPU, PLAN, on_base
from tunery.plan.shape import ENCODERS
from tunery.spec import Lora, TrainingSpec
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device
from worker.engine.errors import BaseRefused
from worker.engine.model.base import Base, auto_class, load, read_folder
from worker.engine.training.forward import hidden_states, score
from worker.engine.training.slot import adapted, new_slot, trained_parameters
from worker.engine.training.weights import write_trained
from worker.protocol import Finished, Noted, Report, Train

GRADIENT_RTOL = 1e-4 if ON_CPU else 5e-2
VOCABULARY, POSITIONS, PAD, SPOILT = 1024, 40, 4, 1023

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": PAD,
}
DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
# What is not the default of transformers, so that it is seen if it is left out.
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 1, "head_dim": 32},
    "phi": {"partial_rotary_factor": 0.5, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
    "phi3": {"num_key_value_heads": 2, "attention_dropout": 0.1},
    "gpt2": {"n_inner": 128, "scale_attn_by_inverse_layer_idx": True},  # drops by default
    "bert": DROPS,
    "roberta": DROPS,
}
LAYERS = {"gemma": 14, "phi": 12, "phi3": 8, "gpt2": 8, "bert": 13, "roberta": 13}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, Path]:
    """A random model of each family, with biases."""
    parent = tmp_path_factory.mktemp("families")
    return {family: made(family, parent, tiny) for family in FAMILIES}


def made(family: str, parent: Path, tiny: Path) -> Path:
    folder = shutil.copytree(tiny, parent / family)
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    torch.manual_seed(3)
    model = auto_class(family).from_config(config)  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return Path(folder)


@pytest.fixture
def spec(make_order: Callable[..., Train]) -> TrainingSpec:
    row = {"messages": [{"role": "assistant", "content": "x"}]}
    return make_order([row], lora=Lora(r=4, alpha=8)).spec


@pytest.fixture(scope="session")
def rows() -> list[TokenRow]:
    """Of unequal length, the longest as long as RoBERTa's positions go."""
    numbers = torch.Generator().manual_seed(1)
    made = []
    for line, length in enumerate((9, 35, 17, 5), start=1):
        ids = torch.randint(5, 1000, (length,), generator=numbers, dtype=torch.int32)
        trained = torch.rand(length, generator=numbers) < line / 5
        trained[0], trained[-1] = False, True
        made.append(TokenRow(line, ids, trained))
    return made


def labels_of(row: TokenRow, *, encoder: bool) -> Tensor:
    """(1, length), -100 where nothing is guessed. An encoder guesses other tokens than it sees."""
    ids = row.ids.long()
    if encoder:
        ids = (ids + 1) % VOCABULARY
    return torch.where(row.trained, ids, -100)[None].to(device())


def batch_of(rows: list[TokenRow], *, encoder: bool) -> Batch:
    if not encoder:
        return Batch.of(rows, device())
    places = torch.cat([row.trained for row in rows]).nonzero()[:, 0]
    labels = torch.cat([labels_of(row, encoder=True)[0] for row in rows]).cpu()
    return Batch.at(rows, places, labels[places], device())


def randomize(model: PeftModel) -> None:
    numbers = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.1)


def plain_model(folder: Path, family: str, quantization: str) -> PeftModel:
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(),
    )
    model = auto_class(family).from_pretrained(
        folder,
        dtype=compute_dtype(),
        quantization_config=nf4 if quantization == "nf4" else None,
        device_map={"": device()},
    )
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its older name, and tells of Conv1D.
        warnings.simplefilter("ignore")
        plain = get_peft_model(model, config)
    randomize(plain)
    for module in plain.modules():
        if isinstance(module, Linear4bit):  # fp32 arithmetic on CPUs with AVX512-BF16 too
            module.support_avx512bf16_for_cpu = False
    return plain.eval()  # so that the model's own dropout is left out; lora.dropout is 0


def logits_of(model: Any, row: TokenRow) -> Tensor:
    """(1, length, vocabulary) in fp32."""
    logits: Tensor = model(input_ids=row.ids.long()[None].to(device())).logits
    return logits.float().cpu()


def loaded(folder: Path, copies: Path, quantization: Any, *, dequantized: bool = False) -> Base:
    return load(read_folder(folder, "r1", copies), quantization, dequantized=dequantized)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_plain_transformers_and_peft(
    folders: dict[str, Path],
    spec: TrainingSpec,
    rows: list[TokenRow],
    tmp_path: Path,
    family: str,
    quantization: str,
) -> None:
    encoder = family in ENCODERS
    plain, nll = (
        plain_model(folders[family], family, quantization),
        torch.zeros((), device=device()),
    )
    for row in rows:  # one at a time: no packing, no padding, no mask
        ids = row.ids.long()[None].to(device())
        loss = plain(input_ids=ids, labels=labels_of(row, encoder=encoder)).loss
        nll = nll + loss * row.trained_tokens
    torch.autograd.backward(nll)

    base = loaded(folders[family], tmp_path, quantization)
    with adapted(base.model, spec) as model:
        randomize(model)
        slot = new_slot(model.train(), spec, PLAN)
        losses, _ = score(slot, batch_of(rows, encoder=encoder))
        torch.autograd.backward(losses.sum())
        gradients = {name: p.grad for name, p in trained_parameters(model).items()}

    assert losses.sum().item() == pytest.approx(nll.item(), rel=LOSS_RTOL)
    expected = trained_parameters(plain)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 2 * LAYERS[family]  # A and B
    for name, gradient in gradients.items():
        wanted = expected[name].grad
        assert gradient is not None
        assert wanted is not None
        assert gradient.abs().max() > 1e-5
        assert (gradient - wanted).norm() < GRADIENT_RTOL * wanted.norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_is_spoilt_leaves_its_neighbours_in_the_pack_as_they_were(
    folders: dict[str, Path],
    spec: TrainingSpec,
    rows: list[TokenRow],
    tmp_path: Path,
    family: str,
) -> None:
    """Its embeddings are not numbers; the others' hidden states are theirs alone, to the bit."""
    base = loaded(folders[family], tmp_path, "nf4", dequantized=True)
    spoil = torch.full((11,), SPOILT, dtype=torch.int32)
    spoilt = TokenRow(9, spoil, torch.ones(11).bool())

    def hidden(rows: list[TokenRow]) -> list[Tensor]:
        batch = Batch.of(rows, device())
        with adapted(base.model, spec) as model, torch.no_grad():
            randomize(model)
            weight: Any = base.model.get_input_embeddings().weight
            kept = weight[SPOILT].clone()
            weight[SPOILT] = torch.nan
            states = hidden_states(new_slot(model, spec, PLAN), batch)
            weight[SPOILT] = kept
            return list(torch.split(states, [len(row.ids) for row in rows]))

    alone, among = hidden(rows), hidden([rows[0], spoilt, *rows[1:]])
    assert among.pop(1).isnan().all()
    for one, other in zip(among, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0 if ON_CPU else 0.05)


def test_a_gpt2_is_trained_to_its_end(
    folders: dict[str, Path], make_order: Callable[..., Train], run: Callable[[Train], list[Report]]
) -> None:
    """Its own dropout is told to be left out, and its samples end where its positions do."""
    chats = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": "It is so."}]
        for said in ("A sea.", "Is the sea as wide as it is said to be, and as deep?")
    ]
    rows = [{"messages": messages} for messages in chats]
    order = make_order(rows, valid=rows, samples=2, max_length=POSITIONS, quantization="none")
    reports = run(on_base(order, folders["gpt2"]))
    said = [report.message for report in reports if isinstance(report, Noted)]
    left_out = "attn_pdrop 0.1, embd_pdrop 0.1, resid_pdrop 0.1) is not applied; use lora.dropout"
    assert any(left_out in message for message in said)
    last = reports[-1]
    assert isinstance(last, Finished)
    config = json.loads((last.folder / "adapter_config.json").read_text())
    assert (config["fan_in_fan_out"], config["task_type"]) == (True, "CAUSAL_LM")


def test_a_body_without_its_head_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["bert"], tmp_path / "body")
    model = auto_class("bert").from_pretrained(folder)
    body: Any = model.base_model
    body.save_pretrained(folder)
    lacks = r"lack weights of the model, such as cls\.predictions\..* saved with its language"
    with pytest.raises(BaseRefused, match=lacks):
        loaded(folder, tmp_path, "none")


TRY_THEM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch, transformers
from peft import PeftModel
from safetensors.torch import save_file
for folder, auto, adapter, out, ids, dtype in json.loads(sys.argv[1]):
    base = getattr(transformers, auto).from_pretrained(folder, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        save_file({"logits": model(input_ids=torch.tensor([ids])).logits.float()}, out)
"""


@pytest.mark.long
def test_the_adapters_load_with_plain_peft_in_a_fresh_process(
    folders: dict[str, Path], spec: TrainingSpec, rows: list[TokenRow], tmp_path: Path
) -> None:
    row, ours, asked = rows[1], {}, []
    dtype = str(compute_dtype()).removeprefix("torch.")
    for family, folder in folders.items():
        adapter = tmp_path / family
        adapter.mkdir()
        base = loaded(folder, tmp_path, "none")
        with adapted(base.model, spec) as model, torch.no_grad():
            randomize(model)
            write_trained(model, spec, folder, adapter)
            ours[family] = logits_of(base.model.eval(), row)
        out = tmp_path / f"{family}.safetensors"
        auto = auto_class(family).__name__
        asked.append([str(folder), auto, str(adapter), str(out), row.ids.tolist(), dtype])
    command = [sys.executable, "-c", TRY_THEM, json.dumps(asked)]
    subprocess.run(command, check=True, capture_output=True)
    off = 1e-5 if ON_CPU else 0.05
    for family, logits in ours.items():
        fresh = load_file(tmp_path / f"{family}.safetensors")["logits"]
        torch.testing.assert_close(fresh, logits, rtol=off, atol=off)
