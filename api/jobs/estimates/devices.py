"""The devices that jobs are trained on, and what fits them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from sqlalchemy import BigInteger, ColumnElement, func, select
from sqlalchemy.orm import Session

from api.settings import Pool
from api.tables import BaseModel, Job, Worker
from tunery.errors import DoesNotFit
from tunery.facts import Examined
from tunery.plan.choice import does_not_fit, least
from tunery.plan.memory import ADMITTED, PROCESS_BYTES, Compute, Needs, Precision
from tunery.plan.shape import Shape
from tunery.spec import TrainingSpec


@dataclass(frozen=True)
class Device:
    """What a worker told of its device. `memory_bytes` is None until its engine has started. One
    training may use so many `gpus` like it; on a CPU, processes that share its memory.
    """

    name: str | None
    memory_bytes: int | None
    gpus: int = 1

    @property
    def compute(self) -> Compute:
        return "fp32" if self.name == "cpu" else "bf16"

    def memory_for(self, gpus: int) -> int | None:
        """Bytes of each of so many."""
        if self.memory_bytes is None or self.name != "cpu":
            return self.memory_bytes
        return self.memory_bytes // gpus

    def holds(self, least: dict[str, int] | None, gpus: int = 1) -> bool:
        """As far as is known; `least` is what `least_bytes` has."""
        needed, memory = (least or {}).get(self.compute, 0), self.memory_for(gpus)
        return gpus <= self.gpus and (memory is None or needed <= int(ADMITTED * memory))

    @property
    def holds_job(self) -> ColumnElement[bool]:
        """The same of a job's row."""
        enough = Job.gpus <= self.gpus
        if self.memory_bytes is None:
            return enough
        needed = Job.memory_bytes[self.compute].astext.cast(BigInteger)
        if self.name == "cpu":
            needed = needed * Job.gpus
        return enough & (func.coalesce(needed, 0) <= int(ADMITTED * self.memory_bytes))


def list_all(tx: Session) -> list[Device]:
    """Those of the workers, each once, the largest last."""
    query = select(Worker.device, Worker.memory_bytes, Worker.gpus).distinct()
    return by_size([Device(*row) for row in tx.execute(query)])


def by_size(devices: list[Device]) -> list[Device]:
    def size(device: Device) -> tuple[int, int, str]:
        return device.memory_bytes or 0, device.gpus, device.name or ""

    return sorted(devices, key=size)


def of_pools(tx: Session, pools: Sequence[Pool]) -> dict[str, Device]:
    """What a worker of each pool has, by the pools' names in their order: the smallest device that
    one of its workers has told, else as listed.
    """
    query = select(Worker.pool, Worker.device, Worker.memory_bytes, Worker.gpus).distinct()
    told: dict[str, list[Device]] = {}
    for pool, device, memory, gpus in tx.execute(query.where(Worker.memory_bytes.is_not(None))):
        told.setdefault(pool, []).append(Device(device, memory, gpus))
    return {
        pool.name: by_size(told.get(pool.name, [Device(None, pool.memory_bytes, pool.gpus)]))[0]
        for pool in pools
    }


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
    """The least memory of each of its GPUs that the training can run in, by what a device computes
    in; None: it is not known. `longest` is in tokens; `data` are the data sets' bytes, as in
    `Needs`.
    """
    shape = shape_of(base)
    if shape is None:
        return None
    return {
        compute: least(
            needs_of(base, shape, spec, compute, data), spec.quantization, longest, spec.gpus
        )
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
    tx: Session,
    base: BaseModel,
    spec: TrainingSpec,
    pools: Sequence[Pool],
    *,
    longest: int,
    data: int,
) -> None:
    """Some device may hold the training, of a worker or of a pool that has none just now. If there
    is neither yet, one may come. `longest` and `data` as in `least_bytes`.

    Raises:
        DoesNotFit: not even the largest does, or none offers so many GPUs.

    """
    shape, refusal = shape_of(base), None
    known = by_size([*list_all(tx), *of_pools(tx, pools).values()])
    most = max((device.gpus for device in known), default=spec.gpus)
    if spec.gpus > most:
        raise too_few(spec.gpus, most)
    for device in (one for one in known if one.gpus >= spec.gpus):
        memory = device.memory_for(spec.gpus)
        if shape is None or memory is None:
            return
        needs = needs_of(base, shape, spec, device.compute, data)
        refusal = does_not_fit(needs, spec.quantization, longest, memory, spec.gpus)
        if refusal is None:
            return
    if refusal:
        raise refusal


def too_few(wanted: int, most: int) -> DoesNotFit:
    offered = "1 GPU" if most == 1 else f"{most} GPUs"
    return DoesNotFit(
        f"training.gpus is {wanted}, and no worker of this service offers more than {offered} to "
        f"one training. Ask for {most} or fewer, or have an operator start a worker with "
        f"`tunery worker --gpus-per-job {wanted}`.",
        param="training.gpus",
    )
