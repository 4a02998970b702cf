"""A folder for `ollama create`: the whole model or the adapter in GGUF, and a Modelfile with the
chat template and the stop tokens that it was trained with.
"""

import json
from collections.abc import Callable
from pathlib import Path

from tunery.data.ollama import NotInOllamasWords, Pieces, pieces_of, stops_of
from tunery.exports import Ollama
from tunery.messages import Phase
from worker.engine.errors import Untrainable
from worker.engine.model.base import BaseFolder, WarmBase
from worker.engine.results.exports import card, gguf, gguf_model
from worker.engine.results.exports.adapter import Adapter
from worker.engine.sealed import sealed
from worker.protocol import Export

MODELFILE = "Modelfile"
BASE = "base.gguf"


def make(order: Export, options: Ollama, adapter: Adapter, base: BaseFolder) -> Path:
    """Raises:
    Untrainable: Ollama has no words for the base's chat template; or as `gguf.write`.
    DiskFull: see `sealed`.

    """
    pieces = pieces_for(order, base)
    folder = order.folder / "ollama"
    with sealed(folder, "export", card.about(order, adapter)) as partial:
        model = order.spec.base_model
        gguf.write(partial / gguf.FILE, adapter, base.shape, model, options.dtype or "f32")
        begin = f"""# {BASE} is {model} in GGUF, by llama.cpp's convert_hf_to_gguf.py;
# or name the tag of that very model: FROM llama3.1:8b-instruct-fp16
FROM ./{BASE}
ADAPTER ./{gguf.FILE}"""
        (partial / MODELFILE).write_text(modelfile(begin, base, pieces))
        (partial / "README.md").write_text(readme(order, options, base.shape.architecture))
    return folder


def make_whole(
    order: Export,
    options: Ollama,
    adapter: Adapter,
    opened: BaseFolder,
    bases: WarmBase,
    note: card.Note,
    enter: Callable[[Phase], None],
    stop_if_asked: Callable[[], None],
) -> Path:
    """Raises as `make` and `gguf_model.write`."""
    assert options.quantization  # noqa: S101  (as it is called)
    pieces = pieces_for(order, opened)
    about = card.about(order, adapter)
    folder = order.folder / "ollama"
    with sealed(folder, "export", about) as partial:
        words = gguf_model.write(
            partial / gguf_model.FILE,
            order,
            options.quantization,
            adapter,
            opened,
            bases,
            about,
            enter,
            stop_if_asked,
        )
        begin = f"FROM ./{gguf_model.FILE}"
        (partial / MODELFILE).write_text(modelfile(begin, opened, pieces))
        text = gguf_model.readme(order, options, opened.shape.architecture, words)
        (partial / "README.md").write_text(text)
    gguf_model.tell(about, words, note)
    return folder


def pieces_for(order: Export, base: BaseFolder) -> Pieces | None:
    """Of the base's chat template; None without one. Raises `Untrainable`: see `make`."""
    try:
        return pieces_of(base.tokenizer) if base.tokenizer.template else None
    except NotInOllamasWords as error:
        raise Untrainable(
            "export_refused",
            f"The chat template of {order.spec.base_model} cannot be said in Ollama's words: "
            f"{error}. Export it as gguf, and write the Modelfile yourself.",
        ) from error


def modelfile(begin: str, base: BaseFolder, pieces: Pieces | None) -> str:
    """Without `pieces` a model without a chat template, which goes on with the prompt."""
    template = pieces.template() if pieces else "{{ .Prompt }}"
    # A stop is in double quotes, in which a backslash stands for itself.
    stops = [stop for stop in stops_of(base.tokenizer, pieces) if '"' not in stop]
    lines = [f'PARAMETER stop "{stop}"' for stop in stops]
    return f"""{begin}
TEMPLATE \"\"\"{template}\"\"\"
{chr(10).join(lines)}
"""


def readme(order: Export, options: Ollama, architecture: str) -> str:
    base = order.spec.base_model
    return f"""{card.front_matter(order, architecture, library="gguf", relation="adapter")}

# A LoRA adapter for {base}, for Ollama

{card.table(order)}

`{gguf.FILE}` holds it in {options.dtype}, `{MODELFILE}` the chat template and the stop tokens that
it was trained with. Put {json.dumps(base)} in GGUF beside them as `{BASE}`, or name its tag in
`{MODELFILE}`:

```sh
ollama create tuned -f {MODELFILE}
```

{card.served_on(order)} `manifest.json` has the sha256 of each file.
"""
