"""Exports: what is asked for, and what came of it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from api.http.shapes import Request, Word, seconds
from api.jobs.schemas import Attempts, FinishedAt, JobError, Status, WhyFailed
from api.tables import Artifact, Job
from tunery.exports import OPTIONS, Format, GgufQuantization, Options
from tunery.fields import CreatedAt, Described, FileBytes, FileName, JobId, Kind, Sha256


class ExportSettings(Request):
    """What is made of a model."""

    format: Format
    """`peft`: the adapter as PEFT and vLLM load it. `merged`: one model. `gguf`: for llama.cpp, the
    whole model with a `quantization`, else the adapter. `ollama`: the same, with a Modelfile.
    """
    onto: Literal["trained", "original"] | None = None
    """Of `merged`: the base that the adapter is merged onto, as it was trained on (`trained`, the
    default) or the original one.
    """
    dtype: Literal["bf16", "fp16", "fp32", "f16", "f32"] | None = None
    """Number format of the weights. `merged` takes `bf16`, the default, `fp16` and `fp32`; `gguf`
    and `ollama` take `f32`, the default, and `f16`, for an adapter; `peft` takes none.
    """
    quantization: GgufQuantization | None = None
    """Of `gguf` and `ollama`: the whole model is exported, with weights in this number format of
    llama.cpp. Null: the adapter alone.
    """

    @property
    def options(self) -> Options:
        given = self.model_dump(
            include={"format", "onto", "dtype", "quantization"}, exclude_none=True
        )
        return OPTIONS.validate_python(given)

    @model_validator(mode="after")
    def of_its_format(self) -> "ExportSettings":
        try:
            _ = self.options
        except ValidationError as error:
            fault = error.errors()[0]
            if fault["type"] == "value_error":
                raise ValueError(str(fault["ctx"]["error"])) from None
            name, message = fault["loc"][-1], fault["msg"]
            if fault["type"] == "extra_forbidden":
                message = "is no setting of it; remove it"
            raise ValueError(f"{name} of the format {self.format}: {message}") from None
        return self


def by_name(asked: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    return {"format": asked} if isinstance(asked, str) else asked


# A format's name alone is that with its usual settings.
AskedExport = Annotated[
    ExportSettings, BeforeValidator(by_name, json_schema_input_type=Format | ExportSettings)
]
Step = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


class CreateExport(ExportSettings):
    """A request for an export."""

    checkpoint: Annotated[
        Step | Word | None, Field(examples=[120, "ftckpt_N2kHD9FSUuErsEz5jhy0I9lO"])
    ] = None
    """A checkpoint that the job keeps, by its step, its id, or its name as a model; null: the
    finished model is exported.
    """


class ExportedFile(Described):
    """A file of an export."""

    name: FileName
    bytes: FileBytes
    sha256: Sha256


SERVE = (
    "vllm serve ftexport-7F3vlfFrGYJ3GxeYYXwSLQcW "
    "--served-model-name ft:tunery-demo:default:cows:8pPd5khx"
)


class ExportExtras(Described):
    """What is known of an export beside its files."""

    attempts: Attempts
    failure_class: WhyFailed
    progress: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"step": 1, "total_steps": 2, "trained_tokens": 0}]),
    ]
    """Progress of the export, as a `Progress`; null: not reported."""
    facts: Annotated[
        dict[str, Any], Field(examples=[{"drift": {"rows": 8, "top1_agreement": 0.998}}])
    ]
    """What its worker measured and noted, by name."""
    serve: Annotated[str, Field(examples=[SERVE])] | None
    """Command that serves the files with vLLM or llama.cpp, or gives them to Ollama, once they are
    in the folder that it names; FOLDER in it stands for the base model's, which its operator knows.
    Null: there is no such command, or they were deleted.
    """


ExportId = Annotated[
    str, Field(description="Id of the export.", examples=["ftexport-7F3vlfFrGYJ3GxeYYXwSLQcW"])
]


class ExportObject(Described):
    """A trained model in another form."""

    id: ExportId
    object: Kind[Literal["fine_tuning.job.export"]] = "fine_tuning.job.export"
    created_at: CreatedAt
    finished_at: FinishedAt
    fine_tuning_job_id: JobId
    status: Status
    format: Format
    """The format of the export."""
    options: Annotated[dict[str, Any], Field(examples=[{"onto": "trained", "dtype": "bf16"}])]
    """Settings of the format, by name."""
    step_number: Annotated[int, Field(examples=[120])] | None
    """Step of the checkpoint that is exported; null: the finished model."""
    error: JobError | None
    """Why the export failed; null unless it has."""
    files: list[ExportedFile]
    """Files of the export; empty until it has succeeded."""
    tunery: ExportExtras
    """What is known of the export beside its files."""

    @classmethod
    def of(
        cls, export: Job, *, files: list[Artifact], facts: dict[str, Any], serve: str | None
    ) -> "ExportObject":
        order = export.export or {}
        options = dict(order["options"])
        return cls(
            id=export.id,
            created_at=seconds(export.created_at),
            finished_at=seconds(export.finished_at) if export.finished_at else None,
            fine_tuning_job_id=export.exported_job_id or "",
            status=export.state,
            format=options.pop("format"),
            options=options,
            step_number=order["step"],
            error=JobError.of(export),
            files=[ExportedFile(name=f.name, bytes=f.bytes, sha256=f.sha256) for f in files],
            tunery=ExportExtras(
                attempts=export.token,
                failure_class=export.failure_class,
                progress=export.progress,
                facts=facts,
                serve=serve,
            ),
        )
