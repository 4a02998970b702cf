"""Answers as the engine has time for them: at once where it is idle, and in a share of the time of
a training on the same base, between its micro-steps.

Work comes in units: one step of all rows, or one piece of a prompt.
"""

import copy
import logging
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tunery.data.prompts import Unanswerable
from tunery.messages import BASE_BROKEN, BASE_DIFFERS
from worker.engine.answers.adapters import Adapters, Beside, Weights, beside
from worker.engine.answers.asking import (
    Tokenizers,
    ends_of,
    is_asked_for,
    load_for,
    refuse_encoder,
)
from worker.engine.answers.completion import Answer, Asked, Completion, room_for
from worker.engine.answers.rows import HEAD_TOKENS, Rows, Voice
from worker.engine.answers.sampling import told
from worker.engine.device import device_memory, free_cached
from worker.engine.errors import BaseDiffers, BaseRefused
from worker.engine.model.base import Base, WarmBase
from worker.protocol import Complete, Drop, Report, without_folders

log = logging.getLogger(__name__)

MOST_ROWS = 32
# Of a prompt, in one unit; between two of them the rows that are answered go on.
PROMPT_TOKENS = 512
# Of the device's memory, what the tokens that are answered may take beside a training, and else.
MEMORY_BESIDE, MEMORY_ALONE = 0.05, 0.3
# What is saved up of the share while nobody asks, so that a first token need not wait.
MOST_CREDIT_SECONDS = 1.0


