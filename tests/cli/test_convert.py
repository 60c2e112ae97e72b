"""`ttt-hf convert`: what it makes talks; and every bad input: one sentence, an exit code, and no folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from fixed_reply import make_codec
from official_layout import official_tokenizer, text_tokenizer, write_official, write_official_config
from ttt_hf.loading import find_codec, load_checkpoint
from ttt_hf.processing import TtTProcessor


ANSWER = ("--seed", "0", "--max-new-tokens", "40")


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the official code writes it. Shared: copy it before changing it."""
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make_codec().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random text model whose tokenizer knows nothing of ChatML and does not pad."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = text_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=7,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def refuse(run: Callable, tmp_path: Path) -> Callable[..., None]:
    """`refuse(message, "official", SRC, ...)`: the conversion fails with this message and writes nothing."""

    def call(message: str, kind: str, source: object, *options: object, out: Path | None = None) -> None:
        out = out or tmp_path / "out"
        before = sorted(out.iterdir()) if out.is_dir() else None
        result = run("convert", kind, source, out, *options)
        assert result.code == 1, result
        assert result.err.startswith("ttt-hf: error: ")
        assert result.err.count("\n") == 1, result.err
        assert message in result.err
        assert not result.out
        assert (sorted(out.iterdir()) if out.is_dir() else None) == before
        assert not list(out.parent.glob(".out*"))

    return call


# -- official checkpoints ---------------------------------------------------------------------------------------------


def test_official_checkpoint_talks_unchanged(
    run: Callable, official: Path, codec: Path, question: Path, tmp_path: Path
) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", question, "--model", official, "--codec", codec, "--out", reply, "--json", *ANSWER)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["audio"] == str(reply) and answer["audio_seconds"] > 0.5
    assert reply.stat().st_size > 16000


def test_official_checkpoint_streams_in_bfloat16(run: Callable, official: Path, codec: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    arguments = ("--model", official, "--codec", codec, "--out", reply, "--stream", "--dtype", "bfloat16", *ANSWER)
    result = run("talk", "--text", "Hello", *arguments)
    assert result.code == 0, result.err
    assert "first audio after" in result.err and reply.is_file()


def test_official_checkpoint_without_codec_says_how_to_name_one(run: Callable, official: Path) -> None:
    result = run("talk", "--text", "Hello", "--model", official)
    assert result.code == 1
    assert "has no codec" in result.err and "name it with --codec" in result.err


def test_converted_official_checkpoint(
    run: Callable, official: Path, codec: Path, question: Path, tmp_path: Path
) -> None:
    out, replies = tmp_path / "made" / "native", [tmp_path / "before.wav", tmp_path / "after.wav"]
    result = run("convert", "official", official, out, "--codec", codec, "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    assert (made["out"], made["dtype"], made["codes"], made["codec"]) == (str(out), "bfloat16", 75, "codec")
    weights = {name: tensor for path in official.glob("*.safetensors") for name, tensor in load_file(path).items()}
    kept = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weights[name]) for name in weights)
    assert made["parameters"] == sum(tensor.numel() for tensor in kept.values())
    keys = json.loads((out / "generation_config.json").read_text())
    assert (keys["audio_steps_per_block"], keys["audio_cfg_scale"], keys["top_k"]) == (10, 0.1, 10)
    facts = json.loads(run("info", out, "--json").out)
    assert facts["codec"]["codes"] == 75 and len(facts["audio_tokens"]["begin"]) == 2
    for model, reply in zip(((official, "--codec", codec), (out,)), replies):
        assert run("talk", question, "--out", reply, *ANSWER, "--model", *model).code == 0
    assert replies[0].read_bytes() == replies[1].read_bytes()


