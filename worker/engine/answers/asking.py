"""Before a completion is answered: the base that it asks for, and its prompt in tokens."""

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tunery.completions import ChatPrompt
from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.jinja import TemplateError
from tunery.data.prompts import Prompt, Unanswerable, chat_prompt, text_prompt
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.errors import DoesNotFit
from tunery.plan.memory import ADMITTED, PROCESS_BYTES, Compute, Needs, Plan
from tunery.plan.shape import ENCODERS
from tunery.spec import Lora
from worker.engine.device import compute_dtype, device_memory
from worker.engine.model.base import Base, BaseFolder, WarmBase
from worker.engine.proof.family import verdict_on
from worker.protocol import Complete

if TYPE_CHECKING:
    from pathlib import Path

GENERATION_CONFIG, MODEL_CONFIG = "generation_config.json", "config.json"
KEPT_TEMPLATES = 8
# Of a device's memory, what a base may take that is kept dequantized too.
ROOMY = 0.5


def is_asked_for(base: Base | None, command: Complete) -> bool:
    """Whether it can be answered from this base as it is."""
    if base is None or not is_folder_of(base.folder, command):
        return False
    if command.quantization in (None, base.quantization):
        four_bits = command.quantization in ("nf4", "fp4")
        return not four_bits or command.double_quant == base.double_quant
    return False


def is_folder_of(folder: BaseFolder, command: Complete) -> bool:
    registered = folder.registered and folder.registered.files
    ours = (folder.path, folder.revision, registered)
    return ours == (command.base_folder, command.base_revision, tuple(command.base_files))


def load_for(command: Complete, warm: WarmBase, look: Callable[[], None]) -> Base:
    """The base that the completion asks for, in the place of the one in memory.

    Raises:
        Unanswerable: it does not go on with a text.
        DoesNotFit: this machine has too little memory for it.
        BaseDiffers, BaseRefused: see `WarmBase.open` and `load`.

    """
    folder = warm.open(
        command.base_folder, command.base_revision, command.cache, command.base_files, look
    )
    refuse_encoder(folder, command)
    return warm.load(folder, plan_for(command, folder), verdict_on(folder))


def refuse_encoder(folder: BaseFolder, command: Complete) -> None:
    if folder.shape.architecture in ENCODERS:
        raise Unanswerable(
            "model_does_not_answer",
            f"{command.base_model} is an encoder, which does not go on with a text. Choose another "
            "model.",
            "model",
        )


def plan_for(command: Complete, folder: BaseFolder) -> Plan:
    """Quantized weights are kept dequantized where there is plenty of memory: the values are the
    same, and each token is computed many times faster.
    """
    precision = command.quantization or "none"
    compute: Compute = "bf16" if compute_dtype() is torch.bfloat16 else "fp32"
    needs = Needs(folder.shape, compute, Lora(), command.double_quant)
    size, memory = needs.base(precision) + PROCESS_BYTES[compute], device_memory()
    if size > ADMITTED * memory:
        raise DoesNotFit(f"{command.base_model} needs {size:,} bytes, and there are {memory:,}.")
    return Plan(
        quantization=precision,
        double_quant=command.double_quant,
        dequantized=precision != "none" and size + needs.dequantized_bytes < ROOMY * memory,
        checkpointing=False,
        micro_tokens=1,
        peak_bytes=0,
    )


class Tokenizers:
    """Those of a base's folder with the templates used last."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[Path, str, str], ChatTokenizer] = OrderedDict()

    def of(self, folder: BaseFolder, template: str | None) -> ChatTokenizer:
        """Raises `Unanswerable`: it is no template."""
        if template is None:
            return folder.tokenizer
        key = (folder.path, folder.tokenizer_sha256, template)
        if key not in self.kept:
            try:
                self.kept[key] = ChatTokenizer(folder.path, template)
            except (TemplateError, TemplateTooCostly) as error:
                words = f"The model's chat template cannot be used: {error}."
                raise Unanswerable("invalid_chat_template", words, "model") from error
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT_TEMPLATES:
            self.kept.popitem(last=False)
        return self.kept[key]

    def prompt(self, command: Complete, folder: BaseFolder) -> tuple[ChatTokenizer, Prompt]:
        """Raises `Unanswerable`."""
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            tokenizer = self.of(folder, command.chat_template)
            if isinstance(command.prompt, ChatPrompt):
                return tokenizer, chat_prompt(tokenizer, command.prompt)
            return tokenizer, text_prompt(tokenizer, command.prompt)


def ends_of(folder: BaseFolder, tokenizer: ChatTokenizer, prompt: Prompt) -> frozenset[int]:
    """The tokens that end an answer: control tokens, but for those that a call is written with, and
    what the base's config calls an end.
    """
    ends = set(tokenizer.control_tokens.ids)
    if prompt.form:
        written = prompt.form.opening + prompt.form.closing
        within = tokenizer.control_tokens.pattern.findall(written)
        ends -= {tokenizer.tokenizer.token_to_id(token) for token in within}
    for name in (GENERATION_CONFIG, MODEL_CONFIG):
        path = folder.path / name
        if path.exists():
            named = json.loads(path.read_text()).get("eos_token_id")
            ends |= {named} if isinstance(named, int) else set(named or ())
    return frozenset(ends)
