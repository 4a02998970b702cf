"""Each family whose whole models are written in GGUF: llama.cpp says what transformers says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoModelForCausalLM

from tests.engine.conftest import TINY
from tests.families.configs import FAMILIES, config_of
from tunery.exports import GGUF_MODELS, GgufQuantization, Merged
from worker.engine.errors import Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.proof.family import lively
from worker.engine.proof.shrunk import shrunk
from worker.engine.results.exports import gguf_model
from worker.engine.results.exports.adapter import Adapter
from worker.engine.results.exports.llama_cpp import loaded
from worker.engine.results.exports.merged import Merge

WRITTEN = [name for name, (model_type, _) in FAMILIES.items() if model_type in GGUF_MODELS]
SIXTH = ["sliding_attention"] * 5 + ["full_attention"]


def small_base(folder: Path, family: str, **settings: Any) -> Path:
    """A base of that family with the tokenizer of the tests' own, so small that its windows and its
    long positions are reached.
    """
    config = shrunk(config_of(family))
    its: dict[str, Any] = {
        "vocab_size": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 4,
    }
    if config.model_type == "gemma3_text":
        its |= {"num_hidden_layers": 6, "layer_types": SIXTH}
    if config.model_type.startswith("gemma"):
        its |= {"query_pre_attn_scalar": 16}
    for name, value in (its | settings).items():
        setattr(config, name, value)
    model = lively(config)
    if config.tie_word_embeddings:  # else it guesses the token that it has read, always
        with torch.no_grad():
            model.get_parameter("model.embed_tokens.weight").mul_(0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    return folder


def merge_of(base: Path) -> Merge:
    """Of nothing, onto the base in fp32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    adapter = Adapter(base, {}, {}, 1.0)
    return Merge(base, model, adapter, {}, Merged(dtype="fp32"))


def divergence(path: Path, merge: Merge) -> tuple[float, float]:
    """In nats, the mean over some places of a row, and how often both guess the same."""
    ids = torch.randint(5, 1024, (60,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = merge.base(input_ids=ids[None]).logits[0].log_softmax(1)
    nats, same, places = 0.0, 0, range(3, 60, 8)
    with loaded(path) as llama:
        for place in places:
            found = llama.guess(ids[: place + 1].tolist())
            ours = torch.tensor(list(found.values()))
            nats += (ours.exp() * (ours - theirs[place][list(found)])).sum().item()
            same += max(found, key=found.__getitem__) == int(theirs[place].argmax())
    return nats / len(places), same / len(places)


def in_gguf(base: Path, merge: Merge, quantization: GgufQuantization, path: Path) -> Path:
    bases = WarmBase()
    opened = bases.open(base, "r1", path.parent)
    gguf_model.write_model(path, "tiny", None, quantization, opened, merge, lambda: None)
    return path


@pytest.mark.parametrize("family", WRITTEN)
def test_llama_cpp_says_what_transformers_says(tmp_path: Path, family: str) -> None:
    window = {"sliding_window": 64} if "indow" in family else {}
    base = small_base(tmp_path / "base", family, **window)
    merge = merge_of(base)
    path = in_gguf(base, merge, "f16", tmp_path / "model.gguf")
    nats, same = divergence(path, merge)
    assert abs(nats) < 1e-3
    assert same == 1
    if window:  # llama.cpp does not have it
        name = f"{GGUF_MODELS[FAMILIES[family][0]]}.context_length"
        context = GGUFReader(path).get_field(name)
        assert context is not None
        assert context.contents() == 64


def test_no_other_family_is_written() -> None:
    assert {FAMILIES[name][0] for name in WRITTEN} == GGUF_MODELS.keys()


BOUNDS: dict[GgufQuantization, tuple[float, set[str]]] = {
    "q8_0": (0.005, {"Q8_0"}),
    "q6_k": (0.01, {"Q6_K"}),
    "q5_k_m": (0.02, {"Q5_K", "Q6_K"}),
    "q4_k_m": (0.05, {"Q4_K", "Q6_K"}),
    "q4_0": (0.1, {"Q4_0", "Q6_K"}),
}


def test_fewer_bits_say_it_less_exactly(tmp_path: Path) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    base = small_base(tmp_path / "base", "Llama 2, Llama 3", **wide)
    merge, sizes = merge_of(base), []
    for quantization, (bound, kinds) in BOUNDS.items():
        path = in_gguf(base, merge, quantization, tmp_path / f"{quantization}.gguf")
        assert divergence(path, merge)[0] < bound, quantization
        tensors = GGUFReader(path).tensors
        found = {each.tensor_type for each in tensors if len(each.shape) > 1}
        assert {each.name for each in found} == kinds
        assert {each.tensor_type for each in tensors if len(each.shape) == 1} == {
            GGMLQuantizationType.F32
        }
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("SmolLM 3", {"no_rope_layers": [1, 1, 1, 1]}, "with another no_rope_layers alone"),
        ("Gemma 2", {"layer_types": ["full_attention"] * 4}, "with another layer_types alone"),
        (
            "Qwen 3",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "told of positions scaled by 'dynamic'",
        ),
    ],
)
def test_what_llama_cpp_has_no_words_for_is_refused(
    tmp_path: Path, family: str, settings: dict[str, Any], why: str
) -> None:
    base = small_base(tmp_path / "base", family, **settings)
    with pytest.raises(Untrainable, match=why):
        in_gguf(base, merge_of(base), "q8_0", tmp_path / "model.gguf")
