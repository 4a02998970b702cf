"""The dimensions of a base model, which its memory and time follow from."""

from typing import Annotated

from pydantic import Field

from tunery.plan.families import FAMILIES, GATED, LLAMA, Family
from tunery.spec import Frozen, since

# Those that read a text in both directions: they are trained on masked tokens.
ENCODERS = frozenset({"bert", "camembert", "modernbert", "roberta", "xlm-roberta"})
Size = Annotated[int, Field(ge=1)]
Layer = tuple[Annotated[str, Field(max_length=256)], Size, Size]
Experts = tuple[Annotated[str, Field(max_length=256)], Size, Size, Size]


class Shape(Frozen):
    """A transformer's. Its layers are those of one of the `FAMILIES`, or were read from its files.

    Parameters are counted without biases and norms, a thousandth of a real model, where they were
    not read from its files.
    """

    architecture: Annotated[str, Field(min_length=1, max_length=64, examples=["qwen2"])]
    """The `model_type` of the model's config."""
    layers: Annotated[Size, Field(examples=[24])]
    """Transformer blocks."""
    hidden: Annotated[Size, Field(examples=[896])]
    """Width of the model."""
    inner: Annotated[Size, Field(examples=[4864])]
    """Width of the MLP."""
    heads: Annotated[Size, Field(examples=[14])]
    """Attention heads."""
    kv_heads: Annotated[Size, Field(examples=[2])]
    """Attention heads of keys and values."""
    head_dim: Annotated[Size, Field(examples=[64])]
    """Width of an attention head."""
    vocab: Annotated[Size, Field(examples=[151_936])]
    """Tokens of the vocabulary."""
    tied: bool
    """Whether the output head shares the weights of the embedding."""
    positions: Annotated[int, Field(examples=[512])] = since(default=0)
    """Learned positions; 0 if they are rotary."""
    layers_read: Annotated[
        tuple[Layer, ...],
        Field(max_length=20_000, examples=[[["model.layers.0.self_attn.q_proj", 896, 896]]]),
    ] = since(default=())
    """Name, inputs and outputs of the linear layers that adapters can be put on, as the model's
    files have them; empty for an architecture whose layers are known.
    """
    experts_read: Annotated[
        tuple[Experts, ...],
        Field(
            max_length=20_000,
            examples=[[["model.layers.0.mlp.experts.gate_up_proj", 128, 2048, 1536]]],
        ),
    ] = since(default=())
    """Name, experts, inputs and outputs of the matrices of all experts of a layer, as the model's
    files have them; empty for a model without experts.
    """
    experts_chosen: Annotated[int, Field(examples=[8])] = since(default=0)
    """Experts that each token goes through in a layer; 0 for a model without experts."""
    parameters_read: Annotated[int, Field(examples=[494_032_768])] = since(default=0)
    """Parameters in the model's files; 0 if they were not counted."""

    @property
    def family(self) -> Family:
        """Of one that is not among the known, what is computed in between is as in Llama."""
        return FAMILIES.get(self.architecture, LLAMA)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by their names in it."""
        family = self.family
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = (queries, keys, keys) if len(family.attention) > 1 else (queries + 2 * keys,)
        ups = 2 if family.mlp_saves == GATED else 1
        up = ups * self.inner // len(family.mlp)
        return (
            {
                name: (self.hidden, out)
                for name, out in zip(family.attention, attention, strict=True)
            }
            | {family.attention_out: (queries, self.hidden)}
            | dict.fromkeys(family.mlp, (self.hidden, up))
            | {family.mlp_out: (self.inner, self.hidden)}
        )

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Those of all blocks and of an encoder's head, by their whole names: what is quantized,
        and adapted unless only some are named.
        """
        if self.layers_read:
            return {name: (inputs, outputs) for name, inputs, outputs in self.layers_read}
        layers = {
            f"{self.family.blocks}.{layer}.{name}": size
            for layer in range(self.layers)
            for name, size in self.linears.items()
        }
        if self.family.transform:
            layers[self.family.transform] = (self.hidden, self.hidden)
        return layers

    @property
    def linear_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def expert_parameters(self) -> int:
        return sum(experts * inputs * outputs for _, experts, inputs, outputs in self.experts_read)

    @property
    def quantized_parameters(self) -> int:
        return self.linear_parameters + self.expert_parameters

    @property
    def head_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def largest_layer(self) -> int:
        """Its parameters."""
        return max(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def largest_experts(self) -> int:
        """Parameters of all experts of a layer in one of its products."""
        each = (experts * inputs * outputs for _, experts, inputs, outputs in self.experts_read)
        return max(each, default=0)

    @property
    def parameters(self) -> int:
        if self.parameters_read:
            return self.parameters_read
        embeddings = self.positions * self.hidden + self.head_parameters
        return self.linear_parameters + embeddings + (0 if self.tied else self.head_parameters)
