"""Masked language modelling: what is masked, and a step against plain transformers and PEFT."""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from tests.engine.conftest import LOSS_RTOL, PLAN, MakeOrder, Run, on_base, same_adapter
from tests.engine.encoders import SEA, SPECIAL, encoder, texts
from tests.engine.test_step import GRADIENT_RTOL, randomize
from tunery.data.rows import Text
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import measure
from tunery.measured import Metrics
from tunery.spec import Lora, MaskedLm, TrainingSpec
from worker.engine.data.cached import KnownData
from worker.engine.data.rows import TokenRow
from worker.engine.device import device
from worker.engine.errors import StopAsked, Untrainable
from worker.engine.model.base import WarmBase, read_folder
from worker.engine.train import train
from worker.engine.training.objectives.masked import MaskedToken
from worker.engine.training.prepare import objective_of, read_files
from worker.engine.training.slot import adapted, new_slot, trained_parameters
from worker.engine.training.step import evaluate, read_steps, take_step
from worker.protocol import Checkpointed, Finished, Noted, Report, Stepped, Train

MASK, VOCABULARY = 4, 5000


@pytest.fixture(scope="session", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("encoders") / request.param, request.param)


@pytest.fixture
def spec(make_order: MakeOrder) -> TrainingSpec:
    return make_order(
        texts(6), objective=MaskedLm(), overflow="split", max_length=16, max_grad_norm=1e9
    ).spec


def test_a_text_is_enclosed_part_by_part_and_no_special_token_may_be_chosen(
    folder: Path, spec: TrainingSpec
) -> None:
    """The parts are those of transformers' own tokenizer."""
    cls, sep, _, unk, mask = SPECIAL[folder.name]
    tokenizer = ChatTokenizer(folder)
    text = " ".join(SEA * 3) + f" {mask} {unk}"
    objective = MaskedToken(spec, 0.15, MASK, VOCABULARY)
    encoded = objective.encode(Text(7, text), tokenizer)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    parts = theirs(text, truncation=True, max_length=16, return_overflowing_tokens=True).input_ids
    assert len(parts) > 2
    assert [row.ids.tolist() for row in encoded.rows] == parts
    assert [(row.line, row.piece) for row in encoded.rows] == [(7, n) for n in range(len(parts))]
    special = {tokenizer.tokenizer.token_to_id(word) for word in (cls, sep, unk, mask)}
    for row in encoded.rows:
        assert row.trained.tolist() == [id_ not in special for id_ in row.ids.tolist()]
    assert not encoded.cut
    cutting = replace(objective, spec=spec.model_copy(update={"overflow": "cut"}))
    first = cutting.encode(Text(7, text), tokenizer)
    assert ([row.ids.tolist() for row in first.rows], first.cut) == (parts[:1], True)
    assert objective.encode(Text(7, f"{mask}{mask}"), tokenizer).rows == []


def long_rows(count: int, length: int) -> list[TokenRow]:
    """Every eighth token is special."""
    ids = torch.arange(100, 100 + length, dtype=torch.int32)
    return [TokenRow(line, ids, torch.arange(length) % 8 > 0) for line in range(count)]


def test_of_the_chosen_tokens_80_percent_are_masked_and_10_are_any(spec: TrainingSpec) -> None:
    rows = long_rows(100, 1000)
    drawn = MaskedToken(spec, 0.15, MASK, VOCABULARY).drawn(rows, 0)
    before = torch.cat([row.ids for row in rows])
    may = torch.cat([row.trained for row in rows])
    ids, chosen = (torch.cat([getattr(row, name) for row in drawn]) for name in ("ids", "trained"))
    assert not chosen[~may].any()
    assert torch.equal(ids[~chosen], before[~chosen])
    assert [row.wanted is old.ids for row, old in zip(drawn, rows, strict=True)] == [True] * 100
    masked, kept = ids[chosen] == MASK, ids[chosen] == before[chosen]
    others = ids[chosen][~masked & ~kept]
    shares = [share.float().mean().item() for share in (chosen[may], masked, kept, ~masked & ~kept)]
    # 87,500 tokens, 13,125 of them chosen: four standard deviations.
    assert shares[0] == pytest.approx(0.15, abs=0.005)
    assert shares[1:] == pytest.approx([0.8, 0.1, 0.1], abs=0.014)
    assert others.min() < 50
    assert others.max() > VOCABULARY - 50
    assert others.float().mean().item() == pytest.approx(VOCABULARY / 2, rel=0.06)


