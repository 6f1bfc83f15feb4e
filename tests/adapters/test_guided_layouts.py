"""Guidance with a drawn voice, and with several codebooks."""

from dataclasses import replace

import pytest
from toy_codecs import RATE, toy_system

from wishbone.adapters.spark import Spark
from wishbone.adapters.xy import XY
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler
from wishbone.core.model.speech_lm import prefix
from wishbone.core.speak import pipeline, text_to_speech
from wishbone.core.speak.guidance import Guide, blanked, prompt_without
from wishbone.core.speak.server import Request, Server
from wishbone.plugins.heads.channels import ChannelsHead, ChannelsHeadConfig
from wishbone.plugins.heads.head import LinearHead, LinearHeadConfig

SPACE = TextSpace(vocabulary=40, blank=0)
VOICED = CodeSpace(size=20, rate=RATE, global_size=10, global_count=3)
SEVERAL = CodeSpace(size=20, rate=RATE, codebooks=3)


def spark():
    part = Spark(Spark.Config(min_code_ratio=1, max_code_ratio=2), text=SPACE, codes=VOICED)
    return toy_system(
        part, lambda width: LinearHead(LinearHeadConfig(), width=width, codes=VOICED, extra=1),
        VOICED,
    )  # fmt: skip


def xy():
    part = XY(XY.Config(max_code_ratio=2), text=SPACE, codes=SEVERAL)
    return toy_system(
        part,
        lambda width: ChannelsHead(ChannelsHeadConfig(), width=width, codes=SEVERAL, extra=1),
        SEVERAL,
    )


def said(system, prompt, guide=None, blank=False):
    utterance, ids = pipeline.Utterance(), system.tokenizer.encode("hello there")
    ids = blanked(ids, SPACE) if blank else ids
    sampler = Sampler(system.sampling, system.decoder.codes)
    begin = prefix(system.model, system.layout, prompt)
    codes = list(pipeline.frames(system, [ids], prompt, sampler, begin, utterance, guide))
    return codes, tuple(utterance.global_codes)


@pytest.fixture(params=[spark, xy])
def system(request):
    made = request.param()
    made.tokenizer.space = SPACE
    # random weights, random numbers: what a greedy toy repeats says too little
    made.sampling = replace(made.sampling, greedy=False, guidance_drops=["text", "speaker"])
    made.model.eval().requires_grad_(False)
    return made


def test_scale_0_knows_neither_text_nor_speaker(system):
    count = system.decoder.codes.global_count
    prompt = Prompt(global_codes=(1, 2, 3)[:count])
    drops = ("text", "speaker")
    nothing, told = said(system, prompt, Guide(system, 0.0, drops))
    plain, _ = said(system, prompt_without(prompt, drops), blank=True)
    assert nothing == plain and told == tuple(prompt.global_codes)
    whole, _ = said(system, prompt)
    assert whole != nothing
    assert said(system, prompt, Guide(system, 3.0, drops))[0] not in (whole, nothing)


def test_the_first_stream_alone_draws_the_voice():
    system = spark()
    system.tokenizer.space = SPACE
    system.model.eval().requires_grad_(False)
    _, drawn = said(system, Prompt())
    _, guided = said(system, Prompt(), Guide(system, 3.0, ["speaker"]))
    assert guided == drawn and len(drawn) == 3


def test_requests_of_every_kind_share_a_server(system):
    record = []
    text_to_speech.say(system, "Go on.", None, 3, record, guidance=2.0)
    wanted = [utterance.codes for utterance in record]
    server = Server(system, 4)
    both = list(server.say([Request("Go on.", None, 3, 2.0), Request("Hello.", None, 1)]))
    first = next(each for each in both if each.number == 0)
    assert [utterance.codes for utterance in first.utterances] == wanted
