"""The families whose blocks are known without reading a model's files, and what differs between
them.
"""

from dataclasses import dataclass
from typing import Literal

# Of the MLP between its linear layers, how often its width is saved for the backward: a gate, what
# comes of it and what it multiplies; or the activation's input, with what a formula of PyTorch's
# plain operations keeps beside it.
GATED, GELU, GELU_IN_PARTS = 3, 1, 4


@dataclass(frozen=True)
class Family:
    """The linear layers of a block by their names in it, and what it keeps.

    `attention` are those for queries, keys and values, or one for all; `mlp` those up to its width,
    for a gated MLP two or one of twice that. RMSNorm computes in fp32. `parallel`: both read the
    same norm. An encoder has a linear layer in its head, `transform`, by its whole name.
    """

    blocks: str
    attention: tuple[str, ...]
    attention_out: str
    mlp: tuple[str, ...]
    mlp_out: str
    mlp_saves: int
    norm: Literal["rms", "layer"]
    parallel: bool = False
    transform: str | None = None


SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

LLAMA = Family(
    blocks="model.layers",
    attention=SEPARATE,
    attention_out="self_attn.o_proj",
    mlp=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    mlp_saves=GATED,
    norm="rms",
)


def bert(body: str, transform: str) -> Family:
    query, key, value = (f"attention.self.{name}" for name in ("query", "key", "value"))
    return Family(
        blocks=f"{body}.encoder.layer",
        attention=(query, key, value),
        attention_out="attention.output.dense",
        mlp=("intermediate.dense",),
        mlp_out="output.dense",
        mlp_saves=GELU,
        norm="layer",
        transform=transform,
    )


FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "phi": Family(
        blocks="model.layers",
        attention=SEPARATE,
        attention_out="self_attn.dense",
        mlp=("mlp.fc1",),
        mlp_out="mlp.fc2",
        mlp_saves=GELU_IN_PARTS,
        norm="layer",
        parallel=True,
    ),
    "phi3": Family(
        blocks="model.layers",
        attention=("self_attn.qkv_proj",),
        attention_out="self_attn.o_proj",
        mlp=("mlp.gate_up_proj",),
        mlp_out="mlp.down_proj",
        mlp_saves=GATED,
        norm="rms",
    ),
    "gpt2": Family(
        blocks="transformer.h",
        attention=("attn.c_attn",),
        attention_out="attn.c_proj",
        mlp=("mlp.c_fc",),
        mlp_out="mlp.c_proj",
        mlp_saves=GELU_IN_PARTS,
        norm="layer",
    ),
    "bert": bert("bert", "cls.predictions.transform.dense"),
    "roberta": bert("roberta", "lm_head.dense"),
    "xlm-roberta": bert("roberta", "lm_head.dense"),
    "camembert": bert("roberta", "lm_head.dense"),
}
