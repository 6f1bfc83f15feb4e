"""The parts that ship with Wishbone, registered by the same hooks as those of other packages."""

from __future__ import annotations

from wishbone.core.registry.loader import hookimpl
from wishbone.core.registry.registry import Registry

if __name__ != "wishbone.plugins":
    raise ImportError(
        f"import this as wishbone.plugins, not {__name__}: run 'pip install -e .' first"
    )

WISHBONE_API = "1.1"


@hookimpl
def wishbone_register(registry: Registry) -> None:
    """Register every part of the table below, by kind and key."""
    for kind, key, target, summary in PARTS:
        registry.add(kind, key, f"wishbone.plugins.{target}", summary)


PARTS = (
    # text to ids
    ("tokenizer", "phonemes", "phonemes.tokenizer:PhonemeTokenizer",
     "English text to phonemes, with a lexicon and a model for unknown words"),
    ("tokenizer", "characters", "phonemes.characters:CharacterTokenizer",
     "text to letters, as it is written"),
    ("tokenizer", "cosyvoice2", "cosyvoice2.tokenizer:CosyVoice2Tokenizer",
     "the text tokenizer of a CosyVoice2 release, Qwen2's BPE with marks (extra: cosyvoice2)"),
    ("tokenizer", "rwkv-world", "rwkvtts.tokenizer:WorldTokenizer",
     "the text tokenizer of an RWKVTTS release, RWKV's World vocabulary with marks"),
    # a recording to codes, for prompts and for training
    ("speech_tokenizer", "fsqcodec", "fsqcodec.tokenizer:FSQCodecTokenizer",
     "24 kHz audio to 25 codes per second, one codebook of 3^8"),
    ("speech_tokenizer", "cosyvoice2", "cosyvoice2.speech_tokenizer:CosyVoice2SpeechTokenizer",
     "CosyVoice2's: 16 kHz audio to 25 codes per second (extra: cosyvoice2)"),
    # ids and codes to the next hidden vector
    ("backbone", "rwkv7", "rwkv7.backbone:RWKV7",
     "RWKV-7: a recurrent network whose state has constant size"),
    ("backbone", "transformer", "transformer.backbone:Transformer",
     "a modern decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention"),
    ("backbone", "arwkv", "arwkv.backbone:ARWKV",
     "a Transformer's blocks with RWKV-7's time mixing in place of attention, to be distilled"),
    ("backbone", "pissa", "pissa.backbone:PiSSA",
     "speech beside text on one set of weights: PiSSA's difference, by row of a batch"),
    ("backbone", "peft", "peft.backbone:PEFT",
     "LoRA, DoRA, MiSS or PiSSA on another backbone, quantised or not (extra: adapt)"),
    ("backbone", "state_tuned", "state_tuning.backbone:StateTuned",
     "any backbone with matrices in its state, beginning with a state it has learned"),
    # the hidden vector to logits of the next code
    ("head", "linear", "heads.head:LinearHead", "one row per code, in and out"),
    ("head", "fsq", "heads.head:FSQHead", "codes share the vectors of their FSQ digits"),
    ("head", "channels", "heads.channels:ChannelsHead",
     "one row per code for several delayed codebooks, whose last id says nothing"),
    # codes to audio
    ("decoder", "fsqcodec", "fsqcodec.decoder:FSQCodecDecoder",
     "codes to 24 kHz audio through an inverse-STFT head, streaming"),
    ("decoder", "cosyvoice2", "cosyvoice2.decoder:CosyVoice2Decoder",
     "CosyVoice2's flow and vocoder: codes to 24 kHz audio, streaming"),
    # training: sources of data, teachers, losses
    ("corpus", "cosyvoice", "corpora.readers:CosyVoice", "CosyVoice's Parquet"),
    ("corpus", "rwkvtts", "corpora.readers:RWKVTTS", "RWKVTTS's JSONL, with prompts"),
    ("corpus", "respark", "corpora.readers:ReSpark", "ReSpark's JSONL, with codes of the voice"),
    ("corpus", "xy", "corpora.readers:XY", "RWKVTTS's JSONL of several codebooks"),
    ("teacher", "piper", "piper.teacher:PiperTeacher",
     "a Piper voice that speaks training data (extra: train)"),
    ("teacher", "kokoro", "kokoro.teacher:KokoroTeacher",
     "one of Kokoro-82M's voices, reading English for training data (extra: voices)"),
    ("objective", "align", "distil.align:Align",
     "distillation, stage 1: each layer's mixer answers as the teacher's does"),
    ("objective", "logits", "distil.logits:Logits",
     "distillation, stage 2: the next code has the teacher's probabilities"),
    # measuring
    ("metric", "wer", "metrics.word_errors:WordErrorRate",
     "word errors of Whisper tiny.en's transcript, in percent (extra: ab)"),
    ("metric", "dnsmos", "metrics.dnsmos:DNSMOS",
     "predicted quality, 1 to 5, of the package speechmos (extra: ab)"),
    ("metric", "similarity", "metrics.speaker_similarity:SpeakerSimilarity",
     "likeness to the reference's voice, of the package resemblyzer (extra: ab)"),
    ("metric", "rtf", "metrics.speed:RealTimeFactor", "seconds of computing per second of audio"),
    ("metric", "processor_rtf", "metrics.speed:ProcessorFactor",
     "seconds of processor time per second of audio"),
    ("metric", "first_audio", "metrics.speed:FirstAudio", "milliseconds to the first samples"),
    ("metric", "token_rate", "metrics.speed:TokenRate", "code frames per second of computing"),
    ("metric", "loss", "metrics.losses:HeldOutLoss", "cross entropy of held-out codes"),
    ("metric", "loss_marks", "metrics.losses:LossWithMarks",
     "cross entropy of held-out codes and of the layout's marks"),
    ("metric", "binding", "metrics.losses:BindingGap",
     "by how much the loss rises with another sentence's text"),
    # the folders of other projects: read in place, or converted
    ("release", "rwkvtts", "rwkvtts.release:Release",
     "RWKVTTS: an RWKV-7 in CosyVoice2's or Spark-TTS's place, raw or converted"),
    ("release", "cosyvoice2", "cosyvoice2.release.reader:Release",
     "CosyVoice2-0.5B: llm.pt, flow.pt, hift.pt and what stands beside them"),
    ("converter", "rwkv-lm", "rwkv7.convert:RWKVLM", "a .pth of RWKV-LM (RWKV-7)"),
    ("converter", "rwkv-lm-text", "rwkv7.convert_text:Text",
     "the same with its tables, as a model of text: the World models (a whole model)"),
    ("converter", "fla", "rwkv7.convert:FLA",
     "a folder of flash-linear-attention or rwkv7-hf (RWKV-7)"),
    ("converter", "qwen2", "transformer.convert:Qwen2",
     "a folder of transformers, its body (Qwen2)"),
    ("converter", "cosyvoice2", "transformer.convert:CosyVoice2",
     "an llm.pt of CosyVoice2, or its release's folder (a whole model)"),
    ("converter", "merge", "peft.convert:Merge",
     "a system with adapters, its backbone 'peft': adapters multiplied in (a whole model)"),
    ("converter", "pissa", "pissa.convert:Folder",
     "what PiSSA learned as a LoRA, a folder of peft's"),
    ("converter", "pissa-merged", "pissa.convert:Merged",
     "a system with PiSSA as an ordinary one (a whole model)"),
    ("converter", "pissa-alone", "pissa.convert:Alone",
     "a system with PiSSA without its base, which its config.yaml names (a whole model)"),
    ("converter", "peft", "peft.convert:Folder",
     "with --out: the adapter of a 'peft' backbone as a folder of Hugging Face's peft"),
    ("converter", "peft-fla", "peft.convert:FlaFolder",
     "the same under fla's names of an RWKV-7"),
    ("converter", "peft-qwen2", "peft.convert:Qwen2Folder",
     "the same under transformers' names of a Qwen2"),
    ("converter", "rwkvtts", "rwkvtts.convert:Raw",
     "an llm.pt of RWKVTTS, or its release's folder (a whole model)"),
    ("converter", "rwkvtts-hf", "rwkvtts.convert:HuggingFace",
     "RWKVTTS's folder in Hugging Face's form, ReSpark's too (a whole model)"),
    # speed, for wishbone bench
    ("contender", "rwkv", "bench_peers.rwkv:Rwkv", "the package rwkv (extra: bench)"),
    ("contender", "llama.cpp", "bench_peers.llama_cpp:LlamaCpp",
     "llama.cpp on the same weights (extra: bench)"),
    ("contender", "wkv7", "rwkv7.bench:WKV",
     "WKV-7 forward and backward: ours, or flash-linear-attention's"),
    ("contender", "cosyvoice2-flow", "cosyvoice2.bench.flow:FlowWay",
     "one more second of CosyVoice2's mel: keeping the past, or computing it again"),
    ("contender", "cosyvoice2-release", "cosyvoice2.bench.release:Release",
     "a release of CosyVoice2, part by part and from text to sound"),
    ("contender", "cosyvoice2-reference", "cosyvoice2.bench.public_code:Reference",
     "the public code of CosyVoice2 on the same release, from a checkout"),
    ("command", "align", "aligner.command:main",
     "Find the time of every word in recordings; the same as 'wishbone data align'."),
    ("command", "codec-train", "fsqcodec.train:main", "Train the codec that is bundled."),
    ("command", "codec-export", "fsqcodec.export:main", "Turn such a training into a checkpoint."),
    ("command", "codec-peers", "reference_codecs.command:main",
     "Judge a codec beside others; the same as 'wishbone evaluate codec --peers'."),
    ("command", "state-convert", "state_tuning.__main__:main",
     "Turn a learned state into a voice, or into a file of RWKV-PEFT, or back."),
)  # fmt: skip
"""Kind, key, ``module:class`` below this package, summary; in the order of a token's path."""


@hookimpl
def wishbone_doctor() -> list[tuple[str, bool, str]]:
    """Report the kernels that run here, and the reasons why others do not."""
    from wishbone.plugins.kernel_report import engine_report, kernel_report

    return [*engine_report(), *kernel_report()]