class Answers:
    """All that are asked for and not over. `share` is the most of a training's time that they take
    beside it. `look` takes in what the agent has to say, while a base is loaded.
    """

    def __init__(
        self,
        warm: WarmBase,
        report: Callable[[Report], None],
        look: Callable[[], None],
        share: float,
    ) -> None:
        self.warm = warm
        self.report = report
        self.look = look
        self.share = share
        self.waiting: deque[Asked] = deque()
        self.reading: Completion | None = None
        # Rows of several answers each, or of one, and those answers.
        self.groups: list[tuple[Rows, list[Answer]]] = []
        # What they are answered from, which is not held on to: a job may need the memory.
        self.answered_from: weakref.ref[Base] | None = None
        self.voice: Voice | None = None
        self.adapters = Adapters()
        self.tokenizers = Tokenizers()
        self.beside: Beside | None = None
        self.read_last = False
        self.credit, self.left_at = MOST_CREDIT_SECONDS, time.monotonic()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.reading or self.groups)

    @property
    def rows(self) -> list[Answer]:
        return [answer for _, answers in self.groups for answer in answers]

    def take(self, command: Complete) -> None:
        self.waiting.append(Asked(command, self.report))

    def drop(self, command: Drop) -> None:
        def is_it(asked: Asked) -> bool:
            ours = asked.command
            return (ours.completion_id, ours.token) == (command.completion_id, command.token)

        self.forget([asked for asked in self.asked() if is_it(asked)])

    def asked(self) -> list[Asked]:
        of_rows = {id(answer.of): answer.of for answer in self.rows}
        return [*self.waiting, *([self.reading] if self.reading else []), *of_rows.values()]

    @property
    def half_said(self) -> list[Complete]:
        return [asked.command for asked in self.asked() if asked.number]

    def keep(self, wanted: Callable[[Complete], bool]) -> None:
        """Releases what is not wanted."""
        others = [asked for asked in self.asked() if not wanted(asked.command)]
        self.forget(others)
        for asked in others:
            asked.release()

    def forget(self, gone: list[Asked]) -> None:
        self.waiting = deque(asked for asked in self.waiting if asked not in gone)
        if self.reading in gone:
            self.reading = None
        self.retain(lambda answer: answer.of not in gone)

    def retain(self, wanted: Callable[[Answer], bool]) -> None:
        """Takes the other answers' rows away."""
        kept = []
        for rows, answers in self.groups:
            places = [place for place, answer in enumerate(answers) if wanted(answer)]
            if len(places) == len(answers):
                kept.append((rows, answers))
            elif places:
                kept.append((rows.kept(places), [answers[place] for place in places]))
        self.groups = kept

    def work(self, goes_on: Callable[[], bool] = lambda: False) -> None:
        """A unit while the engine is idle, and more of them as long as it `goes_on`."""
        self.credit, self.left_at = MOST_CREDIT_SECONDS, time.monotonic()
        self.leave_lost_base()
        first = self.waiting[0] if self.waiting else None
        if first and not (self.reading or self.groups):
            self.attend([first], lambda: self.load(first.command))
        with self.quiet():
            self.unit(alone=True)
            while (self.reading or self.groups) and goes_on():
                self.unit(alone=True)

    def between_steps(self) -> None:
        """As many units as the share has time for, beside a training on the warm base."""
        now = time.monotonic()
        earned = self.share * (now - self.left_at)
        self.credit, self.left_at = min(MOST_CREDIT_SECONDS, self.credit + earned), now
        if not self.busy or self.credit <= 0:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what is queued up there is the training's time
        begun = time.monotonic()
        self.leave_lost_base()
        with self.quiet():
            while self.busy and time.monotonic() - begun < self.credit:
                self.unit(alone=False)
        self.left_at = time.monotonic()
        self.credit -= self.left_at - begun

    def load(self, command: Complete) -> None:
        """The base that is asked for, if it is not there."""
        base = self.warm.base
        if base and is_asked_for(base, command):
            base.folder.require_same()
            return
        self.let_go()
        base = load_for(command, self.warm, self.look)
        if not is_asked_for(base, command):
            raise RuntimeError("another base was loaded than the one that is asked for")

    def let_go(self) -> None:
        """Of the base, so that it can be dropped, and of all that is made from it again."""
        self.voice = None
        self.adapters.clear()

    def leave_lost_base(self) -> None:
        """What was answered from a base that is no longer there is released."""
        if self.answered_from and self.answered_from() is not self.warm.base:
            waiting = set(map(id, self.waiting))
            begun = [asked for asked in self.asked() if id(asked) not in waiting]
            self.forget(begun)
            for asked in begun:
                asked.release()
            self.answered_from = None
            self.let_go()

    @property
    def on_base(self) -> Voice:
        """The warm base's, in which there is one."""
        base = self.warm.base
        assert base  # noqa: S101
        if self.voice is None or self.voice.base is not base:
            self.voice = Voice(base)
            self.answered_from = weakref.ref(base)
        return self.voice

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """In it the base computes as it is, and with what is beside it."""
        base = self.warm.base
        if base is None:
            yield
            return
        with torch.no_grad(), beside(base.model) as found:
            self.beside = found
            try:
                yield
            finally:
                self.beside = None

    def unit(self, *, alone: bool) -> None:
        if self.reading is None and self.waiting and self.has_room(alone=alone):
            first = self.waiting[0]
            self.attend([first], lambda: self.begin(first, alone=alone))
        if self.reading and not (self.read_last and self.groups):
            self.read_last = True
            self.attend([self.reading], self.read_on)
        elif self.groups:
            self.read_last = False
            self.attend({id(each.of): each.of for each in self.rows}.values(), self.step)

    def has_room(self, *, alone: bool) -> bool:
        """For another completion, beside those that are answered."""
        if not self.groups:
            return True
        share = MEMORY_ALONE if alone else MEMORY_BESIDE
        return len(self.rows) < MOST_ROWS and self.taken() < share * device_memory()

    def taken(self) -> int:
        """Bytes of the device's memory that what is begun takes."""
        base = self.warm.base
        if base is None:
            return 0
        shape = base.folder.shape
        values = 2 * shape.layers * shape.kv_heads * shape.head_dim
        tokens = sum(rows.longest * len(answers) for rows, answers in self.groups)
        if self.reading:
            tokens += self.reading.rows.longest
        return tokens * values * base.model.dtype.itemsize

    def make_room(self) -> None:
        """For a training, which begins: as few are released as take too much memory beside it, the
        longest first.
        """
        while self.taken() > MEMORY_BESIDE * device_memory():
            begun = [asked for asked in self.asked() if isinstance(asked, Completion)]
            longest = max(begun, key=lambda asked: asked.longest)
            self.forget([longest])
            longest.release()
        free_cached()

    def begin(self, asked: Asked, *, alone: bool) -> None:
        """Takes up what is next, if this base can answer it; else it waits or, beside a training,
        which keeps the base, is released.
        """
        command, base = asked.command, self.warm.base
        if base is None or not is_asked_for(base, command):
            if not alone:
                self.forget([asked])
                asked.release()
            return
        refuse_encoder(base.folder, command)
        tokenizer, prompt = self.tokenizers.prompt(command, base.folder)
        most = room_for(command, prompt, base.folder.context_length, base.folder.shape.vocab)
        adapter = self.adapters.read(command.adapter, base.model) if command.adapter else None
        self.waiting.remove(asked)
        self.reading = Completion(
            command,
            self.report,
            tokenizer=tokenizer,
            prompt=prompt,
            adapter=adapter,
            ends=ends_of(base.folder, tokenizer, prompt),
            most=most,
            rows=self.on_base.empty(),
        )

    def read_on(self) -> None:
        """The next piece of a prompt; at its end, the first token of each answer."""
        completion, voice = self.reading, self.on_base
        assert completion  # noqa: S101
        rows, start = completion.rows, completion.rows.lengths[0]
        count = min(completion.unread, PROMPT_TOKENS) if voice.batched else completion.unread
        ids = completion.prompt.ids[start : start + count]
        states = self.states([completion.adapter], rows, [ids])[0]
        if completion.echoes:
            for place in range(0, count, HEAD_TOKENS):
                logits = voice.logits(states[place : place + HEAD_TOKENS])
                completion.echo(logits, start + place)
        if completion.unread:
            return
        self.reading = None
        completion.begin()
        if answers := [answer for answer in completion.answers if not answer.over]:
            logits = voice.logits(states[-1:])
            self.say(answers, logits.expand(len(answers), -1))
        else:
            completion.flush()
        if answers := [answer for answer in answers if not answer.over]:
            if voice.batched:
                parts = [*(rows for rows, _ in self.groups), *([rows] * len(answers))]
                self.groups = [(Rows.together(parts), [*self.rows, *answers])]
            else:
                copies = [rows, *(copy.deepcopy(rows) for _ in answers[1:])]
                self.groups += [
                    (one, [answer]) for one, answer in zip(copies, answers, strict=True)
                ]

    def step(self) -> None:
        """The next token of each answer."""
        states = []
        for rows, answers in self.groups:
            adapters = [answer.adapter for answer in answers]
            tokens = [[answer.token] for answer in answers]
            states.append(self.states(adapters, rows, tokens)[:, -1])
        self.say(self.rows, self.on_base.logits(torch.cat(states)))
        self.retain(lambda answer: not answer.over)

    def states(self, adapters: list[Weights | None], rows: Rows, tokens: list[list[int]]) -> Tensor:
        """(rows, tokens, width) of the next tokens of each row, with its adapter."""
        assert self.beside  # noqa: S101
        self.beside.use(self.adapters.mix(adapters))
        ids = torch.tensor(tokens, device=self.on_base.base.model.device)
        return self.on_base.states(rows, ids)

    def say(self, answers: list[Answer], logits: Tensor) -> None:
        """The token that comes next in each, of logits (answers, vocabulary)."""
        pairs = list(zip(answers, logits, strict=True))
        chosen = [answer.sampler.next(row) for answer, row in pairs]
        finite = logits.isfinite().all(dim=1).long()
        both = torch.stack([torch.stack(chosen), finite], dim=1).tolist()
        for (answer, row), (token, is_finite) in zip(pairs, both, strict=True):
            if not is_finite:
                answer.of.fail()
            if answer.over:
                continue
            top = answer.of.sampling.top_logprobs
            said = None if top is None else told(answer.of.tokenizer, row[None], [token], top)[0]
            answer.say(token, said)
        for completion in {id(answer.of): answer.of for answer in answers}.values():
            completion.flush()

    def attend(self, those: Iterable[Asked], work: Callable[[], None]) -> None:
        """Does what `those` need. Whatever goes wrong ends them, and nothing else."""
        those = list(those)
        try:
            work()
        except SystemExit:
            raise  # nobody is left to report to
        except BaseException as error:  # noqa: BLE001 (it may fail in any way; a panic is no Exception)
            self.forget(those)
            for asked in those:
                end(asked, error)
        else:
            return
        # Not in the handler, whose traceback holds on to the tensors.
        free_cached()


def end(asked: Asked, error: BaseException) -> None:
    """Tells why it is not answered."""
    match error:
        case Unanswerable(refusal=refusal):
            asked.tell(refusal=refusal)
        case BaseDiffers():
            asked.refuse(BASE_DIFFERS, without_folders(str(error), asked.command), "model")
        case BaseRefused():
            asked.refuse(BASE_BROKEN, without_folders(str(error), asked.command), "model")
        case _:
            # Its message may have what somebody asked, which is nobody else's to read.
            kind, place = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            log.error("a completion ended by %s\n%s", kind, place)
            asked.release()
