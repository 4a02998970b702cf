"""The base model: loaded from a folder, and kept between jobs."""

import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from tunery.base_model import context_of, read_config, revision_of, shape_of
from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.errors import InvalidRequest
from tunery.facts import TOKENIZER_FILES, FileFacts
from tunery.failpoint import failpoint
from tunery.plan.memory import Plan, Precision
from tunery.plan.shape import ENCODERS, Shape
from tunery.weights import shapes_in
from worker.base_files import KnownFiles, Stamp, stamps_of
from worker.engine.data.cached import KnownData
from worker.engine.device import compute_dtype, device, free_cached
from worker.engine.errors import BaseDiffers, BaseRefused, MemoryDamaged
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.experts import EXPERTS
from worker.engine.model.head import Head, recomputable
from worker.engine.model.mixers import unpack
from worker.engine.model.quantized import config_of, dequantize, load_quantized
from worker.engine.model.way import PACKED, Verdict
from worker.engine.ranks.shards import Shards, send_rest

# Layers narrower than this are not worth sharing between threads: a barrier costs more than it
# saves, and on a busy machine a whole time slice (8 ms; 60 times slower on a 2-core machine).
SHARED_WIDTH = 512
ALL_THREADS = torch.get_num_threads()

AutoClass = type[AutoModelForCausalLM | AutoModelForImageTextToText | AutoModelForMaskedLM]

logging.disable_progress_bar()


@dataclass(frozen=True)
class Registered:
    """The files of a base model as they were registered, and the stamps that they had when they
    were compared with that.
    """

    files: tuple[FileFacts, ...]
    stamps: tuple[Stamp | None, ...]
    known: KnownFiles

    def require(self, path: Path, stop_if_asked: Callable[[], None]) -> None:
        if difference := self.known.difference(path, self.files, stop_if_asked):
            raise BaseDiffers(
                f"This worker does not have the base model as it was registered: {difference}"
            )

    def require_same(self, path: Path, stop_if_asked: Callable[[], None]) -> None:
        """Only what was touched is read again."""
        if stamps_of(path, self.files) != self.stamps:
            self.require(path, stop_if_asked)


@dataclass(frozen=True)
class BaseFolder:
    """What a base model's folder says before its weights are loaded. `context_length` in tokens.
    In the folder `copies` lie copies of the base, quantized, or are laid. `dropouts` are the
    model's own by its config's names; they are left out. It was compared with the files that are
    `registered`, if it is known which.
    """

    path: Path
    revision: str
    copies: Path
    shape: Shape
    context_length: int
    dropouts: dict[str, float]
    tokenizer: ChatTokenizer
    tokenizer_sha256: str
    registered: Registered | None = None

    @property
    def content(self) -> str:
        """Another for any other content of its files, as far as that is known."""
        return revision_of(list(self.registered.files)) if self.registered else self.revision

    def require_same(self, stop_if_asked: Callable[[], None] = lambda: None) -> None:
        """Raises `BaseDiffers` if its files have changed since it was opened."""
        if self.registered:
            self.registered.require_same(self.path, stop_if_asked)


@dataclass(frozen=True)
class Base:
    """A loaded base model, its precision as in `Plan`, and how its rows are computed together."""

    folder: BaseFolder
    quantization: Precision
    double_quant: bool
    dequantized: bool
    model: PreTrainedModel
    verdict: Verdict = PACKED
    shards: Shards | None = None

    def is_that_of(self, folder: BaseFolder, plan: Plan) -> bool:
        if plan.divided or self.shards:  # such a one is loaded for one training
            return False
        ours = (self.folder, self.quantization, self.double_quant, self.dequantized)
        return ours == (folder, plan.quantization, plan.double_quant, plan.dequantized)


