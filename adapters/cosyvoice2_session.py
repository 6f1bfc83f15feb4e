"""One request of the cosyvoice2 layout: positions to feed, ids that may be drawn, the end.

``adapters/cosyvoice2.py`` draws the sequences and is the page to read first. Each form here is a
generator of actions that reads like the sequence it makes: ``_unistream``, ``_ratio`` and
``_words`` beside the methods of training. Rules of the public code are those of
cosyvoice/llm/llm.py (``inference``, ``inference_bistream``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from wishbone.adapters.cosyvoice2_rules import (
    LAST_WORD_LONGER,
    SPEECH,
    TEXT,
    SequenceRules,
)
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.session import (
    Action,
    Answer,
    Draw,
    Emit,
    Feed,
    NeedText,
    Position,
    SteppedSession,
    Steps,
    Stop,
    WordEnd,
)


def text(ids: Iterable[int]) -> list[Position]:
    """Positions of text."""
    return [(TEXT, (row,)) for row in ids]


def speech(codes: Iterable[int]) -> list[Position]:
    """Positions of codes."""
    return [(SPEECH, (code,)) for code in codes]


class CosyVoice2Session(SteppedSession):
    """The actions of one request, in the form the layout names.

    Text and codes of the prompt stand in the sequence as if the utterance had begun with them. The
    actions before the first ``NeedText`` depend on the prompt alone, so their state can be kept.
    """

    def __init__(self, rules: SequenceRules, prompt: Prompt) -> None:
        super().__init__()
        self._rules = rules
        self._never = rules.meaningless
        self._sos, self._task = ((table, (row,)) for table, row in (rules.sos, rules.task))
        self._config = rules.config
        self._instruct = rules.close_instruct(prompt.instruct)
        self._prompt_text = list(prompt.text)
        self._prompt = [frame[0] for frame in prompt.speech]
        self._prompt_ends = prompt.word_ends
        self._spoken = 0

    def _run(self) -> Steps:
        if self._config.form == "unistream":
            return self._unistream()
        if self._config.pace == "words":
            return self._words()
        if self._config.parity == "upstream":
            return self._ratio_upstream()
        return self._ratio()

    def _code(self, *banned: int, forced: int | None = None) -> Generator[Action, Answer, int]:
        """Draw one id."""
        return (yield from self._draw(Draw(banned, forced)))[0]

    def _say(self, code: int) -> Steps:
        """Hand a code to the decoder and feed it back."""
        self._spoken += 1
        yield Emit((code,))
        yield Feed(speech((code,)))

    def _unistream(self) -> Steps:
        """All text, TASK, then all codes, as ``CosyVoice2._close`` lays them out."""
        yield Feed([self._sos, *text(self._instruct), *text(self._prompt_text)])
        yield from self._wait_for_the_end()
        if not self._text:
            yield Stop("end")
            return
        yield Feed([*text(self._text), self._task, *speech(self._prompt)])
        yield from self._finish(*self._code_bounds())

    def _code_bounds(self) -> tuple[int, int]:
        """Fewest and most codes for the request's text; the prompt's does not count."""
        count = len(self._text)
        return int(self._config.min_code_ratio * count), int(self._config.max_code_ratio * count)

    def _finish(self, fewest: int, most: int, words: Sequence[Sequence[int]] = ()) -> Steps:
        """Everything after TASK: codes until the end is drawn, within bounds.

        Nothing is drawn between the last ``words``: their ends are shared out by their ids.
        """
        begin = self._spoken
        rules = self._rules
        upstream = self._config.parity == "upstream"
        # the public code bans the first id behind the codes, which is no longer the end in all
        end = rules.codes.size if upstream else rules.eos
        never = () if upstream or not self._config.fill else (*self._never, rules.fill)
        for spoken in range(most):
            early = (end,) if spoken < fewest else ()
            code = yield from self._code(*never, *early)
            if code >= rules.codes.size:
                self._share_ends(words, begin)
                yield Stop("end")
                return
            yield from self._say(code)
        self._share_ends(words, begin)
        yield Stop("length")

    def _share_ends(self, words: Sequence[Sequence[int]], begin: int) -> None:
        """Note the ends of the last words, spoken since ``begin``; only the last one is certain."""
        if not words:
            return
        sizes = [len(word) for word in words]
        total, passed = sum(sizes) + (LAST_WORD_LONGER - 1) * sizes[-1], 0
        for size in sizes[:-1]:
            passed += size
            end = begin + round((self._spoken - begin) * passed / total)
            self.word_ends.append(WordEnd(end, drawn=False))
        self.word_ends.append(WordEnd(self._spoken))

    def _ratio(self) -> Steps:
        """Blocks of ``mix`` as in training, prompt and request in one row."""
        n, m = self._config.mix
        if len(self._prompt) < len(self._prompt_text) // n * m:
            raise DataError(
                f"The prompt has {len(self._prompt)} codes for {len(self._prompt_text)} ids of"
                f" text, and blocks of {n} ids need {m} codes each, so it would be spoken again.",
                where="the prompt of a bistream request with pace: ratio",
                do="Use form: unistream, pace: words, or a prompt that is spoken more slowly.",
            )
        yield Feed([self._sos, *text(self._instruct)])
        begin = spoken = 0
        while True:
            while len(self._prompt_text) + len(self._text) - begin < n and not self._ended:
                yield NeedText()
            row = self._prompt_text + self._text
            if len(row) - begin < n:
                break
            spoken += yield from self._block(row[begin : begin + n], m)
            begin += n
        yield from self._wait_for_the_end()
        if not self._text:
            yield Stop("end")
            return
        row = self._prompt_text + self._text
        yield Feed([*text(row[begin:]), self._task, *speech(self._prompt)])
        fewest, most = self._code_bounds()
        yield from self._finish(fewest - spoken, max(most - spoken, 1))

    def _block(self, ids: Sequence[int], count: int) -> Generator[Action, None, int]:
        """``count`` codes after some text, the prompt's first -> number of those drawn."""
        rules = self._rules
        prompt_codes, self._prompt = self._prompt[:count], self._prompt[count:]
        yield Feed([*text(ids), *speech(prompt_codes)])
        missing = count - len(prompt_codes)
        for _ in range(missing):
            code = yield from self._code(rules.eos, *self._never, rules.fill)
            yield from self._say(code)
        if missing:
            yield from self._code(forced=rules.fill)
        return missing

    def _words(self) -> Steps:
        """One block a word, as in training; the model draws FILL for the next word.

        A model whose training had no text of one word mostly ends at once behind a prompt, and
        stammers without one. With ``lone_word: again`` it reads that word again behind it, as the
        words ahead, and is stopped where it asks for more: between the two.
        """
        again = self._config.lone_word == "again"
        rules, ahead = self._rules, self._config.lookahead_words
        prompt_words = rules.words(self._prompt_text)
        ends = rules.word_ends(prompt_words, len(self._prompt), self._prompt_ends)
        yield Feed([self._sos, *text(self._instruct)])
        if self._prompt and not prompt_words:
            # codes whose words are unknown come before all words
            yield Feed(speech(self._prompt))
            self._prompt = []
        word = fed = spoken = 0
        while True:
            count = word + ahead + 1
            words = prompt_words + rules.words(self._text)
            while len(words) <= count and not self._ended:
                yield NeedText()
                words = prompt_words + rules.words(self._text)
            alone = again and self._ended and len(words) == len(prompt_words) + 1
            if alone:
                words += words[-1:] * (ahead + 1)
            if len(words) <= count:
                break
            ids = [row for ids_of_word in words[fed:count] for row in ids_of_word]
            prompt_codes = self._prompt[spoken : ends[word]] if word < len(ends) else []
            yield Feed([*text(ids), *speech(prompt_codes)])
            if word >= len(ends) and alone:
                yield from self._say_alone(words[word])
                return
            if word >= len(ends):
                yield from self._say_word(words[word])
                self.word_ends.append(WordEnd(self._spoken))
            spoken, fed, word = spoken + len(prompt_codes), count, word + 1
        if not self._text:
            yield Stop("end")
            return
        ids = [row for ids_of_word in words[fed:] for row in ids_of_word]
        yield Feed([*text(ids), self._task, *speech(self._prompt[spoken:])])
        remaining = words[max(word, len(prompt_words)) :]
        fewest = self._config.min_codes_per_word * len(remaining)
        most = sum(self._most_codes(ids) for ids in remaining)
        yield from self._finish(fewest, most, remaining)

    def _most_codes(self, word: Sequence[int]) -> int:
        """Number of codes after which a word is cut."""
        return self._config.word_base + self._config.word_per_id * len(word)

    def _say_word(self, word: Sequence[int]) -> Steps:
        """Codes of one word, until FILL is drawn or the word is cut."""
        rules = self._rules
        for spoken in range(self._most_codes(word)):
            early = (rules.fill,) if spoken < self._config.min_codes_per_word else ()
            code = yield from self._code(rules.eos, *self._never, *early)
            if code == rules.fill:
                return
            yield from self._say(code)
        yield from self._draw(Draw(forced=rules.fill, cut=True))

    def _say_alone(self, word: Sequence[int]) -> Steps:
        """Codes of the only word, until FILL is drawn or the word is cut."""
        rules, fewest = self._rules, self._rules.fewest_codes(word)
        for spoken in range(self._most_codes(word)):
            early = (rules.fill,) if spoken < fewest else ()
            code = yield from self._code(rules.eos, *self._never, *early)
            if code == rules.fill:
                self.word_ends.append(WordEnd(self._spoken))
                yield Stop("end")
                return
            yield from self._say(code)
        self.word_ends.append(WordEnd(self._spoken))
        yield Stop("length")

    def _ratio_upstream(self) -> Steps:
        """The public code's bistream, id by id, with its differences from training.

        The last code is fed twice when text runs out after FILL; prompt codes that text did not
        reach are dropped; a prompt of whole blocks is followed by a block without text; nothing
        bounds the length; ids that mean nothing at their place raise ``DataError``.
        """
        rules, (n, m) = self._rules, self._config.mix
        pending: list[Position] = [self._sos]
        waiting = self._instruct + self._prompt_text
        if rules.reads_instruct_first:
            pending, waiting = [self._sos, *text(self._instruct)], list(self._prompt_text)
        prompt = self._prompt
        next_fill = (len(prompt) // m + 1) * m - len(prompt)
        drawn, filled, read = 0, False, 0
        while True:
            while read == len(self._text) and not self._ended:
                yield NeedText()
            if read == len(self._text):
                break
            waiting.append(self._text[read])
            read += 1
            while prompt and len(waiting) >= n:
                pending += [*text(waiting[:n]), *speech(prompt[:m])]
                waiting, prompt = waiting[n:], prompt[m:]
            if prompt:
                continue
            if filled or (drawn == 0 and len(pending) == 1):
                if len(waiting) < n:
                    continue
                pending = [*([] if filled else pending), *text(waiting[:n])]
                waiting = waiting[n:]
            filled = False
            while not filled:
                yield Feed(pending)
                forced = rules.fill if drawn == next_fill else None
                code = yield from self._code(rules.codes.size, forced=forced)
                filled = code == rules.fill
                if filled:
                    next_fill = drawn + m + 1
                else:
                    self._refuse_extra(code)
                    yield Emit((code,))
                    pending = speech((code,))
                drawn += 1
        yield Feed([*pending, *text(waiting), self._task])
        while (code := (yield from self._code())) != rules.eos:
            self._refuse_extra(code)
            yield from self._say(code)
        yield Stop("end")

    def _refuse_extra(self, code: int) -> None:
        """Raise ``DataError`` for an id that is no code."""
        if code >= self._rules.codes.size:
            raise DataError(
                f"The model drew id {code}, which is no code, where it cannot be understood.",
                where="a bistream request with parity: upstream",
                do="Use parity: right, which keeps such ids from being drawn.",
            )
