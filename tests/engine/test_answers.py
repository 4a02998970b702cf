"""What the engine answers while it is idle, against transformers' and PEFT's own answers."""

import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine.asking import Asking, complete
from tests.engine.conftest import FILES, PLAN, TINY
from tests.families.configs import config_of
from tunery.base_model import files_of
from tunery.completions import TextPrompt
from worker.answerer import MOST_PART_BYTES
from worker.engine.answers import answering
from worker.engine.answers.rows import Voice
from worker.engine.model.base import WarmBase, auto_class, without_dropout
from worker.engine.model.way import PACKED, Verdict
from worker.engine.proof.family import lively
from worker.engine.proof.shrunk import shrunk
from worker.engine.training.slot import as_named
from worker.protocol import Drop

UNQUANTIZED = PLAN.model_copy(update={"quantization": "none", "dequantized": False})
NF4 = PLAN.model_copy(update={"dequantized": False})
MIXED = Verdict("packed", ("GraniteMoeHybridMambaLayer",))
FAMILIES = {
    "Gemma 2": PACKED,  # soft caps, and windows
    "Gemma 3 (text)": PACKED,
    "Qwen 3": PACKED,
    "GPT-2": PACKED,
    "GPT-NeoX, Pythia": PACKED,
    "Granite 4 H": MIXED,
    "Llama 4 (text)": Verdict("padded"),
}


def made(family: str, parent: Path) -> Path:
    """A small model of the family, with the tokenizer of another."""
    folder = shutil.copytree(TINY, parent / "base")
    for name in ("model.safetensors", "generation_config.json", "config.json"):
        (folder / name).unlink()
    lively(without_dropout(shrunk(config_of(family)))).save_pretrained(folder)
    return Path(folder)


def numbers(*lengths: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(8, 500, (length,), generator=draw).tolist() for length in lengths]


class OnFolder(Asking):
    def __init__(self, warm: WarmBase, folder: Path) -> None:
        super().__init__(warm)
        self.folder = folder


def one_by_one(asking: OnFolder, prompts: list[list[int]], **asked: Any) -> list[list[int]]:
    """Each prompt comes when those before it are being answered."""
    heard = []
    for ids in prompts:
        command = complete(asking.folder, TextPrompt(ids=ids), top_logprobs=0, **asked)
        heard.append(asking.take(command))
        asking.answers.work()
        asking.answers.work()
    asking.all()
    return [each.ids for each in heard]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_come_and_go_in_a_batch_are_those_of_transformers(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PROMPT_TOKENS", 7)  # a prompt comes in several pieces
    folder, warm = made(family, tmp_path), WarmBase()
    opened = warm.open(folder, "r1", tmp_path, files_of(folder))
    base = warm.load(opened, UNQUANTIZED, FAMILIES[family])
    prompts = numbers(5, 23, 11, 1)
    found = one_by_one(OnFolder(warm, folder), prompts, max_tokens=10)
    assert sum(map(len, found)) > 15, "a control token ends an answer"
    plain = auto_class(base.model.config.model_type).from_pretrained(folder).eval()
    for ids, said in zip(prompts, found, strict=True):
        wanted = plain.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=10, eos_token_id=None
        )
        assert said == wanted[0, len(ids) :].tolist()[: len(said)]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> WarmBase:
    warm = WarmBase()
    opened = warm.open(TINY, "r1", tmp_path_factory.mktemp("copies"), FILES)
    warm.load(opened, UNQUANTIZED)
    return warm


@pytest.fixture
def asking(warm: WarmBase) -> OnFolder:
    return OnFolder(warm, TINY)


ADAPTERS: dict[str, dict[str, Any]] = {
    "all layers": {"r": 4, "target_modules": "all-linear"},
    "some layers, rslora": {"r": 9, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
}


def adapter_on(base: Any, folder: Path, **config: Any) -> Path:
    """One with random weights, as PEFT writes it."""
    with as_named():
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_alpha=8, **config))
    draw = torch.Generator().manual_seed(config["r"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=draw))
    model.save_pretrained(str(folder))
    model.unload()
    return folder


def by_peft(base: Any, adapter: Path, ids: list[int]) -> Tensor:
    """Log-probabilities of the tokens that come next."""
    with as_named():
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
    with torch.no_grad():
        logs = model(torch.tensor([ids], device=base.device)).logits[0].float().log_softmax(-1)
    model.unload()
    following = torch.tensor(ids[1:], device=base.device)[:, None]
    said: Tensor = logs[:-1].gather(1, following)[:, 0].cpu()
    return said


