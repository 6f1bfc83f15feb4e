"""Voices by upload: what is a voice and what is none, and that names stay inside the folder."""

import io
import os

import numpy as np
import pytest
import serving_toys as toys
import soundfile

URL = "/v1/audio/voices"


def recording(seconds=2.0, rate=24_000, form="WAV", channels=1, level=0.3):
    time = np.arange(int(seconds * rate)) / rate
    samples = level * np.sin(2 * np.pi * 220 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples] * channels, 1), rate, format=form)
    return file.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    with toys.closing(toys.make_service(folder, upload=2_000_000)) as service:
        with toys.client_of(service) as client:
            client.service, client.folder = service, folder
            yield client


def upload(client, name="me", audio=None, transcript="what I say in it", **fields):
    audio = recording() if audio is None else audio
    data = {"name": name, "transcript": transcript, **fields}
    return client.post(URL, data=data, files={"audio": ("me.wav", audio, "audio/wav")})


def test_an_upload_becomes_a_voice_that_speaks_and_goes(client):
    made = upload(client, "ann-1")
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["seconds"]) == ("ann-1", 2.0)
    listed = client.get(URL).json()["data"]
    assert {"ann-1", "kathleen"} <= {voice["name"] for voice in listed}
    assert all(voice["seconds"] > 0 for voice in listed)
    assert client.get(f"{URL}/ann-1").json()["models"] == ["tiny"]
    body = {"model": "tiny", "input": toys.TEXT, "response_format": "pcm", "voice": "ann-1"}
    spoken = client.post("/v1/audio/speech", json=body)
    voice = client.service.voices.read("ann-1")
    assert spoken.content == toys.offline(client.service, voice=voice)
    assert spoken.content != toys.offline(client.service)
    assert upload(client, "ann-1").status_code == 409
    assert client.delete(f"{URL}/ann-1").json()["deleted"]
    assert client.get(f"{URL}/ann-1").status_code == 404
    assert client.delete(f"{URL}/ann-1").status_code == 404
    assert list((client.folder / "voices").iterdir()) == []


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_other_formats_are_read(client, form):
    assert upload(client, f"form-{form}", recording(form=form)).status_code == 201
    assert client.delete(f"{URL}/form-{form}").status_code == 200


NAMES = [
    "", ".", "..", "../x", "..\\x", "a/b", "/etc/x", "a\0b", ".hidden", "-x", "a b", "a" * 65, "é",
    "%2e%2e%2fx", "x\n", "CON/..", "kathleen", "default",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_makes_no_file(client, name):
    answer = upload(client, name)
    assert answer.status_code in (400, 409), answer.text
    assert answer.json()["error"]["param"] == "name"
    beside = [path.name for path in client.folder.iterdir()]
    assert set(beside) <= {"voices"} and not (client.folder / "voices" / name[:9]).is_file()


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "..", "x%00y", "kathleen.yaml"]
)
@pytest.mark.parametrize("method", ["get", "delete"])
def test_no_file_outside_of_the_folder_is_read_or_deleted(client, name, method):
    outside = client.folder / "outside.yaml"
    outside.write_text("name: x")
    assert getattr(client, method)(f"{URL}/{name}").status_code in (404, 405)
    for way in ("..%2foutside", "voices%2f..%2foutside"):
        assert getattr(client, method)(f"{URL}/{way}").status_code == 404
    assert outside.is_file()
    outside.unlink()


def test_a_bundled_voice_stays(client):
    assert client.delete(f"{URL}/kathleen").status_code == 400
    assert client.get(f"{URL}/kathleen").status_code == 200


BAD = {
    "empty": b"",
    "text": b"hello, this is no recording",
    "only a header": b"RIFF\xff\xff\xff\xffWAVE",
    "noise behind a name": b"fLaC" + bytes(range(256)) * 40,
    "ogg of nothing": b"OggS" + b"\0" * 4000,
    "mp3 of nothing": b"\xff\xfb" + b"\0" * 4000,
    "too short": recording(0.2),
    "too long": recording(31, rate=16_000),
    "silent": recording(level=0.0),
    "slow": recording(rate=4_000),
    "many channels": recording(channels=12),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_recording_that_is_none_is_refused(client, kind):
    answer = upload(client, "bad", BAD[kind])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "audio"), answer.text
    assert client.get(f"{URL}/bad").status_code == 404


