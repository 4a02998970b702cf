"""`python -m tests.kernels.compiled`: the kernels for GPUs that need not be there, by their compute
capability: bytes of code, and of shared memory for a program.
"""

import json
import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compiled

from worker.engine.kernels.nll_triton import BLOCK, WARPS, of_row

CAPABILITIES = (80, 90, 100)
SIGNATURE = {
    "logits": "*bf16",
    "labels": "*i64",
    "losses": "*fp32",
    "right": "*i1",
    "columns": "i32",
    "with_gradient": "constexpr",
    "block": "constexpr",
}


def main() -> None:
    source = ASTSource(
        fn=of_row, signature=SIGNATURE, constexprs={"with_gradient": True, "block": BLOCK}
    )
    found = {}
    for capability in CAPABILITIES:
        target = GPUTarget("cuda", capability, 32)
        made: Any = compiled(source, target=target, options={"num_warps": WARPS})
        found[capability] = {"code": len(made.asm["cubin"]), "shared": made.metadata.shared}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
