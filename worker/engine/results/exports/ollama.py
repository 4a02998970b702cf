"""A folder for `ollama create`: the adapter in GGUF, and a Modelfile with the chat template and the
stop tokens that it was trained with.
"""

import json
from pathlib import Path

from tunery.data.ollama import NotInOllamasWords, Pieces, pieces_of, stops_of
from tunery.exports import Ollama
from worker.engine.errors import Untrainable
from worker.engine.model.base import BaseFolder
from worker.engine.results.exports import card, gguf
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
    try:
        pieces = pieces_of(base.tokenizer) if base.tokenizer.template else None
    except NotInOllamasWords as error:
        raise Untrainable(
            "export_refused",
            f"The chat template of {order.spec.base_model} cannot be said in Ollama's words: "
            f"{error}. Export the adapter as gguf, and write the Modelfile yourself.",
        ) from error
    folder = order.folder / "ollama"
    with sealed(folder, "export", card.about(order, adapter)) as partial:
        model = order.spec.base_model
        gguf.write(partial / gguf.FILE, adapter, base.shape, model, options.dtype)
        (partial / MODELFILE).write_text(modelfile(model, pieces, stops_of(base.tokenizer, pieces)))
        (partial / "README.md").write_text(readme(order, options, base.shape.architecture))
    return folder


def modelfile(base_model: str, pieces: Pieces | None, stops: list[str]) -> str:
    """Without `pieces` a model without a chat template, which goes on with the prompt."""
    template = pieces.template() if pieces else "{{ .Prompt }}"
    # A stop is in double quotes, in which a backslash stands for itself.
    lines = [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop]
    return f"""# {BASE} is {base_model} in GGUF, by llama.cpp's convert_hf_to_gguf.py;
# or name the tag of that very model: FROM llama3.1:8b-instruct-fp16
FROM ./{BASE}
ADAPTER ./{gguf.FILE}
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
