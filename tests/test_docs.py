"""What the pages in docs/ promise is run: every command and every Python example, in order, in a folder of its own."""

import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from documents import blocks, commands
from official_layout import text_tokenizer, write_official
from published_glm4voice import write_published
from ttt_hf.cli.main import build_parser, main
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.loading import load_model_and_processor


ROOT = Path(__file__).resolve().parents[1]
NAMES = "training data evaluation metrics codecs official add_a_codec audio decoding chat serving sharing demo"
PAGES = [ROOT / "docs" / f"{name}.md" for name in NAMES.split()]
TRAINING, DATA, EVALUATION, METRICS, CODECS, OFFICIAL, ADD_A_CODEC, AUDIO, DECODING, CHAT, SERVING, SHARING, DEMO = (
    PAGES
)
QUESTION = ROOT / "examples" / "question.wav"

DOCUMENTED_ADDRESS = "http://127.0.0.1:8000"

# What begins like this, or has this in it, is not run here, for a reason. All else is.
NOT_RUN = {
    "hf upload ": "needs the Hub",
    "hf download ": "needs the Hub",
    '"organisation/model"': "needs the Hub",
    "torchrun ": "needs several processes, see tests/training/test_distributed.py, tests/cli/test_eval_processes.py",
    "CONFIGS=": "is part of the next command",
    "accelerate launch ": "needs several GPUs",
    '"Qwen/Qwen2.5-3B"': "needs the Hub, and 12 GB",
    '"Stephen-Lee/TtT-3B"': "needs the Hub, and 7 GB",
    "ttt-hf eval run librispeech_clean ": "needs the Hub",
    "ttt-hf eval push ": "needs the Hub, see tests/evaluation/test_push.py",
    "ttt-hf push adapter ": "needs the Hub, see tests/cli/test_push_model.py",
    " --judge-url ": "needs a judge, see tests/cli/test_eval_judge.py",
    "pip install ": "is done",
    "ttt-hf demo ": "runs until it is interrupted, see tests/cli/test_demo.py",
    "docker ": "needs Docker, see tests/serving/test_dockerfile.py",
    "ttt-hf serve ": "runs until it is interrupted, see tests/cli/test_serve.py",
}
# What makes a documented training or evaluation short.
SHORT = {
    "ttt-hf train ": ["max_steps=2"],
    "python -m ttt_hf.training.ablation ": ["max_steps=1"],
    "ttt-hf eval run tiny": ["--limit", "2"],
    "ttt-hf talk question.wav": ["--max-new-tokens", "60"],
}


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Everything on a page that can be run: its language and itself."""
    for block in blocks(page, "bash", "python"):
        for part in commands(block) if block.language == "bash" else [block.text]:
            yield block.language, part


def is_run(part: str) -> bool:
    return not any(part.startswith(reason) or reason in part for reason in NOT_RUN)


def run_command(command: str) -> None:
    program, *words = shlex.split(command)
    words += [word for start, more in SHORT.items() if command.startswith(start) for word in more]
    if program == "ttt-hf":
        assert main(words) == 0, command
    elif program == "curl":
        subprocess.run([program, "--fail", "--silent", "--show-error", *words], check=True)
    elif words[:2] == ["-m", "ttt_hf.training.ablation"]:
        from ttt_hf.training import ablation

        ablation.main(words[2:])
    else:
        pytest.fail(f"Nothing here runs this command, and NOT_RUN does not say why: {command}")


def run_page(page: Path, folder: Path, address: str = DOCUMENTED_ADDRESS) -> None:
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, part in steps(page):
            if not is_run(part):
                continue
            part = part.replace(DOCUMENTED_ADDRESS, address)
            if language == "bash":
                run_command(part)
            else:
                exec(part, names)


def test_every_reason_not_to_run_something_is_needed() -> None:
    parts = [part for page in PAGES for _, part in steps(page)]
    for reason, why in NOT_RUN.items():
        assert any(reason in part for part in parts), reason
        assert all((ROOT / test).is_file() for test in re.findall(r"tests/[\w/.]+\.py", why)), why
    assert sum(map(is_run, parts)) >= 6


def test_commands_of_launchers_name_modules_and_words_that_there_are() -> None:
    """What `torchrun` and `accelerate launch` start is not run here, but could be."""
    found = 0
    for page in PAGES:
        for language, part in steps(page):
            words = shlex.split(part) if language == "bash" and not is_run(part) else []
            for place, module in enumerate(words):
                if words[place - 1] == "-m" and module.startswith("ttt_hf."):
                    found += 1
                    assert importlib.util.find_spec(module), part
                    if module == "ttt_hf.cli":
                        build_parser().parse_args(words[place + 1 :])
    assert found >= 3


def make_recordings(folder: Path) -> None:
    """Two recordings and their table, as the page on training has them."""
    folder.mkdir()
    for name in ("001.wav", "002.wav"):
        shutil.copy(QUESTION, folder / name)
    tree = TRAINING.read_text(encoding="utf-8").partition("  metadata.csv")[2].partition("  001.wav\n")[0]
    (folder / "metadata.csv").write_text("".join(f"{line.strip()}\n" for line in tree.splitlines()))


def test_page_on_data(tmp_path: Path) -> None:
    make_recordings(tmp_path / "recordings")
    shutil.copytree(QUESTION.parent, tmp_path / "examples")
    shutil.copy(QUESTION, tmp_path)
    run_page(DATA, tmp_path)
    assert json.loads((tmp_path / "encoded" / "encoding.json").read_text())["rows"] == 1
    assert json.loads((tmp_path / "varied" / "encoding.json").read_text())["variants"] == 8


def test_page_on_audio(tmp_path: Path) -> None:
    shutil.copy(QUESTION, tmp_path)
    try:
        run_page(AUDIO, tmp_path)
    except ImportError as error:
        if "librosa" not in str(error):
            raise
        pytest.skip("this version of transformers wants librosa for the pipeline any-to-any")


def test_page_on_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(DECODING, tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_page_on_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines, replies = (block.text for block in blocks(CHAT, "text"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["chat", "--quiet"]) == 0
    assert capsys.readouterr() == (replies, "")
    assert (tmp_path / "reply.wav").stat().st_size > 10_000
    run_page(CHAT, tmp_path)
    assert "Two plus three is five." in capsys.readouterr().out


def test_page_on_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(QUESTION, tmp_path)
    run_page(DEMO, tmp_path)
    assert "16 steps for 1.6 s of speech: 10.0 a second" in capsys.readouterr().out
    # The picture of the page is of this reply.
    shown, drawn = ((folder / "denoising.svg").read_text() for folder in (DEMO.parent, tmp_path))
    assert re.findall("<title>.*</title>", shown) == re.findall("<title>.*</title>", drawn)
    assert (DEMO.parent / "denoising.svg").stat().st_size < 60_000
    assert (DEMO.parent / "demo.png").stat().st_size < 200_000


def test_page_on_sharing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(SHARING, tmp_path)
    assert "codec/model.safetensors" in capsys.readouterr().out


def test_page_on_a_codec_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(QUESTION.parent))  # examples/, as for a script there
    run_page(ADD_A_CODEC, tmp_path)
    assert (tmp_path / "tone-codec" / "model.safetensors").is_file()


def test_page_on_official_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folders that it names, small and random."""
    write_official(tmp_path / "TtT-3B")
    codec = TtTTinyCodecConfig(fsq_levels=[5, 5, 3], vocoder_layers=1)
    TtTTinyCodec(codec).save_pretrained(tmp_path / "glm-4-voice")
    text_model = Qwen2Config(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                             num_attention_heads=2, num_key_value_heads=2, eos_token_id=7)  # fmt: skip
    Qwen2ForCausalLM(text_model).save_pretrained(tmp_path / "Qwen2.5-0.5B-Instruct")
    text_tokenizer().save_pretrained(tmp_path / "Qwen2.5-0.5B-Instruct")
    shutil.copy(QUESTION, tmp_path)
    run_page(OFFICIAL, tmp_path)
    assert (tmp_path / "ttt-3b" / "codec" / "model.safetensors").is_file()
    assert (tmp_path / "reply.wav").stat().st_size > 10_000


