"""A training's metrics as an event file, which TensorBoard draws."""

from pathlib import Path

from tunery.measured import Metrics

# TensorBoard finds it by its beginning. Neither the clock nor the machine's name is in it.
EVENTS = "events.out.tfevents.0.tunery"


def write_events(history: list[Metrics], path: Path) -> None:
    """A scalar for each metric of each step. Their time is the step, in seconds: the same history
    is the same file.
    """
    # It costs the start of an engine 40 ms, and the end of a training none that anyone sees.
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415
    from tensorboardX.record_writer import RecordWriter  # noqa: PLC0415

    writer = RecordWriter(str(path))
    try:
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        for metrics in history:
            event = Event(wall_time=metrics.step, step=metrics.step)
            measured = metrics.model_dump(exclude={"step"}, exclude_none=True)
            for name, value in measured.items():
                event.summary.value.add(tag=name, simple_value=value)
            writer.write(event.SerializeToString())
    finally:
        writer.close()