def test_conversion_without_codec_says_so(run: Callable, official: Path, codec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is taken
    result = run("convert", "official", official, out)
    assert result.code == 0, result.err
    assert "75 audio codes; no codec: name one with --codec" in result.out
    assert find_codec(out) is None
    result = run("talk", "--text", "Hello", "--model", out, "--codec", codec, "--json", *ANSWER)
    assert json.loads(result.out)["audio_seconds"] > 0


def test_a_codec_by_reference(official: Path, codec: Path, tmp_path: Path) -> None:
    """A processor may name its codec in the place of holding it; commands do not follow a path of another machine."""
    processor = TtTProcessor.from_pretrained(official, codec=codec)
    processor.codec_reference = str(codec)
    folder = Path(shutil.copytree(official, tmp_path / "model"))
    processor.save_pretrained(folder)
    assert not (folder / "codec").exists()
    with pytest.raises(ValueError, match="neither a Hub id nor a short name: put the codec into the sub-folder codec"):
        find_codec(folder)
    again = TtTProcessor.from_pretrained(folder)
    assert again.codec_reference == str(codec)
    assert again.codec.config.codebook_size == 75
    assert load_checkpoint(folder, find_codec(folder, str(codec)))[1].codec.config.codebook_size == 75


def test_not_an_official_checkpoint(
    refuse: Callable, official: Path, checkpoint: Path, text_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    refuse("it has no config.json", "official", tmp_path / "empty")
    refuse("There is no folder", "official", tmp_path / "nowhere")
    refuse("describes a 'llama' model, not Qwen2 with mask_token", "official", text_model)
    refuse("is in this package's own format already", "official", checkpoint)


def test_parts_that_do_not_fit(refuse: Callable, official: Path, codec: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(official, tmp_path / "official"))
    tokenizer = official_tokenizer()
    write_official_config(copied, tokenizer, vocab_size=300)
    refuse("does not fit a vocabulary of 300 tokens", "official", copied)
    write_official_config(copied, tokenizer, vocab_size=360, mask_token=350)
    refuse("number the audio tokens differently: <|mask_token|> is 341 there and 350 here", "official", copied)
    shutil.copy(official / "config.json", copied)
    official_tokenizer(without=("<|mask_token|>",)).save_pretrained(copied)
    refuse("The tokenizer has no token <|mask_token|>", "official", copied)
    (copied / "tokenizer_config.json").unlink()
    refuse("it has no tokenizer_config.json", "official", copied)


def change(folder: Path, file: str, **settings: object) -> Path:
    """Changes keys of a JSON file in a folder, and returns the folder."""
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **settings}))
    return folder


@pytest.mark.parametrize("kind", ["official", "from-text"])
def test_settings_of_a_wrong_kind(
    refuse: Callable, official: Path, text_model: Path, codec: Path, tmp_path: Path, kind: str
) -> None:
    source = official if kind == "official" else text_model
    damage = [("config.json", "intermediate_size", -0.5), ("tokenizer.json", "added_tokens", "a")]
    for file, key, value in damage:
        copied = change(Path(shutil.copytree(source, tmp_path / file)), file, **{key: value})
        refuse("cannot be used (", kind, copied, "--codec", codec)
    damaged = change(Path(shutil.copytree(codec, tmp_path / "codec")), "config.json", hop_length="/")
    refuse("codec/config.json cannot be used (hop_length expected int", kind, source, "--codec", damaged)


def test_codec_of_another_model(refuse: Callable, official: Path, tmp_path: Path) -> None:
    make_codec((3, 3, 3)).save_pretrained(tmp_path / "codec")
    refuse("The codec has 27 codes, the model 75", "official", official, "--codec", tmp_path / "codec")
    refuse("it has no config.json", "official", official, "--codec", tmp_path)
    refuse("There is no folder", "official", official, "--codec", tmp_path / "nowhere")
    refuse("no such model in the local cache", "official", official, "--codec", "xcodec2")


@pytest.mark.parametrize("kind", ["official", "from-text"])
def test_existing_output(refuse: Callable, official: Path, text_model: Path, codec: Path, tmp_path: Path, kind: str):
    source = official if kind == "official" else text_model
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refuse("exists and is not empty: name another folder", kind, source, "--codec", codec)
    refuse("is a file: name a folder", kind, source, "--codec", codec, out=tmp_path / "out" / "notes.txt")


def test_no_space(refuse: Callable, official: Path, limit_file_size: Callable) -> None:
    with limit_file_size(10_000):
        refuse("cannot be written", "official", official)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_few_bits_without_a_gpu(run: Callable, checkpoint: Path) -> None:
    result = run("talk", "--text", "Hello", "--model", checkpoint, "--bits", "4")
    assert result.code == 1
    assert "Weights in 4 bits need a CUDA device" in result.err and result.err.count("\n") == 1


def test_spread_model_answers_the_same(run: Callable, checkpoint: Path) -> None:
    plain = run("talk", "--text", "Hello", "--model", checkpoint)
    assert plain.code == 0
    assert run("talk", "--text", "Hello", "--model", checkpoint, "--spread").out == plain.out


# -- text models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def grown(text_model: Path, codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ttt_hf.cli.main import main

    out = tmp_path_factory.mktemp("grown") / "model"
    assert main(["convert", "from-text", str(text_model), str(out), "--codec", str(codec)]) == 0
    return out


