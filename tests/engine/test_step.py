"""A step's arithmetic against plain references: in fp32 on a CPU, in bf16 on a GPU."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from tests.engine.conftest import LOSS_RTOL, ON_CPU, PLAN
from tunery.measured import Metrics
from tunery.plan.memory import Precision
from tunery.spec import Lora, TrainingSpec
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device
from worker.engine.errors import Untrainable
from worker.engine.model import base as loading
from worker.engine.model import quantized
from worker.engine.model.base import Base, WarmBase
from worker.engine.training.forward import hidden_states
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.slot import Slot, adapted, new_slot, trained_parameters
from worker.engine.training.step import evaluate, read_steps, take_step
from worker.protocol import Train

ACCURACY_ATOL = 1e-12 if ON_CPU else 0.05
GRADIENT_RTOL = 1e-4 if ON_CPU else 5e-2
MakeOrder = Callable[..., Train]


def go_on() -> None:
    """Nobody asks to stop."""


@pytest.fixture
def spec(make_order: MakeOrder, rows: list[dict[str, Any]]) -> TrainingSpec:
    # No gradient is clipped, so that the ones seen are the raw ones.
    return make_order(rows, lora=Lora(r=4, alpha=8), max_grad_norm=1e9).spec


@pytest.fixture
def batch() -> list[TokenRow]:
    """Six rows of unequal length, each trained on another part of its tokens."""
    numbers = torch.Generator().manual_seed(1)
    made = []
    for line, length in enumerate((9, 30, 17, 5, 24, 30), start=1):
        ids = torch.randint(5, 1000, (length,), generator=numbers, dtype=torch.int32)
        trained = torch.rand(length, generator=numbers) < line / 7
        trained[0], trained[-1] = False, True
        made.append(TokenRow(line, ids, trained))
    return made


def assert_same(ones: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    """To the bit; on a GPU as nearly as its order of additions allows."""
    for one, other in zip(ones, others, strict=True):
        if ON_CPU:
            assert torch.equal(one, other)
        else:
            assert (one - other).norm() <= GRADIENT_RTOL * other.norm()


def randomize(model: PeftModel) -> None:
    """A new adapter's B is zero, and so would be the gradient of A."""
    numbers = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.1)


def step_and_gradients(
    bases: WarmBase,
    base: Base,
    spec: TrainingSpec,
    rows: list[TokenRow],
    *,
    stop_if_asked: Callable[[], None] = go_on,
    **plan: Any,
) -> tuple[Metrics, dict[str, Tensor]]:
    gradients: dict[str, Tensor] = {}
    planned = PLAN.model_copy(update=plan)
    with adapted(bases.load(base.folder, planned).model, spec) as model:
        randomize(model)
        slot = new_slot(model, spec, planned)

        def keep(*_: object) -> None:
            for name, parameter in trained_parameters(model).items():
                assert parameter.grad is not None
                gradients[name] = parameter.grad.clone()

        slot.optimizer.register_step_pre_hook(keep)
        return only_step(slot, rows, spec, stop_if_asked), gradients


def only_step(
    slot: Slot,
    rows: list[TokenRow],
    spec: TrainingSpec,
    stop_if_asked: Callable[[], None] = go_on,
) -> Metrics:
    objective = NextToken(spec)
    take_step(slot, objective, rows, spec.learning_rate, spec, stop_if_asked)
    [(metrics, _)] = read_steps(slot, objective, 1, lambda _: None)
    return metrics


