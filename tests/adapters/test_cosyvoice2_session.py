"""The inference side of the cosyvoice2 layout: no model, the draws are a script."""

from random import Random

import pytest

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, DataError
from wishbone.core.contract.layout import Prompt, Sample
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, Stop
from wishbone.core.contract.text import TextSpace

EOS, UNUSED, FILL = 6561, 6562, 6563
CLOSING = frozenset({100, 101})
MARKER = 199
TEXT = TextSpace(vocabulary=200, word_ends=CLOSING, specials={"<|endofprompt|>": MARKER})


def layout(**fields):
    config = CosyVoice2.Config(**fields)
    return CosyVoice2(config, text=TEXT, codes=CodeSpace(size=6561, rate=25.0))


class Run:
    """Drive a session: draws come from ``script``, text is given at each ``NeedText``."""

    def __init__(self, part, pieces, script=(), prompt=None, most=10_000):
        self.fed, self.emitted, self.draws = [], [], []
        session, pieces, script = part.start(prompt or Prompt()), list(pieces), list(script)
        self.session = session
        self.before_wait = None
        answer = None
        for _ in range(most):
            action, answer = session.next(answer), None
            match action:
                case Feed(positions):
                    self.fed += [(table, row[0]) for table, row in positions]
                case Emit(code):
                    self.emitted.append(code[0])
                case NeedText():
                    if self.before_wait is None:
                        self.before_wait = len(self.fed)
                    answer = pieces.pop(0) if pieces else None
                case Draw(banned, forced):
                    if forced is None or script[:1] == [forced]:
                        id = script.pop(0) if script else 7
                    else:
                        id = forced
                    assert id not in banned, (id, banned, len(self.draws))
                    self.draws.append((id, banned, forced))
                    answer = (id,)
                case Stop(reason):
                    self.reason = reason
                    assert session.next() == action
                    return
        raise AssertionError("never stopped")

    def names(self):
        return [
            [f"s{row}", f"t{row}", ("SOS", "TASK")[min(row, 1)]][table] for table, row in self.fed
        ]


def s(begin, end):
    return [f"s{i}" for i in range(begin, end)]


def t(begin, end):
    return [f"t{i}" for i in range(begin, end)]


def laid(part, sample):
    """Training inputs and the draws they stand for."""
    line = part.train(sample, Random(0))
    inputs = list(zip(line.table.tolist(), line.ids[:, 0].tolist(), strict=True))
    return inputs, [row for row in line.targets[:, 0].tolist() if row >= 0]


def frames(count):
    return [(code,) for code in range(count)]


@pytest.mark.parametrize("pieces", [[range(3)], [[0], [1], [2]]])
def test_unistream(pieces):
    run = Run(layout(min_code_ratio=1), pieces, [0, 1, 2, 3, EOS])
    assert run.names() == ["SOS", "t0", "t1", "t2", "TASK", *s(0, 4)]
    assert run.emitted == [0, 1, 2, 3] and run.reason == "end"
    assert [EOS in banned for _, banned, _ in run.draws] == [True] * 3 + [False] * 2
    assert all({UNUSED, FILL} <= set(banned) for _, banned, _ in run.draws)


def test_unistream_prompt_is_laid_out_as_in_training():
    prompt = Prompt(text=[0, 1], speech=frames(3), instruct=[50])
    run = Run(layout(), [[2, 3]], [3, 4, 5, 6, EOS], prompt)
    assert run.names() == (["SOS", "t50", f"t{MARKER}", *t(0, 4), "TASK", *s(0, 3), *s(3, 7)])
    assert run.before_wait == 5


def test_length_rules_do_not_count_the_prompt():
    prompt = Prompt(text=[1] * 50, speech=frames(9))
    run = Run(layout(), [[2, 3]], prompt=prompt)
    assert len(run.emitted) == 40 and run.reason == "length"
    assert [EOS in banned for _, banned, _ in run.draws] == [True] * 4 + [False] * 36


def test_upstream_lets_every_extra_id_end_unistream():
    run = Run(layout(parity="upstream"), [[2, 3]], [5, UNUSED])
    assert run.emitted == [5] and run.reason == "end"
    assert run.draws[0][1] == (EOS,)
    with pytest.raises(AssertionError):
        Run(layout(), [[2, 3]], [5, UNUSED])