@pytest.mark.parametrize("on", ["llama", "llama in NF4", "GPT-2"])
def test_an_adapter_computes_as_in_peft(on: str, tmp_path: Path) -> None:
    folder, warm = made("GPT-2", tmp_path) if on == "GPT-2" else TINY, WarmBase()
    (tmp_path / "copies").mkdir()
    opened = warm.open(folder, "r1", tmp_path / "copies", files_of(folder))
    base = warm.load(opened, NF4 if on == "llama in NF4" else UNQUANTIZED)
    layers = ADAPTERS if on != "GPT-2" else {"both kinds": {"r": 4, "target_modules": ["c_attn"]}}
    [ids] = numbers(40)
    for number, config in enumerate(layers.values()):
        more = {"fan_in_fan_out": True} if on == "GPT-2" else {}
        adapter = adapter_on(base.model, tmp_path / f"adapter-{number}", **config, **more)
        prompt = TextPrompt(ids=ids, echo=True)
        asked = {"adapter": adapter, "max_tokens": 0, "top_logprobs": 0}
        [heard] = Asking(warm).all(complete(folder, prompt, **asked))
        first, *others = [token.logprob for token in heard.tokens()]
        assert first is None
        plain = by_peft(base.model, adapter, ids)
        torch.testing.assert_close(torch.tensor(others), plain, rtol=2e-4, atol=2e-4)


def test_rows_with_different_adapters_and_none_are_answered_in_one_batch(
    asking: OnFolder, warm: WarmBase, tmp_path: Path
) -> None:
    assert warm.base
    model = warm.base.model
    adapters = [
        adapter_on(model, tmp_path / f"{number}", **config)
        for number, config in enumerate(ADAPTERS.values())
    ]
    commands = [
        complete(TINY, "The sea", adapter=adapter, top_logprobs=0, max_tokens=12)
        for adapter in (*adapters, None)
    ]
    together = asking.all(*commands)
    alone = [asking.all(command)[0] for command in renamed(commands)]
    assert [each.ids for each in together] == [each.ids for each in alone]
    assert len({tuple(each.ids) for each in together}) == 3


def renamed(commands: list[Any]) -> Iterator[Any]:
    for number, command in enumerate(commands):
        yield command.model_copy(update={"completion_id": f"again-{number}"})


def test_the_same_seed_gives_the_same_answer_beside_others(asking: OnFolder) -> None:
    def drawn() -> list[Any]:
        how = {"temperature": 1.2, "top_p": 0.9, "max_tokens": 12, "top_logprobs": 0}
        return [complete(TINY, "The sea", seed=seed, **how) for seed in (1, 2, 1)]

    state = torch.get_rng_state()
    together = [each.ids for each in asking.all(*drawn())]
    alone = [asking.all(command)[0].ids for command in drawn()]
    assert together == alone
    assert together[0] == together[2] != together[1]
    assert torch.equal(torch.get_rng_state(), state), "trainings have their own chance"


def test_several_answers_have_the_prompt_once_and_chances_of_their_own(asking: OnFolder) -> None:
    seen: list[int] = []
    before = Voice.states

    def counted(voice: Any, rows: Any, ids: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return before(voice, rows, ids)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Voice, "states", counted)
        [heard] = asking.all(complete(TINY, "The sea is", n=3, temperature=1.5, seed=4))
    assert sorted(seen, reverse=True)[:2] == [seen[0], 1]
    assert len({heard.text(choice) for choice in range(3)}) > 1
    assert len(heard.reasons) == 3
    usage = heard.parts[-1].usage
    assert usage
    assert usage.prompt_tokens == seen[0]


def test_an_answer_ends_at_its_limit_a_stop_text_or_the_contexts_end(asking: OnFolder) -> None:
    [plain] = asking.all(complete(TINY, "The sea", max_tokens=6))
    assert plain.reasons == ["length"]
    middle = plain.text()[2:5]
    [stopped] = asking.all(complete(TINY, "The sea", max_tokens=6, stop=["zz", middle]))
    assert stopped.reasons == ["stop"]
    assert stopped.text() == plain.text().partition(middle)[0]
    ids = [20] * 1020
    [full] = asking.all(complete(TINY, TextPrompt(ids=ids), max_tokens=None, top_logprobs=0))
    assert (full.reasons, len(full.ids)) == (["length"], 4)
    [over] = asking.all(complete(TINY, TextPrompt(ids=[20] * 1024)))
    assert (over.refusal.code, over.refusal.param) == ("context_length_exceeded", "prompt")
    assert "1,024 tokens" in over.refusal.message


