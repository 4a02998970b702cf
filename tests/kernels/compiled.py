"""`python -m tests.kernels.compiled`: the kernels for GPUs that need not be there, by their compute
capability: each kernel's bytes of code, and of shared memory for a program.
"""

import json
import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compiled

from worker.engine.kernels import nll_triton, rms_norm_triton, rotary_triton, swiglu_triton

CAPABILITIES = (80, 90, 100)
# What is no tensor in bf16: numbers, tensors of other types, and what is known when it is compiled.
SPECIAL = {
    "labels": "*i64",
    "losses": "*fp32",
    "right": "*i1",
    "columns": "i32",
    "width": "i32",
    "count": "i32",
    "tokens": "i32",
    "heads": "i32",
    **dict.fromkeys(("x_row", "x_head", "x_token"), "i32"),
    **dict.fromkeys(("out_row", "out_head", "out_token", "cos_row", "cos_token"), "i32"),
}
# Of heads that are 128 wide, as most are, and the widest that flash attention takes.
ROTATED = [
    {"half": half, "block": half, "head_block": rotary_triton.MOST_PAIRS // half}
    for half in (64, 128)
]
KERNELS: tuple[tuple[Any, int, dict[str, Any]], ...] = (
    (nll_triton.of_row, nll_triton.WARPS, {"with_gradient": True, "block": nll_triton.BLOCK}),
    (rms_norm_triton.forward_of_row, 16, {"epsilon": 1e-6, "block": 8192}),
    (rms_norm_triton.backward_of_row, 16, {"epsilon": 1e-6, "block": 8192}),
    (swiglu_triton.forward_of_block, swiglu_triton.WARPS, {"block": swiglu_triton.BLOCK}),
    (swiglu_triton.backward_of_block, swiglu_triton.WARPS, {"block": swiglu_triton.BLOCK}),
    *(
        (rotary_triton.of_token, rotary_triton.WARPS, sizes | {"back": back})
        for sizes in ROTATED
        for back in (False, True)
    ),
)


def main() -> None:
    found = []
    for capability in CAPABILITIES:
        for kernel, warps, known in KERNELS:
            signature = {
                name: "constexpr" if name in known else SPECIAL.get(name, "*bf16")
                for name in kernel.arg_names
            }
            source = ASTSource(fn=kernel, signature=signature, constexprs=known)
            target = GPUTarget("cuda", capability, 32)
            made: Any = compiled(source, target=target, options={"num_warps": warps})
            code = len(made.asm["cubin"])
            found.append([kernel.__name__, capability, code, made.metadata.shared])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
