"""What is told of a file and of a base model."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from tunery.fields import A_DIGEST, A_SIGNATURE, BaseModelId, FileBytes, FileName, Revision, Sha256
from tunery.plan.footprint import Footprint
from tunery.plan.memory import Compute
from tunery.plan.shape import Shape
from tunery.wire import Message, Text

MOST_FILES = 1_000
# The `source` of a base model whose files are in the service's storage.
STORED = "storage"
MOST_TEMPLATE_CHARACTERS = 64 << 10


PlainName = Annotated[
    FileName, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
]


class FileFacts(Message):
    """One file by name and content."""

    name: PlainName
    bytes: Annotated[FileBytes, Field(ge=0, le=2**53, strict=True)]
    sha256: Annotated[Sha256, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]


A_DOWNLOAD = (
    "/storage/files/E3pyIgKpaUnArl63XykWZeiN?until=1764046800"
    f"&sha256={A_DIGEST}&signature={A_SIGNATURE}"
)


A_DIRECT_DOWNLOAD = (
    "https://s3.eu-west-1.amazonaws.com/tunery/files/E3pyIgKpaUnArl63XykWZeiN"
    "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=86400&X-Amz-Signature=5d41402abc4b2a76"
)


class FileLink(FileFacts):
    """A file and where to get it."""

    model_config = ConfigDict(extra="ignore")

    url: Annotated[str, Field(examples=[A_DOWNLOAD])]
    """Where to GET the file from the API. It may be relative to the API's own address."""
    direct: Annotated[
        str | None, Field(exclude_if=lambda none: none is None, examples=[A_DIRECT_DOWNLOAD])
    ] = None
    """Where to GET it from storage itself; left out if storage cannot be reached from outside. If
    that fails, `url` has the file, or says what is wrong with it.
    """


def each_name_once(files: list[FileFacts]) -> list[FileFacts]:
    names = set[str]()
    for file in files:
        if file.name in names:
            raise ValueError(f"names {file.name} twice")
        names.add(file.name)
    return files


Files = Annotated[list[FileFacts], Field(max_length=MOST_FILES), AfterValidator(each_name_once)]

Version = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9.+_-]+$")]


class Examined(Message):
    """How a base model's family is trained, as its examination found on some machine."""

    way: Annotated[
        Text, Field(examples=["packed, taken apart for Qwen3_5GatedDeltaNet"], min_length=1)
    ]
    """How the rows of a step are computed: `packed`, `padded` or `row by row`; of packed ones, the
    modules for which the pack is taken apart.
    """
    device: Annotated[str, Field(max_length=16, pattern=r"^[a-z]+$", examples=["cuda"])]
    """Kind of device that it was examined on: `cuda` or `cpu`."""
    torch: Annotated[Version, Field(examples=["2.13.0+cu130"])]
    """Version of torch there."""
    transformers: Annotated[Version, Field(examples=["5.23.0"])]
    """Version of transformers there."""
    peft: Annotated[Version, Field(examples=["0.21.2"])]
    """Version of PEFT there."""
    footprints: Annotated[
        dict[Compute, Footprint],
        Field(
            max_length=2,
            exclude_if=lambda none: not none,
            examples=[
                {
                    "bf16": {
                        "kept": {"token": 5_998_592},
                        "recomputed": {"token": 536_576},
                        "one_row": True,
                    }
                }
            ],
        ),
    ] = Field(default_factory=dict)
    """What a training holds of a device's memory beside the weights, by what the device computes
    in, `bf16` or `fp32`; left out if that was not measured.
    """


# All that turning rows into tokens needs of a base model's folder.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class BaseModelFacts(Message):
    """A base model as it is registered."""

    id: Annotated[
        BaseModelId, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")
    ]
    revision: Annotated[Revision, Field(min_length=1, max_length=128)]
    source: Annotated[str, Field(max_length=4_096, examples=["/srv/models/tunery-demo"])]
    """Where its files are: a folder that every worker can read; `hf://ORG/NAME`, a model hub's
    repository, from which workers fetch them at the commit `revision`; or `storage`, this service's
    own, from which workers fetch them too.
    """
    licence: Annotated[str, Field(max_length=1_024, examples=["apache-2.0"])] | None
    """Licence of the model; null: it was not stated."""
    architecture: Annotated[str, Field(max_length=128, examples=["llama"])]
    """The `model_type` of the model's config."""
    hidden_size: Annotated[int, Field(examples=[128])]
    """Width of the model."""
    context_length: Annotated[int, Field(examples=[1024])]
    """Maximum number of tokens that the model can read at once."""
    has_chat_template: bool
    """Whether the tokenizer has a chat template."""
    files: Files
    """All files of the model's folder that belong to the model."""
    shape: Shape | None = None
    """Dimensions of the model; null if it was registered before they were told."""
    # Older workers take no fact that they do not know.
    not_for_ollama: Annotated[
        Text | None,
        Field(
            exclude_if=lambda none: none is None,
            examples=["it writes some conversations in another way than others"],
        ),
    ] = None
    """Why the chat template cannot be written in Ollama's template language; left out if it can, or
    if that was not checked.
    """
    examined: Annotated[Examined | None, Field(exclude_if=lambda none: none is None)] = None
    """How its family is trained; left out if no machine has examined it."""

    chat_template: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MOST_TEMPLATE_CHARACTERS,
            exclude_if=lambda none: none is None,
            examples=["chatml"],
        ),
    ] = None
    """Chat template for a model whose folder has none, or another: a name of
    `training.chat_template`, or Jinja. Left out: the folder's own, or the one it was given before.
    """

    @property
    def tokenizer(self) -> list[FileFacts]:
        return [file for file in self.files if file.name in TOKENIZER_FILES]
