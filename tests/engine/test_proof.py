"""Families of models that nothing here names: how each is found to be trained, and that it is."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING

from tests.engine.conftest import ON_CPU, Run, on_base
from tests.engine.exporting import export_order, exported
from tests.families.configs import FAMILIES, config_of
from tests.families.table import ways_of
from tunery.base_model import describe, of_text, shape_of
from tunery.exports import Merged
from tunery.messages import BASE_BROKEN
from tunery.plan.targets import targeted
from tunery.spec import Lora
from tunery.states import FailureClass
from tunery.weights import shapes_in
from worker.engine.child import in_words
from worker.engine.errors import BaseRefused, Unsupported
from worker.engine.model import head, visible
from worker.engine.model.attention import attention
from worker.engine.model.base import WarmBase, auto_class, read_folder
from worker.engine.model.documents import Documents, packed_as
from worker.engine.proof import family as family_proof
from worker.engine.proof.family import examine, lively, verdict_on
from worker.engine.proof.shrunk import shrunk
from worker.engine.results.exports.drift import few_rows
from worker.engine.training.slot import as_named, linear_layers, lora_config, with_adapter
from worker.protocol import Finished, Stepped, Train

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
TABLE = re.findall(r"^\| (.+?) \| `(?!model_type).+?` \| (.+?) \|", PAGE, flags=re.MULTILINE)

# Of windows, soft caps, sinks, scaled logits, layers that drop keywords, latent attention, a head
# of several layers, a model for images around it.
IN_SPITE = {
    "Gemma 2",
    "gpt-oss",
    "Command R",
    "StableLM 2",
    "DeepSeek V3",
    "ModernBERT",
    "Mistral Small 3",
}


def test_the_small_model_has_all_kinds_of_layers() -> None:
    """Jamba's attention comes in each eighth layer, Gemma 4's wider heads in each sixth."""
    jamba, gemma = (
        auto_class(name).from_config(shrunk(CONFIG_MAPPING[name]()))  # type: ignore[no-untyped-call]
        for name in ("jamba", "gemma4_text")
    )
    kinds = {type(module).__name__ for module in jamba.modules()}
    assert {"JambaAttention", "JambaMambaMixer", "JambaSparseMoeBlock", "JambaMLP"} <= kinds
    layers = gemma.model.layers
    assert {layer.self_attn.o_proj.in_features for layer in layers} == {64, 128}


@pytest.mark.parametrize(
    "family",
    [
        "BLOOM",
        "Llama 4 (with images)",
        "Mistral Small 3",
        "Qwen 2.5 VL",
        "Qwen 3.5 (with images)",
    ],
)
def test_an_expression_is_matched_before_a_job_by_the_names_that_peft_knows(
    family: str, tmp_path: Path
) -> None:
    """Whatever the files call them; some have the body alone."""
    model = family_proof.tiny(shrunk(config_of(family)), None)
    model.save_pretrained(tmp_path)
    read = of_text(json.loads((tmp_path / "config.json").read_text()))
    shapes, layers = shapes_in(tmp_path), linear_layers(model)
    bare = {re.sub(r"^transformer\.", "", name): shape for name, shape in shapes.items()}
    for written in (shapes, bare):
        shape = shape_of(read | {"max_position_embeddings": 512}, written)
        for name in layers:
            assert targeted(shape, re.escape(name)) == (name,)


@pytest.mark.long
@pytest.mark.skipif(not ON_CPU, reason="the table is that of a CPU")
def test_each_family_is_trained_as_the_table_says() -> None:
    """All that are not simply packed, and those that are in spite of something; `make families`
    examines the rest too, such as models for images around one of these.
    """
    table = dict(TABLE)
    assert table.keys() == FAMILIES.keys()
    special = [family for family in FAMILIES if table[family] != "packed" or family in IN_SPITE]
    chosen = [family for family in special if not family.endswith("(with images)")]
    assert {family: ways_of(family) for family in chosen} == {name: table[name] for name in chosen}


def test_attention_refuses_what_it_does_not_know() -> None:
    states = torch.zeros(1, 2, 3, 4)
    whole = Documents((3,), torch.tensor([0, 3]))
    with packed_as(whole), pytest.raises(Unsupported, match="asks for dropout, tau"):
        attention(torch.nn.Module(), states, states, states, None, dropout=0.1, tau=2)
    with packed_as(Documents((2,), torch.tensor([0, 2]))), pytest.raises(Unsupported, match="in a"):
        attention(torch.nn.Module(), states, states, states, None)
    with pytest.raises(Unsupported, match="that of a pack"):
        attention(torch.nn.Module(), states, states, states, visible.Visible.causal())


def test_a_family_that_cannot_be_trained_is_refused_with_each_reason(
    make_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = read_folder(make_folder("OLMo 2"), "r1", tmp_path)
    monkeypatch.setattr(head.Head, "is_asked", lambda _: False)
    refused = (
        r"type 'olmo2' cannot be trained here: no way .*\(packed: its head .*; row by row: its"
    )
    with pytest.raises(BaseRefused, match=refused) as told:
        verdict_on(folder)
    failure_class, code, _ = in_words(told.value, "base")
    assert (failure_class, code) == (FailureClass.BASE, BASE_BROKEN), "no other job starts from it"


@pytest.mark.parametrize("at", ["lively", "proven"])
def test_a_machine_whose_memory_is_full_refuses_no_family(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(family_proof, at, fill)
    with pytest.raises(torch.OutOfMemoryError):
        examine(config_of("Llama 2, Llama 3"))


def test_a_family_of_which_no_small_model_can_be_made_is_refused() -> None:
    """Its config checks sizes against each other."""
    with pytest.raises(Unsupported, match=r"a small one of it cannot be computed: .*num_heads"):
        examine(CONFIG_MAPPING["mamba2"]())


def test_a_list_of_layers_leaves_what_sees_images_alone() -> None:
    model = lively(shrunk(config_of("Gemma 3 (with images)")))
    config = lora_config(model, Lora(target_modules=("q_proj", "v_proj")))
    adapted = [name for name, _ in with_adapter(model, config).named_parameters() if "lora" in name]
    assert len(adapted) == 2 * 2 * 4  # A and B of both, in each layer
    assert all("language_model" in name for name in adapted)


@pytest.fixture
def make_folder(tmp_path: Path, tiny: Path) -> Callable[[str], Path]:
    """A small model of a family, with the tiny model's tokenizer."""

    def make(family: str) -> Path:
        folder = Path(shutil.copytree(tiny, tmp_path / "base"))
        config = shrunk(config_of(family))
        for each in (config, config.get_text_config()):
            each.vocab_size = each.vocab_size_per_layer_input = 1024
            each.pad_token_id, each.bos_token_id, each.eos_token_id = 4, 0, 1
        lively(config).save_pretrained(folder)
        return folder

    return make


