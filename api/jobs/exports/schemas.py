"""Exports: what is asked for, and what came of it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from api.http.shapes import Request, Word, seconds
from api.jobs.schemas import JobError
from api.tables import Artifact, Job
from tunery.exports import OPTIONS, Format, Options


class ExportSettings(Request):
    """As in `tunery.exports`: what is left out is as usual."""

    format: Format
    onto: Literal["trained", "original"] | None = None
    dtype: Literal["bf16", "fp16", "fp32", "f16", "f32"] | None = None

    @property
    def options(self) -> Options:
        given = self.model_dump(include={"format", "onto", "dtype"}, exclude_none=True)
        return OPTIONS.validate_python(given)

    @model_validator(mode="after")
    def of_its_format(self) -> "ExportSettings":
        try:
            _ = self.options
        except ValidationError as error:
            fault = error.errors()[0]
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
    """`checkpoint` is one that the job keeps: its step, its id, or its name as a model. Without it
    the finished model is exported.
    """

    checkpoint: Step | Word | None = None


class ExportedFile(BaseModel):
    name: str
    bytes: int
    sha256: str


class ExportExtras(BaseModel):
    """`facts` are what the worker measured and noted; `serve` is the command that has vLLM serve
    the export's files, once they are in a folder that is called as in it.
    """

    attempts: int
    failure_class: str | None
    progress: dict[str, Any] | None
    facts: dict[str, Any]
    serve: str | None


class ExportObject(BaseModel):
    """`step_number` is the checkpoint's that is exported; None: the finished model."""

    id: str
    object: Literal["fine_tuning.job.export"] = "fine_tuning.job.export"
    created_at: int
    finished_at: int | None
    fine_tuning_job_id: str
    status: str
    format: Format
    options: dict[str, Any]
    step_number: int | None
    error: JobError | None
    files: list[ExportedFile]
    tunery: ExportExtras

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
