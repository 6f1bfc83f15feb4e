"""Suite of layouts: training and speaking must make the same sequence.

A layout that needs a codec of another kind than ``CODES`` offers ``small_codes() -> CodeSpace``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, WishboneError
from wishbone.core.contract.layout import IGNORE, Layout, Positions, Prompt, Sample
from wishbone.core.contract.session import (
    Answer,
    Draw,
    Emit,
    Feed,
    NeedText,
    Position,
    SetSpeaker,
    Stop,
)
from wishbone.core.contract.text import TextSpace
from wishbone.core.testing.common import Check, Violation, require

SPACE = TextSpace(vocabulary=40, word_ends=frozenset({38, 39}), specials={"<|endofprompt|>": 37})
CODES = CodeSpace(size=27, rate=25.0, levels=(3, 3, 3))
ACTIONS = 20_000
"""More than this for 30 ids of text is called endless; speech of them takes about 500."""
SEEDS = 12

Sampler = Callable[[Sequence[int]], int]


def codes_of(cls: Any) -> CodeSpace:
    """The codec a layout is tested with."""
    return cls.small_codes() or CODES


def _rules(action: Draw, book: int) -> Draw:
    """What one codebook may draw."""
    return action.per_codebook[book] if action.per_codebook else action


def _build(cls: Any, config: Any) -> Layout:
    return cls(config, text=SPACE, codes=codes_of(cls))


def sample(seed: int, words: int = 6, marked: bool = True, codes: CodeSpace = CODES) -> Sample:
    """An utterance of ``words`` words, about four codes for each id; every 4th a slow one.

    Every other one is spoken under an instruction.
    """
    random = Random(seed)
    text: list[int] = []
    speech: list[tuple[int, ...]] = []
    ends = []
    for number in range(words):
        ids = [random.randrange(37) for _ in range(random.randint(1, 3))]
        text += [*ids, 39 if number == words - 1 else 38]
        count = (len(ids) + 1) * (5 if number % 4 else 4)
        speech += [
            tuple(random.randrange(codes.size) for _ in range(codes.codebooks))
            for _ in range(count)
        ]
        ends.append(len(speech))
    return Sample(
        text=text,
        speech=speech,
        word_ends=ends if marked else (),
        global_codes=[random.randrange(codes.global_size) for _ in range(codes.global_count)],
        instruct=(1, 2, 3) if seed % 2 else (),
    )


def _lay(layout: Layout, utterance: Sample, seed: int) -> tuple[Positions, Sample]:
    """The sample laid out for training, without its instruction where the layout takes none."""
    try:
        return layout.train(utterance, Random(seed)), utterance
    except CapabilityError:
        utterance = dataclasses.replace(utterance, instruct=())
        return layout.train(utterance, Random(seed)), utterance


def wellformed(cls: Any, config: Any, module: str | None) -> str:
    """Training positions point at rows that exist, and every code is predicted once, in order."""
    layout, codes = _build(cls, config), codes_of(cls)
    require(not isinstance(layout, torch.nn.Module), "a layout holds no parameter, yet is a Module")
    rows = list(layout.tables.values())
    size, books = codes.size + layout.extra, codes.codebooks
    require(next(iter(layout.tables)) == "speech", "the first table is not speech")
    require(rows[0] == size, f"the speech table has {rows[0]} rows, codes and extra make {size}")
    for seed in range(SEEDS):
        laid, utterance = _lay(layout, sample(seed, marked=seed % 3 > 0, codes=codes), seed)
        shape, shapes = (len(laid.table), books), (laid.ids.shape, laid.targets.shape)
        require(shapes == (shape, shape), f"ids and targets are {shapes}, not {shape}")
        kinds = {laid.table.dtype, laid.ids.dtype, laid.targets.dtype}
        require(kinds == {torch.int64}, f"positions are {kinds}, not int64")
        for table, ids in zip(laid.table.tolist(), laid.ids.tolist(), strict=True):
            inside = 0 <= table < len(rows) and all(0 <= row < rows[table] for row in ids)
            require(inside, f"rows {ids} of table {table} do not exist")
        for book in range(books):
            targets = [t for t in laid.targets[:, book].tolist() if t != IGNORE]
            require(all(0 <= t < size for t in targets), "a target is outside the head's ids")
            codes_predicted = [t for t in targets if t < codes.size]
            spoken = [frame[book] for frame in utterance.speech]
            require(
                codes_predicted in (spoken, [*utterance.global_codes, *spoken]),
                "the targets below the extra ids are not the codes of the sample",
            )
    return f"{SEEDS} samples, tables {dict(layout.tables)}"


def consistent(cls: Any, config: Any, module: str | None) -> str:
    """Teacher-forced with the codes of a sample, speaking makes the very positions of training.

    A layout may train several forms in turn; each sample must be spoken by one of them, and the
    form of ``config`` must be among those trained.
    """
    layout, forms = _build(cls, config), _forms(cls, config)
    matches, answers = 0, list[str | None]()
    for seed in range(SEEDS):
        laid, utterance = _lay(layout, sample(seed, codes=codes_of(cls)), seed)
        answers = [_spoken_alike(form, laid, utterance) for form in forms]
        matches += answers[0] is None
        reasons = "; ".join(f"form {i}: {answer}" for i, answer in enumerate(answers))
        require(None in answers, f"training sample {seed} cannot be spoken: {reasons}")
    require(matches > 0, f"the form this config speaks in never occurs in training; {answers[0]}")
    return f"{SEEDS} samples, {matches} of them in this config's own form, {len(forms)} forms"


def _forms(cls: Any, config: Any) -> list[Layout]:
    """Build the layouts that may speak a training sample, that of ``config`` first."""
    layouts = [_build(cls, config)]
    for other in cls.spoken_forms(config)[1:]:
        try:
            layouts.append(_build(cls, other))
        except WishboneError:  # the other fields of the config do not allow this form
            continue
    return layouts


def _spoken_alike(layout: Layout, laid: Positions, utterance: Sample) -> str | None:
    """Return None, or the place at which speaking departs from training.

    Text arrives at once and id by id. Conditioning of the utterance may be in the request or not.
    """
    global_codes, instruct = tuple(utterance.global_codes), tuple(utterance.instruct)
    answer = None
    for prompt in {(g, i): Prompt(global_codes=g, instruct=i)
                   for g in (global_codes, ()) for i in (instruct, ())}.values():  # fmt: skip
        sizes = (len(utterance.text), 1, 4)
        piece = sizes[0]
        try:
            for piece in sizes:
                _retrace(layout, laid, utterance, piece, prompt)
            return None
        except Violation as error:
            answer = answer or f"text by {piece}: {error}"
    return answer


def _retrace(
    layout: Layout, laid: Positions, utterance: Sample, piece: int, prompt: Prompt
) -> None:
    expected = list(zip(laid.table.tolist(), map(tuple, laid.ids.tolist()), strict=True))
    targets = [tuple(row) for row in laid.targets.tolist()]
    predicted = {i for i, row in enumerate(targets) if set(row) != {IGNORE}}
    fed: list[Position] = []
    drawn: set[int] = set()

    def answer(action: Draw) -> tuple[int, ...]:
        at = len(fed) - 1
        require(at in predicted - drawn, f"draws at position {at}, training predicts nothing new")
        drawn.add(at)
        ids = []
        for book, target in enumerate(targets[at]):
            wish = _rules(action, book)
            blank = target == IGNORE
            wrong = wish.forced is None if blank else wish.forced not in (None, target)
            require(
                not wrong and target not in wish.banned,
                f"at position {at} codebook {book} is {wish}, in training {target}",
            )
            ids.append(wish.forced if blank else target)
        return tuple(ids)

    def feed(positions: Sequence[Position]) -> None:
        for position in positions:
            at = len(fed)
            trained = expected[at] if at < len(expected) else None
            require(position == trained, f"position {at} is {position}, in training {trained}")
            fed.append(position)

    emitted = drive(layout, prompt, utterance.text, piece, answer, feed)[0]
    require(drawn == predicted, f"never draws at positions {sorted(predicted - drawn)[:5]}")
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
    session = layout.start(prompt)
    waiting, ended, emitted, drawn = list(text), False, [], False
    reply: Answer = None
    for _ in range(ACTIONS):
        action, reply = session.next(reply), None
        if isinstance(action, Feed):
            feed(action.positions)
        elif isinstance(action, Draw):
            reply, drawn = answer(action), True
        elif isinstance(action, Emit):
            require(drawn, "emits a code before anything was drawn")
            emitted.append(tuple(action.code))
        elif isinstance(action, SetSpeaker):
            require(not emitted, "tells of the whole utterance after its first code")
        elif isinstance(action, NeedText):
            require(not ended, "waits for text after its end")
            arriving, waiting = waiting[:piece], waiting[piece:]
            reply, ended = arriving or None, not arriving
        elif isinstance(action, Stop):
            require(action.reason in ("end", "length"), f"stops for {action.reason!r}")
            return emitted, action.reason
        else:
            raise Violation(f"next() returned {action!r}")
    raise Violation(f"no Stop after {ACTIONS} actions and {len(emitted)} codes")


def ends(cls: Any, config: Any, module: str | None) -> str:
    """Whatever is drawn and however text arrives, a request ends, and only codes are emitted."""
    longest, codes = 0, codes_of(cls)
    for layout in _forms(cls, config)[:1]:
        for words in (0, 1, 8):
            text = sample(1, words).text
            for name, choose in _samplers().items():
                for piece in (len(text) + 1, 1):
                    answer = _within(layout, choose, codes)
                    emitted, _ = drive(layout, Prompt(), text, piece, answer, lambda _: None)
                    what = f"{len(text)} ids, {name} sampler"
                    outside = [f for f in emitted if not _codes_only(f, codes)]
                    require(not outside, f"{what}: {outside[:3]} was emitted, which is no code")
                    longest = max(longest, len(emitted))
    return f"at most {longest} codes"


def _codes_only(frame: Sequence[int], codes: CodeSpace) -> bool:
    return len(frame) == codes.codebooks and all(0 <= code < codes.size for code in frame)


def _samplers() -> dict[str, Sampler]:
    random = Random(0)
    return {"lowest-id": min, "highest-id": max, "random": random.choice}


def _within(layout: Layout, choose: Sampler, codes: CodeSpace) -> Callable[[Draw], tuple[int, ...]]:
    """Answer a draw as the real sampler does, within what the session allows."""
    size = codes.size + layout.extra

    def pick(wish: Draw) -> int:
        ids = {*wish.banned, *(() if wish.forced is None else (wish.forced,))}
        require(all(0 <= i < size for i in ids), f"{wish} names ids the head does not have")
        if wish.forced is not None:
            require(wish.forced not in wish.banned, f"{wish} forces what it bans")
            return wish.forced
        allowed = [i for i in range(size) if i not in wish.banned]
        require(bool(allowed), f"{wish} allows nothing")
        return choose(allowed)

    def answer(action: Draw) -> tuple[int, ...]:
        require(
            len(action.per_codebook) in (0, codes.codebooks), f"{action} is not for every codebook"
        )
        return tuple(pick(_rules(action, book)) for book in range(codes.codebooks))

    return answer


def prompts(cls: Any, config: Any, module: str | None) -> str:
    """The prompt is fed and never emitted; an instruction changes none of it."""
    layout, codes = _build(cls, config), codes_of(cls)
    spoken_before, new = sample(3, 4, codes=codes), sample(4, 5, codes=codes)
    voice = Prompt(
        spoken_before.text,
        spoken_before.speech,
        spoken_before.word_ends,
        global_codes=spoken_before.global_codes,
    )
    cases = [voice]
    try:
        layout.start(Prompt(instruct=(1, 2, 3)))
        cases += [dataclasses.replace(voice, instruct=(1, 2, 3)), Prompt(instruct=(1, 2, 3))]
    except CapabilityError:
        # a layout may have no place for an instruction, if it says so
        pass
    for prompt in cases:
        fed: list[Position] = []
        answer = _within(layout, Random(1).choice, codes)
        emitted, _ = drive(layout, prompt, new.text, 3, answer, fed.extend)
        before = [tuple(frame) for frame in prompt.speech]
        for book in range(codes.codebooks):
            spoken = [ids[book] for table, ids in fed if table == Layout.SPEECH]
            speech = [code for code in spoken if code < codes.size]
            frames = [frame[book] for frame in before + emitted]
            require(
                speech in (frames, frames[:-1]),
                "the codes fed are not those of the prompt, then the new",
            )
        text = [ids[0] for table, ids in fed if table != Layout.SPEECH]
        held = all(row in text for row in (*prompt.text, *prompt.instruct, *prompt.global_codes))
        require(held, "text of the prompt is not fed")
    return f"{len(cases)} prompts"


CHECKS = (
    Check("wellformed", "Training positions point at rows that exist.", wellformed),
    Check("consistent", "Speaking makes the positions of training.", consistent),
    Check("ends", "Every request ends and emits codes alone.", ends),
    Check("prompts", "The prompt is fed, never emitted.", prompts),
)
