"""ttt-hf: one Transformer that generates text autoregressively and speech by block-wise masked diffusion.

Importing the package registers TtT with transformers' Auto classes. It imports only what inference needs; training and
evaluation have modules of their own.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from . import codecs
    from .evaluation.harness import evaluate
    from .loading import embedded_checkpoint
    from .modeling import (
        AudioSegment,
        DecodingSession,
        InterruptCriteria,
        SessionEvent,
        StreamEvent,
        TextSegment,
        TtTConfig,
        TtTForConditionalGeneration,
        TtTGenerateOutput,
        TtTIteratorStreamer,
        TtTOutputWithPast,
        TtTStreamer,
    )
    from .processing import Reply, TtTProcessor

__version__ = "0.1.0"

_MODULES = {
    "evaluation.harness": ("evaluate",),
    "loading": ("embedded_checkpoint",),
    "modeling": (
        "AudioSegment",
        "DecodingSession",
        "InterruptCriteria",
        "SessionEvent",
        "StreamEvent",
        "TextSegment",
        "TtTConfig",
        "TtTForConditionalGeneration",
        "TtTGenerateOutput",
        "TtTIteratorStreamer",
        "TtTOutputWithPast",
        "TtTStreamer",
    ),
    "processing": ("Reply", "TtTProcessor"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "codecs":
        return importlib.import_module(f"{__name__}.codecs")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def _register() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

    from . import codecs  # noqa: F401, registers the codecs
    from .modeling import TtTConfig, TtTForConditionalGeneration
    from .processing import TtTProcessor
    from .processing.pipelines import refuse_other_pipelines

    AutoConfig.register(TtTConfig.model_type, TtTConfig)
    AutoModelForCausalLM.register(TtTConfig, TtTForConditionalGeneration)
    AutoModelForMultimodalLM.register(TtTConfig, TtTForConditionalGeneration)
    AutoProcessor.register(TtTConfig, TtTProcessor)
    refuse_other_pipelines()


def _is_command_line() -> bool:
    """Whether this process is `ttt-hf`, `python -m ttt_hf` or `python -m ttt_hf.cli`."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if "-m" in sys.orig_argv else []
    return Path(sys.argv[0] if sys.argv else "").stem == "ttt-hf" or module in ([__name__], [f"{__name__}.cli"])


# The command line needs no Auto classes, and its help and usage errors should not wait seconds for torch: each verb
# imports what it needs when it runs.
if not _is_command_line():
    _register()

__all__ = [
    "AudioSegment",
    "DecodingSession",
    "InterruptCriteria",
    "Reply",
    "SessionEvent",
    "StreamEvent",
    "TextSegment",
    "TtTConfig",
    "TtTForConditionalGeneration",
    "TtTGenerateOutput",
    "TtTIteratorStreamer",
    "TtTOutputWithPast",
    "TtTProcessor",
    "TtTStreamer",
    "__version__",
    "codecs",
    "embedded_checkpoint",
    "evaluate",
]
