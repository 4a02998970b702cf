"""The devices that jobs are trained on, and what fits them."""

from dataclasses import dataclass
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.tables import BaseModel, Worker
from tunery.facts import Examined
from tunery.plan.choice import does_not_fit
from tunery.plan.memory import ADMITTED, PROCESS_BYTES, Compute, Needs, Precision
from tunery.plan.shape import Shape
from tunery.spec import TrainingSpec


@dataclass(frozen=True)
class Device:
    """What a worker told of its device. `memory_bytes` is None until its engine has started."""

    name: str | None
    memory_bytes: int | None

    @property
    def compute(self) -> Compute:
        return "fp32" if self.name == "cpu" else "bf16"

    def holds(self, least: dict[str, int] | None) -> bool:
        """As far as is known; `least` is what `least_bytes` has."""
        needed = (least or {}).get(self.compute, 0)
        return self.memory_bytes is None or needed <= int(ADMITTED * self.memory_bytes)


def list_all(tx: Session) -> list[Device]:
    """Those of the workers, each once, the largest last."""
    query = select(Worker.device, Worker.memory_bytes).distinct()
    devices = [Device(*row) for row in tx.execute(query)]
    return sorted(devices, key=lambda device: (device.memory_bytes or 0, device.name or ""))


def shape_of(base: BaseModel) -> Shape | None:
    """None for a base that was registered before shapes were."""
    return Shape.model_validate(base.shape) if base.shape else None


def needs_of(
    base: BaseModel, shape: Shape, spec: TrainingSpec, compute: Compute, data: int = 0
) -> Needs:
    """By what was measured of the base, if it was; `data` as in `Needs`."""
    found = Examined.model_validate(base.examined).footprints if base.examined else {}
    return Needs.of(shape, spec, compute, data, found.get(compute))


def least_bytes(
    base: BaseModel, spec: TrainingSpec, *, longest: int, data: int
) -> dict[Compute, int] | None:
    """The least memory that the training can run in, by what a device computes in; None: it is not
    known. `longest` is in tokens; `data` are the data sets' bytes, as in `Needs`.
    """
    shape = shape_of(base)
    if shape is None:
        return None
    return {
        compute: needs_of(base, shape, spec, compute, data).least(spec.quantization, longest)
        for compute in get_args(Compute)
    }


def base_bytes(
    base: BaseModel, spec: TrainingSpec, precision: Precision
) -> dict[Compute, int] | None:
    """The memory that takes no more than the base, by what a device computes in; None: it is not
    known.
    """
    shape = shape_of(base)
    if shape is None:
        return None
    return {
        compute: PROCESS_BYTES[compute] + needs_of(base, shape, spec, compute).base(precision)
        for compute in get_args(Compute)
    }


def require_one_that_fits(
    tx: Session, base: BaseModel, spec: TrainingSpec, *, longest: int, data: int
) -> None:
    """Some device may hold the training. If there is none yet, one may come. `longest` and `data`
    as in `least_bytes`.

    Raises:
        DoesNotFit: not even the largest does.

    """
    shape, refusal = shape_of(base), None
    for device in list_all(tx):
        if shape is None or device.memory_bytes is None:
            return
        needs = needs_of(base, shape, spec, device.compute, data)
        refusal = does_not_fit(needs, spec.quantization, longest, device.memory_bytes)
        if refusal is None:
            return
    if refusal:
        raise refusal
