"""The frozen contract between the API and the trainer: everything that decides an adapter."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Quantization = Literal["auto", "nf4", "none"]


class Frozen(BaseModel):
    """An immutable value; an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Lora(Frozen):
    """Low-rank adapters (Hu et al. 2021): W + (alpha / r) * B @ A on every linear layer but the
    head. Initial A is Kaiming-uniform, B is zero.
    """

    r: Annotated[int, Field(ge=1, le=256, strict=True)] = 16
    alpha: Annotated[int, Field(ge=1, le=1024, strict=True)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class DataFile(Frozen):
    """One checked data set. `rows` counts its rows (lines that are not blank)."""

    id: str
    sha256: str
    rows: Annotated[int, Field(ge=1)]


class StartingAdapter(Frozen):
    """The LoRA weights that a training starts from: the tuned model's name, and the SHA-256 of its
    `adapter_model.safetensors`.
    """

    model: str
    sha256: str


class TrainingSpec(Frozen):
    """One LoRA training, adapters in fp32. Every `auto` but that of `quantization` is resolved
    before a spec exists.

    `quantization` is what the base is trained in: "nf4" with double quantization, as in QLoRA
    (Dettmers et al. 2023), or "none", the device's compute dtype. "auto" depends on the device: the
    job's first worker plans it, and records it in its plan, an event and the adapter's manifest.

    `adapter` is None for a fresh one, and then not written: specs that were frozen before there was
    a choice, and what is hashed over them, stay what they are.

    The same spec, data and machine give the same adapter.
    """

    version: Literal[1] = 1
    base_model: str
    base_revision: str
    training_file: DataFile
    validation_file: DataFile | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    n_epochs: Annotated[int, Field(ge=1, le=50)]
    batch_size: Annotated[int, Field(ge=1, le=256, description="rows per optimizer step")]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_length: Annotated[int, Field(ge=8, description="tokens; a longer row is cut at its end")]
    lora: Lora = Lora()
    quantization: Quantization = "nf4"
    adapter: Annotated[StartingAdapter | None, Field(exclude_if=lambda none: none is None)] = None
