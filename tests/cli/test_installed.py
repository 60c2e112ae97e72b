"""What the help shows is typed as it stands, into a shell far from the checkout, with the wheel installed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_eval_judge import JudgeServer
from transformers import Qwen2Config, Qwen2ForCausalLM

import preforked
from documents import blocks, commands
from hub_server import Hub, hub_environment
from official_layout import text_tokenizer, write_official
from published_glm4voice import write_published
from ttt_hf.cli.main import build_parser
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig


pytestmark = pytest.mark.slow  # builds the wheel

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
# What begins like this is not run here, for a reason. All else is.
NOT_RUN = {
    "ttt-hf eval run librispeech_clean ": "needs the Hub's data",
    "ttt-hf eval run audioqa ": "needs the Hub's data; the judge is asked by `eval judge`",
    "ttt-hf convert from-text SmolLM2": "needs a package, see tests/converting/test_grown_smollm2.py",
}
# What makes a training or an evaluation short.
SHORT = {
    "ttt-hf train ": " max_steps=1 audio_variants=0",
    "ttt-hf eval run tiny ": " --limit 2",
    "ttt-hf encode ": " --workers 1",
}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, and those of its verbs, in the order of the help."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from parsers(verb)


PARSERS = list(parsers(build_parser()))


def shown_commands() -> list[str]:
    """Every command of the help and of the README, once; those of docs/ are run by tests/test_docs.py."""
    found = []
    for parser in PARSERS:
        lines = [line.strip().removeprefix("example: ") for line in (parser.epilog or "").splitlines()]
        found += [line for line in lines if line.startswith("ttt-hf ")]
    found += [command for block in blocks(README, "bash") for command in commands(block) if "ttt-hf " in command]
    return list(dict.fromkeys(found))


COMMANDS = shown_commands()
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", site, wheel], check=True)
    return site


@pytest.fixture(scope="session")
def environment(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(site),
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def shell(environment: dict[str, str]) -> Shell:
    """Types a command into a shell."""

    def type_in(command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    return type_in


@pytest.fixture(scope="session")
def quick_shell(
    site: Path, environment: dict[str, str], shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """As `shell`, but `ttt-hf` is run by forks of a process that has imported the installed wheel."""
    with tempfile.TemporaryDirectory() as short:  # addresses of sockets have about 100 characters
        binaries = tmp_path_factory.mktemp("bin")
        client = binaries / "ttt-hf"
        client.write_text(preforked.CLIENT)
        client.chmod(0o755)
        address = f"{short}/socket"
        command = [sys.executable, preforked.__file__, address]
        # Far from the checkout, as the shell.
        with subprocess.Popen(command, cwd=binaries, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and Path(server.stdout.readline()).is_relative_to(site)

            def type_in(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
                return shell(command, folder, PATH=f"{binaries}:{environment['PATH']}", PREFORKED=address)

            yield type_in
            server.kill()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, quick_shell: Shell) -> Path:
    """The user's folder: what the examples name, small. Later commands find what earlier ones have written."""
    folder = tmp_path_factory.mktemp("user")
    recordings = folder / "recordings"
    recordings.mkdir()
    shutil.copy(ROOT / "examples" / "question.wav", recordings / "a.wav")
    shutil.copy(ROOT / "examples" / "question.wav", recordings / "b.wav")
    (recordings / "metadata.csv").write_text("file_name,text\na.wav,What is a carrot?\nb.wav,What is a potato?\n")
    shutil.copytree(recordings, folder / "organisation" / "dataset")
    shutil.copytree(checkpoint, folder / "my-model")
    shutil.copytree(checkpoint, folder / "path" / "to" / "checkpoint")
    rows = [{"question_audio": f"recordings/{name}.wav", "answer": "It is a vegetable."} for name in "ab"]
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my-recipe.yaml").write_text("lora_rank: 4\ntrain_data: dialogues.jsonl\noutput_dir: my-adapter\n")
    write_official(folder / "Stephen-Lee" / "TtT-3B")
    TtTTinyCodec(TtTTinyCodecConfig(fsq_levels=[5, 5, 3], vocoder_layers=1)).save_pretrained(folder / "glm-4-voice")
    text_model = Qwen2Config(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                             num_attention_heads=2, num_key_value_heads=2, eos_token_id=7)  # fmt: skip
    Qwen2ForCausalLM(text_model).save_pretrained(folder / "Qwen" / "Qwen2.5-0.5B-Instruct")
    text_tokenizer().save_pretrained(folder / "Qwen" / "Qwen2.5-0.5B-Instruct")
    for part in write_published(folder):
        part.rename(folder / f"glm-4-voice-{part.name}")
    (folder / "judged.yaml").write_text(
        "version: 1\nsource: {path: ./dialogues.jsonl, columns: {audio: question_audio, references: answer}}\n"
        "prompt: chat\noutput: text\nscorer: openaudiobench_judge\njudge: {prompt: openaudiobench_verdict}\n"
    )
    for command in (
        # What `eval run audioqa` would leave, and what two runs of the user have.
        "ttt-hf eval run judged.yaml --out judged",
        "ttt-hf eval run tiny_asr --limit 2 --out before && ttt-hf eval run tiny_asr --limit 2 --out after",
    ):
        quick_shell(command, folder)
    return folder


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    made = JudgeServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_wheel_is_what_runs(site: Path, shell: Shell, tmp_path: Path) -> None:
    result = shell(f"{sys.executable} -c 'import ttt_hf; print(ttt_hf.__file__)'", tmp_path)
    assert Path(result.stdout.strip()).is_relative_to(site)
    assert not shell("command -v ttt-hf", tmp_path).stdout.startswith(str(ROOT))


