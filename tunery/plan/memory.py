"""How a training fits a device: precision of the base, checkpointing, tokens at a time.

The model counts what our engine keeps: the rows of a micro-batch packed into one sequence with
attention that never crosses them (no mask), adapters applied to activations in the compute dtype,
logits of trained positions alone in chunks whose gradient is taken at once. Its coefficients are
the tensors that PyTorch's autograd saves for such a block; `tests/engine/test_memory.py` holds
them against a real one.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from tunery.fields import Bytes
from tunery.plan.bytes_each import (
    COMPUTE_BYTES,
    DOUBLE_QUANT_BYTES,
    FOUR_BIT_BYTES,
    INT8_BYTES,
    LOSS_BYTES,
    LOSS_POSITIONS,
    NCCL_BYTES,
    ROW_BYTES,
    STATE_BYTES,
    TOKEN_BYTES,
    TRAINED_BYTES,
)
from tunery.plan.families import GELU
from tunery.plan.footprint import Footprint
from tunery.plan.shape import Experts, Shape
from tunery.plan.targets import targeted
from tunery.spec import Frozen, Lora, Optimizer, Quantization, TrainingSpec, since

Compute = Literal["bf16", "fp32"]
Precision = Literal["nf4", "fp4", "int8", "none"]

IN_WORDS = {"nf4": "NF4", "fp4": "FP4", "int8": "int8"}
# A GPU's context, libraries' workspaces and fragments; on a CPU the process itself.
PROCESS_BYTES = {"bf16": 1_200_000_000, "fp32": 600_000_000}

# Of a device's memory what a plan may take.
ADMITTED = 0.9


class Plan(Frozen):
    """How one job is cut to its device; recorded at its first start and kept on resume."""

    quantization: Precision
    """What the base is kept in; "none" is the device's compute dtype."""
    dequantized: bool
    """Whether the quantized values are kept in the compute dtype too, which is faster and gives the
    same numbers.
    """
    checkpointing: bool
    """Whether activations are computed again in the backward pass, which saves memory."""
    micro_tokens: Annotated[int, Field(examples=[4096])]
    """Maximum number of tokens in one packed forward and backward pass."""
    peak_bytes: Annotated[Bytes, Field(examples=[3_221_225_472])]
    """Peak memory that the training is expected to use, in bytes."""
    double_quant: bool = since(default=True)
    """Whether the scales of a base in 4 bits are quantized too."""
    recomputed_layers: Annotated[int | None, Field(ge=1, examples=[12])] = since(default=None)
    """Where activations are computed again: in the first so many layers; null: in all of them."""
    gpus: Annotated[int, Field(ge=1, examples=[2])] = since(1)
    """Number of GPUs that each step is cut for. Memory is that of one of them."""
    divided: bool = since(default=False)
    """Whether the base's layers are divided among those GPUs, which do not hold them whole."""

    def smaller(self, longest: int) -> "Plan | None":
        """After it ran out of memory: half the tokens, but room for the longest row; then with
        checkpointing, in all layers; then nothing.
        """
        if self.micro_tokens > longest:
            return self.model_copy(update={"micro_tokens": max(longest, self.micro_tokens // 2)})
        if self.checkpointing and self.recomputed_layers is None:
            return None
        return self.model_copy(update={"checkpointing": True, "recomputed_layers": None})

    def recomputed(self, layers: int) -> int:
        """How many of so many layers are computed again in the backward pass."""
        if not self.checkpointing:
            return 0
        return layers if self.recomputed_layers is None else min(layers, self.recomputed_layers)

    def in_words(self) -> str:
        base = "unquantized base"
        if self.quantization != "none":
            base = f"base in {IN_WORDS[self.quantization]}"
        if not self.double_quant:
            base += " without double quantization"
        kept = ", kept dequantized" if self.dequantized else ""
        recomputed = ", activations recomputed" if self.checkpointing else ""
        if self.recomputed_layers is not None:
            recomputed = f", activations of the first {self.recomputed_layers} layers recomputed"
        several = f", on {self.gpus} GPUs" if self.gpus > 1 else ""
        several += ", among which the base's layers are divided" if self.divided else ""
        micro = f"micro-batches of up to {self.micro_tokens:,} tokens"
        return f"{base}{kept}, {micro}{recomputed}{several}"


@dataclass(frozen=True)
class Needs:
    """Bytes that a training on this base needs, by its parts. `data` are those of its data sets in
    the machine's memory, which is the device's on a CPU alone. `measured` on the base itself is
    what the formula for its family may not know. `nccl` is what several GPUs need to talk.
    """

    shape: Shape
    compute: Compute
    lora: Lora | None
    double_quant: bool = True
    optimizer: Optimizer = "adamw_torch"
    data: int = 0
    measured: Footprint | None = None
    nccl: int = 0

    @classmethod
    def of(
        cls,
        shape: Shape,
        spec: TrainingSpec,
        compute: Compute,
        data: int = 0,
        measured: Footprint | None = None,
    ) -> Self:
        held = data if compute == "fp32" else 0
        lora, double, optimizer = spec.lora, spec.double_quant, spec.optimizer
        nccl = NCCL_BYTES if spec.gpus > 1 and compute == "bf16" else 0
        return cls(shape, compute, lora, double, optimizer, held, measured, nccl)

    @property
    def r(self) -> int:
        return self.lora.r if self.lora else 0

    @property
    def targets(self) -> tuple[str, ...]:
        """The whole names of the layers with an adapter."""
        return targeted(self.shape, self.lora.target_modules) if self.lora else ()

    @property
    def adapted_experts(self) -> list[Experts]:
        """Those of the shape's that have an adapter."""
        kinds = (
            {name.rpartition(".")[2] for name in self.lora.target_parameters} if self.lora else ()
        )
        gated = {"gate_up_proj" if kind == "up_proj" else kind for kind in kinds}
        return [each for each in self.shape.experts_read if each[0].rpartition(".")[2] in gated]

    def share(self, *layers: str) -> float:
        """Of the blocks, those in which one of these layers has an adapter."""
        shape, targets = self.shape, set(self.targets)
        if shape.layers_read:  # what feeds which is not known
            return 1 if targets else 0
        return (
            sum(
                any(f"{shape.family.blocks}.{block}.{layer}" in targets for layer in layers)
                for block in range(shape.layers)
            )
            / shape.layers
        )

    @property
    def itemsize(self) -> int:
        return COMPUTE_BYTES[self.compute]

    @property
    def norm_bytes(self) -> int:
        """What is saved for one value that a norm reads: itself, and what a trained weight of
        RMSNorm is multiplied with.
        """
        if self.shape.family.norm == "rms":
            return 4 if self.lora else 8
        return self.itemsize

    def base(self, quantization: Precision) -> int:
        """The frozen weights, and room for the largest one that is dequantized: of experts, those
        of all of a layer.
        """
        if self.lora is None:
            return 0
        others = self.shape.parameters - self.shape.quantized_parameters
        dense = max(self.shape.largest_layer, self.shape.largest_experts)
        beside = others + (0 if quantization == "none" else dense)
        return self.layers(quantization) + self.itemsize * beside

    def layers(self, quantization: Precision) -> int:
        """The frozen weights of linear layers and experts."""
        four_bits = DOUBLE_QUANT_BYTES if self.double_quant else FOUR_BIT_BYTES
        each = {"none": self.itemsize, "int8": INT8_BYTES}.get(quantization, four_bits)
        return int(each * self.shape.quantized_parameters)

    @property
    def dequantized_bytes(self) -> int:
        """What `Plan.dequantized` adds."""
        return self.itemsize * self.shape.quantized_parameters

    @property
    def trained(self) -> int:
        """The weights that are trained, in fp32, with their gradients and the optimizer's state."""
        count = self.adapter_parameters if self.lora else self.shape.parameters
        return (TRAINED_BYTES + STATE_BYTES[self.optimizer]) * count

    def cast(self, *, checkpointing: bool) -> int:
        """Weights in fp32 that are computed in bf16: autograd keeps them in that too, of one block
        where activations are recomputed.
        """
        if self.lora or self.compute == "fp32":
            return 0
        blocks = 1 if checkpointing else self.shape.layers
        return self.itemsize * (self.shape.quantized_parameters // self.shape.layers * blocks)

    @property
    def largest_gradient(self) -> int:
        """Where all weights are trained, while it is put together: the head's is a sum over chunks
        of positions, of which the last is there in what it is computed in and in fp32, too.
        """
        if self.lora:
            return 0
        computed = 0 if self.compute == "fp32" else self.itemsize
        head, experts = self.shape.head_parameters, self.shape.largest_experts
        return max((8 + computed) * head, (4 + computed) * experts)

    @cached_property
    def adapter_parameters(self) -> int:
        """Those of LoRA's A (r, inputs) and B (outputs, r), and of both for each expert."""
        sizes = self.shape.linear_layers
        of_experts = sum(
            experts * (inputs + outputs) for _, experts, inputs, outputs in self.adapted_experts
        )
        return self.r * (sum(sum(sizes[name]) for name in self.targets) + of_experts)

    @cached_property
    def block(self) -> int:
        """What autograd saves for one token in one block.

        The norms' inputs, in fp32 if they compute in that; their outputs and the MLP's product,
        where a trained weight is applied to them, and each adapter's A x; queries, keys, values,
        the attention's output and a log-sum per head; what the MLP keeps. With dropout, its masks
        (a byte each on a GPU) and results in place of what the adapters read.
        """
        shape, family = self.shape, self.shape.family
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        norms = shape.hidden if family.parallel else 2 * shape.hidden
        read: float
        if self.lora is None:
            read = norms + shape.inner
        elif family.parallel:
            read = shape.hidden * self.share(*family.attention, *family.mlp)
            read += shape.inner * self.share(family.mlp_out)
        else:
            read = shape.hidden * self.share(*family.attention)
            if not shape.experts_chosen:  # most of what they compute has no adapter
                read += shape.hidden * self.share(*family.mlp)
                read += shape.inner * self.share(family.mlp_out)
        values = read + 2 * queries + 2 * keys + family.mlp_saves * shape.inner
        if len(family.attention) == 1 and not shape.positions:
            values += queries + keys  # the values are a part of what all three were made as
        values += len(self.targets) / shape.layers * self.r
        # What each of its experts says of a token, which is multiplied by a weight.
        values += shape.experts_chosen * shape.hidden
        for _, _, width, _ in self.adapted_experts:  # what each adapter reads
            values += shape.experts_chosen * (width + self.r) / shape.layers
        if shape.architecture == "qwen3" or shape.layers_read:  # queries and keys have norms too
            norms += queries + keys
        saved = self.itemsize * values + self.norm_bytes * norms + 4 * shape.heads
        if self.lora and self.lora.dropout:
            sizes = shape.linear_layers
            inputs = sum(sizes[name][0] for name in self.targets) / shape.layers
            mask = 1 if self.compute == "bf16" else self.itemsize
            saved += (self.itemsize + mask) * inputs
            saved -= self.itemsize * read
        return round(saved)

    def saved(self, *, checkpointing: bool) -> int:
        """What autograd saves for one token, up to the last norm."""
        shape = self.shape
        if checkpointing:
            return self.itemsize * (shape.layers + 1) * shape.hidden
        return shape.layers * self.block + self.norm_bytes * shape.hidden

    def per_token(self, *, checkpointing: bool) -> int:
        """`saved`, the block that is recomputed, and the gradients that live beside it; or what was
        measured of the usual adapters, and by how much the formula has it otherwise for these.
        """
        shape = self.shape
        recomputed = self.block if checkpointing else 0
        ups = 1 if shape.family.mlp_saves == GELU else 2
        norms = 3 if shape.family.norm == "rms" else 2
        hidden = norms + 2 * shape.experts_chosen
        gradients = self.itemsize * (ups * shape.inner + hidden * shape.hidden)
        counted = self.saved(checkpointing=checkpointing) + recomputed + gradients
        if self.measured is None:
            return counted
        usual = replace(self, lora=Lora(), measured=None).per_token(checkpointing=checkpointing)
        return max(1, self.measured.held(checkpointing=checkpointing).token + counted - usual)

    def loss(self, micro_tokens: int) -> int:
        each = max(LOSS_BYTES * self.shape.vocab, self.measured.logits if self.measured else 0)
        return each * min(micro_tokens, LOSS_POSITIONS)

    def scores(self, longest: int, micro_tokens: int, *, checkpointing: bool) -> int:
        """Those that attention has to keep, in some families."""
        if self.measured is None:
            return 0
        return self.measured.scores(longest, micro_tokens, checkpointing=checkpointing)

    def peak(
        self,
        quantization: Precision,
        *,
        micro_tokens: int,
        checkpointing: bool = False,
        recomputed_layers: int | None = None,
        longest: int = 0,
    ) -> int:
        """At most so many tokens at once, in rows of at most `longest`."""
        if checkpointing and recomputed_layers is not None:
            least, more = self.least_and_more(quantization, micro_tokens, longest)
            kept = self.shape.layers - recomputed_layers
            return least + more * max(0, kept - 1) // max(1, self.shape.layers - 1)
        return (
            PROCESS_BYTES[self.compute]
            + self.nccl
            + self.data
            + self.base(quantization)
            + self.trained
            + self.cast(checkpointing=checkpointing)
            + self.largest_gradient
            + self.loss(micro_tokens)
            + micro_tokens * self.per_token(checkpointing=checkpointing)
            + self.scores(longest, micro_tokens, checkpointing=checkpointing)
        )

    def fewest_recomputed(
        self, quantization: Precision, memory: int, *, micro_tokens: int, longest: int
    ) -> int:
        """Of how many layers activations are recomputed, so that as many as `memory` has room for
        keep theirs. With all of them recomputed there is room.
        """
        least, more = self.least_and_more(quantization, micro_tokens, longest)
        others = self.shape.layers - 1
        return max(1, others - (memory - least) * others // more)

    def least_and_more(
        self, quantization: Precision, micro_tokens: int, longest: int
    ) -> tuple[int, int]:
        """The peak with activations recomputed in all layers, and what it takes more to keep them
        in all. Of what lies between them each layer takes the same part, but for the last: its
        activations are there either way when the backward pass begins.
        """
        recomputed, kept = (
            self.peak(
                quantization,
                micro_tokens=micro_tokens,
                checkpointing=checkpointing,
                longest=longest,
            )
            for checkpointing in (True, False)
        )
        return recomputed, max(1, kept - recomputed)

    def least(self, quantization: Quantization, longest: int) -> int:
        """The peak of the plan that needs least: row by row, with checkpointing, and in NF4 unless
        another precision is named. A device holds it if it is at most `ADMITTED` of its memory.
        """
        precision = least_precision(quantization)
        return self.peak(precision, checkpointing=True, micro_tokens=longest, longest=longest)

    def most_tokens(
        self, quantization: Precision, memory: int, *, checkpointing: bool, longest: int = 0
    ) -> int:
        """The largest micro-batch, in rows of at most `longest` tokens, whose peak is within
        `memory`; 0 if there is none.
        """
        fixed = self.peak(
            quantization, micro_tokens=0, checkpointing=checkpointing, longest=longest
        )
        left, token = memory - fixed, self.per_token(checkpointing=checkpointing)
        one, none = (self.scores(longest, n, checkpointing=checkpointing) for n in (1, 0))
        token += one - none
        with_whole_chunk = (left - self.loss(LOSS_POSITIONS)) // token
        if with_whole_chunk >= LOSS_POSITIONS:
            return with_whole_chunk
        return max(0, min(LOSS_POSITIONS, left // (token + self.loss(1))))


def data_bytes(rows: int, tokens: int) -> int:
    """What a data set takes of the machine's memory, about."""
    return ROW_BYTES * rows + TOKEN_BYTES * tokens


def least_precision(quantization: Quantization) -> Precision:
    return "nf4" if quantization == "auto" else quantization


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