def test_a_model_without_fill_bans_no_id_it_has_not():
    part = layout(fill=False, min_code_ratio=1)
    run = Run(part, [[0]], [3, EOS])
    assert [banned for _, banned, _ in run.draws] == [(EOS,), ()] and run.emitted == [3]


def test_instruct_marker_is_added_only_if_missing():
    for ids in ([50, 51], [50, 51, MARKER]):
        run = Run(layout(), [[1]], prompt=Prompt(instruct=ids))
        assert run.names()[:5] == ["SOS", "t50", "t51", f"t{MARKER}", "t1"]
    part = CosyVoice2(
        CosyVoice2.Config(), text=TextSpace(vocabulary=9), codes=CodeSpace(size=9, rate=25.0)
    )
    with pytest.raises(CapabilityError, match="endofprompt"):
        part.start(Prompt(instruct=[1]))


@pytest.mark.parametrize("form", ["unistream", "bistream"])
@pytest.mark.parametrize("pace", ["ratio", "words"])
def test_no_text_is_no_speech(form, pace):
    run = Run(layout(form=form, pace=pace), [])
    assert run.emitted == [] and run.draws == [] and run.reason == "end"


@pytest.mark.parametrize("n, m", [(7, 32), (5, 20), (3, 12), (23, 100), (10, 31)])
@pytest.mark.parametrize("piece", [1, 2, 100])
def test_ratio_repeats_the_training_sequence(n, m, piece):
    part = layout(form="bistream", bistream_probability=1.0, min_code_ratio=0)
    inputs, draws = laid(part, Sample(text=range(n), speech=frames(m)))
    pieces = [range(i, min(i + piece, n)) for i in range(0, n, piece)]
    run = Run(part, pieces, draws)
    assert run.fed == inputs
    assert run.emitted == list(range(m)) and run.reason == "end"
    assert [id for id, _, _ in run.draws] == draws
    assert all(forced == FILL for id, _, forced in run.draws if id == FILL)


@pytest.mark.parametrize("prompt_ids, prompt_codes", [(5, 15), (5, 16), (6, 20), (7, 31), (11, 30)])
def test_ratio_with_a_prompt_continues_the_same_sequence(prompt_ids, prompt_codes):
    part = layout(form="bistream", bistream_probability=1.0, min_code_ratio=0, max_code_ratio=99)
    inputs, _ = laid(part, Sample(text=range(23), speech=frames(100)))
    prompt = Prompt(text=range(prompt_ids), speech=frames(prompt_codes))
    run = Run(part, [range(prompt_ids, 23)], Script(prompt_codes, 100), prompt)
    assert run.fed == inputs
    assert run.emitted == list(range(prompt_codes, 100))


class Script(list):
    """Codes from ``begin`` to ``end`` and then EOS, leaving forced draws aside."""

    def __init__(self, begin, end):
        super().__init__([*range(begin, end), EOS])


def test_text_that_ends_inside_the_prompt_keeps_the_rest_of_the_prompt():
    part = layout(form="bistream", min_code_ratio=0)
    prompt = Prompt(text=range(6), speech=frames(40))
    run = Run(part, [[6]], [40, EOS], prompt)
    assert run.names() == ["SOS", *t(0, 5), *s(0, 15), "t5", "t6", "TASK", *s(15, 40), "s40"]
    upstream = Run(layout(form="bistream", parity="upstream"), [[6]], [40, EOS], prompt)
    assert upstream.names() == ["SOS", *t(0, 5), *s(0, 15), "t5", "t6", "TASK", "s40"]


def test_a_prompt_that_would_be_spoken_again_is_refused():
    prompt = Prompt(text=range(10), speech=frames(20))
    with pytest.raises(DataError, match="20 codes for 10 ids"):
        Run(layout(form="bistream"), [[1]], prompt=prompt)


def test_ratio_has_a_length_rule():
    run = Run(layout(form="bistream"), [range(12)])
    assert run.reason == "length" and len(run.emitted) == 240
    assert run.draws[-1][1] == (UNUSED, FILL)


