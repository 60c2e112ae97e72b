"""The scorers as metrics of the library `evaluate`: loaded from this package, and published as Spaces on the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...atomic_files import atomic_folder
from .scorers import SCORERS


if TYPE_CHECKING:
    import evaluate


MODULES = Path(__file__).with_name("modules")
SPACE_TEMPLATES = {"README.md": "space_readme.md.jinja", "app.py": "space_app.py.jinja"}


def metric_folder(name: str) -> Path:
    """The folder of a metric, which `evaluate.load` takes by its path.

    Args:
        name: Name of a scorer without a judge.
    """
    if name not in SCORERS:
        raise ValueError(f"There is no scorer {name!r}: choose one of {', '.join(SCORERS)}.")
    if SCORERS[name].needs_judge:
        raise ValueError(f"The scorer {name!r} needs a judge: run `ttt-hf eval run` with a task that names it.")
    return MODULES / name


def load_metric(name: str, **options: Any) -> evaluate.Metric:
    """Loads a scorer as a metric of the library `evaluate`. Needs no network.

    Args:
        name: Name of a scorer without a judge: `wer`, `cer`, `mer`, `same_answer`, `dpr_contains` or `choice`.
        **options: Options of the scorer, such as `normalizer="verbatim"`, and arguments of `evaluate.load`.

    Raises:
        ValueError: If there is no such scorer or option, or the scorer needs a judge.
        ModuleNotFoundError: If `evaluate` or the normaliser's package is not installed.

    Example:

    ```python
    wer = load_metric("wer")
    wer.compute(predictions=["Good mourning."], references=["good morning"])["wer"]  # 0.5
    ```
    """
    # By path, so that `evaluate` does not ask the Hub for a metric of that name.
    return _evaluate().load(str(metric_folder(name)), **options)


def write_metric_space(name: str, folder: str | Path) -> Path:
    """Writes a metric as a Space, to upload it with `hf upload --repo-type space`.

    Once uploaded, `evaluate.load("your-name/wer")` loads it wherever this package is installed. The Space itself shows
    the metric card and a demo.

    Args:
        name: Name of a scorer without a judge.
        folder: The new folder. Its name is the Space's; the module in it is called the same, as `evaluate` wants it.

    Raises:
        ValueError: If there is no such scorer, or it needs a judge.
        FileExistsError: If the folder exists.
    """
    import jinja2

    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name a new folder.")
    info = load_metric(name).info
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    with atomic_folder(folder) as space:
        # A Space holds the module alone; the scorer itself comes with this package, which the requirements name.
        shutil.copy(MODULES / name / f"{name}.py", space / f"{folder.name}.py")
        (space / "requirements.txt").write_text(f"ttt-hf[eval]>={__version__}\n", encoding="utf-8")
        for file, template in SPACE_TEMPLATES.items():
            text = environment.from_string((MODULES / template).read_text(encoding="utf-8")).render(
                name=name, module=folder.name, info=info
            )
            (space / file).write_text(text, encoding="utf-8")
    return folder


def _evaluate() -> Any:
    try:
        import evaluate
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Metrics need evaluate: pip install 'ttt-hf[eval]'.", name=error.name) from error
    return evaluate
