"""The plan of a training that goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.engine.conftest import PLAN
from tunery.spec import Lora
from worker.engine.data.reading import TokenRows
from worker.engine.data.rows import Rows, TokenRow
from worker.engine.errors import Untrainable
from worker.engine.model.base import Base
from worker.engine.training.prepare import plan_of
from worker.protocol import Train


def test_a_plan_is_kept_while_it_fits_and_the_precision_of_the_base_in_any_case(
    base: Base, make_order: Callable[..., Train], rows: list[dict[str, Any]]
) -> None:
    spec = make_order(rows, quantization="auto").spec
    ids = torch.zeros(9, dtype=torch.int32)
    data = TokenRows(
        "training", 256, rows=Rows([TokenRow(1, ids, torch.ones(9, dtype=torch.bool))])
    )
    for quantization in ("nf4", "none"):
        kept = PLAN.model_copy(
            update={"quantization": quantization, "micro_tokens": 7, "peak_bytes": 1}
        )
        assert plan_of(spec, base.folder, data, kept) == kept
        too_large = kept.model_copy(update={"peak_bytes": 1 << 60})
        plan = plan_of(spec, base.folder, data, too_large)
        assert plan.micro_tokens == 9
        assert plan.quantization == quantization


def test_layers_that_the_base_does_not_have_are_the_users_to_mend(
    base: Base, make_order: Callable[..., Train], rows: list[dict[str, Any]]
) -> None:
    spec = make_order(rows, lora=Lora(target_modules=("lm_head",))).spec
    data = TokenRows(
        "training", 256, rows=Rows([TokenRow(1, torch.zeros(9), torch.ones(9).bool())])
    )
    with pytest.raises(Untrainable, match="'lm_head', which is no linear layer of the model's"):
        plan_of(spec, base.folder, data, None)