def plain_model(
    base: Base, spec: TrainingSpec, quantization: Precision, *, double_quant: bool
) -> PeftModel:
    """As the guides of transformers and PEFT have it."""
    quantized = BitsAndBytesConfig(
        load_in_4bit=quantization != "int8",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type=quantization if quantization != "int8" else "nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype(),
    )
    model = AutoModelForCausalLM.from_pretrained(
        base.folder.path,
        dtype=compute_dtype(),
        quantization_config=None if quantization == "none" else quantized,
        device_map={"": device()},
    )
    if quantization == "int8":  # else it would round activations
        model = model.dequantize(dtype=compute_dtype()).requires_grad_(requires_grad=False)
    assert spec.lora
    targets = spec.lora.target_modules
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        use_rslora=spec.lora.rslora,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        plain = get_peft_model(model, config)
    randomize(plain)
    return plain.train()


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param({"quantization": "nf4", "dequantized": True}, id="NF4, kept dequantized"),
        pytest.param({"quantization": "nf4", "dequantized": False}, id="NF4"),
        pytest.param({"quantization": "none", "dequantized": False}, id="not quantized"),
        pytest.param({"quantization": "fp4", "dequantized": False}, id="FP4"),
        pytest.param({"double_quant": False, "dequantized": False}, id="scales not quantized"),
        pytest.param({"quantization": "int8", "dequantized": False}, id="int8"),
        pytest.param({"checkpointing": True}, id="activations recomputed"),
        pytest.param({"micro_tokens": 1}, id="row by row"),
    ],
)
def test_loss_and_gradients_equal_plain_transformers_and_peft(
    bases: WarmBase, base: Base, spec: TrainingSpec, batch: list[TokenRow], plan: dict[str, Any]
) -> None:
    assert_as_plain(bases, base, spec, batch, **plan)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (("q_proj", "layers.1.mlp.down_proj"), 3),
        (r".*\.0\..*_proj|model\.layers\.1\.self_attn\.[qv]_proj", 9),
    ],
)
def test_adapters_by_name_or_expression_and_rslora_equal_pefts_own(
    bases: WarmBase,
    base: Base,
    spec: TrainingSpec,
    batch: list[TokenRow],
    targets: str | tuple[str, ...],
    layers: int,
) -> None:
    lora = Lora(r=4, alpha=8, target_modules=targets, rslora=True)
    spec = spec.model_copy(update={"lora": lora})
    assert_as_plain(bases, base, spec, batch, layers=layers, dequantized=False)


def test_targets_that_are_no_layers_of_the_model_at_hand_are_the_users(
    base: Base, spec: TrainingSpec
) -> None:
    lora = Lora(target_modules=("q_proj", "lm_head"))
    refused = pytest.raises(Untrainable, match=r"lora\.target_modules has 'lm_head'")
    with refused, adapted(base.model, spec.model_copy(update={"lora": lora})):
        pass


LLAMA_3_POSITIONS = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": LLAMA_3_POSITIONS,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
}