def in_block(name: str) -> str:
    return name[name.index("layers.") :]


@pytest.mark.parametrize(
    "family",
    [
        "Gemma 2",  # a window, soft caps
        "gpt-oss",  # experts, sinks
        "Phi 3.5, Phi 4 mini (long context)",  # row by row
        "Llama 4 (text)",  # padded
        "Gemma 3 (with images)",
        "Qwen 3.5 (with images)",  # recurrent layers
    ],
)
def test_a_job_on_an_unnamed_family_publishes_what_plain_peft_computes_and_is_merged(
    make_folder: Callable[[str], Path],
    make_order: Callable[..., Train],
    run: Run,
    rows: list[dict[str, Any]],
    bases: WarmBase,
    tmp_path: Path,
    family: str,
) -> None:
    folder = make_folder(family)
    settings = {"quantization": "none", "n_epochs": 1, "learning_rate": 1e-3}
    order = on_base(make_order(rows, valid=rows[:4], **settings), folder)
    reports = run(order)
    last, steps = reports[-1], [line for line in reports if isinstance(line, Stepped)]
    assert isinstance(last, Finished)

    shape = describe(folder, id_="m").shape
    assert shape
    auto = auto_class(shape.architecture)
    model: Any = auto.from_pretrained(folder, dtype=torch.float32)
    # Files name what is before a block otherwise than modules do in models for images too.
    assert {(in_block(name), *sizes) for name, sizes in shape.linear_layers.items()} == {
        (in_block(name), *reversed(model.get_submodule(name).weight.shape))
        for name in linear_layers(model)
    }
    with as_named():
        tuned = PeftModel.from_pretrained(model, str(last.folder)).eval()
    nll, tokens = 0.0, 0
    assert order.validation_file
    for row in few_rows(order.validation_file, order.spec, read_folder(folder, "r1", order.cache)):
        ids = row.ids.long()[None]
        trained = row.trained.nonzero()[:, 0]
        with torch.no_grad():
            logits = tuned(input_ids=ids, use_cache=False).logits[0, trained - 1].float()
        nll += cross_entropy(logits, ids[0, trained], reduction="sum").item()
        tokens += len(trained)
    merged, (note,) = exported(
        export_order(
            folder, last.folder, Merged(dtype="fp32"), tmp_path / "out", order.cache, rows=rows
        ),
        bases,
    )
    assert (merged / "config.json").exists()
    assert note.data
    assert note.data["drift"]["max_logit_difference"] < (1e-2 if ON_CPU else 0.1)
    published = steps[-1].metrics.valid_loss
    assert published == pytest.approx(nll / tokens, rel=1e-4 if ON_CPU else 2e-2)
