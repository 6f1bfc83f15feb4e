"""Parts of speaking by themselves, at their borders: the guard, utterances, guidance, voices."""

from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_system import CODES, tiny_system

from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError, UsageError
from wishbone.core.contract.layout import Prompt, Sample
from wishbone.core.contract.session import Draw, WordEnd
from wishbone.core.contract.text import TextSpace
from wishbone.core.model import sampling as sampling_module
from wishbone.core.model.sampling import Sampler, Sampling, choose
from wishbone.core.speak import guidance, speaker, text_to_speech, voice_files
from wishbone.core.speak import server as server_module
from wishbone.core.speak import utterance as utterance_module
from wishbone.core.speak import voice as voice_module
from wishbone.core.speak.server import Request, SpokenRequest
from wishbone.core.speak.utterance import SpokenWord, Utterance, controls, without_controls
from wishbone.core.speak.voice import Voice, find
from wishbone.core.speak.voice_files import read_header, read_voice
from wishbone.core.weights.tensor_files import write_tensors


@pytest.fixture(scope="module")
def system():
    return tiny_system()


def spoken(codes, reason="end", **fields):
    return Utterance(codes=[(code,) for code in codes], reason=reason, **fields)


def judged(system, codes, peak=0.5, reason="end", fewest=3):
    layout = SimpleNamespace(fewest_codes=lambda ids: fewest)
    parts = SimpleNamespace(layout=layout, decoder=system.decoder, tokenizer=system.tokenizer)
    return text_to_speech.trouble_of(parts, spoken(codes, reason), peak)


def test_fields_of_sampling_that_a_configuration_lacks_are_those_that_arms_were_measured_with():
    assert asdict(Sampling()) == {
        "temperature": 1.0, "top_k": 25, "top_p": 0.8, "min_p": 0.0, "greedy": False,
        "repetition_window": 10, "repetition_threshold": 0.1, "repetition_masked": True,
        "lone_word_draws": 10, "guidance": 1.0, "guidance_drops": [],
    }  # fmt: skip


def test_who_names_no_seed_has_the_first(system):
    text = "We go."
    said = text_to_speech.say(system, text, seed=0).samples
    assert torch.equal(torch.cat(list(text_to_speech.stream(system, text))), said)
    assert torch.equal(text_to_speech.say(system, text).samples, said)
    talking = speaker.Speaker(**vars(system))
    assert torch.equal(talking.say(text).samples, said)
    assert torch.equal(torch.cat(list(talking.stream(text))), said)
    assert torch.equal(torch.cat(list(server_module.Server(system, 1).stream(text))), said)
    assert Request(text).seed == 0 and Request(text).guidance is None


def test_what_is_handed_out_cannot_be_changed():
    for value, name in (
        (Request("x"), "seed"), (SpokenRequest(1, None), "number"), (Voice(), "name"),
        (SpokenWord("x", 0.0, 1.0), "end"), (server_module._Logits(torch.ones(1)), "values"),
    ):  # fmt: skip
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
    assert SpokenWord("x", 0.0, 1.0).estimated is False