def test_masks_differ_by_epoch_row_part_and_seed_and_by_nothing_else(spec: TrainingSpec) -> None:
    row, other_line = long_rows(2, 400)
    objective = MaskedToken(spec, 0.15, MASK, VOCABULARY)

    def ids(objective: MaskedToken, row: TokenRow, epoch: int | None) -> Tensor:
        torch.seed()
        [_, drawn] = objective.drawn([other_line, row], epoch)
        return drawn.ids

    first = ids(objective, row, 0)
    assert torch.equal(ids(objective, row, 0), first)
    checked = ids(objective, row, None)
    assert torch.equal(ids(objective, row, None), checked)
    another_seed = replace(objective, spec=spec.model_copy(update={"seed": 6}))
    for different in (
        ids(objective, row, 1),
        checked,
        ids(objective, other_line, 0),
        ids(objective, replace(row, piece=1), 0),
        ids(another_seed, row, 0),
    ):
        assert not torch.equal(different, first)


@pytest.fixture
def order(make_order: MakeOrder, folder: Path) -> Train:
    settings: dict[str, Any] = {"objective": MaskedLm(), "overflow": "split", "max_length": 16}
    settings["samples"] = 1  # of rows, too, of which nothing is chosen
    made = make_order(texts(6), valid=texts(3), batch_size=2, learning_rate=3e-2, **settings)
    return on_base(made, folder)


def loss_of(model: PeftModel, row: TokenRow) -> Tensor:
    """Summed over the chosen tokens of one drawn row, by itself."""
    assert row.wanted is not None
    labels = row.wanted.long().masked_fill(~row.trained, -100).to(device())
    logits = model(input_ids=row.ids.long()[None].to(device())).logits[0]
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.parametrize(
    ("folder", "cut"),
    [("bert", {"checkpointing": True}), ("roberta", {"micro_tokens": 1})],
    indirect=["folder"],
)
def test_loss_and_gradients_equal_plain_transformers_and_peft(
    order: Train, spec: TrainingSpec, folder: Path, tmp_path: Path, cut: dict[str, Any]
) -> None:
    """One row has nothing chosen, and neither has a whole step."""
    spec = spec.model_copy(update={"lora": Lora(r=4, alpha=8)})
    plan = PLAN.model_copy(update={"quantization": "none", "dequantized": False, **cut})
    bases = WarmBase()
    base = bases.load(bases.open(folder, "r1", tmp_path), plan)
    objective = objective_of(spec, base.folder)
    data, _ = read_files(order, objective, base.folder, KnownData(), lambda: None)
    rows = objective.drawn(data.rows, 0)
    unchosen = replace(rows[0], trained=torch.zeros_like(rows[0].trained))
    plain = plain_model(folder, spec)
    tokens = sum(int(row.trained.sum()) for row in rows)
    loss = torch.stack([loss_of(plain, row) for row in rows]).sum() / tokens
    torch.autograd.backward(loss)

    with adapted(base.model, spec) as model:
        slot = new_slot(model, spec, plan)
        randomize(model)
        gradients: list[dict[str, Tensor]] = []
        slot.optimizer.register_step_pre_hook(lambda *_: gradients.append(gradients_of(model)))
        checked = evaluate(slot, objective, rows, spec, lambda: None).values
        for drawn in ([*rows, unchosen], [unchosen]):
            take_step(slot, objective, drawn, 0.0, spec, lambda: None)
        (metrics, trained_tokens), (nothing, _) = read_steps(slot, objective, 1, lambda _: None)

    assert trained_tokens == tokens
    assert metrics.train_loss == pytest.approx(loss.item(), rel=10 * LOSS_RTOL)
    assert checked["valid_loss"] == pytest.approx(loss.item(), rel=10 * LOSS_RTOL)
    wanted = gradients_of(plain)
    assert gradients[0].keys() == wanted.keys()
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 1e-5, name
        assert (gradient - wanted[name]).norm() < GRADIENT_RTOL * wanted[name].norm(), name
    assert nothing.train_loss == 0
    assert all((gradient == 0).all() for gradient in gradients[1].values())