def test_every_reason_not_to_run_something_is_needed() -> None:
    for start in [*NOT_RUN, *SHORT]:
        assert any(command.startswith(start) for command in COMMANDS), start
    verbs = {" ".join(command.split()[1:2]) for command in COMMANDS if not command.startswith(tuple(NOT_RUN))}
    assert {"talk", "encode", "train", "eval", "convert", "info"} <= verbs


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_every_help_shows_a_command_of_its_own(parser: argparse.ArgumentParser) -> None:
    assert f"  {parser.prog}" in (parser.epilog or "") or f"example: {parser.prog}" in (parser.epilog or "")


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(tuple(NOT_RUN))])
def test_shown_command(
    command: str, folder: Path, shell: Shell, quick_shell: Shell, hub: Hub, judge: JudgeServer, tmp_path: Path
) -> None:
    for start, more in SHORT.items():
        command += more if command.startswith(start) else ""
    variables: dict[str, str] = {}
    if "convert glm4voice" in command:
        shutil.rmtree(folder / "glm-4-voice")  # until here that of the official checkpoint
    if " judge " in command:
        command = command.replace("http://localhost:8000/v1", judge.url)
    if " push " in command:
        # A complete run, since a part of the samples has no headline number, of weights that the repository holds.
        quick_shell("ttt-hf eval run local path=recordings scorer=wer --out pushed", folder)
        results = json.loads((folder / "pushed" / "local" / "results.json").read_text())
        hub.weights = {"main": results["model"]["weights"]}
        command = command.replace(" scores ", " pushed ").replace("your-name/your-model", "me/model")
        variables = {**hub_environment(hub.url, tmp_path), "PYTHONPATH": ""}
        variables = {name: variables[name] for name in variables if name.startswith("HF_")}
    # The Hub's client reads its address when it is imported.
    result = shell(command, folder, **variables) if variables else quick_shell(command, folder)
    assert result.returncode == 0, result.stderr
    assert "ttt-hf: error" not in result.stderr and "Warning" not in result.stderr, result.stderr
    out = shlex.split(command)[shlex.split(command).index("--out") + 1] if " --out " in command else None
    assert out is None or (folder / out).exists()
    if "--json" in command:
        json.loads(result.stdout)


def test_speech_example_reads_aloud(folder: Path, quick_shell: Shell) -> None:
    (command,) = (command for command in COMMANDS if " --task tts " in command and "talk" in command)
    words = shlex.split(command)
    text = words[words.index("--text") + 1]
    assert json.loads(quick_shell(command, folder).stdout)["text"] == text


@pytest.mark.parametrize(
    "command",
    [
        "ttt-hf talk example --out quiet.wav",
        "ttt-hf encode recordings --task asr --workers 2 --shard-size 1 --out quiet-codes",
        "ttt-hf train lora_asr train_data=recordings max_steps=1 audio_variants=0 output_dir=quiet-adapter",
        "ttt-hf eval run tiny_asr --limit 2 --out quiet-scores",
        "ttt-hf convert from-text Qwen/Qwen2.5-0.5B-Instruct quiet-grown --codec ttt-tiny",
    ],
)
def test_quiet_leaves_stderr_empty_and_json_alone_on_stdout(command: str, folder: Path, shell: Shell) -> None:
    result = shell(f"{command} --quiet --json", folder)
    assert (result.returncode, result.stderr) == (0, "")
    json.loads(result.stdout)


def test_training_shows_one_progress_bar(folder: Path, shell: Shell) -> None:
    # Libraries are told in the environment, before they are imported, to show none.
    command = "ttt-hf train lora_asr train_data=recordings max_steps=1 audio_variants=0 output_dir=noted-adapter"
    result = shell(f"{command} --json", folder)
    json.loads(result.stdout)
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.strip()]
    # The command's notes, the losses that are logged, and the bar, which counts steps.
    assert all(line.startswith(("ttt-hf: ", "{'")) or "/1 [" in line for line in lines), lines


def test_documents_hold_for_the_wheel(environment: dict[str, str], tmp_path: Path) -> None:
    """The quick tests of README and docs/ again, on the wheel; what the slow ones run is among the commands above."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--basetemp={tmp_path / 'documents'}", "tests/test_readme.py", "tests/test_docs.py"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
