"""What an attempt says to its agent; the engine's log has it too."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tunery.data.incomplete import Lines
from tunery.measured import Metrics, Pace, Progress, Samples
from tunery.plan.memory import Plan, gib
from worker.engine.data.reading import TokenRows
from worker.engine.model.way import Verdict
from worker.engine.training.best import best_of, evaluations
from worker.engine.training.objectives.objective import Objective
from worker.engine.training.slot import Slot
from worker.protocol import Checkpointed, Finished, Noted, Report, Started, Stepped, Train

log = logging.getLogger(__name__)

Level = Literal["info", "warn"]


@dataclass
class Teller:
    """Reports about one order, each of them naming it. The time that is left is reckoned from the
    pace since `started`.
    """

    order: Train
    report: Callable[[Report], None]
    total_steps: int
    began: float = field(init=False)
    begun_at: int = field(init=False)

    @property
    def whose(self) -> dict[str, Any]:
        return {"job_id": self.order.job_id, "token": self.order.token}

    def note(self, message: str, *, level: Level = "info", **data: object) -> None:
        log.log(logging.WARNING if level == "warn" else logging.INFO, "%s", message)
        self.report(Noted(**self.whose, level=level, message=message, data=data))

    def files(self, objective: Objective, *files: TokenRows | None) -> None:
        for file in filter(None, files):
            self.note(
                file.summary(objective), level="info" if file.whole else "warn", **file.facts()
            )

    def held_out(self, valid: TokenRows) -> None:
        self.note(
            f"{valid.rows.lines} rows of the training file, chosen by the seed, are validated on "
            "and not trained on (training.validation_split).",
            held_out_rows=valid.rows.lines,
        )

    def plan(self, plan: Plan, words: str, *, level: Level = "info", **data: object) -> None:
        """`words` have a place for the plan's own."""
        self.note(words.format(plan.in_words()), level=level, plan=plan.model_dump(), **data)

    def referred(self, file: TokenRows, reference: Tensor) -> None:
        adapter = self.order.spec.adapter
        whose = adapter.model if adapter else "the base model"
        preferred, other = reference.mean(dim=0).tolist()
        self.note(
            f"Reference: {whose} gives the answers of the {file.kind} file log-probabilities of "
            f"{preferred:.1f} (preferred) and {other:.1f} (rejected) on average; each is compared "
            "with its own.",
            file=file.kind,
            preferred_log_probability=preferred,
            rejected_log_probability=other,
        )

    def examined(self, verdict: Verdict) -> None:
        """Of a family whose rows are not simply packed."""
        self.note(
            f"Rows of this model's family are computed {verdict.in_words()}: in a small model with "
            "its own config each loss and gradient is then that of the row alone.",
            way=verdict.way,
            mixers=list(verdict.mixers),
            reasons=list(verdict.reasons),
        )

    def taken(self, taken_bytes: int) -> None:
        self.note(
            f"Other processes hold {gib(taken_bytes)} of this GPU's memory; the training is "
            "planned with the rest.",
            level="warn",
            taken_bytes=taken_bytes,
        )

    def dropouts_left_out(self, dropouts: dict[str, float]) -> None:
        named = ", ".join(f"{name} {value:g}" for name, value in dropouts.items())
        self.note(
            f"Dropout of the base model's config ({named}) is not applied; use lora.dropout "
            "instead.",
            dropouts=dropouts,
        )

    def base_loss(self, loss: float) -> None:
        adapter = self.order.spec.adapter
        whose = adapter.model if adapter else "the base model"
        self.note(f"Validation loss of {whose}: {loss:.4f}", base_valid_loss=loss)

    def not_asked(self, lines: list[int], why: str) -> None:
        """Of validation rows that are left out of the evaluation."""
        self.note(
            f"Left out of the evaluation: {Lines.of(lines)} of the validation rows. {why}",
            level="warn",
            left_out_rows=len(lines),
        )

    def resumed(self, slot: Slot, changed: str | None, **data: object) -> None:
        """`changed`: why it does not go on bit by bit, if so."""
        message = f"Resumed from the checkpoint of step {slot.step}"
        level: Level = "info" if changed is None else "warn"
        if changed is not None:
            message += (
                f" ({changed}): from here the result is not bit-equal to an uninterrupted "
                "training, but equal to rounding"
            )
        self.note(f"{message}.", level=level, step=slot.step, plan=slot.plan.model_dump(), **data)

    def started(self, slot: Slot) -> None:
        self.began, self.begun_at = time.monotonic(), slot.step
        progress = self.progress(slot.step, slot.trained_tokens)
        self.report(Started(**self.whose, progress=progress))

    def stepped(self, news: list[tuple[Metrics, int]], pace: Pace) -> None:
        """Each step's metrics with the tokens trained up to it; `pace` is that of all of them."""
        for metrics, trained_tokens in news:
            progress = self.progress(metrics.step, trained_tokens)
            loss = metrics.train_loss
            log.info("Step %d/%d: training loss %.4f", metrics.step, self.total_steps, loss)
            self.report(Stepped(**self.whose, metrics=metrics, progress=progress, pace=pace))

    def checkpointed(self, slot: Slot, epoch: int, folder: Path, samples: Samples | None) -> None:
        metrics = slot.history[-1]
        log.info("Checkpoint at step %d", slot.step)
        self.report(
            Checkpointed(**self.whose, epoch=epoch, metrics=metrics, folder=folder, samples=samples)
        )

    def ended_early(self, slot: Slot) -> None:
        best, measured = best_of(slot.history), evaluations(slot.history)
        assert best  # noqa: S101  (it ends by that)
        later = sum(metrics.step > best.step for _, metrics in measured)
        self.note(
            f"The training ended after step {slot.step}: {later} evaluations in a row were no "
            f"better than that of step {best.step}, a validation loss of {best.valid_loss:.4f} "
            "(training.early_stopping_patience).",
            step=slot.step,
            best_step=best.step,
        )

    def best(self, slot: Slot, published: Metrics) -> None:
        self.note(
            f"The weights of step {published.step} are published: their validation loss of "
            f"{published.valid_loss:.4f} is the best of {len(evaluations(slot.history))}.",
            step=published.step,
            valid_loss=published.valid_loss,
        )

    def worsened(self, slot: Slot, published: Metrics) -> None:
        """Says so, if the model does worse on the validation file than the one it began as."""
        before, after = slot.base_valid_loss, published.valid_loss
        if before is not None and after is not None and after > before:
            self.note(
                f"The training made the model worse on the validation file: its loss was "
                f"{before:.4f} before and is {after:.4f} now. Use fewer epochs or a lower "
                "learning rate, or check that both files teach the same.",
                level="warn",
                base_valid_loss=before,
                valid_loss=after,
            )

    def finished(self, slot: Slot, folder: Path, metrics_csv: Path) -> None:
        tokens = slot.trained_tokens
        self.report(
            Finished(**self.whose, folder=folder, trained_tokens=tokens, metrics_csv=metrics_csv)
        )

    def progress(self, step: int, trained_tokens: int) -> Progress:
        taken, seconds = step - self.begun_at, time.monotonic() - self.began
        return Progress(
            step=step,
            total_steps=self.total_steps,
            trained_tokens=trained_tokens,
            seconds_left=(self.total_steps - step) * seconds / taken if taken else None,
        )
