"""``wishbone convert`` between this library and every format, both ways, to the last bit."""

import json

import pytest
import rwkvtts_files as files
import torch
from rwkv7_files import trained_looking

from wishbone.core.cli import main
from wishbone.core.config.compose import compose
from wishbone.core.system.loading import load_part
from wishbone.core.weights.folders import read_folder
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.rwkv7.convert import FLA, RWKVLM
from wishbone.plugins.rwkvtts import release

LLM = "llm.model.model.layers.{}."
QWEN2 = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 80, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "model_type": "qwen2",
}  # fmt: skip


def table(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qwen2(prefix="model."):
    """A Qwen2 by the names of transformers, rows of the table of text included."""
    tensors = {
        f"{prefix}embed_tokens.weight": table(90, 48),
        f"{prefix}norm.weight": table(48, seed=1),
    }
    for i in range(2):
        layer = f"{prefix}layers.{i}."
        for n, (name, rows, columns) in enumerate(
            (("self_attn.q_proj", 48, 48), ("self_attn.k_proj", 16, 48),
             ("self_attn.v_proj", 16, 48), ("self_attn.o_proj", 48, 48),
             ("mlp.gate_proj", 80, 48), ("mlp.up_proj", 80, 48), ("mlp.down_proj", 48, 80))
        ):  # fmt: skip
            tensors[f"{layer}{name}.weight"] = table(rows, columns, seed=10 * i + n)
            if n < 3:
                tensors[f"{layer}{name}.bias"] = table(rows, seed=10 * i + n + 50)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = table(48, seed=i + 99)
    return tensors


def cosyvoice2(folder, rows=6564):
    """A folder with CosyVoice2's language model; its unread head shares the table of text."""
    tensors = qwen2("llm.model.model.")
    tensors |= {
        "llm_embedding.weight": table(2, 48, seed=3), "speech_embedding.weight": table(rows, 48),
        "llm_decoder.weight": table(rows, 48, seed=4), "llm_decoder.bias": table(rows, seed=5),
        "llm.model.lm_head.weight": tensors["llm.model.model.embed_tokens.weight"],
    }  # fmt: skip
    (folder / "CosyVoice-BlankEN").mkdir(parents=True)
    (folder / "CosyVoice-BlankEN" / "config.json").write_text(json.dumps(QWEN2))
    torch.save(tensors, folder / "llm.pt")
    return tensors


def same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, row in expected.items():
        assert actual[name].dtype == row.dtype and torch.equal(actual[name], row), name


def there_and_back(form, exported, folder, ending):
    """Through our folder and out again, by the command."""
    ours, back = folder / "ours", folder / f"back{ending}"
    assert main.main(["convert", form, str(exported), str(ours)]) == 0
    assert main.main(["convert", form, str(ours), str(back), "--out"]) == 0
    return ours, back


def test_cosyvoice2_comes_and_goes(tmp_path):
    expected = cosyvoice2(tmp_path / "release")
    ours, back = there_and_back("cosyvoice2", tmp_path / "release", tmp_path, ".pt")
    actual = torch.load(back, weights_only=True)
    same(actual, expected)
    tied = actual["llm.model.lm_head.weight"], actual["llm.model.model.embed_tokens.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert compose(ours)["backbone"]["heads"] == 6 and compose(ours)["weights"] == str(ours)


def test_an_unread_head_of_its_own_is_kept(tmp_path):
    expected = cosyvoice2(tmp_path / "release")
    expected["llm.model.lm_head.weight"] = table(90, 48, seed=77)
    torch.save(expected | {"epoch": 1, "step": 7}, tmp_path / "release" / "llm.pt")
    _, back = there_and_back("cosyvoice2", tmp_path / "release", tmp_path, ".pt")
    same(torch.load(back, weights_only=True), expected)


def test_half_precision_keeps_its_bits(tmp_path):
    expected = {n: t.bfloat16() for n, t in cosyvoice2(tmp_path / "release").items()}
    torch.save(expected, tmp_path / "release" / "llm.pt")
    _, back = there_and_back("cosyvoice2", tmp_path / "release", tmp_path, ".pt")
    same(torch.load(back, weights_only=True), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_comes_and_goes(tied, tmp_path):
    expected = qwen2() | ({} if tied else {"lm_head.weight": table(90, 48, seed=8)})
    source = tmp_path / "theirs"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(QWEN2))
    torch.save(expected, source / "pytorch_model.bin")
    _, back = there_and_back("qwen2", source, tmp_path, "")
    same(read_folder(back), expected)
    config = json.loads((back / "config.json").read_text())
    assert {key: config[key] for key in QWEN2} == QWEN2
    assert config["tie_word_embeddings"] is tied and config["vocab_size"] == 90


@pytest.mark.parametrize("form", ["raw", "old", "converted", "sharded"])
def test_rwkvtts_comes_and_goes_as_a_file(form, tmp_path):
    source = files.write(tmp_path / "release", form)
    _, back = there_and_back("rwkvtts", source, tmp_path, ".pt")
    # fla's old names become those of today
    same(torch.load(back, weights_only=True), files.raw())


def test_rwkvtts_comes_and_goes_as_a_folder(tmp_path):
    stale = files.raw() | {"llm.model.embeddings.weight": table(files.TEXT_ROWS, files.WIDTH)}
    source = files.write(tmp_path / "release", "alone", stale)
    ours, back = there_and_back("rwkvtts-hf", source, tmp_path, "")
    same(read_folder(back), files.converted(stale))
    config = json.loads((back / "config.json").read_text())
    assert config["architectures"] == ["RWKV7ForSpeech"] and config["speech_token_size"] == 6561
    assert config["vocab_size"] == files.TEXT_ROWS and config["hidden_size"] == files.WIDTH
    assert release.Release().holds(back)
    config = compose(ours)
    assert config["layout"]["fill"] is False
    assert config["backbone"] == files.BACKBONE | {"dropout": 0.0}


def test_respark_comes_and_goes(tmp_path):
    source = tmp_path / "theirs"
    source.mkdir()
    torch.save(files.respark(), source / "pytorch_model.bin")
    ours, back = there_and_back("rwkvtts-hf", source, tmp_path, "")
    same(read_folder(back), files.respark())
    assert compose(ours)["layout"] == {"name": "spark", "form": "respark"}


def test_from_one_format_to_another(tmp_path):
    source = files.write(tmp_path / "release")
    file, folder = tmp_path / "model.pth", tmp_path / "hf"
    assert main.main(["convert", "rwkvtts", str(source), str(folder), "--to", "rwkvtts-hf"]) == 0
    same(read_folder(folder), files.converted(files.raw()))
    assert main.main(["convert", "rwkvtts", str(source), str(folder) + "2", "--to", "fla"]) == 0
    same(read_folder(f"{folder}2"), files.body())
    assert main.main(["convert", "fla", f"{folder}2", str(file) + "2", "--to", "fla"]) == 0
    # RWKV-LM knows one eps for heads of every size, and this model has another
    assert main.main(["convert", "rwkvtts", str(source), str(file), "--to", "rwkv-lm"]) == 5


def test_a_public_sized_head_goes_to_rwkv_lm_and_back(tmp_path):
    tensors = trained_looking(width=128, layers=2, head_size=64, ffn_width=96)
    torch.save(tensors, tmp_path / "a.pth")
    assert main.main(["convert", "rwkv-lm", str(tmp_path / "a.pth"), str(tmp_path / "f"), "--to",
                     "fla"]) == 0  # fmt: skip
    assert main.main(["convert", "fla", str(tmp_path / "f"), str(tmp_path / "b.pth"), "--to",
                     "rwkv-lm"]) == 0  # fmt: skip
    same(read_tensors(tmp_path / "b.pth"), tensors)
    same(RWKVLM.theirs(FLA.ours(read_folder(tmp_path / "f")).tensors),
         {n: t for n, t in tensors.items() if not n.startswith(("emb", "head"))})  # fmt: skip


def test_the_backbone_of_a_model_goes_out_alone(tmp_path):
    source = files.write(tmp_path / "release")
    ours, back = tmp_path / "ours", tmp_path / "fla"
    assert main.main(["convert", "rwkvtts", str(source), str(ours)]) == 0
    assert main.main(["convert", "fla", str(ours), str(back), "--out"]) == 0
    same(read_folder(back), files.body())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rwkvtt", "{}", "{}/new"], 2, "Did you mean 'rwkvtts'"),
        (["rwkvtts", "{}", "{}/new", "--to", "fal"], 2, "Did you mean 'fla'"),
        (["rwkvtts", "{}", "{}"], 5, "not overwritten"),
        (["rwkvtts", "{}", "{}/new", "--out", "--to", "fla"], 2, "exclude each other"),
        (["fla", "{}/gone", "{}/new"], 5, "no file of weights"),
        (["cosyvoice2", "{}", "{}/new"], 5, "activation"),
        (["qwen2", "{}", "{}/new"], 5, "config.json"),
        (["cosyvoice2", "{}/ours", "{}/new", "--out"], 5, "Use the format rwkvtts"),
        (["rwkv-lm", "{}/ours", "{}/new", "--out"], 5, "norms heads"),
        (["fla", "{}/fla", "{}/new", "--to", "rwkvtts"], 2, "a backbone, 'rwkvtts' a whole"),
    ],
)
def test_what_goes_wrong_is_said_in_three_lines(words, code, message, tmp_path, capsys):
    folder = files.write(tmp_path / "release")
    path = folder / "CosyVoice-BlankEN" / "config.json"
    path.write_text(json.dumps(QWEN2 | {"hidden_act": "gelu"}))
    main.main(["convert", "rwkvtts", str(folder), str(folder / "ours")])
    main.main(["convert", "rwkvtts", str(folder), str(folder / "fla"), "--to", "fla"])
    before = {p for p in folder.rglob("*")}
    capsys.readouterr()
    assert main.main(["convert", *(word.format(folder) for word in words)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and message in "\n".join(lines), lines
    assert {p for p in folder.rglob("*")} == before


def test_help_lists_every_format(capsys):
    with pytest.raises(SystemExit):
        main.main(["convert", "--help"])
    output = capsys.readouterr().out
    for form in ("cosyvoice2", "fla", "qwen2", "rwkv-lm", "rwkvtts", "rwkvtts-hf"):
        assert f"\n  {form} " in output


def test_a_converted_model_is_one_that_loads(tmp_path):
    from test_rwkvtts import system

    from wishbone.core.system.build import build_model

    source, ours = files.write(tmp_path / "release"), tmp_path / "ours"
    assert main.main(["convert", "rwkvtts", str(source), str(ours)]) == 0
    direct = build_model(system(source))
    through = build_model(system() | {"weights": str(ours)})
    same(through.state_dict(), dict(direct.state_dict()))
    # the control: one number less, and it is seen
    tensors = read_tensors(ours / "model.safetensors")
    tensors["head.output.bias"][0] += 1
    assert not torch.equal(tensors["head.output.bias"], direct.head.output.bias)
    load_part(through, ours)
