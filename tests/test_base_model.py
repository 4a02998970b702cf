"""The folder of a base model: what is refused, and what a registration states."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tunery.base_model import (
    context_of,
    describe,
    hub_commit,
    served_base,
    shape_of,
    with_usual_names,
)
from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest

WEIGHTS = "model.safetensors"
TINY = Path(__file__).resolve().parents[1] / "models" / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_the_facts_of_a_model_are_read_from_its_folder() -> None:
    facts = describe(TINY, id_="tunery/tiny", licence="Apache-2.0")
    assert (facts.id, facts.licence, facts.source) == ("tunery/tiny", "Apache-2.0", str(TINY))
    assert (facts.architecture, facts.hidden_size, facts.context_length) == ("llama", 64, 1024)
    assert facts.has_chat_template
    weights = (TINY / "model.safetensors").read_bytes()
    (listed,) = [file for file in facts.files if file.name == "model.safetensors"]
    assert (listed.bytes, listed.sha256) == (len(weights), hashlib.sha256(weights).hexdigest())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: set_config(folder, auto_map={"AutoModel": "mine.Model"}),
            r"own code \(auto_map\)",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "has no .safetensors weights",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            "has no tokenizer_config.json",
        ),
        (
            lambda folder: set_config(folder, hidden_size=None),
            "does not name hidden_size as",
        ),
        (
            lambda folder: set_config(folder, quantization_config={"bits": 4}),
            r"quantized already \(quantization_config\). Choose the model in 16 bits",
        ),
        (
            lambda folder: set_config(folder, model_type="t5", is_encoder_decoder=True),
            "type 't5' read with an encoder and write with a decoder",
        ),
        (lambda folder: set_config(folder, model_type=None), "names no model_type"),
        (
            lambda folder: set_config(folder, model_type="bert", is_decoder=True),
            "is_decoder is True, which cannot be trained here. Choose .* with False",
        ),
        (
            lambda folder: set_config(folder, num_hidden_layers=None, n_layer="two"),
            "does not name num_hidden_layers",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs"),
            "tokenizer or chat template that cannot be used",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "lla'),
            "config.json cannot be read",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs/spec/v1\nsize 9"),
            "model.safetensors is a pointer of Git LFS",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
            "model.safetensors is not whole: it has [0-9,]+ of the [0-9,]+ bytes",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:99]),
            "bytes without a whole header",
        ),
        (
            lambda folder: (folder / f"{WEIGHTS}.index.json").write_text(
                '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
            ),
            "names 1 files, and 1 are not there: model-00001-of-00002.safetensors",
        ),
        (
            lambda folder: (folder / f"{WEIGHTS}.index.json").write_text(
                '{"weight_map": {"a": "model.safetensors"}}'
            ),
            "has a in model.safetensors, where it is not",
        ),
        (
            lambda folder: set_config(folder, num_hidden_layers=9),
            "of the 9 layers that config.json names",
        ),
        (
            lambda folder: set_config(folder, vocab_size=9),
            r"has shape \[1024, 64\], and config.json names 9 tokens of size 64",
        ),
        (
            lambda folder: set_config(folder, model_type="bert"),
            "no head that guesses masked tokens",
        ),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
            "chat template is broken",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_is_refused_in_words(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    with pytest.raises(InvalidRequest, match=reason):
        describe(folder, id_="m")


@pytest.mark.parametrize(("listed", "has"), [(None, False), ("{{ messages }}", True)])
def test_a_chat_template_may_stand_in_the_tokenizers_config(
    folder: Path, listed: str | None, *, has: bool
) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": listed}))
    assert describe(folder, id_="m").has_chat_template is has


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: set_config(folder, rope_theta=5.0),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
        lambda folder: (folder / "vocab.json").write_text("{}"),
    ],
)
def test_the_revision_changes_with_any_file(folder: Path, change: Callable[[Path], None]) -> None:
    before = describe(folder, id_="m").revision
    assert before == describe(TINY, id_="another").revision
    change(folder)
    assert describe(folder, id_="m").revision != before


# As their makers publish them: the sizes, and all that is not the default of the family.
PUBLISHED: dict[str, tuple[dict[str, Any], float, int]] = {
    "gpt2": (
        {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_inner": None}
        | {"vocab_size": 50_257},
        124.4e6,
        1024,
    ),
    "bert": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
        | {"num_attention_heads": 12, "vocab_size": 30_522, "max_position_embeddings": 512},
        109.5e6,
        512,
    ),
    "roberta": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
        | {"num_attention_heads": 12, "vocab_size": 50_265, "max_position_embeddings": 514}
        | {"pad_token_id": 1},
        124.7e6,
        512,
    ),
    "phi": (
        {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "vocab_size": 51_200, "max_position_embeddings": 2048}
        | {"num_key_value_heads": 32},
        2.78e9,
        2048,
    ),
    "phi3": (
        {"hidden_size": 5120, "intermediate_size": 17_920, "num_hidden_layers": 40}
        | {"num_attention_heads": 40, "vocab_size": 100_352, "max_position_embeddings": 16_384}
        | {"num_key_value_heads": 10, "sliding_window": None},
        14.7e9,
        16_384,
    ),
    "gemma": (
        {"hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "vocab_size": 256_000, "max_position_embeddings": 8192}
        | {"num_key_value_heads": 16, "head_dim": 256},
        8.54e9,
        8192,
    ),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_config_is_read_as_what_it_is_known_for(family: str) -> None:
    config, parameters, context = PUBLISHED[family]
    config = with_usual_names(config | {"model_type": family})
    assert shape_of(config, {}).parameters == pytest.approx(parameters, rel=3e-3)
    assert context_of(config) == context


@pytest.mark.parametrize(
    ("family", "tokens", "special"),
    [
        ("gpt2", ["<|endoftext|>"], {"eos_token": "<|endoftext|>"}),
        ("bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], {"mask_token": "[MASK]"}),
        (
            "roberta",
            ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            {"eos_token": "</s>", "mask_token": "<mask>"},
        ),
    ],
)
def test_a_folder_of_their_time_names_no_special_tokens_and_has_no_template(
    folder: Path, family: str, tokens: list[str], special: dict[str, str]
) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    tokenizer = Tokenizer(WordLevel({"sea": 0}, unk_token="sea"))
    tokenizer.add_special_tokens(tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    set_config(folder, model_type=family)
    head = {"bert": "cls.predictions.bias", "roberta": "lm_head.bias"}.get(family)
    if head:
        weights = load_file(folder / WEIGHTS) | {head: torch.zeros(1)}
        save_file(weights, folder / WEIGHTS)
    facts = describe(folder, id_="m")
    assert (facts.architecture, facts.has_chat_template) == (family, False)
    assert ChatTokenizer(folder).special == special


def test_a_name_that_no_model_can_have_is_refused_in_words() -> None:
    with pytest.raises(InvalidRequest, match="'my model' is no name for a model"):
        describe(TINY, id_="my model")


def test_a_named_revision_is_kept() -> None:
    assert describe(TINY, id_="m", revision="abc123").revision == "abc123"


def test_a_base_is_named_to_others_by_its_hubs_commit_and_never_by_its_folder() -> None:
    made_up = describe(TINY, id_="org/model").revision
    assert hub_commit("org/model", made_up) is None
    assert served_base("org/model", made_up, "/a b") == "FOLDER"
    assert served_base("org/model", "abc123", "/a b") == "org/model --revision abc123"
    assert served_base("model", "abc123", "/models/m") == "FOLDER"
    assert served_base("model", "abc123", "hf://org/model") == "org/model --revision abc123"
