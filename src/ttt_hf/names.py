"""Fixed names: the files of a checkpoint, and the checkpoint and the recorded question that come with this package."""

from pathlib import Path


# The checkpoint of this package: its name in results and model cards, and in recipes and adapters. Both load it.
EMBEDDED_NAME = "ttt-tiny"
EMBEDDED_ALIAS = "embedded"
EMBEDDED_NAMES = (EMBEDDED_NAME, EMBEDDED_ALIAS)
# Somebody asks what a carrot is.
EXAMPLE_QUESTION = Path(__file__).parent / "evaluation" / "tiny_set" / "audio" / "wording-kinds-29-joe-normal.ogg"

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
PROCESSOR_FILE = "processor_config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# Sub-folder of the codec. PROCESSOR_FILE has a key of this name where the codec lies elsewhere.
CODEC_FOLDER = CODEC_KEY = "codec"
