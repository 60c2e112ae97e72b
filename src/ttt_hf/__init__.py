"""ttt-hf: one Transformer that listens and talks, text autoregressively and speech by block-wise masked diffusion.

Importing the package registers TtT with transformers' Auto classes. Only what a checkpoint needs to talk is imported;
training, evaluation and serving live in modules of their own.
"""

from importlib.resources import files

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from . import codecs  # registers the codecs with their Auto classes
from .modeling import (
    AudioSegment,
    TextSegment,
    TtTConfig,
    TtTForConditionalGeneration,
    TtTGenerateOutput,
    TtTOutputWithPast,
)
from .processing import Reply, TtTProcessor


__version__ = "0.1.0"

AutoConfig.register(TtTConfig.model_type, TtTConfig)
AutoModelForCausalLM.register(TtTConfig, TtTForConditionalGeneration)
AutoModelForMultimodalLM.register(TtTConfig, TtTForConditionalGeneration)
AutoProcessor.register(TtTConfig, TtTProcessor)


def embedded_checkpoint() -> str:
    """Locates the small trained checkpoint that comes with the package.

    Returns:
        Path of a folder that `TtTForConditionalGeneration.from_pretrained` and `TtTProcessor.from_pretrained` take.

    Raises:
        FileNotFoundError: this installation holds no checkpoint.
    """
    folder = files(__name__) / "checkpoints" / "ttt-tiny"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"This installation of ttt-hf holds no embedded checkpoint ({folder}): install the released wheel, or "
            "build it in the source tree with `make tiny`."
        )
    return str(folder)


__all__ = [
    "AudioSegment",
    "Reply",
    "TextSegment",
    "TtTConfig",
    "TtTForConditionalGeneration",
    "TtTGenerateOutput",
    "TtTOutputWithPast",
    "TtTProcessor",
    "__version__",
    "codecs",
    "embedded_checkpoint",
]