def test_upstream_feeds_the_last_code_twice():
    draws = [*range(15), FILL, 15, EOS]
    run = Run(layout(form="bistream", parity="upstream"), [range(7)], draws)
    assert run.names() == ["SOS", *t(0, 5), *s(0, 15), "s14", "t5", "t6", "TASK", "s15"]
    right = Run(layout(form="bistream", min_code_ratio=0), [range(7)], draws)
    assert right.names() == ["SOS", *t(0, 5), *s(0, 15), "t5", "t6", "TASK", "s15"]


def test_upstream_repeats_the_other_flaws():
    part = layout(form="bistream", parity="upstream")
    with pytest.raises(DataError, match="drew id 6563"):
        Run(part, [range(3)], [1, FILL])
    early = Run(part, [range(10)], [1, FILL, 2, 3, FILL, EOS])
    assert early.names()[:12] == ["SOS", *t(0, 5), "s1", *t(5, 10)]
    assert len(Run(part, [range(3)], [4] * 900 + [EOS]).emitted) == 900
    whole = Prompt(text=range(5), speech=frames(15))
    run = Run(part, [range(5, 9)], [*range(15, 30), FILL, EOS], whole)
    assert run.names()[:21] == ["SOS", *t(0, 5), *s(0, 15)]
    assert run.names()[21:36] == s(15, 30)


def test_upstream_counts_an_instruction_among_the_ids_of_its_blocks():
    part = layout(form="bistream", parity="upstream")
    draws = [*range(15), FILL, EOS]
    run = Run(part, [range(7)], draws, Prompt(instruct=[50, MARKER]))
    assert run.names() == [
        "SOS", "t50", f"t{MARKER}", *t(0, 3), *s(0, 15), "s14", *t(3, 7), "TASK",
    ]  # fmt: skip


@pytest.mark.parametrize("blocks", [1, 2])
def test_upstream_asks_for_text_after_a_block_of_codes_whatever_the_prompt(blocks):
    part = layout(form="bistream", parity="upstream")
    prompt = Prompt(text=range(5 * blocks), speech=frames(15 * blocks))
    # no block of the request's own: four ids are too few
    run = Run(part, [range(50, 54)], [*range(100, 115), EOS], prompt)
    assert run.emitted == list(range(100, 115)) and run.reason == "end"
    assert [forced for *_, forced in run.draws] == [None] * 15 + [FILL, None]


WORDS = [1, 2, 100, 3, 100, 4, 5, 100, 6, 101]
WORD_ENDS = [4, 6, 9, 11]


def paced(**fields):
    fields = {"lookahead_words": 1, "min_codes_per_word": 0} | fields
    return layout(form="bistream", pace="words", bistream_probability=1.0, **fields)


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_words_repeat_the_training_sequence(ahead, piece):
    part = paced(lookahead_words=ahead)
    sample = Sample(text=WORDS, speech=frames(12), word_ends=[4, 4, 9, 12])
    inputs, draws = laid(part, sample)
    pieces = [WORDS[i : i + piece] for i in range(0, len(WORDS), piece)]
    run = Run(part, pieces, draws)
    assert run.fed == inputs
    assert run.emitted == list(range(12)) and run.reason == "end"
    assert [id for id, _, _ in run.draws] == draws
    assert all(forced is None for _, _, forced in run.draws)


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("spoken, ids", [(1, 3), (2, 5), (3, 8)])
def test_words_with_a_prompt_continue_the_same_sequence(ahead, spoken, ids):
    part = paced(lookahead_words=ahead)
    ends = [4, 6, 9, 12]
    inputs, _ = laid(part, Sample(text=WORDS, speech=frames(12), word_ends=ends))
    known = ends[spoken - 1]
    prompt = Prompt(text=WORDS[:ids], speech=frames(known), word_ends=ends[:spoken])
    script, begin = [], known
    for word in range(spoken, 4):
        script += range(begin, ends[word])
        if word + ahead + 1 < 4:
            script.append(FILL)
        begin = ends[word]
    run = Run(part, [WORDS[ids:]], [*script, EOS], prompt)
    assert run.fed == inputs
    assert run.emitted == list(range(known, 12))


