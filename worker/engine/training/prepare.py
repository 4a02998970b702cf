"""Before the first step: the data, and the plan that it leads to."""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.jinja import TemplateError
from tunery.data.template import ChatTokenizer
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.errors import DoesNotFit, InvalidRequest
from tunery.messages import Phase
from tunery.plan.choice import choose
from tunery.plan.memory import ADMITTED, Compute, Needs, Plan
from tunery.spec import DataFile, MaskedLm, Preference, Supervised, TrainingSpec
from worker.engine.data.cached import KnownData, Name
from worker.engine.data.reading import Kind, TokenRows, read_data, require_most, split_off
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype
from worker.engine.errors import Untrainable
from worker.engine.model.base import BaseFolder
from worker.engine.model.way import PACKED, Verdict
from worker.engine.ranks import together
from worker.engine.training.objectives.masked import MaskedToken
from worker.engine.training.objectives.objective import Objective
from worker.engine.training.objectives.preference import PreferredAnswer
from worker.engine.training.objectives.supervised import NextToken
from worker.protocol import Train

# Its loss would be 0, which no training betters.
NOTHING_MASKED = (
    "The validation file is so short that chance masks none of its tokens. Give a longer one, or "
    "raise mask_probability."
)


def objective_of(spec: TrainingSpec, folder: BaseFolder) -> Objective:
    """Raises `Untrainable` if the base's tokenizer is not made for it."""
    match spec.objective:
        case Supervised():
            return NextToken(spec)
        case Preference(beta=beta):
            return PreferredAnswer(beta, spec.max_length)
        case MaskedLm(mask_probability=chance):
            tokenizer, mask = folder.tokenizer.tokenizer, folder.tokenizer.special.get("mask_token")
            mask_id = None if mask is None else tokenizer.token_to_id(mask)
            if mask_id is None:
                raise Untrainable(
                    "no_mask_token",
                    f"The tokenizer of {spec.base_model} names no mask_token, so that nothing can "
                    "be masked. Choose an encoder, such as one of BERT's or RoBERTa's kind.",
                )
            vocabulary = min(tokenizer.get_vocab_size(), folder.shape.vocab)
            return MaskedToken(spec, chance, mask_id, vocabulary)


def tokenizer_of(spec: TrainingSpec, folder: BaseFolder) -> ChatTokenizer:
    """The base's, with the job's own template if it has one, to train as the job wants.

    Raises:
        Untrainable: that is no template, or takes more than it may.

    """
    tokenizer = copy(folder.tokenizer)
    try:
        if spec.chat_template is not None:
            with renderings_bounded(MEMORY_LIMIT_BYTES):
                tokenizer = ChatTokenizer(folder.path, spec.chat_template)
    except TemplateTooCostly as error:
        raise Untrainable(
            "chat_template_too_costly", f"training.chat_template: {error}. Choose another."
        ) from error
    except TemplateError as error:
        raise Untrainable("chat_template_broken", f"training.chat_template: {error}.") from error
    tokenizer.train_on_reasoning = spec.train_on_reasoning
    return tokenizer


