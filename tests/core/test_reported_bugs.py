"""Failures of other speech systems, tried here: each has its right value as a test.

The ids are those of the collection (T text, B recordings, C streams, D data, E checkpoints, F
plug-ins, G evaluation, H command line). ``HELD`` names the tests of other files; the rest is here.
"""

import ast
import io
import json
import os
import sys
import threading
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import soundfile
from tiny_system import tiny_system

from wishbone.core.cli import doctor, plugins
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.contract.sentences import sentences
from wishbone.core.evaluate.prompts.prompt_lists import read_prompts
from wishbone.core.speak import speaker, text_to_speech
from wishbone.plugins.phonemes.normalise import normalise
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

TESTS = Path(__file__).parents[1]
IDS = (
    "T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 T14 T15 T16 T17 T18 T20 T21 T22 T23 T24 T25 T26 T27"
    " T28 B1 B2 B3 B4 C1 C2 D2 D3 D4 D5 D6 D7 D9 E2 E3 F1 F3 F4 F5 G1 G2 G3 H1 H2 H3"
).split()

HELD = """
T1 core/test_guard.py test_a_word_in_trouble_is_drawn_again_and_its_sound_is_the_good_one
T2 core/test_guard.py test_of_several_draws_of_a_lone_word_the_likeliest_is_spoken
T5 plugins/test_spoken.py test_the_locale_changes_nothing
T20 plugins/test_spoken.py test_what_nobody_says_is_named
T25 plugins/test_phonemes_time.py test_ten_thousand_characters_of_anything_take_a_second
T26 plugins/test_homographs.py test_the_sentence_decides
T27 core/test_pipeline.py test_controls_in_a_text_steer_nothing
T28 plugins/test_cosyvoice2_text.py test_numbers_in_english
B1 core/test_recording.py test_noise_is_no_voice
B1 core/test_recording.py test_silence_is_no_voice
B2 core/test_recording.py test_level_and_dc_leave_no_trace
B3 core/test_recording.py test_a_transcript_of_another_length_is_warned_of
B4 core/test_recording.py test_more_formats_are_recordings
B4 core/test_recording.py test_what_cannot_be_read_says_so
C1 core/test_say_threads.py test_threads_say_what_one_after_another_says
D2 core/test_data_speak.py test_rows_of_a_table_that_cannot_be_used_have_a_reason
D3 core/test_data_speak.py test_rows_of_a_table_that_cannot_be_used_have_a_reason
D4 core/test_data_speak.py test_a_table_of_another_form_is_named
D5 core/test_train_run.py test_data_without_an_utterance_says_so
D6 core/test_train_batches.py test_what_is_too_long_for_a_step_is_named
D7 core/test_cli.py test_errors_of_the_system_are_three_lines
D7 core/test_cli.py test_a_full_disk_is_three_lines
D9 core/test_data_speak.py test_rows_of_a_table_that_cannot_be_used_have_a_reason
E2 core/test_weights.py test_weights_in_several_files_with_a_list_are_read
E3 core/test_weights.py test_names_of_compiled_and_parallel_models_are_read
E3 core/test_weights.py test_other_names_are_a_short_sentence
F1 core/test_plugin.py test_a_distribution_removed_by_halves_harms_nobody
F3 core/test_plugin_command.py test_names_that_cannot_be
G1 plugins/test_recognisers.py test_marks_of_both_sides_have_one_form
G3 plugins/test_recognisers.py test_spellings_of_the_same_words_are_no_errors
H1 core/test_limits.py test_a_device_that_is_not_here_ends_in_three_lines
H3 core/test_config.py test_odd_keys_and_values_of_a_file_are_three_lines
"""
"""Id, file below ``tests`` and test that holds the right value."""

