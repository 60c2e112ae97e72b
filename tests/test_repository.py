"""The files around the code: citation, issue templates, workflows, and what SECURITY.md says of the package."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ttt_hf


ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# Calls that run what a file or an argument says, and what makes two of them safe.
FORBIDDEN_CALLS = ("eval", "exec", "compile", "pickle.load", "pickle.loads", "os.system", "os.popen", "marshal.loads")
# Calls that may run code of a checkpoint unless they are told not to. GenerationConfig and PEFT have no such code.
LOADING_CALLS = re.compile(
    r"(?<!GenerationConfig)(?<!PeftModel)\.(from_pretrained|from_config)$|^(transformers\.)?pipeline$|^AutoModel$"
)
FORBIDDEN_MODULES = ("subprocess", "dill", "cloudpickle", "joblib", "shelve", "runpy")


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read_yaml(workflow)["jobs"].values() for step in job["steps"]]


# -- citation ---------------------------------------------------------------------------------------------------------


def test_citation_names_this_version_and_the_paper() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the schema requires
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "ttt-hf" and citation["version"] == ttt_hf.__version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["title"].startswith("From Text to Talk:") and paper["identifiers"][0]["value"] == "arXiv:2509.20072"


# -- GitHub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bug_report.yml", "feature_request.yml"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / name)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert read_yaml(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}


def test_there_are_two_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    workflow = read_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    for step in steps_of(path):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step.get("uses", "owner/action@v1")), "no version"
    commands = "\n".join(step.get("run", "") for step in steps_of(path))
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake ([\w-]+)", commands)) <= set(targets)
    files = re.findall(r"(?<![\w/*.-])((?:\.ci|examples|tests|benchmarks)/[\w./-]+|constraints\.txt)", commands)
    assert ".ci/run" in files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_release_is_of_tags_and_published_without_a_token() -> None:
    path = GITHUB / "workflows" / "release.yml"
    workflow = read_yaml(path)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as a truth value
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert "python -m build" in "\n".join(step.get("run", "") for step in build["steps"])
    names = {step["with"]["name"] for step in steps_of(path) if "-artifact@" in step.get("uses", "")}
    assert names == {"dist"}
    assert "secrets." not in path.read_text(encoding="utf-8")


def test_the_pull_request_template_names_what_is_there() -> None:
    text = (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`make ([\w-]+)`", text))
    assert all((ROOT / file).is_file() for file in re.findall(r"`([\w./]+\.md|\.ci/run)`", text))


# -- SECURITY.md ------------------------------------------------------------------------------------------------------


SAFE_LOADERS = ("PlainLoader", "_PlainLoader")


def faults_of(source: str) -> Iterator[str]:
    """What in a module contradicts "what is never executed"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        is_forbidden = (
            name in FORBIDDEN_CALLS
            or (name == "torch.load" and arguments.get("weights_only") != "True")
            or (name in ("yaml.load", "yaml.load_all") and arguments.get("Loader") not in SAFE_LOADERS)
            or name.startswith(("yaml.unsafe_", "yaml.full_"))
            # A flag of the caller is passed on under these names.
            or arguments.get("trust_remote_code", "False") not in ("False", "trust", "trust_remote_code")
            # Left out, transformers asks on the terminal whether code of a checkpoint may run, and takes a piped "y".
            or (LOADING_CALLS.search(name) is not None and "trust_remote_code" not in arguments)
        )
        if is_forbidden:
            yield f"line {node.lineno}: {name}"


def test_the_package_executes_nothing_that_it_reads() -> None:
    found = {str(path.relative_to(ROOT)): list(faults_of(path.read_text(encoding="utf-8"))) for path in SOURCES}
    # Chat templates are rendered in a Python process with limits.
    templates = found.pop("src/ttt_hf/processing/templates.py")
    assert [fault.split(": ")[1] for fault in templates] == ["subprocess"]
    assert {path: faults for path, faults in found.items() if faults} == {}
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import subprocess",
        "from subprocess import run",
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name)",
        "super().from_pretrained(name, **kwargs)",
        "AutoModel.from_config(config, dtype=dtype)",
        "pipeline('automatic-speech-recognition', model=name)",
    ],
)
def test_code_that_would_execute_something_is_found(source: str) -> None:
    assert list(faults_of(source))


def test_yaml_loaders_of_our_own_are_safe_ones() -> None:
    from ttt_hf.converting.glm4voice import _PlainLoader
    from ttt_hf.overrides import PlainLoader

    assert issubclass(_PlainLoader, yaml.SafeLoader)
    assert issubclass(PlainLoader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=PlainLoader)
    assert yaml.load("!!python/object/apply:os.getcwd []", Loader=_PlainLoader) == []


def test_downloads_hold_no_code_and_no_pickles() -> None:
    from ttt_hf.loading import DOWNLOAD_PATTERNS

    stated = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert all(f"`{pattern}`" in stated for pattern in DOWNLOAD_PATTERNS), json.dumps(DOWNLOAD_PATTERNS)
    assert {Path(pattern).suffix for pattern in DOWNLOAD_PATTERNS}.isdisjoint({".py", ".bin", ".pt", ".pth", ".pkl"})
