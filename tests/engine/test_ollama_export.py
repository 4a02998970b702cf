"""The folder for `ollama create`."""

import re
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import TINY
from tests.engine.exporting import export_order, exported, random_adapter
from tunery.data.ollama import pieces_of
from tunery.data.template import ChatTokenizer
from tunery.exports import Gguf, Ollama
from worker.engine.errors import Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.sealed import broken_seal


def test_it_has_the_adapter_the_template_and_the_stop_tokens(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY)
    folder, _ = exported(export_order(TINY, adapter, Ollama(), tmp_path / "ollama", cache), bases)
    gguf, _ = exported(export_order(TINY, adapter, Gguf(), tmp_path / "gguf", cache), bases)
    assert broken_seal(folder) is None
    assert (folder / "adapter.gguf").read_bytes() == (gguf / "adapter.gguf").read_bytes()
    modelfile = (folder / "Modelfile").read_text()
    (template,) = re.findall(r'^TEMPLATE """(.*)"""$', modelfile, re.MULTILINE)
    assert template == pieces_of(ChatTokenizer(TINY)).template()
    assert re.findall(r"^PARAMETER stop (.*)$", modelfile, re.MULTILINE) == [
        '"<|im_end|>"',
        '"<|end_of_text|>"',
    ]
    assert "\nFROM ./base.gguf\nADAPTER ./adapter.gguf\n" in modelfile


def test_a_template_that_ollama_has_no_words_for_is_refused(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").write_text(
        template.replace("message['content']", "message['content'] | upper")
    )
    adapter = random_adapter(tmp_path / "adapter", base)
    order = export_order(base, adapter, Ollama(), tmp_path / "out", cache)
    with pytest.raises(Untrainable, match="cannot be said in Ollama's words: it does not write"):
        exported(order, bases)
    assert not list(order.folder.iterdir())