def test_a_long_prompt_that_is_echoed_comes_in_parts_that_can_be_sent(asking: OnFolder) -> None:
    [ids] = numbers(500)
    prompt = TextPrompt(ids=ids, echo=True)
    [heard] = asking.all(complete(TINY, prompt, max_tokens=2, n=2, top_logprobs=20))
    sizes = [len(part.model_dump_json(exclude_defaults=True)) for part in heard.parts]
    assert max(sizes) < MOST_PART_BYTES
    for choice in range(2):
        assert [token.id for token in heard.tokens(choice)][:500] == ids


def test_a_faulty_completion_is_refused_and_the_others_go_on(
    asking: OnFolder, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    other, foreign, bias, good = asking.all(
        complete(TINY, "The sea", base_folder=tmp_path / "base", base_revision="r2"),
        complete(TINY, TextPrompt(ids=[5, 99_999])),
        complete(TINY, "The sea", logit_bias={5000: 1.0}),
        complete(TINY, "The sea"),
    )
    assert other.refusal.code == "base_model_differs"
    assert str(tmp_path) not in other.refusal.message
    assert foreign.refusal.code == "invalid_prompt"
    assert bias.refusal.code == "invalid_logit_bias"
    assert good.text()


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_what_fails_is_released_and_the_engine_answers_on(
    asking: OnFolder, fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: Callable[..., Tensor] = Voice.states

    def failing(voice: Any, rows: Any, ids: Tensor) -> Tensor:
        if ids.shape[1] == 3:
            raise fault("a secret of the asker")
        return before(voice, rows, ids)

    monkeypatch.setattr(Voice, "states", failing)
    good, bad = asking.all(
        complete(TINY, TextPrompt(ids=[20, 21])), complete(TINY, TextPrompt(ids=[20, 21, 22]))
    )
    assert bad.parts[-1].released
    assert good.reasons


def test_a_model_that_gives_no_numbers_is_refused(
    asking: OnFolder, warm: WarmBase, tmp_path: Path
) -> None:
    assert warm.base
    config = ADAPTERS["all layers"]
    adapter = adapter_on(warm.base.model, tmp_path, **config)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight * torch.inf for name, weight in weights.items()},
        adapter / "adapter_model.safetensors",
    )
    bad, good = asking.all(
        complete(TINY, "The sea", adapter=adapter, n=2), complete(TINY, "The sea")
    )
    assert bad.refusal.code == "answer_not_finite"
    assert good.text()


def test_nobody_is_told_of_an_answer_that_is_dropped(asking: OnFolder) -> None:
    gone = asking.take(command := complete(TINY, "The sea", max_tokens=50))
    stays = asking.take(complete(TINY, "The sea"))
    for _ in range(4):
        asking.answers.work()
    asking.answers.drop(Drop(completion_id=command.completion_id, token=1))
    told = len(gone.parts)
    asking.all()
    assert 0 < told == len(gone.parts)
    assert stays.over


def test_a_base_that_is_dropped_is_not_held_on_to(tmp_path: Path) -> None:
    warm = WarmBase()
    asking = Asking(warm)
    asking.take(complete(TINY, "The sea", cache=tmp_path, max_tokens=50))
    for _ in range(4):
        asking.answers.work()
    assert warm.base
    model = weakref.ref(warm.base.model)
    asking.answers.let_go()
    warm.drop()
    assert model() is None


def test_another_base_is_loaded_when_those_before_it_are_answered(tmp_path: Path) -> None:
    folder, warm = made("Qwen 3", tmp_path), WarmBase()
    asking = Asking(warm)
    (tmp_path / "copies").mkdir()
    where = {"cache": tmp_path / "copies"}
    first, second, third = asking.all(
        complete(TINY, "The sea", **where),
        complete(folder, "The sea", **where),
        complete(TINY, "The sea", quantization="nf4", **where),
    )
    assert all(each.text() for each in (first, second, third))
    assert warm.base
    assert (warm.base.folder.path, warm.base.quantization) == (TINY, "nf4")