def test_the_header_tells_a_long_recording_before_it_is_decoded(client):
    answer = upload(client, "long", recording(33, rate=16_000))
    assert "33 s long" in answer.json()["error"]["message"]


@pytest.mark.parametrize("seconds", [-100, 100])
def test_a_voice_file_that_is_another_is_read_again(client, seconds):
    """Newer, or older as from a backup; one that is the same is read once."""
    voices = client.service.voices
    assert upload(client, "moving", transcript="the first words").status_code == 201
    first = voices.read("moving")
    assert voices.read("moving") is first
    path = client.folder / "voices" / "moving.yaml"
    path.write_text(path.read_text().replace("the first words", "the later words"))
    changed = path.stat().st_mtime + seconds
    os.utime(path, (changed, changed))
    assert (first.transcript, voices.read("moving").transcript) == (
        "the first words", "the later words",
    )  # fmt: skip
    assert client.delete(f"{URL}/moving").status_code == 200


def test_a_header_that_lies_about_its_length_decodes_no_more_than_it_may(client):
    """31 seconds whose header says 1: never more than the longest voice is decoded."""
    whole = bytearray(recording(31, rate=16_000))
    whole[40:44] = (32_000).to_bytes(4, "little")
    assert upload(client, "liar", bytes(whole)).status_code in (201, 400)
    client.delete(f"{URL}/liar")


def test_an_upload_is_bounded(client):
    assert upload(client, "large", b"RIFF" + bytes(3_000_000)).status_code == 413
    # a body has room for the fields beside the recording, the recording has not
    over = upload(client, "large", b"RIFF" + bytes(2_000_000))
    assert (over.status_code, over.json()["error"]["param"]) == (413, "audio")


@pytest.mark.parametrize("transcript", ["", "?!", "a\0b", "word " * 300])
def test_a_transcript_without_words_is_refused(client, transcript):
    answer = upload(client, "mute", transcript=transcript)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "transcript")


@pytest.mark.parametrize(("field", "most"), [("name", 200), ("model", 200), ("transcript", 10_000)])
def test_fields_of_a_form_are_looked_at_up_to_a_length(client, field, most):
    """Beyond it nothing is even split into words."""
    for size, at_most in ((most, False), (most + 1, True)):
        answer = upload(client, **{"name": "long", field: "x" * size})
        told = answer.json()["error"]["message"]
        assert answer.status_code in (400, 404) and (f"at most {most}" in told) is at_most


def test_a_form_without_its_fields_is_refused(client):
    assert client.post(URL, data={"name": "x"}).status_code == 400
    assert client.post(URL, json={"name": "x"}).status_code == 400
    assert upload(client, "x", model="nobody").status_code == 404


@pytest.mark.parametrize("kind", ["multipart/form-data", "Multipart/Form-Data"])
def test_the_type_of_a_form_is_a_word_in_any_letters(client, kind):
    parts = [b'Content-Disposition: form-data; name="name"\r\n\r\nletters',
             b'Content-Disposition: form-data; name="transcript"\r\n\r\nwhat I say',
             b'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
             + recording()]  # fmt: skip
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    answer = client.post(URL, content=body, headers={"content-type": f"{kind}; boundary=x"})
    assert answer.status_code == 201, answer.text
    assert client.delete(f"{URL}/letters").status_code == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_recording_that_comes_in_no_form_is_none(client, kind):
    body = b"name=letters&transcript=what+I+say&audio=RIFF"
    answer = client.post(URL, content=body, headers={"content-type": kind})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert client.get(f"{URL}/letters").status_code == 404


def test_a_full_folder_takes_no_more(tmp_path):
    with toys.closing(toys.make_service(tmp_path, voices=1)) as service:
        with toys.client_of(service) as client:
            assert upload(client, "one").status_code == 201
            assert upload(client, "two").json()["error"]["code"] == "folder_full"