SPOKEN = """
T3 THE END | the end
T3 HELLO WORLD | hello world
T3 I AM NOT HAPPY. | I am not happy.
T3 NO! | no!
T3 Chapter ONE | Chapter one
T3 NASA, NATO and a LASER | nasa, nato and a laser
T3 FBI and HTML | F B I and H T M L
T4 It is a 20th-century novel. | It is a twentieth century novel.
T4 1st-class, 3rd-party | first class, third party
T4 the 21st-century | the twenty first century
T4 1st-3rd | first to third
T6 It costs ¥500. | It costs five hundred yen.
T7 The temperature is −5 degrees. | The temperature is minus five degrees.
T8 $5.3 billion | five point three billion dollars
T8 They raised $5M | They raised five million dollars
T9 at 14:59 | at fourteen fifty nine
T9 24:00 | twenty four hundred
T10 See https://example.com | See example dot com
T10 john.doe@example.com | john dot doe at example dot com
T10 www.example.com | W W W dot example dot com
T11 Call 555-123-4567 now. | Call five five five, one two three, four five six seven now.
T11 +1 (555) 123-4567 | plus one, five five five, one two three, four five six seven
T12 1/2 cup | one half cup
T12 3/4 | three quarters
T12 2 1/2 | two and a half
T12 1990-1995 | nineteen ninety to nineteen ninety five
T12 20~30 | twenty to thirty
T12 9/11 | nine eleven
T12 24/7 | twenty four seven
T12 50/50 | fifty fifty
T12 16:9 | sixteen to nine
T14 350°F | three hundred and fifty degrees Fahrenheit
T14 5 km/h, 10 kg, 3 ft | five kilometers per hour, ten kilograms, three feet
T14 60Hz, 5cm | sixty hertz, five centimeters
T15 3 + 4 * 2 = 11 | three plus four times two equals eleven
T15 A=B | A equals B
T16 World War II ended in 1945. | World War two ended in nineteen forty five.
T16 Louis XIV | Louis the fourteenth
T16 Chapter XII | Chapter twelve
T16 MMXXIV | twenty twenty four
T16 Act III Scene ii | Act three Scene two
T16 Type II | Type two
T17 The PDFs and CPUs are here. | The P D F's and C P U's are here.
T17 APIs | A P I's
T18 St. Mary | Saint Mary
T18 No. 5 | number five
T18 Prof. White | Professor White
T18 on Oak Dr. | on Oak drive.
T18 Gov. Hill met Sen. Roe. | Governor Hill met Senator Roe.
T18 on Jan. 5 or Dec. 6 | on January fifth or December sixth
T18 approx. 5, a.k.a. Bob | approximately five, also known as Bob
T18 Roe v. Wade, Vol. II | Roe versus Wade, volume two
T20 Привет, he said, and 你好, she said. | , he said, and, she said.
T21 1. Bread\\n2. Milk\\n3. Tea | one, Bread / two, Milk / three, Tea
T21 Chapter One\\nIt was a dark night. | Chapter One / It was a dark night.
T22 Plan B. Then plan C. Vitamin C. Eat it. | Plan B. / Then plan C. / Vitamin C. / Eat it.
T23 [link](http://x.com) | link
T23 <b>html</b> | html
T23 <speak>Hi</speak> | Hi
T23 Hello!How are you?Fine. | Hello! / How are you? / Fine.
T24 90210 | nine oh two one oh
T24 007 | double oh seven
T24 0101 | oh one oh one
T24 1.000 | one point zero zero zero
"""
Line = namedtuple("Line", "id written spoken")
LINES = [Line(row.split(" ", 1)[0], *row.split(" ", 1)[1].split(" | ")) for row in
         SPOKEN.strip().split("\n")]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.id} {line.written}")
def test_what_is_written_is_spoken_right(line):
    pieces = sentences(line.written.replace("\\n", "\n"))
    assert " / ".join(normalise(piece).strip() for piece in pieces) == line.spoken


@pytest.mark.parametrize("id", IDS)
def test_every_id_has_a_test_that_exists(id):
    places = [row.split()[1:] for row in HELD.strip().split("\n") if row.split()[0] == id]
    here = Path(__file__).read_text(encoding="utf-8")
    written = any(line.id == id for line in LINES) or f"def test_{id.lower()}_" in here
    assert places or written
    for path, name in places:
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("id", IDS)
def test_no_id_is_forgotten(id):
    assert id[0] in "TBCDEFGH" and IDS.count(id) == 1 and len(IDS) == 51


@pytest.fixture(scope="module")
def bundled():
    """The bundled systems with the fastest engine of this machine."""
    arms = ("quickstart-rwkv7", "quickstart-transformer")
    systems = {arm: speaker.load(arm, [], "cpu", "auto") for arm in arms}
    for system in systems.values():
        # one draw, not the likeliest of ten: no word may need more to be there
        system.sampling.lone_word_draws = 1
    return systems


@pytest.mark.parametrize("arm", ["quickstart-rwkv7", "quickstart-transformer"])
@pytest.mark.parametrize("text", ["Hello.", "No.", "Stop!"])
def test_t1_a_word_alone_is_spoken_in_a_bundled_voice(bundled, arm, text):
    for voice in ("kathleen", "joe"):
        assert 0.2 < text_to_speech.say(bundled[arm], text, voice=voice, seed=1).seconds < 1.2


def test_t1_short_sentences_inside_a_text_are_all_spoken(bundled):
    text = "No. Stop! Why? He left the house. Yes. Really?"
    for system in bundled.values():
        record = []
        text_to_speech.say(system, text, voice="kathleen", seed=0, record=record)
        assert len(record) == 6
        assert min(len(each.codes) for each in record) / 25 > 0.2


def test_t2_words_alone_are_understood_without_a_voice(tmp_path):
    for module in ("faster_whisper", "jiwer", "whisper_normalizer"):
        pytest.importorskip(module, reason="needs the extra 'ab'")
    (tmp_path / "words.txt").write_text("Hi.\nYes.\nOne.\nThanks.\nSure.\n")
    words = ["--text", str(tmp_path / "words.txt"), "--voice", "own", "--seeds", "1"]
    out = tmp_path / "heard.json"
    assert main(["evaluate", "short", "quickstart-rwkv7", *words, "--json", str(out)]) == 0
    items = json.loads(out.read_text())["items"]
    # 34 of 90 were understood when the onset was said twice
    assert sum(not item["errors"] or not item["errors_base"] for item in items) >= 4
    assert max(item["seconds"] for item in items) < 1.2


