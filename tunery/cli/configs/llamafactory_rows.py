"""The data sets of a LLaMA-Factory config: what `dataset_info.json` says of each, and what becomes
of its rows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunery.cli.configs.rows import DataSet, Fields, Joined, bare
from tunery.cli.create import Wanted
from tunery.data.lines import row_of
from tunery.data.rows import Fault
from tunery.errors import InvalidRequest

INFO = "dataset_info.json"
HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
MEDIA = ("images", "videos", "audios")
COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "output", "history": None,
    "messages": "conversations", "system": None, "tools": None, "chosen": None, "rejected": None,
    "kto_tag": None, **dict.fromkeys(MEDIA),
}  # fmt: skip
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
OF_A_HUB = {*HUBS, "subset", "folder", "split"}
KNOWN = {"file_name", "formatting", "ranking", "columns", "tags", "num_samples", *OF_A_HUB}
GIVE_IT = "give it with --training FILE"


@dataclass(frozen=True)
class Written:
    """How a config has all of its rows: for that `stage`, trained on the `last_alone` of a row's
    answers or on all, with a `system` prompt where a row has none; of each data set at `most` so
    many, the first ones.
    """

    stage: str
    last_alone: bool
    system: str
    most: int | None


@dataclass(frozen=True)
class Info:
    """A data set's entry in `dataset_info.json`: its columns and tags by LLaMA-Factory's names."""

    formatting: str
    ranking: bool
    columns: dict[str, Any]
    tags: dict[str, Any]

    @classmethod
    def of(cls, entry: Fields) -> "Info":
        """Where an entry names some columns, the others are not there; and so with tags."""
        return cls(
            str(entry.get("formatting", "alpaca")),
            bool(entry.get("ranking", False)),
            dict.fromkeys(COLUMNS) | entry["columns"] if "columns" in entry else dict(COLUMNS),
            dict.fromkeys(TAGS) | entry["tags"] if "tags" in entry else dict(TAGS),
        )


def joined(
    names: object,
    said: str,
    wanted: Wanted,
    places: tuple[object, Path],
    file: Path | None,
    written: Written,
) -> Path | Joined | None:
    """The rows of all data sets, one after the other. `places` are the config's `dataset_dir` and
    its own folder. A file takes the place of one set's file, and of several with all that is said
    of them.
    """
    if not names:
        return file
    listed = [
        str(each).strip() for each in (names if isinstance(names, list) else str(names).split(","))
    ]
    entries, data = entries_of(*places)
    if file and (len(listed) > 1 or listed[0] not in (entries or {})):
        wanted.dropped.append(f"{said}: {', '.join(listed)}, in place of which is {file}")
        if written.most is None:
            return file
        wanted.notes.append(f"max_samples: {written.most} rows are taken of {file.name}")
        return Joined((DataSet(file, stop=str(written.most)),))
    if entries is None:
        wanted.refused.append(f"{said}: {names} (there is no {data / INFO}; {GIVE_IT})")
        return None
    found = []
    for name in listed:
        if name not in entries:
            wanted.refused.append(
                f"{said}: {name} ({data / INFO} has none of that name; {GIVE_IT})"
            )
        elif not is_entry(entries[name]):
            wanted.refused.append(
                f"{said}: {name}: {entries[name]} (a mapping, with mappings as columns and tags)"
            )
        elif one := one_set(entries[name], f"{said}: {name}", data, wanted, file, written):
            found.append(one)
    return Joined(tuple(found)) if found else None


def entries_of(dataset_dir: object, folder: Path) -> tuple[Fields | None, Path]:
    """What is said of data sets, and the folder that has them."""
    if isinstance(dataset_dir, dict):
        return dataset_dir, folder
    for data in (Path(str(dataset_dir)), folder / str(dataset_dir)):
        try:
            entries = json.loads((data / INFO).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(entries, dict):
            return entries, data
    return None, Path(str(dataset_dir))


def is_entry(entry: object) -> bool:
    """Whether it has the shape of one."""
    return isinstance(entry, dict) and all(
        isinstance(entry.get(name, {}), dict) for name in ("columns", "tags")
    )


def one_set(
    entry: Fields, said: str, data: Path, wanted: Wanted, file: Path | None, written: Written
) -> DataSet | None:
    """None if it is refused."""
    before = len(wanted.refused)
    on_hub = next((entry[name] for name in HUBS if name in entry), None)
    if file is None and (on_hub or "file_name" not in entry):
        wanted.refused.append(f"{said}: {on_hub or entry} (it is no file here; {GIVE_IT})")
    if file:
        wanted.dropped.append(f"{said}, in place of whose file is {file}")
    for name in sorted(OF_A_HUB & entry.keys() - set(HUBS)):
        wanted.dropped.append(f"{said}: {name}: {entry[name]} (the file is read itself)")
    if entry.get("num_samples") is not None:
        wanted.refused.append(
            f"{said}: num_samples: {entry['num_samples']} (chosen by chance; leave it out, or set "
            "max_samples, which takes the first)"
        )
    for name in sorted(entry.keys() - KNOWN):
        wanted.refused.append(f"{said}: {name}: {entry[name]} (no such option; leave it out)")
    info = Info.of(entry)
    refuse_columns(info, said, wanted, written)
    change = CHANGES.get(info.formatting)
    if change is None:
        wanted.refused.append(f"{said}: formatting: {info.formatting} (alpaca, sharegpt, openai)")
    if change is None or len(wanted.refused) > before:
        return None
    path = file or data / str(entry["file_name"])
    most = None if written.most is None else str(written.most)
    if most is not None:
        wanted.notes.append(f"max_samples: {most} rows are taken of {path.name}")
    found = DataSet(path, partial(change, info, written), stop=most)
    try:
        unnamed = unnamed_of(found, info)
    except InvalidRequest as fault:
        if file:
            wanted.dropped.append(f"{said}: {INFO} ({bare(fault)}; the file is taken as it is)")
            return replace(found, change=None)
        wanted.refused.append(f"{said}: {fault}")
        return None
    if unnamed:
        wanted.dropped.append(f"{said}: {', '.join(unnamed)} ({INFO} does not name it)")
    return found


def refuse_columns(info: Info, said: str, wanted: Wanted, written: Written) -> None:
    for name in sorted(info.columns.keys() - COLUMNS.keys()):
        wanted.refused.append(f"{said}: columns: {name} (no such column; leave it out)")
    for name in sorted(info.tags.keys() - TAGS.keys()):
        wanted.refused.append(f"{said}: tags: {name} (no such tag; leave it out)")
    for name in MEDIA:
        if info.columns.get(name):
            wanted.refused.append(
                f"{said}: columns: {name}: {info.columns[name]} (images, audio and video are not "
                "trained on; choose a data set of text)"
            )
    if info.columns.get("kto_tag"):
        wanted.refused.append(
            f"{said}: columns: kto_tag (KTO is not offered; give pairs, and train with stage: dpo)"
        )
    if info.ranking != (written.stage == "dpo"):
        wanted.refused.append(
            f"{said}: ranking: {info.ranking} (stage {written.stage} learns from "
            f"{'pairs' if written.stage == 'dpo' else 'answers'}; choose another data set)"
        )


def unnamed_of(found: DataSet, info: Info) -> list[str]:
    """What the first row has that is not named, if there is one. Raises `InvalidRequest` if it is
    not as it should be.
    """
    if not found.path.is_file():
        return []
    first = next(replace(found, change=None).rows(), {})
    row = next((row_of(1, fields) for fields in found.rows()), None)
    if isinstance(row, Fault) and row.rule in {"missing_messages", "missing_field"}:
        raise InvalidRequest(str(row))
    return sorted(first.keys() - {name for name in info.columns.values() if name})


def alpaca(info: Info, written: Written, row: Fields) -> Fields:
    """A row of an instruction and its output, as a chat; of a text, as that."""
    column = info.columns
    asked = [
        str(row[name]) for name in (column["prompt"], column["query"]) if name and row.get(name)
    ]
    if not asked and column["prompt"] not in row:
        raise KeyError(column["prompt"])
    question = "\n".join(asked)
    if written.stage == "pt":
        return {"text": question}
    messages: list[Fields] = []
    for old, answer in row.get(column["history"]) or [] if column["history"] else []:
        messages += [{"role": "user", "content": old}, said_by_model(answer)]
    messages.append({"role": "user", "content": question})
    messages = with_system(messages, info, written, row)
    if info.ranking:
        return {
            "input": {"messages": messages} | tools_of(info, row),
            "preferred_output": [said_by_model(row[column["chosen"]])],
            "non_preferred_output": [said_by_model(row[column["rejected"]])],
        }
    messages.append(said_by_model(row[column["response"]]))
    return {"messages": weighted(messages, "role", "assistant", written)} | tools_of(info, row)


def sharegpt(info: Info, written: Written, row: Fields) -> Fields:
    """A row of turns by their tags, as ShareGPT has them."""
    tags = info.tags
    roles = {
        tags[f"{name}_tag"]: TAGS[f"{name}_tag"]
        for name in ("user", "assistant", "observation", "function", "system")
    }

    def turn(given: Fields) -> Fields:
        role = given[tags["role_tag"]]
        return {"from": roles.get(role, role), "value": given[tags["content_tag"]]}

    turns = [turn(each) for each in row[info.columns["messages"]]]
    system = system_of(info, written, row)
    made = tools_of(info, row)
    if system and not (turns and turns[0]["from"] == "system"):
        made["system"] = system
    if info.ranking:
        pair = {name: turn(row[info.columns[name]]) for name in ("chosen", "rejected")}
        return made | {"conversations": turns} | pair
    return made | {"conversations": weighted(turns, "from", "gpt", written)}


def openai(info: Info, written: Written, row: Fields) -> Fields:
    """A row of OpenAI's messages, whose role and content may have other names."""
    tags = info.tags
    own = {tags["role_tag"] or "role": "role", tags["content_tag"] or "content": "content"}
    roles = {
        tags["user_tag"]: "user",
        tags["assistant_tag"]: "assistant",
        tags["system_tag"]: "system",
        tags["observation_tag"]: "tool",
    }

    def turn(given: Fields) -> Fields:
        made = {own.get(name, name): value for name, value in given.items()}
        return made | {"role": roles.get(made.get("role"), made.get("role"))}

    messages = [turn(each) for each in row[info.columns["messages"]]]
    if info.ranking:
        pair = {name: [turn(row[info.columns[name]])] for name in ("chosen", "rejected")}
        return {"messages": with_system(messages, info, written, row)} | pair | tools_of(info, row)
    messages = with_system(messages, info, written, row)
    return {"messages": weighted(messages, "role", "assistant", written)} | tools_of(info, row)


CHANGES: dict[str, Callable[[Info, Written, Fields], Fields]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "openai": openai,
}


def said_by_model(text: object) -> Fields:
    return {"role": "assistant", "content": text}


def system_of(info: Info, written: Written, row: Fields) -> str:
    name = info.columns["system"]
    return str((row.get(name) if name else None) or written.system)


def with_system(messages: list[Fields], info: Info, written: Written, row: Fields) -> list[Fields]:
    system = system_of(info, written, row)
    if not system or (messages and messages[0].get("role") == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def tools_of(info: Info, row: Fields) -> Fields:
    name = info.columns["tools"]
    given = row.get(name) if name else None
    if isinstance(given, str) and given.strip():
        given = json.loads(given)
    return {"tools": given} if given else {}


def weighted(turns: list[Fields], key: str, model: str, written: Written) -> list[Fields]:
    """With the last of the model's turns alone trained, if the config has it so."""
    if not written.last_alone:
        return turns
    answers = [index for index, each in enumerate(turns) if each[key] == model]
    return [
        {**each, "weight": 0} if index in answers[:-1] else each for index, each in enumerate(turns)
    ]