@pytest.mark.parametrize(
    ("codes", "peak", "reason", "trouble"),
    [
        ([1, 2], 0.5, "end", "too short"), ([1, 2, 3], 0.5, "end", ""),
        ([1, 2, 3], 0.00499, "end", "silent"), ([1, 2, 3], 0.005, "end", ""),
        ([1, 2, 3], 0.5, "length", "never stopped"), ([1, 2], 0.0, "length", "too short"),
        ([1] * 24, 0.5, "end", ""), ([1] * 25, 0.5, "end", "repeats"),
        ([9, *[1] * 24], 0.5, "end", ""), ([1, 2] * 13, 0.5, "length", "repeats"),
        ([1, 2, 3] * 9, 0.5, "end", "repeats"), ([1, 2, 3, 4] * 7, 0.5, "end", "repeats"),
        ([1, 2, 3, 4, 5] * 6, 0.5, "end", ""), ([*range(25), *[1, 2] * 13], 0.5, "end", "repeats"),
        ([*[1, 2] * 30, 5], 0.5, "end", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_piece_is_named(system, codes, peak, reason, trouble):
    assert CODES.rate == 25.0  # a second of codes is 25
    assert judged(system, codes, peak, reason) == trouble


def test_the_loudest_sample_is_that_of_all_chunks():
    chunks = [torch.zeros(0), torch.tensor([0.1, -0.7]), torch.tensor([0.3])]
    assert text_to_speech._peak(chunks) == pytest.approx(0.7) and text_to_speech._peak([]) == 0.0


def test_a_lone_word_pays_for_what_it_is_shorter_than_most(system):
    for count, cost in ((12, 0.0), (20, 0.0), (11, 5 * 0.04), (0, 5 * 0.48)):
        draft = spoken(range(count), log_probability=-2.0)
        assert text_to_speech._merit(system, draft) == pytest.approx(-2.0 - cost)


@pytest.mark.parametrize(
    ("ids", "text", "word"),
    [((), "", True), ((1, 27), "a", True), ((1, 28), "a", True), ((1, 27, 2, 28), "a b", False),
     ((1, 2), "a b", True)],
)  # fmt: skip
def test_a_word_is_told_by_its_ids_or_else_by_blanks(system, ids, text, word):
    assert text_to_speech._is_word(system, Utterance(text, ids)) is word
    plain = SimpleNamespace(tokenizer=SimpleNamespace(space=TextSpace(vocabulary=9)))
    assert text_to_speech._is_word(plain, Utterance(text, ids)) is (len(text.split()) < 2)
    looping = Utterance(text, ids, codes=[(1,)] * 25)
    assert text_to_speech._loops(system, looping) is word
    assert not text_to_speech._loops(system, Utterance(text, ids, codes=[(1,)] * 24))


def test_seeds_of_later_tries_are_numbers_that_a_generator_takes():
    assert text_to_speech.seed_of(5, 3, 0) == 5
    seeds = {text_to_speech.seed_of(seed, piece, number) for seed in (0, 1) for piece in (0, 1)
             for number in (1, 2)}  # fmt: skip
    assert len(seeds) == 8 and all(0 <= seed < 2**56 for seed in seeds)
    assert max(seeds) > 2**50


def test_words_have_the_times_of_their_codes(system):
    ends = [WordEnd(5, True), WordEnd(9, False)]
    one = Utterance("hi no", [8, 9, 27, 14, 15, 28], begin=2.0, word_ends=ends, rate=25.0)
    assert one.words == []
    one.tokenizer = system.tokenizer
    assert one.words == [
        SpokenWord("hi", 2.0, 2.2, False), SpokenWord("no", pytest.approx(2.2), 2.36, True),
    ]  # fmt: skip
    one.word_ends = ends[:1]
    assert [word.word for word in one.words] == ["hi"]
    one.word_ends = []
    assert one.words == []


def test_a_piece_that_is_drawn_again_begins_with_nothing():
    one = Utterance("hi", [1], [(1,)], (2,), "end", 3, -1.0, ["silent"], "x", 2.0, [WordEnd(1)])
    one.begin_again()
    assert one == Utterance("hi", [1], redraws=["silent"], trouble="x", begin=2.0)
    empty = Utterance()
    assert (empty.cut_words, empty.log_probability, empty.begin, empty.rate) == (0, 0.0, 0.0, 0.0)


SPACE = TextSpace(vocabulary=9, specials={"<|a|>": 1, "<|end|>": 2, "[laugh]": 3, "<|x": 4})


def test_marks_that_steer_a_model_are_taken_out_however_they_arrive():
    assert controls(SPACE) == ["<|a|>", "<|end|>"]
    text = "so <|a|>it<|end|> is [laugh] <|en"
    clean = "so  it  is [laugh] <|en"
    assert without_controls(text, SPACE) == clean
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert "".join(without_controls(iter(pieces), SPACE)) == clean
    # what cannot become one is given out at once
    arrived = without_controls(iter(["it <|", "b", " <|a", "|>"]), SPACE)
    assert list(arrived) == ["it ", "<|b", " ", " "]
    assert without_controls(text, TextSpace(vocabulary=9)) == text


@pytest.mark.parametrize("piece", [5, None, b"x"])
def test_a_piece_of_something_else_is_told(piece):
    with pytest.raises(UsageError, match=f"is {type(piece).__name__}, not str"):
        list(utterance_module._checked(["a", piece]))


def test_conditions_leave_one_by_one():
    prompt = Prompt(text=(1,), speech=((2,),), word_ends=(1,), instruct=(3,), global_codes=(4,))
    left = {
        "text": prompt, "instruct": replace(prompt, instruct=()),
        "prompt_text": replace(prompt, text=(), word_ends=()),
        "prompt_audio": replace(prompt, speech=(), word_ends=()),
        "speaker": replace(prompt, global_codes=(), anonymous=True),
    }  # fmt: skip
    for name, expected in left.items():
        assert guidance.prompt_without(prompt, (name,)) == expected
    sample = Sample([1, 27], [(1,)], instruct=[5], global_codes=[6], prompt=prompt)
    space = TextSpace(vocabulary=30, word_ends=frozenset({27}), blank=0)
    assert guidance.sample_without(sample, ("text",), space).text == [0, 27]
    assert guidance.sample_without(sample, ("instruct",), space).instruct == ()
    bare = guidance.sample_without(sample, ("speaker",), space)
    assert bare.anonymous and bare.global_codes == () and bare.prompt.anonymous
    assert guidance.sample_without(sample, (), space) == sample
    alone = guidance.sample_without(replace(sample, prompt=None), ("prompt_text",), space)
    assert alone.prompt is None
    with pytest.raises(CapabilityError, match="no id that could stand"):
        guidance.blanked([1], TextSpace(vocabulary=3))


def test_a_condition_that_a_layout_has_not_is_told_with_those_it_has(system):
    guidance.check_conditions(("text", "prompt_audio"), system.layout, "here")
    with pytest.raises(ConfigError, match="'speaker' cannot be left out") as caught:
        guidance.check_conditions(("text", "speaker"), system.layout, "here")
    assert caught.value.where == "here" and "text, instruct" in caught.value.do


@pytest.mark.parametrize(
    ("own", "scale", "names"),
    [(1.0, None, ()), (2.0, None, ("text",)), (1.0, 3.0, ("text",)), (2.0, 1.0, ()),
     (1.0, 0.0, ("text",))],
)  # fmt: skip
def test_only_a_guide_that_is_used_has_to_be_learned(own, scale, names):
    system = tiny_system(sampling=Sampling(guidance=own, guidance_drops=["text"]))
    assert guidance.unlearned(system, scale) == names


def test_both_rows_must_be_free_in_the_same_codebooks():
    free, forced = Draw(), Draw(forced=3)
    guidance._check_same_place(free, Draw(banned=(1,)))
    guidance._check_same_place(Draw(per_codebook=(free, forced)), Draw(per_codebook=(free, forced)))
    for first, second in (
        (free, forced),
        (Draw(per_codebook=(free, forced)), free),
        (Draw(per_codebook=(free, forced)), Draw(per_codebook=(forced, free))),
    ):
        with pytest.raises(CapabilityError, match="another place in its text"):
            guidance._check_same_place(first, second)
    c, u = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0])
    assert guidance.guided(c, u, 2.0).tolist() == [5.0, -3.0]


def test_codes_of_a_voice_are_those_that_the_system_has(system):
    def refused(**fields):
        with pytest.raises(CheckpointError) as caught:
            Voice("me", **fields).prompt(system)
        assert "'me' does not fit this system" in caught.value.what
        return caught.value.what

    ids = system.layout.tables["text"]
    Voice(speech=((0,), (49,)), text=(0, ids - 1)).prompt(system)
    assert "its codes are 0 to 50, of 50" in refused(speech=((0,), (50,)))
    assert "its codes are -1 to 3, of 50" in refused(speech=((-1,), (3,)))
    assert "not of 1 codebooks" in refused(speech=((1,), (1, 2)))
    assert f"up to {ids}, of {ids}" in refused(text=(0, ids))
    assert "up to 3, of" in refused(text=(-1, 3))


@pytest.mark.parametrize(
    ("codes", "right"), [((0, 9, 5), True), ((0, 10, 5), False), ((-1, 0, 1), False),
                         ((1, 2), False), ((1, 2, 3, 4), False), ((), True)],
)  # fmt: skip
def test_codes_of_a_whole_voice_are_as_many_as_the_codec_has(system, codes, right):
    space = replace(CODES, global_count=3, global_size=10)
    other = SimpleNamespace(decoder=SimpleNamespace(codes=space), layout=system.layout)
    voice = Voice("me", global_codes=codes)
    if right:
        voice._check_codes(other)
    else:
        with pytest.raises(CheckpointError, match="has not 3 codes below 10"):
            voice._check_codes(other)
    # a codec without such codes has nothing to say of them
    voice._check_codes(system)


def test_a_key_of_a_model_is_short_and_forgets_where_its_weights_lie(system):
    first = voice_module.model_key(system)
    assert len(first) == 16 and voice_module.tokenizer_key(system) == "letters"
    elsewhere = tiny_system()
    elsewhere.config = {**system.config, "backbone": {"weights": "there"}}
    assert voice_module.model_key(elsewhere) == first
    elsewhere.config = {**system.config, "backbone": {"rate": 1}}
    assert voice_module.model_key(elsewhere) != first
    assert voice_module.tokenizer_key(SimpleNamespace(config={"tokenizer": None})) == ""


def test_a_recording_by_its_ending_is_a_file_and_a_long_word_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("")
    for name, is_file in (("here", True), ("nothing", False), ("x.WAV", True), ("x.yaml", False),
                          ("y" * 5000, False)):  # fmt: skip
        assert voice_module._is_file(name) is is_file
    assert find(None) == Voice() and find(Voice("a")) == Voice("a")


def tensors(**changes):
    base = {"text": torch.tensor([1, 2]), "speech": torch.tensor([[3], [4]]),
            "word_ends": torch.tensor([1, 2])}  # fmt: skip
    return {name: part for name, part in (base | changes).items() if part is not None}


FILES = [
    ({}, ""), ({"word_ends": None}, "no tensor 'word_ends'"), ({"text": None}, "tensor 'text'"),
    ({"colour": torch.ones(1)}, "'colour', which means nothing"),
    ({"state.x": torch.ones(1, 2)}, ""), ({"speech": torch.ones(1, 1, 1).int()}, "3 axes"),
    ({"speech": torch.zeros(0).int(), "word_ends": torch.zeros(0).int()}, ""),
    ({"speech": torch.tensor([1, 2])}, "is not [frames, codebooks]"),
    ({"speech": torch.zeros(2, 0).int()}, "is not [frames, codebooks]"),
    ({"text": torch.tensor([[1]])}, "2 axes"), ({"text": torch.tensor([1.0])}, "torch.float32"),
    ({"text": torch.tensor([True])}, "torch.bool"), ({"text": torch.tensor([1j])}, "complex"),
    ({"text": torch.tensor([0])}, ""), ({"text": torch.tensor([5, -1])}, "holds -1"),
    ({"word_ends": torch.tensor([1, 3])}, "do not rise"),
    ({"word_ends": torch.tensor([2, 1])}, "do not rise"), ({"word_ends": torch.tensor([1, 1])}, ""),
    ({"speaker": torch.ones(3)}, ""), ({"speaker": torch.ones(3, 1)}, "2 axes"),
    ({"speaker": torch.tensor([float("nan")])}, "1 tensors hold numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), FILES)
def test_a_file_of_a_voice_is_one_or_says_why_not(tmp_path, changes, told):
    path = tmp_path / "v.safetensors"
    write_tensors(path, tensors(**changes))
    if not told:
        assert read_voice(path).keys() == tensors(**changes).keys()
        return
    with pytest.raises(CheckpointError) as caught:
        read_voice(path)
    assert told in caught.value.what and caught.value.where == str(path)


def test_the_text_beside_a_voice_has_known_keys_and_plain_values():
    path = Path("v.yaml")
    assert read_header({"name": 5, "about": None}, ("name", "about"), path) == {"name": "5"}
    with pytest.raises(CheckpointError, match="mean nothing: a, b"):
        read_header({"b": 1, "a": 1, "name": 1}, ("name",), path)
    for value in ([], {}):
        with pytest.raises(CheckpointError, match="'name' is not a text"):
            read_header({"name": value}, ("name",), path)


def test_a_name_too_long_for_a_voice_is_shown_in_part():
    with pytest.raises(Exception, match="cannot be the name of a voice") as caught:
        voice_files.locate("z" * 5000)
    assert f"'{'z' * 60}...'" in caught.value.what
    with pytest.raises(UsageError, match="in .m4a cannot be read") as caught:
        voice_files.locate("a.M4A")
    assert "ffmpeg -i 'a.M4A' 'a.wav'" in caught.value.do


def test_a_top_p_of_one_leaves_out_nothing_that_rounding_would(monkeypatch):
    """Sums of thousands of float32 numbers go over 1 before the last id is added."""
    chances = torch.rand(40_000, generator=torch.Generator().manual_seed(3)).softmax(0)
    chances *= 1.001
    kept = []
    monkeypatch.setattr(torch, "multinomial", lambda chances, *_, **__: kept.append(chances) or 0)
    for rules in ({"top_k": 39_999}, {"top_k": 0, "min_p": 1e-6}):
        for top_p, whole in ((1.0, True), (1.5, True), (0.999, False)):
            sampling_module._draw_filtered(chances, Sampling(top_p=top_p, **rules), None)
            assert bool((kept[-1] > 0).all()) is whole


def test_of_two_ids_as_likely_the_first_is_taken_and_none_beyond():
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0])
    assert choose(logits, Sampling(greedy=True), torch.Generator()) == 1
    # as many as there are is no filter; one fewer is one
    rules = {"top_p": 1.0, "repetition_window": 0}
    drawn = {
        count: {choose(torch.zeros(4), Sampling(top_k=count, **rules),
                       torch.Generator().manual_seed(seed)) for seed in range(200)}
        for count in (0, 1, 3, 4, 5)
    }  # fmt: skip
    assert [len(drawn[count]) for count in (0, 1, 3, 4, 5)] == [4, 1, 3, 4, 4]


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("temperature", [0, 50], [-0.01]), ("top_k", [0], [-1]), ("top_p", [0, 2], [-0.01]),
        ("min_p", [0, 1], [-0.01, 1.01]), ("repetition_window", [0], [-1]),
        ("repetition_threshold", [0.001], [0, -1]), ("lone_word_draws", [1], [0]),
        ("guidance", [0], [-0.01]),
    ],
)  # fmt: skip
def test_fields_of_sampling_have_ranges(field, right, wrong):
    for value in right:
        assert Sampler(Sampling(**{field: value}), CODES)
    for value in wrong:
        with pytest.raises(ConfigError, match=field):
            Sampler(Sampling(**{field: value}), CODES)
