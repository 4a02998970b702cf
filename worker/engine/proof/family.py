"""How a family may be trained: the engine beside plain transformers and PEFT, which compute one row
at a time, on the model's own config with tiny sizes and random weights.

A way is right if every token's loss and every gradient of an adapter are equal, in fp32, in
training mode and with recomputed activations; and, in a pack, if a document whose values are no
numbers leaves the others as they were. On a GPU it is the arithmetic of the device, but not the
flash attention, which computes in 16 bits. Linear layers and experts have values that 4 bits hold,
and are computed in both precisions.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import peft
import torch
import transformers
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel

from tunery.facts import Examined
from tunery.plan.memory import Plan
from tunery.plan.shape import ENCODERS
from tunery.spec import Lora
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.device import device, is_out_of_memory
from worker.engine.errors import BaseRefused, Unsupported
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.base import BaseFolder, auto_class, transformers_config, without_dropout
from worker.engine.model.experts import EXPERTS
from worker.engine.model.head import Head
from worker.engine.model.lora import fuse
from worker.engine.model.mixers import find_mixers, unpack
from worker.engine.model.quantized import config_of, quantize, round_to
from worker.engine.model.way import Verdict, Way
from worker.engine.proof.footprint import footprints
from worker.engine.proof.shrunk import VOCABULARY, shrunk
from worker.engine.training.forward import hidden_states, score
from worker.engine.training.slot import (
    Slot,
    lora_config,
    trained_parameters,
    with_adapter,
)

# Long enough for each of the limits, and one as short as a row can be; two that are padded together
# lie on either side of 16.
LENGTHS = (12, 70, 2, 20, 9)
ADAPTER = Lora(r=4, alpha=8)
# Of the difference's norm, by the gradient's; of a token's loss, by the mean one. In fp32: in bf16
# random weights make more of a rounding than of a mask that is wrong.
TOLERANCE = 1e-4
PLAN = Plan(
    quantization="none", dequantized=False, checkpointing=True, micro_tokens=1024, peak_bytes=0
)

# Without double quantization, so that values which it gave come out as they were.
IN_FOUR_BITS = config_of("nf4", double_quant=False)

WAYS: tuple[tuple[Way, bool], ...] = (
    ("packed", False),
    ("packed", True),
    ("padded", False),
    ("row by row", False),
)
SAID_CHARACTERS = 200

# By the config: how to train it, or why not.
_verdicts: dict[str, Verdict | str] = {}


@dataclass(frozen=True)
class Outcome:
    """`losses` (tokens,) in nats, and the gradients of the adapter's parameters by name."""

    losses: Tensor
    gradients: dict[str, Tensor]


def verdict_on(folder: BaseFolder) -> Verdict:
    """How its family is trained on this device, which is examined once.

    Raises:
        BaseRefused: it cannot be.

    """
    config = transformers_config(folder.path)
    written = config.to_json_string()
    if written not in _verdicts:
        try:
            found = examine(config)
            _verdicts[written] = replace(found, footprints=footprints(config, found))
        except Unsupported as error:
            _verdicts[written] = str(error)
    verdict = _verdicts[written]
    if isinstance(verdict, str):
        raise BaseRefused(
            f"Models of type {config.model_type!r} cannot be trained here: {verdict}. Choose "
            "another base model."
        )
    return verdict


def examined(verdict: Verdict) -> Examined:
    """As it is told, with what it was found on."""
    return Examined(
        way=verdict.in_words(),
        device=device().type,
        torch=torch.__version__,
        transformers=transformers.__version__,
        peft=peft.__version__,
        footprints=verdict.footprints,
    )


