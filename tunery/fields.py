"""What the API's objects are made of: their base, and the kinds of value that many of them hold,
each described once, with an example.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Value = TypeVar("Value")


class Described(BaseModel):
    """The docstring under a field is its description in /openapi.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)


Kind = Annotated[Value, Field(description="The type of this object, always this value.")]

# Described where they are used: each time means something else.
UnixTime = Annotated[int, Field(examples=[1764043200])]
Bytes = Annotated[int, Field(examples=[48_213])]
Seconds = Annotated[float, Field(examples=[412.5])]
Tokens = Annotated[int, Field(examples=[184_320])]
CHECKPOINT_STEP = Field(
    description="Number of optimizer steps after which the checkpoint was written.", examples=[120]
)
CheckpointStep = Annotated[int, CHECKPOINT_STEP]

CreatedAt = Annotated[UnixTime, Field(description="When it was created, in Unix seconds (UTC).")]
FileName = Annotated[
    str, Field(description="Name of the file, without a folder.", examples=["manifest.json"])
]
COLUMNS = Field(
    description="The file's own names for the fields of a row, by ours; all else is left out.",
    examples=[{"prompt": "question", "completion": "answer"}],
)
FileBytes = Annotated[Bytes, Field(description="Size of the file in bytes.")]
A_DIGEST = "947974d148a9dbd7ca3ac0092077586f4bfefa580af635d6b0c5e0a3ce8024a3"
A_SIGNATURE = "5d0c3e9a71b24f68a0d7c15e83f9264b7ad0183c6e52f94b0c7d1e8a3f6b2950"
Sha256 = Annotated[
    str,
    Field(
        description="SHA-256 of the file's bytes, 64 lowercase hex digits.",
        examples=[A_DIGEST],
    ),
]

JobId = Annotated[
    str,
    Field(description="Id of the fine-tuning job.", examples=["ftjob-NqVwYS81VP7Hb1DX8pPd5khx"]),
]
FileId = Annotated[
    str, Field(description="Id of the file.", examples=["file-E3pyIgKpaUnArl63XykWZeiN"])
]
ProjectId = Annotated[
    str, Field(description="Id of the project.", examples=["proj_NCiia3anXn9k3ksu9mI4ROnl"])
]
BaseModelId = Annotated[str, Field(description="Id of the base model.", examples=["tunery-demo"])]
WorkerId = Annotated[
    str,
    Field(
        description="Id of the worker. It is kept in the work folder, so it survives a restart.",
        examples=["worker-9f2c41d07ab35e68"],
    ),
]
Revision = Annotated[
    str,
    Field(
        description="Version of the base model: a commit, or a hash over its files.",
        examples=["sha256-947974d148a9dbd7ca3ac0092077586f4bfefa58"],
    ),
]
TunedModel = Annotated[
    str,
    Field(
        description="Name of the tuned model, or of one of its checkpoints.",
        examples=["ft:tunery-demo:default:cows:8pPd5khx"],
    ),
]
MODEL_NAME = Field(
    description="Id of a base model, or name of a tuned model or of one of its checkpoints.",
    examples=["tunery-demo", "ft:tunery-demo:default:cows:8pPd5khx"],
)
ModelName = Annotated[str, MODEL_NAME]