class WarmBase:
    """The one base model in memory, asking for another drops it; and the data read for any."""

    def __init__(self) -> None:
        self.known_data = KnownData()
        self.known_files: KnownFiles | None = None
        self.folder: BaseFolder | None = None
        self.base: Base | None = None

    def open(
        self,
        path: Path,
        revision: str,
        copies: Path,
        files: Sequence[FileFacts] | None = None,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> BaseFolder:
        """The folder, which holds these `files` and no other that would be loaded. If any of them
        has been touched since it was opened last, it is another folder than the one in memory.

        Raises:
            BaseDiffers: it does not hold them.
            BaseRefused: see `read_folder`.

        """
        registered = None
        if files is not None:
            self.known_files = self.known_files or KnownFiles(copies)
            registered = Registered(tuple(files), stamps_of(path, files), self.known_files)
        ours = self.folder and (self.folder.path, self.folder.revision, self.folder.registered)
        if self.folder is None or ours != (path, revision, registered):
            self.folder = None
            if registered:
                registered.require(path, stop_if_asked)
            self.folder = read_folder(path, revision, copies, registered)
        return self.folder

    def load(self, folder: BaseFolder, plan: Plan, verdict: Verdict = PACKED) -> Base:
        if self.base is None or not self.base.is_that_of(folder, plan):
            self.drop()
            self.base = load(
                folder,
                plan.quantization,
                double_quant=plan.double_quant,
                dequantized=plan.dequantized,
                verdict=verdict,
                divided=plan.divided,
            )
        return self.base

    def apart(self, folder: BaseFolder, verdict: Verdict = PACKED) -> Base:
        """A base in fp32 that a training may change. The warm one makes room for it, and it is kept
        for nobody.
        """
        self.drop()
        return load(folder, "none", dequantized=False, dtype=torch.float32, verdict=verdict)

    def require_finite(self, stop_if_asked: Callable[[], None]) -> None:
        """Where a loss is no finite number, that may be the base's fault.

        Raises:
            BaseRefused: a weight in its files is none.
            MemoryDamaged: one of those in memory is none.

        """
        if self.folder:
            require_finite_files(self.folder.path, stop_if_asked)
        whole = self.base and not self.base.shards  # else two layers of it are to be seen
        if self.base and whole and not all(map(is_finite, self.base.model.state_dict().values())):
            raise MemoryDamaged(
                "The base model in the worker's memory has weights that are not finite numbers; "
                "those in its files are."
            )

    def drop(self) -> None:
        self.base = None
        gc.collect()  # modules and their hooks refer to each other in circles
        free_cached()


def read_folder(
    path: Path, revision: str, copies: Path, registered: Registered | None = None
) -> BaseFolder:
    """Reads a folder in transformers' layout: all but the weights.

    Raises:
        BaseRefused: it holds no safetensors, asks for code of its own, is of an architecture that
            is not trained here, or its tokenizer cannot be read.

    """
    try:
        config = read_config(path)
        shape = shape_of(config, shapes_in(path))
    except (InvalidRequest, ValueError) as error:  # ValueError: it is no JSON
        raise BaseRefused(f"The config of {path} cannot be used: {error}") from error
    try:
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            tokenizer = ChatTokenizer(path)
    except (Exception, TemplateTooCostly) as error:  # tokenizers raises nothing narrower
        raise BaseRefused(f"The tokenizer of {path} cannot be used: {error}") from error
    return BaseFolder(
        path=path,
        revision=revision,
        copies=copies,
        shape=shape,
        context_length=context_of(config),
        dropouts=dropouts_of(transformers_config(path)),
        tokenizer=tokenizer,
        tokenizer_sha256=tokenizer_sha256(path),
        registered=registered,
    )


def tokenizer_sha256(path: Path) -> str:
    """Over all that `ChatTokenizer` reads."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        content = (path / name).read_bytes() if (path / name).exists() else b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def load(
    folder: BaseFolder,
    quantization: Precision,
    *,
    double_quant: bool = True,
    dequantized: bool,
    dtype: torch.dtype | None = None,
    verdict: Verdict = PACKED,
    divided: bool = False,
) -> Base:
    """Loads the weights, what is not quantized in the compute dtype if no other is named. Only
    safetensors, and no code, is read from the folder. A base that is to be `divided` among this
    training's processes is loaded into the machine's memory, and this process's part sent on.

    Raises:
        BaseDiffers: its files changed meanwhile.
        BaseRefused: see `read`.

    """
    failpoint("engine.loading")
    where: dict[str, Any] = {"device_map": {"": "cpu"}} if divided else {}
    if quantization == "none":
        model = read(folder.path, verdict, dtype=dtype or compute_dtype(), **where)
        folder.require_same()
    else:
        config = config_of(quantization, double_quant=double_quant)
        model = load_quantized(folder, config, partial(read, verdict=verdict, **where))
    model.requires_grad_(False)
    if dequantized:
        dequantize(model)
    unpack(model, verdict.mixers)
    torch.set_num_threads(ALL_THREADS if folder.shape.hidden >= SHARED_WIDTH else 1)
    shards = None
    if divided:
        shards = Shards(recomputable(Head(model).body))
        send_rest(model)
    return Base(folder, quantization, double_quant, dequantized, model, verdict, shards)


def read(
    path: Path,
    verdict: Verdict = PACKED,
    **how: Any,  # noqa: ANN401 (from_pretrained's)
) -> PreTrainedModel:
    """Raises `BaseRefused` for files that are no safetensors, and for weights that they lack: those
    would be random.
    """
    config = transformers_config(path)
    without_dropout(config)
    # Typed as if it gave the model alone.
    try:
        both: Any = auto_class(config.model_type).from_pretrained(
            path,
            config=config,
            attn_implementation=DOCUMENTS if verdict.way == "packed" else None,
            experts_implementation=EXPERTS,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{"dtype": compute_dtype(), "device_map": {"": device()}} | how,
        )
    except SafetensorError as error:
        raise BaseRefused(f"The weights of {path} cannot be read: {error}.") from error
    model: PreTrainedModel = both[0]
    if missing := sorted(both[1]["missing_keys"]):
        raise BaseRefused(
            f"The files of {path} lack weights of the model, such as {missing[0]} ({len(missing)} "
            "in all). Choose one that was saved with its language modelling head."
        )
    return model


def require_finite_files(path: Path, stop_if_asked: Callable[[], None]) -> None:
    """Reads all weights in a folder. Raises `BaseRefused` for one that is no finite number."""
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                stop_if_asked()
                if not is_finite(opened.get_tensor(name)):
                    raise BaseRefused(not_finite(file, name))


def not_finite(path: Path, name: str) -> str:
    return f"{path} is damaged: {name} has weights that are not finite numbers."


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def auto_class(architecture: str) -> AutoClass:
    """Transformers' own for loading such a model with its head; one for images and text whole."""
    if architecture in ENCODERS:
        return AutoModelForMaskedLM
    if architecture in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def transformers_config(path: Path) -> PretrainedConfig:
    """With the family's defaults for what config.json does not name.

    Raises:
        BaseRefused: transformers knows no such family, or not with such a config.

    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    except OSError:
        raise
    except Exception as error:  # any of the family's own code
        first, *_ = str(error).split("\n\n")  # then transformers tells how to install itself
        raise BaseRefused(
            f"transformers {transformers.__version__} cannot use the config of {path}: "
            f"{' '.join(first.split()).rstrip('.')}. Choose another base model."
        ) from error
    return config


def dropouts_of(config: PretrainedConfig) -> dict[str, float]:
    """A family's own, by its config's names for them; not those of heads for classes."""
    return {
        name: value
        for name, value in sorted(vars(config.get_text_config()).items())
        if ("dropout" in name or name.endswith(("pdrop", "jitter_noise")))
        and not name.startswith(("classifier", "summary"))
        and isinstance(value, float)
        and value > 0
    }


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The same config, changed."""
    for name in dropouts_of(config):
        setattr(config.get_text_config(), name, 0.0)
    return config
