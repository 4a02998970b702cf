"""Jobs on the tiny base, as in tests/engine."""

from tests.engine.conftest import (
    base,
    bases,
    cache,
    every_step_is_read_at_once,
    make_order,
    rows,
    run,
)

__all__ = ["base", "bases", "cache", "every_step_is_read_at_once", "make_order", "rows", "run"]
