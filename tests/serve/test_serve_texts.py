"""Texts by chance through a real server: the library's samples, and nobody hears who goes away.

``WISHBONE_SERVE_TRIALS=200`` takes so many of each arm; CI a few.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from real_server import ARMS, running

import wishbone
from wishbone.core.serve.encoding import as_pcm

TRIALS = int(os.environ.get("WISHBONE_SERVE_TRIALS", "6"))
WORDS = """
a about after again air all along always and another answer any around ask away back ball bear
because before bird blue boat book both bring brother build call carry change city clean close cold
cut day deep did door down draw early earth eight engine evening ever face family far feet find fire
fish five floor follow food forest four friend garden give glass gold good green ground grow half
hand hard hear heart heavy hill horse house hundred ice idea island jump just keep kind know
lake land last late learn leave letter light line listen little long machine make many map maybe
milk minute moon morning mother mountain music never new night north notice number ocean often old
open orange over page paint paper people picture place plant play point question quick quiet
rain read red remember rest ride right river road rock room round rule run sail sand school sea
second seven shape ship short should sing six sleep slow small snow song south spring stand star
stone stop story street strong summer sun table teach tell ten thank thing third thought three time
tomorrow tree true turn twenty two under until usual valley village voice wait walk warm watch
water week white why wind window winter with wonder wood word work write yellow yesterday young
""".split()
ODD = ["17", "1984", "3.5", "$20", "Dr. Brown", "9:45", "can't", "OK", "50%", "New York", "2nd"]


def texts(count, seed):
    """Sentences by chance: words, numbers and names, stops and commas, one or two a text."""
    dice = random.Random(seed)
    for _ in range(count):
        sentences = []
        for _ in range(dice.choice([1, 1, 2])):
            words = dice.choices(WORDS, k=dice.randrange(2, 9))
            if dice.random() < 0.3:
                words[dice.randrange(len(words))] = dice.choice(ODD)
            if len(words) > 4:
                words[2] += ","
            words[0] = words[0][0].upper() + words[0][1:]
            sentences.append(" ".join(words) + dice.choice("..?!"))
        yield " ".join(sentences)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("texts"), *ARMS, "--queue", "256") as server:
        yield server


@pytest.mark.timeout(600 + 30 * TRIALS)
@pytest.mark.parametrize("arm", ARMS)
def test_what_is_streamed_is_what_the_library_says(server, arm):
    requests = [(text, seed) for seed, text in enumerate(texts(TRIALS, arm))]
    assert len(set(requests)) == TRIALS
    with ThreadPoolExecutor(4) as clients:
        streamed = list(
            clients.map(
                lambda request: server.ask(request[0], model=arm, seed=request[1]), requests
            )
        )
    assert sum(len(parts) > 1 for parts in streamed) > TRIALS / 2
    system = wishbone.load(arm)
    unlike = []
    for (text, seed), parts in zip(requests, streamed, strict=True):
        expected = as_pcm(system.say(text, seed=seed).samples).tobytes()
        if b"".join(parts) != expected:
            unlike.append((text, seed, len(b"".join(parts)), len(expected)))
    print(f"{arm}: {len(requests) - len(unlike)} of {len(requests)} are the library's samples")
    assert unlike == []
    # negative control: another seed is another sound
    assert b"".join(server.ask(*requests[0][:1], model=arm, seed=TRIALS)) != b"".join(streamed[0])


@pytest.mark.timeout(600 + 30 * TRIALS)
@pytest.mark.parametrize("arm", ARMS)
def test_half_of_the_clients_go_away_and_the_others_hear_nothing_of_it(server, arm):
    dice = random.Random(arm)
    requests = [(text, seed) for seed, text in enumerate(list(texts(8, 1)))]
    alone = [b"".join(server.ask(text, model=arm, seed=seed)) for text, seed in requests]
    before = server.metric("wishbone_requests_total", system=arm, outcome="ok")

    def ask(number):
        text, seed = requests[number % len(requests)]
        drop = dice.choice([0, 1, 1, 2, 3]) if number % 2 else None
        time.sleep(0.2 * dice.random())
        return b"".join(server.ask(text, drop, model=arm, seed=seed))

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, range(TRIALS)))
    unlike = [n for n in range(0, TRIALS, 2) if answers[n] != alone[n % len(requests)]]
    assert unlike == []
    end = time.monotonic() + 60
    while server.metric("wishbone_requests_inside") and time.monotonic() < end:
        time.sleep(0.1)
    for name in ("wishbone_requests_inside", "wishbone_slots_used", "wishbone_queue"):
        assert server.metric(name) == 0, name
    assert server.metric("wishbone_slots", system=arm) >= 4
    cancelled = server.metric("wishbone_requests_total", system=arm, outcome="cancelled")
    whole = server.metric("wishbone_requests_total", system=arm, outcome="ok") - before
    # a short answer may be whole before its client goes away
    print(f"{arm}: {cancelled:.0f} cancelled, {whole:.0f} whole, of {TRIALS}")
    assert cancelled > 0 and whole >= len(answers[::2])
    again = [b"".join(server.ask(text, model=arm, seed=seed)) for text, seed in requests[:2]]
    assert again == alone[:2]
