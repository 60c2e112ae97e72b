"""`ttt-hf push`: what leaves for the Hub, in one commit, and what never does. A local server stands in for the Hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_server import Hub, hub_environment
from recorded_run import Answer, change_results, write_recognition
from ttt_hf.cli.main import build_parser
from ttt_hf.evaluation.identity import identify


SECRET = "My secret number is four."
PARTS = [
    "README.md", "chat_template.jinja", "codec/config.json", "codec/model.safetensors", "config.json",
    "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip
SPACE = ["README.md", "app.py", "requirements.txt"]


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A model's folder with what a user may have in it."""
    folder = shutil.copytree(checkpoint, tmp_path / "my-model")
    for name in ("notes.txt", "recordings/a.csv", "checkpoint-1/config.json", ".env", "training_args.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(SECRET, encoding="utf-8")
    return folder


@pytest.fixture
def scores(tmp_path: Path, folder: Path) -> Path:
    """A run that has scored the model."""
    answers = [Answer("a", "hello there", "hello there"), Answer("b", "bye", "by")]
    write_recognition(tmp_path / "run" / "speech", answers)
    model = {"name": "my-model", "revision": "sha256:0123", "weights": dict(identify(folder).weights)}
    change_results(tmp_path / "run" / "speech", model=model)
    return tmp_path / "run"


def code_of(folder: Path) -> list[str]:
    """The model's code, which `save_pretrained` puts beside it."""
    return sorted(path.name for path in folder.glob("*_ttt.py"))


# -- what would go -------------------------------------------------------------------------------------------------


def test_dry_run_lists_everything_and_asks_nobody(run: Callable, folder: Path) -> None:
    result = run("push", folder, "me/model", "--dry-run", "--space", "--json")
    assert result.code == 0, result.err
    pushed = json.loads(result.out)
    assert sorted(pushed["model"]["files"]) == sorted([*PARTS, *code_of(folder)])
    assert sorted(pushed["space"]["files"]) == SPACE
    assert pushed["model"]["visibility"] == pushed["space"]["visibility"] == "private"
    assert pushed["model"]["files"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert not (folder / "README.md").exists()


def test_dry_run_for_people(run: Callable) -> None:
    result = run("push", "embedded", "me/model", "--dry-run", "--public")
    first, *lines, last = result.out.splitlines()
    assert first == "me/model (model, public if it is new)"
    assert [line.split()[1] for line in lines] == PARTS
    assert last.split()[1:] == ["bytes", "in", "10", "files"]


def test_scores_are_listed(run: Callable, folder: Path, scores: Path) -> None:
    result = run("push", folder, "me/model", "--dry-run", "--scores", scores, "--json")
    assert result.code == 0, result.err
    files = json.loads(result.out)["model"]["files"]
    assert {name for name in files if name.startswith("evaluation/")} == {
        "evaluation/report.md", "evaluation/speech/results.json", "evaluation/speech/scores.jsonl"
    }  # fmt: skip


def test_a_model_without_a_codec_is_noted(run: Callable, folder: Path) -> None:
    shutil.rmtree(folder / "codec")
    result = run("push", folder, "me/model", "--dry-run")
    assert result.code == 0 and "the model has no codec" in result.err


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("missing", "me/model"), "There is no folder missing: name that of a model or adapter, or embedded.", 1),
        (("me/model", "me/model"), "There is no folder me/model", 1),
        (("{folder}", "a b"), "a b is no id of a repository", 2),
        (("{folder}", "me/model/more"), "is no id of a repository", 2),
        (("{folder}/recordings", "me/model"), "is not the folder of a model", 1),
        (("{folder}", "me/model", "--scores", "{folder}"), "{folder}", 1),
    ],
)
def test_what_cannot_be_pushed_is_said(
    run: Callable, folder: Path, arguments: tuple[str, ...], message: str, code: int
) -> None:
    result = run("push", *(word.format(folder=folder) for word in arguments), "--dry-run")
    assert (result.code, result.out) == (code, ""), result
    assert result.err.startswith("ttt-hf: error: ") and result.err.count("\n") == 1
    assert message.format(folder=folder) in result.err


@pytest.mark.parametrize("linked", ["generation_config.json", "README.md", "codec"])
def test_links_out_of_the_folder_are_refused(run: Callable, folder: Path, tmp_path: Path, linked: str) -> None:
    (folder / "README.md").write_text("# A model\n", encoding="utf-8")
    (folder / linked).rename(tmp_path / "outside")
    (folder / linked).symlink_to(tmp_path / "outside")
    result = run("push", folder, "me/model", "--dry-run")
    assert result.code == 1 and " is a link to " in result.err and result.err.count("\n") == 1


