"""The adapter as PEFT and vLLM load it, from any checkpoint's files."""

import shutil
from pathlib import Path

from tunery.exports import vllm_faults
from worker.engine.model.base import BaseFolder, auto_class
from worker.engine.results.card import how_to_serve, load_adapter, same_base
from worker.engine.results.export import TOKENIZER_FILES, lay_template
from worker.engine.results.exports import card
from worker.engine.results.exports.adapter import Adapter
from worker.engine.sealed import sealed
from worker.engine.training.weights import ADAPTER, ADAPTER_CONFIG
from worker.protocol import Export


def make(order: Export, adapter: Adapter, base: BaseFolder, note: card.Note) -> Path:
    """Raises `DiskFull`: see `sealed`."""
    folder = order.folder / "adapter"
    architecture = base.shape.architecture
    with sealed(folder, "export", card.about(order, adapter)) as partial:
        for name in (ADAPTER, ADAPTER_CONFIG):
            shutil.copyfile(adapter.folder / name, partial / name)
        for name in TOKENIZER_FILES:
            if (base.path / name).exists():
                shutil.copyfile(base.path / name, partial / name)
        lay_template(order.spec, partial)
        (partial / "README.md").write_text(readme(order, adapter, base))
    if faults := vllm_faults(adapter.config, adapter.layers, architecture=architecture):
        note(" ".join(faults), "warn", {"vllm": faults})
    return folder


def readme(order: Export, adapter: Adapter, base: BaseFolder) -> str:
    spec, architecture = order.spec, base.shape.architecture
    return f"""{card.front_matter(order, architecture, library="peft", relation="adapter")}

# A LoRA adapter for {spec.base_model}

{card.table(order)}

`manifest.json` has the full settings and the sha256 of each file.

## Load it

```python
{load_adapter(card.plan_of(order), spec, auto_class(architecture).__name__)}
```

{same_base(card.plan_of(order), experts=bool(base.shape.experts_read))}

## Serve it

{how_to_serve(spec, adapter.config, adapter.layers, architecture)}
"""
