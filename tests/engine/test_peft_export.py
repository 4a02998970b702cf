"""The adapter as PEFT and vLLM load it."""

import json
from pathlib import Path

from tests.engine.conftest import TINY
from tests.engine.exporting import export_order, exported, random_adapter
from tunery.exports import Peft
from worker.engine.model.base import WarmBase
from worker.engine.sealed import broken_seal


def test_it_has_the_checkpoints_weights_what_they_need_and_the_line_that_serves_it(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY, r=9)
    folder, said = exported(export_order(TINY, adapter, Peft(), tmp_path / "out", cache), bases)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (adapter / name).read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (TINY / name).read_bytes()
    assert broken_seal(folder) is None
    card = (folder / "README.md").read_text()
    assert (
        "vllm serve tunery/tiny --revision r1 --enable-lora --max-lora-rank 16 --lora-modules"
        in card
    )
    assert 'bnb_4bit_quant_type="nf4"' in card
    assert not said


def test_what_vllm_would_not_take_is_said(bases: WarmBase, cache: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": ["norm"]}))
    folder, (note,) = exported(export_order(TINY, adapter, Peft(), tmp_path / "out", cache), bases)
    assert note.level == "warn"
    assert "vLLM does not take layers trained whole (modules_to_save)." in note.message
    card = (folder / "README.md").read_text()
    assert note.message in card
    assert "vllm serve" not in card
