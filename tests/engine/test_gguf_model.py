"""The whole model in GGUF, loaded by llama.cpp itself."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, TokenType
from torch import Tensor

from tests.engine.conftest import ON_CPU, TINY
from tests.engine.exporting import export_order, exported, random_adapter
from tunery.exports import Gguf, Ollama
from worker.engine.errors import StopAsked, Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.results import exports
from worker.engine.results.exports import gguf_model, gguf_tokenizer
from worker.engine.results.exports.gguf_families import laid
from worker.engine.results.exports.gguf_tokenizer import tokens_of
from worker.engine.results.exports.llama_cpp import Loaded, loaded
from worker.engine.sealed import broken_seal

Rows = list[dict[str, Any]]
DEMO = TINY.parent / "demo"
PIRATE = TINY.parents[1] / "examples" / "pirate.train.jsonl"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return random_adapter(tmp_path / "adapter", TINY)


def test_one_file_says_what_was_trained(
    bases: WarmBase, cache: Path, tmp_path: Path, rows: Rows, adapter: Path
) -> None:
    options = Gguf(quantization="f16")
    folder, (note,) = exported(
        export_order(TINY, adapter, options, tmp_path / "out", cache, rows=rows), bases
    )
    assert broken_seal(folder) is None
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "README.md", "model.gguf"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["export"] == {"format": "gguf", "quantization": "f16"}
    drift = manifest["drift"]
    assert note.data == {"drift": drift}
    assert drift["tokens"] > 20
    assert drift["top1_agreement"] >= 0.9
    assert drift["divergence"] < (1e-3 if ON_CPU else 0.02)
    assert "llama-server -m model.gguf" in (folder / "README.md").read_text()
    assert bases.base is None

    fields = {
        name: field.contents() for name, field in GGUFReader(folder / "model.gguf").fields.items()
    }
    template = (TINY / "chat_template.jinja").read_text()
    assert fields["tokenizer.chat_template"] == template
    assert fields["general.architecture"] == "llama"
    assert fields["general.base_model.0.name"] == "tunery/tiny"
    with loaded(folder / "model.gguf") as llama:
        guessed = llama.guess([0, 2, 9, 11, 12])
    base, _ = exported(
        export_order(
            TINY, random_adapter(tmp_path / "none", TINY, scale=0), options, tmp_path / "b", cache
        ),
        bases,
    )
    with loaded(base / "model.gguf") as llama:
        untrained = llama.guess([0, 2, 9, 11, 12])
    assert max(guessed, key=guessed.__getitem__) != max(untrained, key=untrained.__getitem__)


def test_ollama_gets_the_model_and_no_adapter(
    bases: WarmBase, cache: Path, tmp_path: Path, adapter: Path
) -> None:
    # Its rows are no multiple of 256.
    options = Ollama(quantization="q4_k_m")
    folder, _ = exported(export_order(TINY, adapter, options, tmp_path / "out", cache), bases)
    modelfile = (folder / "Modelfile").read_text()
    assert modelfile.startswith('FROM ./model.gguf\nTEMPLATE """')
    assert "ADAPTER" not in modelfile
    assert re.findall(r"^PARAMETER stop (.*)$", modelfile, re.MULTILINE)[0] == '"<|im_end|>"'
    assert "ollama create tuned -f Modelfile" in (folder / "README.md").read_text()
    with loaded(folder / "model.gguf") as llama:
        assert len(llama.guess([0, 2, 9])) == 20


def test_llama_cpp_can_be_let_go_of_at_once(
    bases: WarmBase, cache: Path, tmp_path: Path, adapter: Path
) -> None:
    order = export_order(TINY, adapter, Gguf(quantization="f16"), tmp_path / "out", cache)
    folder, _ = exported(order, bases)
    for _ in range(20):
        with loaded(folder / "model.gguf"):
            pass


def test_a_file_that_llama_cpp_understands_otherwise_is_not_published(
    bases: WarmBase,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A model that has learned something: in the other, places do not matter.
    adapter = random_adapter(tmp_path / "adapter", DEMO, scale=0.02)
    options = Gguf(quantization="q4_0")
    with PIRATE.open() as file:
        rows = [json.loads(line) for line, _ in zip(file, range(8), strict=False)]
    order = export_order(DEMO, adapter, options, tmp_path / "out", cache, rows=rows)

    def unturned(name: str, weight: Tensor, config: object) -> Tensor:
        return weight if "q_proj" in name else laid(name, weight, config)

    def without_control(file: dict[str, Any]) -> list[tuple[int, tuple[str, TokenType]]]:
        return [(number, (text, TokenType.NORMAL)) for number, (text, _) in tokens_of(file)]

    with monkeypatch.context() as patched:
        patched.setattr(gguf_model, "laid", unturned)
        with pytest.raises(Untrainable, match="does not say the same with the file"):
            exported(order, bases)
    with monkeypatch.context() as patched:
        patched.setattr(gguf_tokenizer, "tokens_of", without_control)
        with pytest.raises(Untrainable, match="reads texts as other tokens"):
            exported(order, bases)
    with monkeypatch.context() as patched:
        patched.setitem(gguf_tokenizer.CUTS, r"\d", "nobody's")
        with pytest.raises(Untrainable, match=r"llama.cpp does not load what was written"):
            exported(order, bases)
    monkeypatch.delitem(gguf_tokenizer.CUTS, r"\d")
    with pytest.raises(Untrainable, match="no name for the way that this tokenizer cuts a text"):
        exported(order, bases)
    assert not list(order.folder.iterdir())


def test_what_f16_cannot_hold_is_refused(bases: WarmBase, cache: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY, scale=1e5)
    order = export_order(TINY, adapter, Gguf(quantization="f16"), tmp_path / "out", cache)
    with pytest.raises(Untrainable, match=r"weights over 65504.*quantization q8_0"):
        exported(order, bases)


@pytest.mark.parametrize("while_it", ["is written", "is compared"])
def test_it_stops_when_it_is_asked_to(
    bases: WarmBase,
    cache: Path,
    tmp_path: Path,
    adapter: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    while_it: str,
) -> None:
    options = Gguf(quantization="q8_0")
    order = export_order(TINY, adapter, options, tmp_path / "out", cache, rows=rows)
    guess, guessed = Loaded.guess, list[Sequence[int]]()

    def noted(llama: Loaded, ids: Sequence[int]) -> dict[int, float]:
        guessed.append(ids)
        return guess(llama, ids)

    monkeypatch.setattr(Loaded, "guess", noted)

    def stop() -> None:
        written = list(order.folder.glob(".gguf/model.gguf"))
        if guessed or (written and while_it == "is written"):
            raise StopAsked(checkpoint=False)

    with pytest.raises(StopAsked):
        exports.make(order, bases, lambda _: None, stop)
    assert len(guessed) == (while_it == "is compared")
    assert not list(order.folder.iterdir())
