"""The wheel: builds, holds everything, and works in an environment of its own, away from the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "ttt_hf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel alone and borrows the dependencies, but not ttt_hf, of the running one."""
    home = tmp_path_factory.mktemp("home") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    command = [*pip, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (site,) = home.glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched, but its own .pth files are not read: an editable ttt_hf stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ttt_hf/")}
    source = {
        f"ttt_hf/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    others = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} - {"ttt_hf"}
    assert others == {"ttt_hf-0.1.0.dist-info"}, "the recipe, tests and tools stay in the repository"
    assert "ttt_hf/cli/main.py" in packed
    assert "ttt_hf/training/recipes/lora_asr.yaml" in packed
    assert "ttt_hf/processing/chat_template.jinja" in packed
    for name in ("presets.yaml", "task_files/tiny_asr.yaml", "tiny_set/questions.jsonl", "tiny_set/README.md"):
        assert f"ttt_hf/evaluation/{name}" in packed
    assert len([name for name in packed if name.startswith("ttt_hf/evaluation/tiny_set/audio/")]) == 100


def test_wheel_holds_the_embedded_checkpoint(wheel: Path) -> None:
    prefix = "ttt_hf/checkpoints/ttt-tiny/"
    sizes = {
        entry.filename.removeprefix(prefix): entry.file_size
        for entry in zipfile.ZipFile(wheel).infolist()
        if entry.filename.startswith(prefix)
    }
    for name in ("config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json"):
        assert sizes.get(name), f"{name} is missing"
    assert sizes.get("codec/config.json")
    assert sizes.get("codec/model.safetensors")
    assert sum(sizes.values()) <= 24_000_000


def test_wheel_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "ttt-hf"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = "train eval audio sound pictures completion serve data dev all funasr lmms ray"
    assert set(metadata.get_all("Provides-Extra")) == set(extras.split())
    scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "ttt-hf = ttt_hf.cli.main:main" in scripts
    assert "[lmms_eval.models]" in scripts
    assert "Apache License" in archive.read(name.replace("METADATA", "licenses/LICENSE")).decode()


def test_installed_wheel_finds_its_own_checkpoint(installed: Path, tmp_path: Path) -> None:
    code = "import ttt_hf; print(ttt_hf.__file__); print(ttt_hf.__version__); print(ttt_hf.embedded_checkpoint())"
    result = subprocess.run(
        [installed, "-c", code], cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, check=True
    )
    file, version, checkpoint = result.stdout.split("\n")[:3]
    home = installed.parents[1]
    assert Path(file).is_relative_to(home)
    assert version == "0.1.0"
    assert Path(checkpoint).is_relative_to(home)


def test_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    command = [
        installed.with_name("ttt-hf"),
        "talk",
        ROOT / "examples" / "question.wav",
        "--out",
        "reply.wav",
        "--json",
    ]
    result = subprocess.run(
        command, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["text"].strip()
    assert (tmp_path / "reply.wav").stat().st_size > 10_000


def _environment(home: Path) -> dict[str, str]:
    """No path of the source tree, no network: what is not in the wheel cannot be found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hub")}