@pytest.mark.parametrize("text", ["The PDFs and CPUs are here.", "APIs"])
def test_t17_plurals_of_letters_sound_like_letters(text):
    tokenizer = PhonemeTokenizer()
    letters = {"The PDFs and CPUs are here.": ["pˈi dˈi ˈɛfs", "sˈi pˈi jˈuz"], "APIs": ["ˈeɪ"]}
    said = tokenizer.decode(tokenizer.encode(text))
    assert all(letter in said for letter in letters[text]), said


def test_c2_a_line_without_a_stop_is_spoken_before_the_next_arrives(monkeypatch):
    from wishbone.core.cli.speech import speaking

    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(reading, "rb")))
    pieces = speaking.read_text("-", None, stream=True)
    os.write(writing, b"line 1 of the log\n")
    first = []
    thread = threading.Thread(target=lambda: first.append(next(iter(sentences(pieces)))))
    thread.start()
    thread.join(10)
    os.close(writing)
    thread.join(10)
    assert first == ["line 1 of the log"]


def test_d7_a_file_of_exclusions_that_is_missing_is_three_lines(tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("Hello there.\n")
    words = ["data", "text", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "out")]
    words += ["--system", "text-rwkv7", "--exclude", str(tmp_path / "missing.txt")]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3 and error[1].endswith("missing.txt")
    assert main(["train", "quickstart", "system=quickstart-rwkv7", "out=/proc/x"]) == 2
    assert main(["train", "quickstart", "system=quickstart-rwkv7", "seed=-1"]) == 2
    assert "not foreseen" not in capsys.readouterr().err


def test_f3_a_key_cannot_have_the_distribution_name_of_another(tmp_path, capsys):
    assert main(["plugins", "new", "acme-my/bone", "--out", str(tmp_path)]) == 2
    assert main(["plugins", "new", "/bone", "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_f4_the_doctor_names_another_project_of_this_name(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "3.1.3")
    ((name, fine, text),) = doctor._namesakes()
    assert name == "wishbone" and not fine and "another project" in text
    assert "PyPI" in (TESTS.parent / "README.md").read_text(encoding="utf-8")


def test_f5_a_part_without_settings_has_its_facts(capsys, monkeypatch):
    loaded = plugins.loaded()
    entry = loaded.registry.entry("metric", "wer")
    cls = loaded.registry.get("metric", "wer")
    monkeypatch.setattr(loaded.registry, "get", lambda kind, key: type("Bare", (), {}))
    assert main(["plugins", "info", "wer"]) == 0
    shown = capsys.readouterr().out
    assert f"{entry.kind} 'wer'" in shown and "config" not in shown and cls


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.tsv"])
def test_g2_empty_and_latin_1_prompts_are_three_lines(tmp_path, name):
    (tmp_path / name).write_text("\n")
    with pytest.raises(DataError, match="no sentence"):
        read_prompts(tmp_path / name)
    (tmp_path / name).write_bytes("a\tA café.\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize("name", ["cuda:9", "banana"])
def test_h1_say_names_the_devices_of_this_machine(name, tmp_path, capsys):
    words = ["say", "Hello.", "-o", str(tmp_path / "h.wav"), "--device", name]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3 and "Devices here: cpu" in error[2]


@pytest.mark.parametrize("more", [["-o", "/proc/h.wav"], ["--save-voice", "/proc/v.yaml"]])
def test_h2_a_folder_that_cannot_be_written_to_is_three_lines(tmp_path, capsys, monkeypatch, more):
    monkeypatch.setattr(speaker, "load", lambda *_: tiny_system())
    out = [] if "-o" in more else ["-o", str(tmp_path / "h.wav")]
    assert main(["say", "Hello there.", *out, *more]) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in error[-3:]] == ["error", "where", "do"]
    assert "not foreseen" not in error[-1]


def test_h2_lines_on_a_full_disk_leave_nothing_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speaker, "load", lambda *_: tiny_system())
    (tmp_path / "lines.txt").write_text("Hello there.\nAnd here.\n")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    out.mkdir()
    words = ["say", "--lines", str(tmp_path / "lines.txt"), "-o", str(out / "l.wav")]
    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "SoundFile", full)
        assert main(words) == 5
    assert [path.name for path in out.iterdir()] == [".l.wav.unfinished.json"]
    assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == ["l-0001.wav", "l-0002.wav"]


@pytest.mark.parametrize("more", [["--system", "-"], ["--system", "/dev/stdin"], ["--voice", ""]])
def test_h3_odd_names_of_systems_and_voices_are_three_lines(tmp_path, capsys, more):
    assert main(["say", "Hello.", "-o", str(tmp_path / "h.wav"), *more]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3 and error[2].startswith("do: ")