@pytest.mark.slow
def test_page_on_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_recordings(tmp_path / "recordings")
    rows = [{"question": f"What is {number} plus one?", "answer": f"It is {number + 1}."} for number in range(4)]
    for name in ("dialogues.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_page(TRAINING, tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "ablation" / "ablation.md").is_file()


@pytest.mark.slow
def test_page_on_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_recordings(tmp_path / "recordings")
    # The task as the page has it, and the model card that it names.
    (task,) = (block.text for block in blocks(EVALUATION, "yaml"))
    (tmp_path / task.split()[1]).write_text(task)
    (tmp_path / "model").mkdir()
    run_page(EVALUATION, tmp_path)
    results = json.loads((tmp_path / "office" / "greetings" / "results.json").read_text())
    assert results["n_scored"] == 2 and results["headline"] == "wer"
    assert (tmp_path / "scores" / "report.html").is_file()
    assert "significant" in (printed := capsys.readouterr().out) or "may be chance" in printed


def test_page_on_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("evaluate")
    run_page(METRICS, tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "0.5" and printed[2:] == ["1 3 0 1", "1.0", "0.0"]
    (saved,) = (tmp_path / "metrics").glob("*.json")
    assert json.loads(saved.read_text())["wer"] == 0.5
    assert (tmp_path / "speech_wer" / "app.py").is_file()


def test_page_on_codecs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in write_published(tmp_path):  # the commands name them as they are published
        folder.rename(tmp_path / f"glm-4-voice-{folder.name}")
    run_page(CODECS, tmp_path)
    assert (tmp_path / "codec" / "model.safetensors").is_file()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_page_on_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "serving"))
    from local_server import LocalServer

    shutil.copy(QUESTION, tmp_path)
    with LocalServer(load_model_and_processor()) as server:
        run_page(SERVING, tmp_path, server.url)
    assert (tmp_path / "reply.wav").stat().st_size > 10_000 and (tmp_path / "speech.mp3").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "Please tell me what a carrot is." in printed and "'Two plus three is five.'" in printed
