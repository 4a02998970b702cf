"""`python -m api.models.hub_reader`: what a model on a hub is, from its small files and the headers
of its weights. A child of the API, with limits on memory, time and files: what it reads is a
stranger's. It takes its orders on stdin, leaves the small files in the folder that they name, and
prints the facts of a registration, or why there are none.
"""

import json
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.hf_api import RepoSibling

from tunery import hub, privileges
from tunery.base_model import describe, file_facts
from tunery.data.ollama import not_for_ollama
from tunery.errors import InvalidRequest
from tunery.facts import MOST_FILES, TOKENIZER_FILES, BaseModelFacts, FileFacts
from tunery.weights import INDEX, LENGTH_BYTES

MEMORY_BYTES = 4 << 30
REQUEST_SECONDS = 10
# Of config, tokenizer and index: the largest tokenizers have some 35 MB.
MOST_BYTES = 128 << 20
AT_ONCE = 8
WEIGHTS = "model.safetensors"
SMALL = frozenset(
    {
        *TOKENIZER_FILES,
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    }
)


def main() -> None:
    privileges.shut()
    privileges.give_up()
    said = json.load(sys.stdin)
    # Should its parent be gone, it ends nevertheless.
    signal.alarm(said["seconds"])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    repository, endpoint, token = said["repository"], said["endpoint"], said["token"]
    try:
        answer = {"facts": read(said).model_dump(mode="json")}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        words = hub.in_words(error, repository, endpoint, has_token=token is not None)
        answer = {"error": hub.as_json(words)}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    # Threads that still wait for the hub are not waited for.
    os._exit(0)


def read(said: dict[str, Any]) -> BaseModelFacts:
    folder, asked = Path(said["folder"]), said["repository"]
    api = HfApi(endpoint=said["endpoint"], token=said["token"] or False)
    info = api.model_info(
        asked, revision=said["revision"], files_metadata=True, timeout=REQUEST_SECONDS
    )
    if not (info.sha and info.siblings is not None and hub.REPOSITORY.fullmatch(info.id)):
        raise ValueError("no commit, no list of files, or no name")
    # It may have been renamed: workers ask for it by the name that it has now.
    model = OnHub(api, info.id, info.sha, folder, {each.rfilename: each for each in info.siblings})
    limit_files(MOST_BYTES)
    small = [name for name in sorted(SMALL) if name in model.files]
    weights = model.names_of_weights()
    if WEIGHTS not in weights:
        small.append(INDEX)
    # Only what the hub keeps apart from git has a SHA-256 there.
    plain = [name for name in weights if model.files[name].lfs is None]
    apart = [name for name in weights if name not in plain]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(model.fetch, [*small, *plain]))
        limit_files(resource.RLIM_INFINITY)
        list(threads.map(model.stand_in, apart))
    files = [file_facts(folder / name) for name in [*small, *plain]] + [
        model.facts_of(name) for name in apart
    ]
    try:
        facts = describe(
            folder,
            id_=said["id"] or asked,
            revision=info.sha,
            licence=said["licence"] or licence_of(info),
            source=f"{hub.SOURCE}{info.id}",
            files=sorted(files, key=lambda file: file.name),
        )
        facts.not_for_ollama = not_for_ollama(folder)
    except InvalidRequest as error:
        raise refused(error.message.replace(str(folder.resolve()), asked)) from error
    except Exception as error:
        raise refused(f"The files of {asked} cannot be read ({type(error).__name__}).") from error
    return facts


class OnHub:
    """A model at a commit, and the folder that is to stand in for it."""

    def __init__(
        self, api: HfApi, repository: str, commit: str, folder: Path, files: dict[str, RepoSibling]
    ) -> None:
        self.api = api
        self.repository = repository
        self.commit = commit
        self.folder = folder
        self.files = files

    def names_of_weights(self) -> list[str]:
        """As transformers looks for them: one file, else those that the index names. The names are
        strangers' words.
        """
        if WEIGHTS in self.files:
            return [WEIGHTS]
        if INDEX not in self.files:
            raise refused(
                f"{self.repository} has neither {WEIGHTS} nor {INDEX}. Weights in other formats "
                "(.bin, .pt, .gguf) are refused: choose a model with safetensors."
            )
        self.fetch(INDEX)
        try:
            names = sorted(
                set(json.loads((self.folder / INDEX).read_text())["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise refused(f"{INDEX} of {self.repository} cannot be read.") from error
        if not 0 < len(names) < MOST_FILES:
            raise refused(f"{INDEX} of {self.repository} names {len(names):,} files.")
        for name in names:
            if not str(name).endswith(".safetensors") or name not in self.files:
                shown = repr(name)[:128]
                raise refused(f"{INDEX} names {shown}, which {self.repository} does not have.")
        return names

    def fetch(self, name: str) -> None:
        """A small file, whole. Idempotent."""
        size = self.files[name].size or 0
        if size > MOST_BYTES:
            raise refused(
                f"{name} of {self.repository} has {size:,} bytes; {MOST_BYTES:,} are the most."
            )
        self.api.hf_hub_download(self.repository, name, revision=self.commit, local_dir=self.folder)

    def facts_of(self, name: str) -> FileFacts:
        lfs = self.files[name].lfs
        assert lfs is not None  # noqa: S101 - the caller has looked
        return FileFacts(name=name, bytes=lfs.size, sha256=lfs.sha256)

    def stand_in(self, name: str) -> None:
        """Writes the file's header, and a hole for the weights behind it."""
        facts = self.facts_of(name)
        try:
            found = self.api.parse_safetensors_file_metadata(
                self.repository, name, revision=self.commit, timeout=REQUEST_SECONDS
            )
        except SafetensorsParsingError as error:
            raise refused(f"{name} of {self.repository} is no safetensors file.") from error
        tensors = {
            key: {"dtype": one.dtype, "shape": one.shape, "data_offsets": one.data_offsets}
            for key, one in found.tensors.items()
        }
        # No writer's is shorter.
        header = json.dumps(tensors, separators=(",", ":"), ensure_ascii=False).encode()
        end = max((one.data_offsets[1] for one in found.tensors.values()), default=0)
        if facts.bytes < LENGTH_BYTES + len(header) + end:
            raise refused(
                f"{name} of {self.repository} has {facts.bytes:,} bytes, and its header names "
                f"{end:,} of weights. It is not whole."
            )
        with (self.folder / name).open("wb") as file:
            file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
            file.truncate(LENGTH_BYTES + len(header) + end)


def refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model", code="model_refused")


def limit_files(size: int) -> None:
    """A hub that sends more than it announced fills no disk. Raising it again is allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if most < 0 else min(size, most), most))


def licence_of(info: ModelInfo) -> str | None:
    """What the model card names."""
    card = dict(info.card_data.to_dict()) if info.card_data else {}  # type: ignore[no-untyped-call]
    named = card.get("license_name") if card.get("license") == "other" else None
    told = named or card.get("license")
    if isinstance(told, list):
        told = ", ".join(map(str, told))
    return str(told)[:1024] if told else None


if __name__ == "__main__":
    main()