def test_scores_of_other_weights_are_refused(run: Callable, folder: Path, scores: Path) -> None:
    change_results(scores / "speech", model={"name": "other", "weights": {"model.safetensors": "ab" * 32}})
    words = ("push", folder, "me/model", "--dry-run", "--scores", scores)
    result = run(*words)
    assert result.code == 1 and "holds other weights than the model that speech was scored with" in result.err
    assert run(*words, "--unverified").code == 0


@pytest.mark.parametrize(("base", "is_refused"), [("{folder}", True), ("embedded", False)])
def test_an_adapter_for_a_model_of_this_machine_is_refused(
    run: Callable, folder: Path, tmp_path: Path, base: str, is_refused: bool
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(folder / "model.safetensors", adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": base.format(folder=folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    result = run("push", adapter, "me/model", "--dry-run")
    assert (result.code == 1) is is_refused, result
    if is_refused:
        assert "which others do not have: push that model first" in result.err
    else:
        assert "README.md" in result.out and "adapter_model.safetensors" in result.out


# -- what arrives --------------------------------------------------------------------------------------------------


def push(hub_url: str, home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ttt_hf", "push", *map(str, words)]
    return subprocess.run(command, env=hub_environment(hub_url, home), capture_output=True, text=True, check=False)


@pytest.mark.slow  # a process of its own: the Hub's client reads its address when it is imported
@pytest.mark.parametrize("is_public", [False, True])
def test_model_scores_and_space_arrive(hub: Hub, folder: Path, scores: Path, tmp_path: Path, is_public: bool) -> None:
    hub.has_card = False
    options = ["--scores", scores, "--space", "--license", "mit", *(["--public"] if is_public else [])]
    result = push(hub.url, tmp_path / "home", folder, "me/model", *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"{hub.url}/me/model/commit/{'0' * 40}", f"{hub.url}/spaces/me/model/commit/{'0' * 40}"
    ]  # fmt: skip
    assert hub.commits == ["Model, with scores: speech", "Demo of the model"]
    assert [(made.get("type"), made["visibility"]) for made in hub.created] == [
        (kind, "public" if is_public else "private") for kind in (hub.created[0].get("type"), "space")
    ]
    assert {name for name in hub.files if not name.startswith("evaluation/")} == {*PARTS, *code_of(folder)}
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = hub.files["README.md"].decode()
    assert "license: mit" in card and "model-index" in card and "33.3333" in card and "pipeline_tag" in card
    sent = b"".join([*hub.files.values(), *hub.space.values()])
    assert SECRET.encode() not in sent and str(tmp_path).encode() not in sent and b"hf_of_this_test" not in sent
    assert ("HF_TOKEN" in result.stderr) is not is_public


@pytest.mark.slow
def test_a_card_on_the_hub_is_completed_if_the_folder_has_none(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert push(hub.url, tmp_path / "home", folder, "me/model").returncode == 0
    card = hub.files["README.md"].decode()
    assert "license: mit" in card and "# A model" in card and "pipeline_tag: any-to-any" in card
    (folder / "README.md").write_text("# My own\n", encoding="utf-8")
    assert push(hub.url, tmp_path / "home", folder, "me/model").returncode == 0
    assert "# My own" in hub.files["README.md"].decode()


@pytest.mark.slow
def test_a_token_that_may_not_write_and_no_hub_are_said(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.is_refusing = True
    result = push(hub.url, tmp_path / "home", folder, "me/model")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "me/model cannot be written on the Hub" in result.stderr and hub.files == {}
    result = push("http://127.0.0.1:9", tmp_path / "home", folder, "me/model")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "The Hub cannot be reached" in result.stderr


def test_the_program_of_a_space_starts_the_demo(tmp_path: Path) -> None:
    import ast

    from ttt_hf.sharing import prepare_space

    files = prepare_space("me/model", tmp_path)
    tree = ast.parse(files["app.py"].read_text(encoding="utf-8"))
    (words,) = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.List)]
    assert words == ["demo", "me/model", "--host", "0.0.0.0", "--port", "7860"]
    args = build_parser().parse_args(words)
    assert (args.model, args.host, args.port) == ("me/model", "0.0.0.0", 7860)
    assert files["requirements.txt"].read_text() == "ttt-hf[serve]>=0.1.0\n"
    assert "models:\n- me/model\n" in files["README.md"].read_text(encoding="utf-8")
