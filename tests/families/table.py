"""The table of docs/models.md: of each family, what its examination finds."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from tests.families.configs import FAMILIES, config_of
from tests.families.experts import (
    adapters_compared,
    compared,
    differing_when_merged,
    folder_with,
    has_experts,
    same_bits,
)
from tunery.errors import InvalidRequest
from tunery.exports import OPTIONS, Format, refuse
from tunery.spec import Lora
from worker.engine.proof.family import examine

TINY = Path(__file__).parents[2] / "models" / "tiny"
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
    """Raises `AssertionError` if experts in 4 bits say anything else than the values they hold, or
    adapters on experts are trained otherwise than by PEFT, or a merged model is another.
    """
    config = config_of(family)
    if not has_experts(config):
        return "all linear layers"
    with TemporaryDirectory() as copies:
        made, read, plain = compared(config, folder_with(TINY, Path(copies)))
    assert same_bits(made, plain), family
    assert same_bits(read, plain), family
    # Where a state runs along the sequence, fp32 alone makes some 5e-5.
    assert max(adapters_compared(config)) < 1e-3, family
    with TemporaryDirectory() as copies:
        assert not differing_when_merged(config, folder_with(TINY, Path(copies))), family
    return "all linear layers and experts"


def exports(model_type: str) -> str:
    whole = "gguf whole" if takes({"format": "gguf", "quantization": "f16"}, model_type) else None
    formats = [each for each in get_args(Format) if takes({"format": each}, model_type)]
    return ", ".join([*formats, *filter(None, [whole])])


def takes(options: dict[str, str], model_type: str) -> bool:
    try:
        refuse(OPTIONS.validate_python(options), architecture=model_type, lora=Lora())
    except InvalidRequest:
        return False
    return True