def examine(config: PretrainedConfig) -> Verdict:
    """The fastest way that is right, of a family that can be trained at all.

    Raises:
        Unsupported: no way is, with the reason for each.
        Exception: for which `is_out_of_memory`: this machine is full, which is no verdict.

    """
    with torch.random.fork_rng(devices=[]), torch.backends.cudnn.flags(allow_tf32=False):
        torch.manual_seed(1)
        try:
            small = without_dropout(shrunk(config))
            rows = rows_of(small)
            plain = lively(small)
            round_to(plain, IN_FOUR_BITS)
            wanted = one_by_one(plain, rows)
        except Exception as error:  # any of the family's own code
            if is_out_of_memory(error):
                raise
            raise Unsupported(f"a small one of it cannot be computed: {said(error)}") from error
        reasons: list[str] = []
        for way, mixers_apart in WAYS:
            in_four_bits = False
            try:
                found = proven(plain, rows, wanted, way, mixers_apart=mixers_apart)
                in_four_bits = True
                proven(plain, rows, wanted, way, mixers_apart=mixers_apart, quantized=True)
            except Exception as error:  # any of the family's own code
                if is_out_of_memory(error):
                    raise
                words = "packed but for its mixers" if mixers_apart else way
                where = ", in 4 bits" if in_four_bits else ""
                reasons.append(f"{words}{where}: {said(error)}")
            else:
                return replace(found, reasons=tuple(reasons))
    raise Unsupported(f"no way to compute its rows is right ({'; '.join(reasons)})")


def proven(
    plain: PreTrainedModel,
    rows: Sequence[TokenRow],
    wanted: Outcome,
    way: Way,
    *,
    mixers_apart: bool,
    quantized: bool = False,
) -> Verdict:
    """With linear layers and experts in 4 bits if they are `quantized`. Raises `Unsupported` if
    this way is not right.
    """
    model = tiny(plain.config, DOCUMENTS if way == "packed" else None, EXPERTS)
    model.load_state_dict(plain.state_dict())
    if quantized:
        quantize(model, IN_FOUR_BITS)
    mixers: tuple[str, ...] = ()
    if mixers_apart:
        mixers = find_mixers(Head(model).body, VOCABULARY)
        if not mixers:
            raise Unsupported("none of its modules carries anything from token to token")
        unpack(model, mixers)
    adapted = with_lora(model)
    fuse(adapted)
    optimizer = torch.optim.SGD(trained_parameters(adapted).values())
    slot = Slot(adapted.train(), optimizer, PLAN, way)
    slot.follow(PLAN)
    batch = batch_of(rows, encoder=is_encoder(model))
    losses, _ = score(slot, batch)
    torch.autograd.backward(losses.sum())
    require_equal(Outcome(losses.detach(), gradients_of(adapted)), wanted)
    if way == "packed":
        require_apart(slot, rows)
    return Verdict(way, mixers, plain_head=slot.head.plain)


def require_equal(found: Outcome, wanted: Outcome) -> None:
    if found.gradients.keys() != wanted.gradients.keys():
        differing = sorted(found.gradients.keys() ^ wanted.gradients.keys())
        raise Unsupported(f"it leaves {differing[0]} without a gradient, or gives it one")
    loss = (found.losses - wanted.losses).abs().max() / wanted.losses.abs().mean()
    pairs = [(found.gradients[name], each) for name, each in wanted.gradients.items()]
    off = torch.stack([(one - other).norm() for one, other in pairs]).norm()
    gradient = off / torch.stack([other.norm() for _, other in pairs]).norm()
    if not (loss < TOLERANCE and gradient < TOLERANCE):
        raise Unsupported(
            f"its losses are off by {loss.item():.0e} of themselves, its gradients by "
            f"{gradient.item():.0e}, from those of each row alone"
        )


