"""The data sets of an Axolotl config: what stands beside the path of each, and what becomes of its
rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunery.cli.configs.rows import SLICE, Change, DataSet, Fields, Joined, bare
from tunery.cli.configs.settings import template_faults
from tunery.cli.create import Wanted
from tunery.data.lines import row_of
from tunery.data.rows import Fault
from tunery.data.spelled_turns import REASONING, ROLES, TURN_LISTS
from tunery.errors import InvalidRequest

ALPACA = "Below is an instruction that describes a task"
WITH_INPUT = f"{ALPACA}, paired with an input that provides further context. "
RESPOND = "Write a response that appropriately completes the request."


@dataclass(frozen=True)
class Prompt:
    """How rows of instructions are written as a text that is followed by the answer: `asked` with
    an input, `alone` without; before it the system prompt, in `system`. `fields` are the names of
    a row's instruction, input, output and system prompt; `preludes` what stands for the last with
    an input and without, `answer` how the output is written.
    """

    asked: str
    alone: str
    system: str = "{system}"
    preludes: tuple[str, str] = (WITH_INPUT + RESPOND, f"{ALPACA}. {RESPOND}")
    fields: tuple[str, str, str, str | None] = ("instruction", "input", "output", None)
    answer: str = "{output}"

    def __call__(self, row: Fields) -> Fields:
        instruction, context, output, system = self.fields
        given = row.get(context)
        prelude = self.preludes[0 if given else 1]
        if system is not None and system in row:
            prelude = row[system]
        turn = self.asked if given else self.alone
        said = self.system.format(system=prelude) if prelude else ""
        prompt = said + turn.format(instruction=row[instruction], input=given)
        return {"prompt": prompt, "completion": self.answer.format(output=row[output])}


INSTRUCT = Prompt(
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "{system}\n\n",
)
# By Axolotl's names.
PROMPTS = {
    "alpaca": INSTRUCT,
    "alpaca:instruct": INSTRUCT,
    "alpaca:chat": Prompt(
        "USER: {instruction}\n{input}\nASSISTANT:",
        "USER: {instruction}\nASSISTANT:",
        "SYSTEM: {system}\n",
    ),
    "alpaca:chatml": Prompt(
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{system}<|im_end|>\n",
    ),
    "alpaca:phi": Prompt(
        "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
        "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
        "<|system|>\n{system}<|end|>\n",
    ),
    "gpteacher": replace(INSTRUCT, fields=("instruction", "input", "response", None)),
    "oasst": replace(INSTRUCT, fields=("INSTRUCTION", "", "RESPONSE", None)),
    "jeopardy": replace(
        INSTRUCT, fields=("question", "category", "answer", None), answer="what is {output}"
    ),
}
# Rows of turns, whose own format is known here.
CHATS = {"chat_template", "sharegpt", "chat_template.default", "chat_template.argilla"}
CHATS |= {"chat_template.argilla_chat"}
# Rows of preferences that Axolotl writes by a template of its own.
WRITTEN = {
    f"{template}.{kind}"
    for template in ("chatml", "llama3", "zephyr")
    for kind in (
        "default",
        "ultra",
        "intel",
        "icr",
        "argilla",
        "argilla_chat",
        "prompt_pairs",
        "nectar",
    )
}
TYPES = f"{', '.join(PROMPTS)}, chat_template, sharegpt, completion, or fields and a format"

# Of a data set on a hub, which the file stands for.
OF_A_HUB = {"name", "revision", "trust_remote_code", "preprocess_shards", "ds_type", "data_files"}
# What is so here, and the values by which it is.
SO_HERE: dict[str, tuple[Any, ...]] = {
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]),
    "train_on_eos": ("turn",),
    "train_on_eot": ("turn",),
    "template_thinking_key": REASONING,
}
OTHERWISE = {
    "roles_to_train": "the answers are trained; train_on_inputs: true trains all of a row",
    "train_on_eos": "the end of each answer is trained; leave it out",
    "train_on_eot": "the end of each answer is trained; leave it out",
    "template_thinking_key": "the template is given reasoning_content; leave it out",
    "message_field_training_detail": "a message is trained whole or not at all; use "
    "message_field_training",
    "shards": "a file is read whole; give split: train[:10%], or the part as a file of its own",
    "split_thinking": "leave it out: a template splits what it thinks by itself, if it does",
    "conversation": "leave it out, and name a chat_template",
}
CHAT_FORMATS = {"chat", "sharegpt", "strings", "gemini", "preference"}


def joined(
    sets: object, name: str, wanted: Wanted, folder: Path, file: Path | None, *, once: bool
) -> Path | Joined | None:
    """The rows of all data sets, one after the other. A file takes the place of one set's path, and
    of its `type` if its rows are others; and of several sets with all that is beside them.
    """
    if not sets:
        return file
    listed = isinstance(sets, list) and all(
        isinstance(each, dict) and isinstance(each.get("path"), str) for each in sets
    )
    if not listed:
        wanted.refused.append(f"{name}: {sets} (a list, each with its path)")
        return None
    assert isinstance(sets, list)  # noqa: S101
    if file and len(sets) > 1:
        wanted.dropped.append(f"{name}: {sets}, in place of which is {file}")
        return file
    found = []
    for each in sets:
        beside = {key: value for key, value in each.items() if value not in (None, "", [], {})}
        path = file or path_of(beside, folder)
        if file:
            wanted.dropped.append(f"{name}: path: {each['path']}, in place of which is {file}")
        beside.pop("path")
        found.append(one_set(beside, path, name, wanted, is_given=file is not None))
    return Joined(tuple(found), once)


def path_of(beside: Fields, folder: Path) -> Path:
    """Of a file that is read as it is said: `path: json` with `data_files`."""
    files = beside.get("data_files")
    if beside["path"] in {"json", "csv", "parquet", "text"} and files:
        return folder / (files[0] if isinstance(files, list) else str(files))
    return folder / str(beside["path"])


def one_set(beside: Fields, path: Path, name: str, wanted: Wanted, *, is_given: bool) -> DataSet:
    """What stands beside the path of a data set, as what is taken of its rows and what becomes of
    them. What cannot be done is added to `refused`, what has no effect to `dropped`. The rows of a
    file that `is_given` in place of another may be as they are.
    """

    def refuse(key: str, value: object, why: str) -> None:
        wanted.refused.append(f"{name}: {key}: {value} ({why})")

    bounds: tuple[str | None, str | None] = (None, None)
    split = beside.pop("split", None)
    if isinstance(split, str) and (cut := SLICE.fullmatch(split)):
        bounds = (cut[1], cut[2])
        if cut[1] or cut[2]:
            wanted.notes.append(f"{name}: split: {split} is taken of the rows of {path.name}")
    elif split is not None:
        refuse("split", split, "one, such as train or train[:10%]")
    files = beside.get("data_files")
    if isinstance(files, list) and len(files) > 1:
        refuse("data_files", files, "one file a data set; write each as a data set of its own")
    for key in sorted(OF_A_HUB & beside.keys()):
        wanted.dropped.append(f"{name}: {key}: {beside.pop(key)} (the file is read itself)")
    kind = beside.pop("type", None)
    found = DataSet(path, None, *bounds)
    try:
        change, formats = change_of(kind, beside)
        found = replace(found, change=change)
        must_fit(found, formats)
    except InvalidRequest as fault:
        if is_given:
            found = replace(found, change=None)
            wanted.dropped.append(
                f"{name}: type: {kind} ({bare(fault)}; the file is taken as it is)"
            )
        else:
            refuse("type", kind, bare(fault))
    except (TypeError, ValueError, AttributeError) as error:
        refuse("type", kind, f"what stands beside it is not as Axolotl has it: {error}")
    if isinstance(found.change, Prompt):
        wanted.notes.append(
            f"{name}: type: {kind} (each row is sent as the prompt that Axolotl writes of it, and "
            "its answer; no chat template is used)"
        )
    if isinstance(kind, str) and kind in WRITTEN:
        template = kind.split(".")[0]
        wanted.refused += template_faults(template, None, wanted, f"{name}: type")
    if template := beside.pop("chat_template", None):
        source = beside.pop("chat_template_jinja", None)
        wanted.refused += template_faults(template, source, wanted, f"{name}: chat_template")
    for key, value in beside.items():
        if value in SO_HERE.get(key, ()):
            wanted.dropped.append(f"{name}: {key}: {value} (it is so here anyway)")
        elif value is False:
            wanted.dropped.append(f"{name}: {key}: {value} (it is not done here)")
        else:
            refuse(key, value, OTHERWISE.get(key, WRITE_IT))
    return found


WRITE_IT = "no such option here; write the rows as you want them into a file, and leave it out"


def must_fit(found: DataSet, formats: set[str]) -> None:
    """Raises `InvalidRequest` if the first row is not what the config says, if there is one."""
    if not found.path.is_file():
        return
    fields = next(replace(found, start=None, stop=None).rows(), None)
    row = row_of(1, fields) if fields else None
    if row is None or isinstance(row, Fault) or not formats or row.format in formats:
        return
    raise InvalidRequest(f"{found.path.name} holds rows of the format {row.format}")


def change_of(kind: object, beside: Fields) -> tuple[Change | None, set[str]]:
    """What becomes of the rows of a data set of that `type`, and the formats that they then have;
    none in particular where nothing is said. Takes what it reads from `beside`. Raises
    `InvalidRequest` for a type that is not known.
    """
    if kind is None:
        return turns_of(beside), set()
    if isinstance(kind, dict):
        return own_prompt(kind), {"completion"}
    if not isinstance(kind, str):
        raise InvalidRequest("a name, or fields and a format")
    if kind in CHATS:
        return turns_of(beside), CHAT_FORMATS
    if kind in WRITTEN:
        return turns_of(beside), {"preference"}
    if kind == "completion":
        field = str(beside.pop("field", "text"))
        return (None if field == "text" else lambda row: {"text": row[field]}), {"text"}
    if kind in PROMPTS:
        return PROMPTS[kind], {"completion"}
    raise InvalidRequest(
        f"{TYPES} are known here; or write each row as a prompt and a completion, and leave the "
        "type out"
    )


def own_prompt(kind: Mapping[str, Any]) -> Prompt:
    """Of a type that is written out in a config. Raises `InvalidRequest` for one that cannot be."""
    fields = {
        key.removeprefix("field_"): str(value)
        for key, value in kind.items()
        if key.startswith("field_")
    }
    known = {"format", "no_input_format", "system_prompt", "system_format"}
    unknown = kind.keys() - known - {f"field_{each}" for each in PARTS}
    made = Prompt(
        str(kind.get("format", "{instruction} {input} ")),
        str(kind.get("no_input_format", "{instruction} ")),
        str(kind.get("system_format", "{system}")),
        (str(kind.get("system_prompt", "")),) * 2,
        (
            fields.get("instruction", "instruction"),
            fields.get("input", "input"),
            fields.get("output", "output"),
            fields.get("system", "system"),
        ),
    )
    try:
        made({made.fields[0]: "a", made.fields[1]: "b", made.fields[2]: "c"})
    except (KeyError, IndexError, ValueError) as error:
        unknown.add(f"a format with {error}")
    if unknown:
        raise InvalidRequest(
            f"{', '.join(sorted(unknown))} is not known; a type has field_instruction, "
            "field_input, field_output, field_system, system_prompt, system_format, format and "
            "no_input_format"
        )
    return made


PARTS = ("instruction", "input", "output", "system")


def turns_of(beside: Fields) -> Change | None:
    """What gives rows of turns the names that are known here; None if there is nothing to do."""
    moved = {
        ours: str(beside.pop(key))
        for key, ours in (
            ("field_messages", "conversations"),
            ("field_tools", "tools"),
            ("field_chosen", "chosen"),
            ("field_rejected", "rejected"),
            ("field_system", "system"),
        )
        if key in beside
    }
    if moved.get("conversations") == "messages":
        del moved["conversations"]
    keys = dict(beside.pop("message_property_mappings", {}) or {})
    for key, ours in (
        ("message_field_role", "role"),
        ("message_field_content", "content"),
        ("message_field_training", "weight"),
        ("field_thinking", "reasoning_content"),
    ):
        if key in beside:
            keys[ours] = beside.pop(key)
    if (keys.get("role"), keys.get("content")) == ("from", "value"):
        del keys["role"], keys["content"]
    if keys.get("reasoning_content") in REASONING:
        del keys["reasoning_content"]
    keys = {ours: theirs for ours, theirs in keys.items() if ours != theirs}
    roles = {
        str(source): str(target)
        for target, sources in (beside.pop("roles", None) or {}).items()
        for source in sources
        if ROLES.get(str(source).lower()) != target
    }
    moved = {
        ours: theirs for ours, theirs in moved.items() if ours != theirs or ours == "conversations"
    }
    without_system = bool(beside.pop("drop_system_message", False))
    if not (moved or keys or roles or without_system):
        return None

    def turn(given: Fields) -> Fields:
        made = {key: value for key, value in given.items() if key not in keys.values()}
        made |= {ours: given[theirs] for ours, theirs in keys.items() if theirs in given}
        for key in ("role", "from"):
            if key in made:
                made[key] = roles.get(str(made[key]), made[key])
        return made

    def turns(given: Any) -> Any:  # noqa: ANN401 (of any shape)
        if isinstance(given, dict):
            return turn(given)
        if not isinstance(given, list):
            return given
        made = [turn(each) if isinstance(each, dict) else each for each in given]
        return [
            each
            for each in made
            if not (
                without_system
                and isinstance(each, dict)
                and "system" in {each.get("role"), each.get("from")}
            )
        ]

    def change(row: Fields) -> Fields:
        made = {key: value for key, value in row.items() if key not in moved.values()}
        if "conversations" in moved:  # and no other list of turns
            made = {key: value for key, value in made.items() if key not in TURN_LISTS}
        made |= {
            ours: row[theirs]
            for ours, theirs in moved.items()
            if theirs in row or ours == "conversations"
        }
        for key in (*TURN_LISTS, "chosen", "rejected"):
            if key in made:
                made[key] = turns(made[key])
        return made

    return change
