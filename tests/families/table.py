"""The table of docs/models.md: of each family, what its examination finds."""

from tests.families.configs import FAMILIES, config_of
from tunery.exports import GGUF_ARCHITECTURES
from tunery.plan.shape import ENCODERS
from worker.engine.proof.family import examine, tiny
from worker.engine.proof.shrunk import shrunk

HEAD = """\
| Family | `model_type` | Its rows are computed | In 4 bits | Exports |
|---|---|---|---|---|
"""


def row_of(family: str) -> str:
    model_type = FAMILIES[family][0]
    cells = [family, f"`{model_type}`", ways_of(family), in_four_bits(family), exports(model_type)]
    return f"| {' | '.join(cells)} |"


def ways_of(family: str) -> str:
    verdict = examine(config_of(family))
    apart = f"; apart in `{'`, `'.join(verdict.mixers)}`" if verdict.mixers else ""
    return verdict.way + apart


def in_four_bits(family: str) -> str:
    names = tiny(shrunk(config_of(family)), None).named_parameters()
    stacked = any(weight.dim() == 3 and "experts" in name for name, weight in names)
    return "all but the experts" if stacked else "all linear layers"


def exports(model_type: str) -> str:
    if model_type in GGUF_ARCHITECTURES:
        return "peft, merged, gguf, ollama"
    return "peft" if model_type in ENCODERS else "peft, merged"
