"""The example scripts and the notebook, run as their docstrings say, on the embedded checkpoint."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from ttt_hf import TtTForConditionalGeneration, embedded_checkpoint
from ttt_hf.loading import load_checkpoint


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTION = EXAMPLES / "question.wav"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
Run = Callable[..., tuple[bytes, bytes]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a script in an empty folder, as `python examples/SCRIPT ARGUMENTS` does; gives its stdout and stderr."""

    def run_script(script: str, *arguments: object) -> tuple[bytes, bytes]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capfdbinary.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capfdbinary.readouterr()

    return run_script


def make_recordings(folder: Path) -> Path:
    """Three recordings with the same transcript, and their table."""
    folder.mkdir()
    lines = ["file_name,text"]
    for number in range(3):
        shutil.copy(QUESTION, folder / f"{number}.wav")
        lines.append(f"{number}.wav,Is this a question?")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "metadata.csv"


def test_a_batch_of_recordings(run: Run, tmp_path: Path) -> None:
    louder = tmp_path / "louder.flac"
    samples, rate = soundfile.read(QUESTION)
    soundfile.write(louder, np.clip(1.2 * samples, -1, 1), rate)
    stdout, _ = run("batch_inference.py", QUESTION, louder, QUESTION, "--out", "replies")
    texts = [line.rpartition(": ")[2] for line in stdout.decode().splitlines()]
    assert len(texts) == 3 and all(texts) and texts[0] == texts[2]
    names = ["000-question.wav", "001-louder.wav", "002-question.wav"]
    assert sorted(path.name for path in (tmp_path / "replies").iterdir()) == names
    replies = [soundfile.read(tmp_path / "replies" / name)[0] for name in names]
    assert all(len(reply) > 8000 for reply in replies)
    assert np.array_equal(replies[0], replies[2])


def test_streamed_audio_is_the_reply(run: Run, tmp_path: Path) -> None:
    """The player gets the audio that a batch gets, in 16 bits."""
    pcm, text = run("stream_audio.py", QUESTION)
    stdout, _ = run("batch_inference.py", QUESTION, "--out", "replies")
    streamed = np.frombuffer(pcm, dtype="<i2") / 32768
    at_once, rate = soundfile.read(tmp_path / "replies" / "000-question.wav")
    assert rate == 16000, "the rate in the docstring"
    assert streamed.shape == at_once.shape
    assert np.abs(streamed - at_once).max() < 1e-3
    assert text.decode().splitlines()[-1].strip() == stdout.decode().strip().rpartition(": ")[2]


def test_finetuning_by_trainer_and_peft(run: Run, tmp_path: Path) -> None:
    table = make_recordings(tmp_path / "recordings")
    stdout, _ = run("finetune_lora.py", table, "--out", "adapter", "--steps", 4)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", stdout.decode())]
    assert len(losses) == 4 and losses[-1] < losses[0]
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.count_nonzero(tensor) for name, tensor in weights.items() if "lora_B" in name)
    model, processor = load_checkpoint(tmp_path / "adapter")  # merged into its base, as `--model adapter` does
    untrained = TtTForConditionalGeneration.from_pretrained(embedded_checkpoint())
    inputs = processor("Is this a question?")["input_ids"]
    assert not torch.equal(model(inputs).logits, untrained(inputs).logits)


def test_evaluation_in_python(run: Run, tmp_path: Path) -> None:
    stdout, _ = run("evaluate_checkpoint.py", "tiny_asr", "tiny_qa", "--limit", 2)
    lines = stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["tiny_asr", "tiny_qa"]
    for line in lines:
        task, name = line.split()[0].strip(":"), line.split()[1]
        stored = json.loads((tmp_path / "scores" / task / "results.json").read_text(encoding="utf-8"))
        assert stored["n_scored"] == 2
        assert f"{name} {stored['metrics'][name]['value']:.4f} " in line


def test_a_codec_of_ones_own(tmp_path: Path) -> None:
    # In a process of its own: it registers a model type, which can be done once.
    command = [sys.executable, EXAMPLES / "custom_codec.py", "tones"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("13 codes, 16640 samples")
    assert float(result.stdout.split()[-1]) < 1e-4
    assert (tmp_path / "tones" / "model.safetensors").is_file()
    codec = (EXAMPLES / "custom_codec.py").read_text(encoding="utf-8").partition("@strict")[2].partition("def main")[0]
    assert len([line for line in codec.splitlines() if line.strip()]) <= 40, "README and docs say so"


def test_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as for all tests
    shutil.copy(QUESTION, tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("audio/wav" in str(output.get("data", {}).get("text/html", "")) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "loss: [" in printed and "tiny_asr: wer " in printed and "tiny_qa: accuracy " in printed


# -- form -------------------------------------------------------------------------------------------------------------


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_docstrings_name_a_command_that_names_the_script() -> None:
    for script in SCRIPTS:
        docstring = (EXAMPLES / script).read_text(encoding="utf-8").split('"""')[1]
        commands = [shlex.split(line) for line in docstring.splitlines() if line.startswith("python ")]
        assert commands and all(command[1] == f"examples/{script}" for command in commands), script
