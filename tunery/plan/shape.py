"""The dimensions of a base model, which its memory and time follow from."""

from typing import Annotated, Literal

from pydantic import Field

from tunery.spec import Frozen

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
# Those that read a text in both directions: they are trained on masked tokens.
ENCODERS: frozenset[str] = frozenset()
Size = Annotated[int, Field(ge=1)]


class Shape(Frozen):
    """A decoder of the Llama family: rotary positions, grouped-query attention, a gated MLP.
    `inner` is the MLP's width. `tied`: the head is the embedding.

    Parameters are counted without biases and norms, less than a thousandth of a real model.
    """

    architecture: Architecture
    layers: Size
    hidden: Size
    inner: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    vocab: Size
    tied: bool

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by their names in it."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, queries),
            "self_attn.k_proj": (self.hidden, keys),
            "self_attn.v_proj": (self.hidden, keys),
            "self_attn.o_proj": (queries, self.hidden),
            "mlp.gate_proj": (self.hidden, self.inner),
            "mlp.up_proj": (self.hidden, self.inner),
            "mlp.down_proj": (self.inner, self.hidden),
        }

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Those of all blocks, by their whole names."""
        return {
            f"model.layers.{layer}.{name}": size
            for layer in range(self.layers)
            for name, size in self.linears.items()
        }

    @property
    def linear_parameters(self) -> int:
        """Those of the blocks' linear layers: what is quantized, and adapted."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def head_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.head_parameters * (1 if self.tied else 2)
