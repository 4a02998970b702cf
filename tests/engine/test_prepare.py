"""The plan of a training that goes on."""

from collections.abc import Callable
from typing import Any

import torch

from tests.engine.conftest import PLAN
from worker.engine.base import Base
from worker.engine.data import TokenRow, TokenRows
from worker.engine.prepare import plan_of
from worker.protocol import Train


def test_a_plan_is_kept_while_it_fits_and_the_precision_of_the_base_in_any_case(
    base: Base, make_order: Callable[..., Train], rows: list[dict[str, Any]]
) -> None:
    spec = make_order(rows, quantization="auto").spec
    ids = torch.zeros(9, dtype=torch.int32)
    data = TokenRows("training", 256, rows=[TokenRow(1, ids, torch.ones(9, dtype=torch.bool))])
    for quantization in ("nf4", "none"):
        kept = PLAN.model_copy(
            update={"quantization": quantization, "micro_tokens": 7, "peak_bytes": 1}
        )
        assert plan_of(spec, base.folder, data, kept) == kept
        too_large = kept.model_copy(update={"peak_bytes": 1 << 60})
        plan = plan_of(spec, base.folder, data, too_large)
        assert plan.micro_tokens == 9
        assert plan.quantization == quantization