def read_files(
    order: Train,
    objective: Objective,
    folder: BaseFolder,
    known: KnownData,
    stop_if_asked: Callable[[], None],
    enter: Callable[[Phase], None] = lambda _: None,
) -> tuple[TokenRows, TokenRows | None]:
    """The training rows and, if there is a file of them, the validation rows, fit for the base."""
    spec, tokenizer = order.spec, tokenizer_of(order.spec, folder)
    if spec.max_length > folder.context_length:
        raise Untrainable(
            "max_length_over_context",
            f"max_length is {spec.max_length} tokens, {spec.base_model} takes "
            f"{folder.context_length}. Set max_length to {folder.context_length} or less.",
        )

    def read(kind: Kind, path: Path, file: DataFile) -> TokenRows:
        read_it = partial(
            read_data,
            kind,
            path,
            file,
            objective=objective,
            tokenizer=tokenizer,
            max_length=spec.max_length,
            stop_if_asked=stop_if_asked,
        )
        if order.project_id is None:
            return read_it()
        name = Name(
            order.project_id,
            file.sha256,
            sha256(
                f"{folder.tokenizer_sha256}{spec.chat_template}{spec.train_on_reasoning}".encode()
            ).hexdigest(),
            spec.max_length,
            spec.objective.type,
            spec.train_on_inputs,
            spec.overflow,
            tuple((file.columns or {}).items()),
        )
        return known.rows(name, kind, read_it)

    enter("training_file")
    data = read("training", order.training_file, spec.training_file)
    valid = None
    if spec.validation_file is not None:
        if order.validation_file is None:
            raise ValueError("the job names a validation file, the attempt has none")
        enter("validation_file")
        valid = read("validation", order.validation_file, spec.validation_file)
    for file in filter(None, (data, valid)):
        require_most(file, spec.max_lost_share)
    if spec.validation_split is not None:
        data, valid = split_off(data, spec.validation_split, spec.seed)
    for file in filter(None, (data, valid)):
        if file.rows.largest_token < folder.shape.vocab:
            continue
        for row in file.rows:
            if int(row.ids.max()) >= folder.shape.vocab:
                raise Untrainable(
                    "tokenizer_over_vocabulary",
                    f"Line {row.line} of the {file.kind} file has token {int(row.ids.max())}, but "
                    f"{spec.base_model} has only {folder.shape.vocab} tokens: its tokenizer "
                    "belongs to another model. Choose another base model.",
                )
    return data, valid


def rows_to_validate(objective: Objective, valid: TokenRows | None) -> Sequence[TokenRow]:
    """As they are drawn for every evaluation. Raises `Untrainable` if none has a loss."""
    rows = objective.drawn(valid.rows, None) if valid else ()
    if rows and not any(objective.terms([row]) for row in rows):
        raise Untrainable("nothing_to_validate", NOTHING_MASKED)
    return rows


def plan_of(
    spec: TrainingSpec,
    folder: BaseFolder,
    data: TokenRows,
    kept: Plan | None,
    verdict: Verdict = PACKED,
) -> Plan:
    """The plan that the job began with, if it fits this machine; else a new one, on a base of the
    same precision, by what the `verdict` says of memory. A base that was divided may be whole now,
    or the other way round.

    Raises:
        DoesNotFit: none does; the longest row is named. Or only a divided base would, of a family
            whose layers are passed more than once in a step.
        Untrainable: the base has no such layers as the adapter is to be on.

    """
    memory = together.memory()
    as_divided = kept is None or not kept.divided or kept.gpus == together.count()
    if kept is not None and as_divided and kept.peak_bytes <= ADMITTED * memory:
        return kept
    compute: Compute = "bf16" if compute_dtype() is torch.bfloat16 else "fp32"
    lengths = data.rows.lengths
    longest = int(lengths.max())
    try:
        plan = choose(
            Needs.of(folder.shape, spec, compute, data.bytes, verdict.footprints.get(compute)),
            quantization=kept.quantization if kept else spec.quantization,
            longest=longest,
            step_tokens=int(lengths.topk(min(spec.batch_size, len(lengths))).values.sum()),
            memory_bytes=memory,
            gpus=together.count(),
        )
    except DoesNotFit as error:
        line = data.rows[int((lengths == longest).nonzero()[0])].line
        raise DoesNotFit(f"{error} The longest row is line {line} of the training file.") from error
    except InvalidRequest as error:  # of target_modules
        raise Untrainable("target_modules_refused", error.message) from error
    if plan.divided and verdict != PACKED:
        raise DoesNotFit(
            f"The base fits these {plan.gpus} GPUs only if it is divided among them, and it is not "
            f"divided where the rows of a step are computed {verdict.in_words()}.",
            param="model",
        )
    return plan