def test_the_tail_of_a_prompt_belongs_to_its_last_word():
    prompt = Prompt(text=[1, 100, 2, 100], speech=frames(9), word_ends=[3, 6])
    part = paced(lookahead_words=0)
    run = Run(part, [[3, 100, 4, 100]], [9, FILL, 10, EOS], prompt)
    assert run.names() == (
        ["SOS", "t1", "t100", *s(0, 3), "t2", "t100", *s(3, 9), "t3", "t100", "s9"]
        + ["t4", "t100", "TASK", "s10"]
    )


def test_words_wait_only_for_the_text_in_front():
    part = paced()
    session = part.start(Prompt())
    assert isinstance(session.next(), Feed) and session.next() == NeedText()
    assert session.next(WORDS[:5]) == NeedText(), "the second word may be the last one"
    assert session.next([]) == NeedText(), "nothing has come yet, and nothing has ended"
    assert session.next(WORDS[5:6]) == Feed([(1, (row,)) for row in WORDS[:5]])
    assert isinstance(session.next(), Draw)


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("pieces", [[[4, 5, 101]], [[4], [5], [101]]])
@pytest.mark.parametrize("prompt", [Prompt(), Prompt(text=[1, 100, 2, 101], speech=frames(5))])
def test_a_lone_word_is_read_again_and_spoken_once(ahead, pieces, prompt):
    part = paced(lone_word="again", lookahead_words=ahead)
    run = Run(part, pieces, [7, 7, 7, 7, 8, FILL], prompt)
    behind = [(1, row) for row in [4, 5, 101] * ahead]
    assert run.emitted == [7, 7, 7, 7, 8] and run.reason == "end"
    assert "TASK" not in run.names() and run.fed[-5:] == [(0, 7)] * 4 + [(0, 8)]
    assert [place for place in run.fed if place[0] == 1][-len(behind) - 3 :] == [
        *[(1, 4), (1, 5), (1, 101)],
        *behind,
    ]
    assert [FILL in banned for _, banned, _ in run.draws] == [True] * 4 + [False] * 2


def test_a_lone_word_is_cut_and_two_words_are_no_lone_word():
    run = Run(paced(lone_word="again", word_base=3, word_per_id=1), [[4, 5, 101]])
    assert len(run.emitted) == 6 and run.reason == "length"
    two = [WORDS[:5], [7, 7, EOS]]
    again, plain = (Run(paced(lone_word=way), [two[0]], two[1]) for way in ("again", "plain"))
    assert again.fed == plain.fed and "TASK" in plain.names()


def test_ends_of_words_are_counted_in_the_codes_of_the_request():
    prompt = Prompt(text=WORDS[:3], speech=frames(5), word_ends=[5])
    script = [7, 7, FILL, 7, 7, 7, FILL, 7, EOS]
    run = Run(paced(lookahead_words=0), [WORDS[3:]], script, prompt)
    assert run.session.word_ends == [(2, True), (5, True), (6, True)]
    run = Run(paced(lookahead_words=1), [WORDS[3:]], [7, 7, FILL, *[7] * 12, EOS], prompt)
    # three ids, and two of a last word that takes longer
    assert run.session.word_ends == [(2, True), (8, False), (14, True)]
    alone = Run(paced(lone_word="again"), [[1, 101]], [7, 7, 7, FILL])
    assert alone.session.word_ends == [(3, True)]


def test_words_have_bounds():
    part = paced(min_codes_per_word=2, word_base=3, word_per_id=1)
    run = Run(part, [WORDS])
    ids, forced = [id for id, _, _ in run.draws], [forced for _, _, forced in run.draws]
    assert ids == [7] * 6 + [FILL] + [7] * 5 + [FILL] + [7] * (6 + 5)
    assert forced.index(FILL) == 6 and run.reason == "length"
    banned = [set(banned) for _, banned, _ in run.draws]
    assert banned[0] == banned[1] == {EOS, UNUSED, FILL} and banned[2] == {EOS, UNUSED}
    assert banned[13] == {EOS, UNUSED, FILL} and banned[17] == {UNUSED, FILL}


def test_a_draw_must_be_answered():
    session = layout().start(Prompt())
    text, answer = iter([[1]]), None
    while not isinstance(action := session.next(answer), Draw):
        answer = next(text, None) if isinstance(action, NeedText) else None
    with pytest.raises(RuntimeError, match="no ids were given"):
        session.next()