# What differs from the tiny base: Llama 3's positions and all biases, nothing but the window,
# biases on q, k and v, norms on q and k.
@pytest.mark.parametrize("family", OF_FAMILY)
def test_each_family_equals_its_plain_transformers(
    spec: TrainingSpec, batch: list[TokenRow], tiny: Path, tmp_path: Path, family: str
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    (tmp_path / "copies").mkdir()
    sizes = json.loads((tiny / "config.json").read_text())
    same = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    same |= {"num_key_value_heads", "vocab_size", "max_position_embeddings"}
    config = AutoConfig.for_model(
        family, head_dim=32, **OF_FAMILY[family], **{name: sizes[name] for name in same}
    )
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    bases = WarmBase()
    base = bases.load(bases.open(folder, "r1", tmp_path / "copies"), PLAN)
    assert_as_plain(bases, base, spec, batch)


def assert_as_plain(
    bases: WarmBase,
    base: Base,
    spec: TrainingSpec,
    batch: list[TokenRow],
    *,
    layers: int = 14,
    **plan: Any,
) -> None:
    precision = {"double_quant": plan.get("double_quant", True)}
    model = plain_model(base, spec, plan.get("quantization", "nf4"), **precision)
    nll, tokens, correct = torch.zeros((), device=device()), 0, 0
    for row in batch:  # one at a time: no packing, no padding, no mask
        ids = row.ids.long().to(device())
        logits = model(input_ids=ids[None]).logits[0].float()
        for position in range(1, len(ids)):
            if row.trained[position]:
                nll = nll - torch.log_softmax(logits[position - 1], dim=0)[ids[position]]
                correct += int(logits[position - 1].argmax() == ids[position])
                tokens += 1
    torch.autograd.backward(nll / tokens)

    asked: list[int] = []
    metrics, gradients = step_and_gradients(
        bases, base, spec, batch, stop_if_asked=lambda: asked.append(1), **plan
    )

    assert len(asked) == (len(batch) if plan.get("micro_tokens") == 1 else 1)
    assert metrics.train_loss == pytest.approx(nll.item() / tokens, rel=LOSS_RTOL)
    assert metrics.train_mean_token_accuracy == pytest.approx(correct / tokens, abs=ACCURACY_ATOL)
    expected = trained_parameters(model)
    norm = torch.stack(
        [wanted.grad.norm() for wanted in expected.values() if wanted.grad is not None]
    )
    assert metrics.grad_norm == pytest.approx(norm.norm().item(), rel=GRADIENT_RTOL)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 2 * layers  # A and B
    for name, gradient in gradients.items():
        wanted = expected[name].grad
        assert wanted is not None
        assert gradient.abs().max() > 1e-5
        assert (gradient - wanted).norm() < GRADIENT_RTOL * wanted.norm(), name


def test_nf4_is_the_same_to_the_bit_whether_kept_dequantized_or_not(
    bases: WarmBase, base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    kept, kept_gradients = step_and_gradients(bases, base, spec, batch, dequantized=True)
    metrics, gradients = step_and_gradients(bases, base, spec, batch, dequantized=False)
    assert metrics.train_loss == pytest.approx(kept.train_loss, rel=0 if ON_CPU else LOSS_RTOL)
    assert_same(gradients.values(), kept_gradients.values())


@pytest.mark.parametrize("recomputed", [{}, {"recomputed_layers": 1}], ids=["all", "the first"])
def test_activations_recomputed_change_no_bit_even_with_dropout(
    bases: WarmBase,
    base: Base,
    spec: TrainingSpec,
    batch: list[TokenRow],
    recomputed: dict[str, Any],
) -> None:
    spec = spec.model_copy(update={"lora": Lora(r=4, alpha=8, dropout=0.5)})
    kept, kept_gradients = step_and_gradients(bases, base, spec, batch)
    metrics, gradients = step_and_gradients(
        bases, base, spec, batch, checkpointing=True, **recomputed
    )
    assert metrics.train_loss == pytest.approx(kept.train_loss, rel=0 if ON_CPU else LOSS_RTOL)
    assert_same(gradients.values(), kept_gradients.values())


def test_activations_are_recomputed_where_the_plan_says_so_and_nowhere_else(
    bases: WarmBase, base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    """Or the test before this one proves nothing. A job leaves the next one's plan alone."""
    forwards: list[int] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: forwards.append(number))
        for number, layer in enumerate(base.model.get_decoder().layers)
    ]
    kept, of_the_first = {"checkpointing": False}, {"checkpointing": True, "recomputed_layers": 1}
    for how, computed in (
        (kept, [0, 1]),
        ({"checkpointing": True}, [0, 0, 1, 1]),
        (of_the_first, [0, 0, 1]),
        (kept, [0, 1]),
    ):
        forwards.clear()
        step_and_gradients(bases, base, spec, batch, **how)
        assert sorted(forwards) == computed
    for hook in hooks:
        hook.remove()


def test_a_row_that_is_spoilt_leaves_its_neighbours_in_the_pack_as_they_were(
    base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    """Its embeddings are not numbers; the others' hidden states are theirs alone, to the bit."""

    def hidden(rows: list[TokenRow]) -> list[Tensor]:
        with adapted(base.model, spec) as model, torch.no_grad():
            randomize(model)
            batch = Batch.of(rows, model.device)
            weight: Any = base.model.get_input_embeddings().weight
            kept = weight[1023].clone()
            weight[1023] = torch.nan
            states = hidden_states(new_slot(model, spec, PLAN), batch)
            weight[1023] = kept
            return list(torch.split(states, [len(row.ids) for row in rows]))

    assert not any((row.ids == 1023).any() for row in batch)
    spoilt = TokenRow(9, torch.full((11,), 1023, dtype=torch.int32), torch.ones(11).bool())
    alone, among = hidden([*batch]), hidden([batch[0], spoilt, *batch[1:]])
    assert among.pop(1).isnan().all()
    assert_same(among, alone)


def test_a_neighbour_in_the_pack_has_no_part_in_a_rows_gradients(
    base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    """It is trained on nothing, and then is another one of that length."""

    def gradients(neighbour: int) -> list[Tensor]:
        ids = torch.full((30,), neighbour, dtype=torch.int32)
        untrained = TokenRow(9, ids, torch.zeros(30, dtype=torch.bool))
        with adapted(base.model, spec) as model:
            randomize(model)
            slot = new_slot(model, spec, PLAN)
            nll, _ = NextToken(spec).score(slot, [untrained, *batch])
            return list(torch.autograd.grad(nll.sum(), list(trained_parameters(model).values())))

    assert_same(gradients(7), gradients(8))


def test_rows_with_nothing_trained_give_a_loss_and_gradients_of_zero(
    base: Base, spec: TrainingSpec
) -> None:
    ids = torch.arange(5, 25, dtype=torch.int32)
    untrained = TokenRow(1, ids, torch.zeros(20, dtype=torch.bool))
    with adapted(base.model, spec) as model:
        randomize(model)
        slot = new_slot(model, spec, PLAN)
        nll, right = NextToken(spec).score(slot, [untrained])
        gradients = torch.autograd.grad(nll.sum(), list(trained_parameters(model).values()))
    assert (nll.sum().item(), right.item()) == (0, 0)
    assert all((gradient == 0).all() for gradient in gradients)


def test_every_layers_adapter_moves_at_a_tiny_learning_rate(
    base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    """As it would not in bf16, which has no number between 1 and 1.008."""
    spec = spec.model_copy(update={"learning_rate": 1e-6})
    with adapted(base.model, spec) as model:
        slot = new_slot(model, spec, PLAN)
        before = {name: p.detach().clone() for name, p in trained_parameters(model).items()}
        for _ in range(2):  # A has a gradient once B is not zero
            only_step(slot, batch, spec)
        for name, parameter in trained_parameters(model).items():
            assert (parameter != before[name]).float().mean() > 0.9, name


def test_in_bf16_the_base_is_bf16_throughout_and_the_adapter_stays_fp32(
    spec: TrainingSpec,
    batch: list[TokenRow],
    tiny: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU: no norm or embedding is upcast; the loss is that of fp32 but for rounding."""
    bases = WarmBase()
    base = bases.load(bases.open(tiny, "r1", cache), PLAN)
    fp32, _ = step_and_gradients(bases, base, spec, batch)
    for module in (loading, quantized):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.bfloat16)
    bases = WarmBase()
    base = bases.load(bases.open(tiny, "r1", cache), PLAN)
    bf16, gradients = step_and_gradients(bases, base, spec, batch)
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert bf16.train_loss == pytest.approx(fp32.train_loss, rel=5e-3)


def test_validation_loss_is_summed_nll_over_trained_tokens_with_dropout_off(
    base: Base, make_order: MakeOrder, rows: list[dict[str, Any]], batch: list[TokenRow]
) -> None:
    spec = make_order(rows, lora=Lora(r=4, alpha=8, dropout=0.5)).spec
    with adapted(base.model, spec) as model:
        randomize(model)
        slot = new_slot(model, spec, PLAN)
        only_step(slot, batch, spec)  # leaves it in train mode
        values = evaluate(slot, NextToken(spec), batch, spec, go_on).values
        slot.follow(PLAN.model_copy(update={"micro_tokens": 1}))
        row_by_row = evaluate(slot, NextToken(spec), batch, spec, go_on).values
        nll, correct, tokens = 0.0, 0, 0
        with torch.no_grad():
            for row in batch:
                ids = row.ids.long().to(model.device)
                chances = torch.log_softmax(model(input_ids=ids[None]).logits[0].float(), dim=1)
                for position in torch.nonzero(row.trained[1:]).flatten().tolist():
                    target = int(row.ids[position + 1])
                    nll -= chances[position, target].item()
                    correct += int(chances[position].argmax() == target)
                    tokens += 1
    for found in (values, row_by_row):
        accuracy = found["valid_mean_token_accuracy"]
        assert found["valid_loss"] == pytest.approx(nll / tokens, rel=LOSS_RTOL)
        assert accuracy == pytest.approx(correct / tokens, abs=ACCURACY_ATOL)


def test_dropout_differs_by_seed_step_and_micro_step_and_by_nothing_else(
    base: Base, make_order: MakeOrder, rows: list[dict[str, Any]], batch: list[TokenRow]
) -> None:
    spec = make_order(rows, lora=Lora(r=4, alpha=8, dropout=0.5)).spec

    def loss(step: int, rows: list[TokenRow], spec: TrainingSpec = spec) -> float | None:
        with adapted(base.model, spec) as model:
            randomize(model)
            slot = new_slot(model, spec, PLAN.model_copy(update={"micro_tokens": 1}))
            slot.step = step
            torch.seed()
            return only_step(slot, rows, spec).train_loss

    row = batch[0]
    assert loss(0, [row]) == loss(0, [row])
    assert loss(0, [row]) != loss(1, [row])
    assert loss(0, [row]) != loss(0, [row], spec.model_copy(update={"seed": 6}))
    assert loss(0, [row]) != loss(0, [row, row])  # else the second has the first one's mask


@pytest.mark.skipif(ON_CPU, reason="a CPU has computed by the time it is asked for a result")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize(
    "plan", [{"quantization": "none", "dequantized": False}, {"dequantized": False}, {}]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_never_waits_for_the_device(
    bases: WarmBase,
    base: Base,
    spec: TrainingSpec,
    batch: list[TokenRow],
    plan: dict[str, Any],
    *,
    checkpointing: bool,
) -> None:
    """All else is launched while it computes. After a first step, which makes what is kept."""
    planned = PLAN.model_copy(update=plan | {"checkpointing": checkpointing, "micro_tokens": 60})
    with adapted(bases.load(base.folder, planned).model, spec) as model:
        slot = new_slot(model, spec, planned)
        take_step(slot, NextToken(spec), batch, spec.learning_rate, spec, go_on)
        torch.cuda.set_sync_debug_mode("error")
        try:
            take_step(slot, NextToken(spec), batch, spec.learning_rate, spec, go_on)
        finally:
            torch.cuda.set_sync_debug_mode("default")
