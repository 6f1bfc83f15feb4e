"""What every layout must satisfy: training and speaking must mean the same sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch

from wishbone.core.errors import WishboneError
from wishbone.core.interfaces import (
    IGNORE,
    CodeSpace,
    Draw,
    Emit,
    Feed,
    Layout,
    Positions,
    Prompt,
    Sample,
    Stop,
    TextSpace,
    Wait,
)
from wishbone.core.testing.common import Check, Violation, require

SPACE = TextSpace(vocabulary=40, word_ends=frozenset({38, 39}), specials={"<|endofprompt|>": 37})
CODES = CodeSpace(size=27, rate=25.0, levels=(3, 3, 3))
FORMS = {"form": ("unistream", "bistream")}
"""Fields that choose how a request is spoken: training may hold every form side by side."""
ACTIONS = 20_000
"""More than this for 30 ids of text is called endless; speech of them takes about 500."""
SEEDS = 12

Sampler = Callable[[Sequence[int]], int]
Position = tuple[int, tuple[int, ...]]


def _build(cls: Any, config: Any) -> Layout:
    return cls(config, text=SPACE, codes=CODES)


def sample(seed: int, words: int = 6, marked: bool = True) -> Sample:
    """An utterance of ``words`` words, about four codes for each id; every 4th a slow one."""
    random = Random(seed)
    text: list[int] = []
    speech: list[tuple[int]] = []
    ends = []
    for number in range(words):
        ids = [random.randrange(37) for _ in range(random.randint(1, 3))]
        text += [*ids, 39 if number == words - 1 else 38]
        count = (len(ids) + 1) * (5 if number % 4 else 4)
        speech += [(random.randrange(CODES.size),) for _ in range(count)]
        ends.append(len(speech))
    return Sample(text=text, speech=speech, word_ends=ends if marked else ())


def wellformed(cls: Any, config: Any, module: str | None) -> str:
    """Training positions point at rows that exist, and every code is predicted once, in order."""
    layout = _build(cls, config)
    require(not isinstance(layout, torch.nn.Module), "a layout holds no parameter, yet is a Module")
    rows = list(layout.tables.values())
    size = CODES.size + layout.extra
    require(next(iter(layout.tables)) == "speech", "the first table is not speech")
    require(rows[0] == size, f"the speech table has {rows[0]} rows, codes and extra make {size}")
    for seed in range(SEEDS):
        laid = layout.train(sample(seed, marked=seed % 3 > 0), Random(seed))
        count = len(laid.table)
        shapes = (laid.ids.shape, laid.targets.shape)
        require(shapes == ((count, 1), (count, 1)), f"ids and targets are {shapes} for T = {count}")
        kinds = {laid.table.dtype, laid.ids.dtype, laid.targets.dtype}
        require(kinds == {torch.int64}, f"positions are {kinds}, not int64")
        for table, row in zip(laid.table.tolist(), laid.ids[:, 0].tolist(), strict=True):
            inside = 0 <= table < len(rows) and 0 <= row < rows[table]
            require(inside, f"row {row} of table {table} does not exist")
        wanted = [t for t in laid.targets[:, 0].tolist() if t != IGNORE]
        require(all(0 <= t < size for t in wanted), "a target is outside the head's ids")
        codes = [t for t in wanted if t < CODES.size]
        spoken = [frame[0] for frame in sample(seed, marked=seed % 3 > 0).speech]
        require(codes == spoken, "the targets below the extra ids are not the codes of the sample")
    return f"{SEEDS} samples, tables {dict(layout.tables)}"


def consistent(cls: Any, config: Any, module: str | None) -> str:
    """Teacher-forced with the codes of a sample, speaking makes the very positions of training.

    A layout may train several forms in turn; each sample must be spoken by one of them, and the
    form of ``config`` must be among those trained.
    """
    layout, forms = _build(cls, config), _forms(cls, config)
    own = 0
    for seed in range(SEEDS):
        utterance = sample(seed)
        laid = layout.train(utterance, Random(seed))
        answers = [_spoken_alike(form, laid, utterance) for form in forms]
        own += answers[0] is None
        reasons = "; ".join(f"form {i}: {answer}" for i, answer in enumerate(answers))
        require(None in answers, f"training sample {seed} cannot be spoken: {reasons}")
    require(own > 0, f"the form this config speaks in never occurs in training; {answers[0]}")
    return f"{SEEDS} samples, {own} of them in this config's own form, {len(forms)} forms"


def _forms(cls: Any, config: Any) -> list[Layout]:
    """Layouts that speak, this config's own first."""
    layouts = [_build(cls, config)]
    for name, values in FORMS.items():
        for value in values:
            if getattr(config, name, value) != value:
                try:
                    layouts.append(_build(cls, dataclasses.replace(config, **{name: value})))
                except WishboneError:
                    continue
    return layouts


def _spoken_alike(layout: Layout, laid: Positions, utterance: Sample) -> str | None:
    """None, or where speaking departs from training; with all text at once and id by id."""
    for piece in (len(utterance.text), 1, 4):
        try:
            _retrace(layout, laid, utterance, piece)
        except Violation as error:
            return f"text by {piece}: {error}"
    return None