def test_text_answers_stay(grown: Path, text_model: Path) -> None:
    before = LlamaForCausalLM.from_pretrained(text_model).eval()
    model, processor = load_checkpoint(grown)
    ids = torch.tensor([[5, 40, 41, 250]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits[..., :256], before(ids).logits[..., :256])
    settings = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(ids, **settings), before.generate(ids, **settings))
    assert model.generation_config.eos_token_id == [processor.tokenizer.convert_tokens_to_ids("<|im_end|>"), 7]


def test_chat_format_and_codec_come_with_it(run: Callable, grown: Path) -> None:
    processor = TtTProcessor.from_pretrained(grown)
    names = ["<|im_start|>", "<|im_end|>", "<|begin_of_audio|>"]
    start, end, begin = processor.tokenizer.convert_tokens_to_ids(names)
    assert (end, begin) == (start + 1, start + 2)
    inputs = processor.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert (inputs["input_ids"] == start).sum() == 2
    assert processor.tokenizer.pad_token is not None
    assert processor.codec.config.codebook_size == 75
    result = run("talk", "--text", "Hello", "--task", "text", "--model", grown, "--max-new-tokens", "5")
    assert result.code == 0, result.err


def test_a_training_step_lowers_both_losses(grown: Path) -> None:
    from ttt_hf.data import SampleBuilder, TtTDataCollator

    model, processor = load_checkpoint(grown)
    codes = processor.codec.encode(0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)))[0].tolist()
    reply = [{"type": "text", "text": "Hello there."}, {"type": "audio", "codes": codes}]
    question = {"role": "user", "content": [{"type": "audio", "codes": codes}]}
    sample = SampleBuilder(processor, model.config)(
        {"messages": [question, {"role": "assistant", "content": reply}], "task": "chat"}
    )
    batch = TtTDataCollator(model.config, processor.tokenizer.pad_token_id, seed=0)([sample])
    batch = {name: tensor for name, tensor in batch.items() if name not in ("noise_levels", "draws")}
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    before = model(**batch)
    before.loss.backward()
    optimizer.step()
    after = model(**batch)
    assert after.text_loss < before.text_loss
    assert 0 < after.audio_loss < before.audio_loss


def test_not_a_text_model(refuse: Callable, official: Path, checkpoint: Path, codec: Path, tmp_path: Path) -> None:
    refuse("is a TtT model already", "from-text", official, "--codec", codec)
    refuse("is a TtT model already", "from-text", checkpoint, "--codec", codec)
    refuse("it has no config.json", "from-text", tmp_path, "--codec", codec)
    refuse("There is no file missing.gguf", "from-text", "missing.gguf", "--codec", codec)
    for model_type in ("wav2vec2", "no-such-model"):
        folder = tmp_path / model_type
        shutil.copytree(codec, folder)
        official_tokenizer(1).save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        refuse("no decoder-only text model", "from-text", folder, "--codec", codec)


def test_text_model_without_tokenizer(refuse: Callable, text_model: Path, codec: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(text_model, tmp_path / "text", ignore=shutil.ignore_patterns("tokenizer*")))
    refuse("has no tokenizer", "from-text", copied, "--codec", codec)


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_gguf_needs_its_package(refuse: Callable, codec: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refuse(
        "GGUF files need the package gguf: pip install gguf.", "from-text", tmp_path / "model.gguf", "--codec", codec
    )


def test_usage(run: Callable, text_model: Path) -> None:
    assert "ttt-hf convert official" in run("convert", "--help").out
    for arguments in ((), ("pickle",), ("from-text", text_model, "out")):
        result = run("convert", *arguments)
        assert result.code == 2 and result.err.count("\n") == 1
    assert run("convert", "from-text", text_model, "out", "--codec", "mimi", "--seed", "-1").code == 2


# -- processes --------------------------------------------------------------------------------------------------------


def start_conversion(official: Path, codec: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ttt_hf", "convert", "official", official, out, "--codec", codec]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)


def test_two_conversions_into_one_folder(run: Callable, official: Path, codec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_conversion(official, codec, out)  # another process: a lock keeps out no thread of its own
    try:
        while process.poll() is None and not (out / ".ttt-hf.lock").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None, process.stderr.read()
        result = run("convert", "official", official, out, "--codec", codec)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "another process" in result.err.lower() and str(out) in result.err
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(120) == 0, process.stderr.read()
    assert load_checkpoint(out)[1].codec is not None
    assert not (out / ".ttt-hf.lock").exists()