@torch.no_grad()
def require_apart(slot: Slot, rows: Sequence[TokenRow]) -> None:
    """The second row's values become no numbers; the others' hidden states stay as they are."""
    encoder = is_encoder(slot.causal)
    spoilt, lengths = 1, [len(row.ids) for row in rows]
    start = sum(lengths[:spoilt])
    here = slice(start, start + lengths[spoilt])

    def spoil(_: object, __: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[:, here] = torch.nan
        return out

    clean = hidden_states(slot, batch_of(rows, encoder=encoder))
    hook = slot.causal.get_input_embeddings().register_forward_hook(spoil)
    try:
        hidden = hidden_states(slot, batch_of(rows, encoder=encoder))
    finally:
        hook.remove()
    if not hidden[here].isnan().any():
        raise Unsupported("its hidden states do not come from its input embeddings")
    others = torch.ones(len(hidden), dtype=torch.bool)
    others[here] = False
    off = (hidden[others] - clean[others]).abs().max()
    if not off < TOLERANCE * clean.abs().max():
        raise Unsupported("what is in one document reaches another")


def one_by_one(plain: PreTrainedModel, rows: Sequence[TokenRow]) -> Outcome:
    """By transformers and PEFT alone: no packing, no padding, no mask."""
    adapted, encoder = with_lora(copy.deepcopy(plain)).eval(), is_encoder(plain)
    losses = []
    for row in rows:
        batch = batch_of([row], encoder=encoder)
        logits = adapted(input_ids=batch.ids, use_cache=False).logits[0, batch.places].float()
        losses.append(cross_entropy(logits, batch.labels, reduction="none"))
        torch.autograd.backward(losses[-1].sum())
    found = Outcome(torch.cat(losses).detach(), gradients_of(adapted))
    if not found.losses.isfinite().all():
        raise Unsupported("the losses of a small one of it are no numbers")
    return found


def with_lora(model: PreTrainedModel, lora: Lora = ADAPTER) -> PeftModel:
    adapted = with_adapter(model.requires_grad_(False), lora_config(model, lora))
    numbers = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(adapted).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=numbers))
    return adapted


def gradients_of(model: PeftModel) -> dict[str, Tensor]:
    found = trained_parameters(model)
    return {name: each.grad for name, each in found.items() if each.grad is not None}


def lively(config: PretrainedConfig) -> PreTrainedModel:
    """With weights so large that masks, caps and positions show."""
    try:
        model = tiny(config, "eager")
    except ValueError:  # it has no attention to choose from
        model = tiny(config, None)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            random = torch.randn(weight.shape, generator=numbers)
            if weight.dim() < 2:
                weight.add_(0.1 * random.to(weight))
            else:
                inputs = weight.shape[1] if weight.shape[-1] == 1 else weight.shape[-1]
                std = 1.0 if "embed" in name else max(inputs, 4) ** -0.5
                weight.copy_(std * random)
    return model


def tiny(
    config: PretrainedConfig, attention: str | None, experts: str | None = None
) -> PreTrainedModel:
    made = auto_class(config.model_type).from_config(  # type: ignore[no-untyped-call]
        copy.deepcopy(config),
        attn_implementation=attention,
        experts_implementation=experts,
        dtype=torch.float32,
    )
    model: PreTrainedModel = made.to(device()).eval()
    return model


def rows_of(config: PretrainedConfig) -> list[TokenRow]:
    numbers = torch.Generator().manual_seed(3)
    rows, pad = [], config.get_text_config().pad_token_id
    for line, length in enumerate(LENGTHS, start=1):
        ids = torch.randint(VOCABULARY, (length,), generator=numbers, dtype=torch.int32)
        if pad is not None:  # families may leave it out of the attention
            ids[ids == pad] = (pad + 1) % VOCABULARY
        trained = torch.rand(length, generator=numbers) < 0.6
        trained[0], trained[1] = False, True
        rows.append(TokenRow(line, ids, trained))
    return rows


def batch_of(rows: Sequence[TokenRow], *, encoder: bool) -> Batch:
    """An encoder guesses other tokens than it sees, where they stand."""
    if not encoder:
        return Batch.of(rows, device())
    places = torch.cat([row.trained for row in rows]).nonzero()[:, 0]
    labels = (torch.cat([row.ids for row in rows]).long()[places] + 1) % VOCABULARY
    return Batch.at(rows, places, labels, device())


def is_encoder(model: PreTrainedModel) -> bool:
    return model.config.model_type in ENCODERS


def said(error: Exception) -> str:
    if isinstance(error, Unsupported):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:SAID_CHARACTERS]}"