def _retrace(layout: Layout, laid: Positions, utterance: Sample, piece: int) -> None:
    expected = list(zip(laid.table.tolist(), map(tuple, laid.ids.tolist()), strict=True))
    targets = [tuple(row) for row in laid.targets.tolist()]
    predicted = {i for i, row in enumerate(targets) if set(row) != {IGNORE}}
    fed: list[Position] = []
    asked: set[int] = set()

    def answer(action: Draw) -> tuple[int, ...]:
        at = len(fed) - 1
        require(at in predicted - asked, f"draws at position {at}, training predicts nothing new")
        asked.add(at)
        wrong = targets[at][0] in action.banned or action.forced not in (None, targets[at][0])
        require(not wrong, f"forbids at position {at} what training predicts, {targets[at]}")
        return targets[at]

    def feed(positions: Sequence[Position]) -> None:
        for position in positions:
            at = len(fed)
            wanted = expected[at] if at < len(expected) else None
            require(position == wanted, f"position {at} is {position}, in training {wanted}")
            fed.append(position)

    emitted = drive(layout, Prompt(), utterance.text, piece, answer, feed)[0]
    require(asked == predicted, f"never draws at positions {sorted(predicted - asked)[:5]}")
    require(
        emitted == [tuple(f) for f in utterance.speech], "the codes emitted are not those drawn"
    )


def drive(
    layout: Layout,
    prompt: Prompt,
    text: Sequence[int],
    piece: int,
    answer: Callable[[Draw], tuple[int, ...]],
    feed: Callable[[Sequence[Position]], None],
) -> tuple[list[tuple[int, ...]], str]:
    """Speak ``text``, given ``piece`` ids at a time; the codes emitted and why it stopped."""
    turn = layout.start(prompt)
    waiting, ended, emitted, drawn = list(text), False, [], False
    if piece >= len(text):
        turn.give_text(waiting)
        turn.end_text()
        waiting, ended = [], True
    for _ in range(ACTIONS):
        action = turn.next()
        if isinstance(action, Feed):
            feed(action.positions)
        elif isinstance(action, Draw):
            turn.drawn(answer(action))
            drawn = True
        elif isinstance(action, Emit):
            require(drawn, "emits a code before anything was drawn")
            emitted.append(tuple(action.code))
        elif isinstance(action, Wait):
            require(not ended, "waits for text after end_text")
            given, waiting = waiting[:piece], waiting[piece:]
            turn.give_text(given) if given else turn.end_text()
            ended = not given
        elif isinstance(action, Stop):
            require(action.reason in ("end", "length"), f"stops for {action.reason!r}")
            return emitted, action.reason
        else:
            raise Violation(f"next() returned {action!r}")
    raise Violation(f"no Stop after {ACTIONS} actions and {len(emitted)} codes")


def ends(cls: Any, config: Any, module: str | None) -> str:
    """Whatever is drawn and however text arrives, a request ends, and only codes are emitted."""
    longest = 0
    for layout in _forms(cls, config)[:1]:
        for words in (0, 1, 8):
            text = sample(1, words).text
            for name, choose in _samplers().items():
                for piece in (len(text) + 1, 1):
                    emitted, _ = drive(
                        layout, Prompt(), text, piece, _within(layout, choose), lambda _: None
                    )
                    what = f"{len(text)} ids, {name} sampler"
                    outside = [c for c in emitted if not 0 <= c[0] < CODES.size]
                    require(not outside, f"{what}: {outside[:3]} was emitted, which is no code")
                    longest = max(longest, len(emitted))
    return f"at most {longest} codes"


def _samplers() -> dict[str, Sampler]:
    random = Random(0)
    return {"lowest-id": min, "highest-id": max, "random": random.choice}


def _within(layout: Layout, choose: Sampler) -> Callable[[Draw], tuple[int, ...]]:
    """Answer a draw as the real sampler does, within what the turn allows."""
    size = CODES.size + layout.extra

    def answer(action: Draw) -> tuple[int, ...]:
        named = {*action.banned} | ({action.forced} - {None})
        require(all(0 <= i < size for i in named), f"{action} names ids the head does not have")
        if action.forced is not None:
            require(action.forced not in action.banned, f"{action} forces what it bans")
            return (action.forced,)
        allowed = [i for i in range(size) if i not in action.banned]
        require(bool(allowed), f"{action} allows nothing")
        return (choose(allowed),)

    return answer


def prompts(cls: Any, config: Any, module: str | None) -> str:
    """What the prompt says is fed and never emitted; an instruction changes none of it."""
    layout = _build(cls, config)
    said, new = sample(3, 4), sample(4, 5)
    cases = (
        Prompt(said.text, said.speech, said.word_ends),
        Prompt(said.text, said.speech, said.word_ends, instruct=(1, 2, 3)),
        Prompt(instruct=(1, 2, 3)),
    )
    for prompt in cases:
        fed: list[Position] = []
        answer = _within(layout, Random(1).choice)
        emitted, _ = drive(layout, prompt, new.text, 3, answer, fed.extend)
        speech = [ids for table, ids in fed if table == Layout.SPEECH and ids[0] < CODES.size]
        before = [tuple(frame) for frame in prompt.speech]
        whole = before + emitted
        require(
            speech in (whole, whole[:-1]), "the codes fed are not those of the prompt, then the new"
        )
        text = [ids[0] for table, ids in fed if table != Layout.SPEECH]
        held = all(row in text for row in (*prompt.text, *prompt.instruct))
        require(held, "text of the prompt is not fed")
    return f"{len(cases)} prompts"


CHECKS = (
    Check("wellformed", "Training positions point at rows that exist.", wellformed),
    Check("consistent", "Speaking makes the positions of training.", consistent),
    Check("ends", "Every request ends and emits codes alone.", ends),
    Check("prompts", "The prompt is fed, never emitted.", prompts),
)