def plain_model(folder: Path, spec: TrainingSpec) -> PeftModel:
    base = AutoModelForMaskedLM.from_pretrained(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    assert spec.lora
    config = LoraConfig(r=spec.lora.r, lora_alpha=spec.lora.alpha, target_modules="all-linear")
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(base, config)
    randomize(model)
    return model.to(device()).train()


def gradients_of(model: PeftModel) -> dict[str, Tensor]:
    found = {}
    for name, parameter in trained_parameters(model).items():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
    return found


@pytest.mark.parametrize("folder", ["bert"], indirect=True)
def test_it_learns_and_stopped_and_resumed_ends_in_the_same_bytes(
    order: Train, run: Run, bases: WarmBase
) -> None:
    whole = run(order)
    last, noted = steps_of(whole)[-1], [line for line in whole if isinstance(line, Noted)]
    assert re.search(r"15% of \d+ of them masked at a time", noted[0].message)
    assert "split into rows of at most that" in noted[0].message
    assert noted[-1].data is not None
    assert last.valid_loss is not None
    assert last.valid_loss < noted[-1].data["base_valid_loss"] - 0.05
    assert last.valid_mean_token_accuracy is not None

    reports: list[Report] = []

    def stop() -> None:
        if len(steps_of(reports)) == len(steps_of(whole)) - 2:
            raise StopAsked(checkpoint=True)

    again = order.model_copy(update={"folder": order.folder / "again"})
    again.folder.mkdir()
    with pytest.raises(StopAsked):
        train(again, bases, reports.append, stop)
    kept = reports[-1]
    assert isinstance(kept, Checkpointed)
    later = again.model_copy(update={"checkpoint": kept.folder, "folder": order.folder / "later"})
    later.folder.mkdir()
    resumed = run(later)
    assert same_adapter(adapter_of(resumed), adapter_of(whole))
    assert steps_of(resumed)[-1] == last


def test_the_token_report_counts_what_training_reads(
    order: Train, folder: Path, tmp_path: Path
) -> None:
    base = read_folder(folder, "r1", tmp_path)
    objective = objective_of(order.spec, base)
    data, _ = read_files(order, objective, base, KnownData(), lambda: None)
    found = measure(
        order.training_file,
        base.tokenizer,
        max_length=16,
        rows=6,
        text_bytes=1,
        encoder=True,
    ).as_dict()
    assert (found["epoch_tokens"], found["epoch_trained_tokens"]) == (
        data.rows.tokens,
        data.rows.trained_tokens,
    )
    assert found["split"]["lines"] == data.split
    assert data.split


def steps_of(reports: list[Report]) -> list[Metrics]:
    return [line.metrics for line in reports if isinstance(line, Stepped)]


def adapter_of(reports: list[Report]) -> bytes:
    last = reports[-1]
    assert isinstance(last, Finished)
    return (last.folder / "adapter_model.safetensors").read_bytes()


def test_a_tokenizer_that_names_no_mask_is_refused_in_words(
    make_order: MakeOrder, run: Run
) -> None:
    with pytest.raises(Untrainable, match=r"names no mask_token.*Choose an encoder") as caught:
        run(make_order(texts(2), objective=MaskedLm()))
    assert caught.value.code == "no_mask_token"


@pytest.mark.parametrize("folder", ["bert"], indirect=True)
def test_a_validation_file_of_which_nothing_is_masked_is_refused(
    make_order: MakeOrder, run: Run, folder: Path
) -> None:
    objective = MaskedLm(mask_probability=1e-9)
    order = make_order(texts(2), valid=texts(1), objective=objective, max_length=32)
    with pytest.raises(Untrainable, match="chance masks none of its tokens") as caught:
        run(on_base(order, folder))
    assert caught.value.code == "nothing_to_validate"
