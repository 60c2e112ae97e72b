"""The golden weights of GLM-4-Voice in the form in which the full-size ones are published."""

import functools
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from ttt_hf.codecs import Glm4VoiceCodec, load_codec
from ttt_hf.converting.glm4voice import convert_glm4voice


GOLDEN = Path(__file__).resolve().parent / "golden" / "glm4voice"
# As the published YAML has them; none of these classes is installed, and the last would leave a file.
TAGS = {
    "flow": "!new:cosyvoice.flow.flow.MaskedDiffWithXvec",
    "encoder": "!new:cosyvoice.transformer.encoder.BlockConformerEncoder",
    "length_regulator": "!new:cosyvoice.flow.length_regulator.InterpolateRegulator",
    "decoder": "!new:cosyvoice.flow.flow_matching.ConditionalCFM",
    "cfm_params": "!new:omegaconf.DictConfig",
    "hift": "!new:cosyvoice.hifigan.generator.HiFTGenerator",
    "f0_predictor": "!new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",
}


def golden_json(name: str) -> dict[str, Any]:
    """A JSON file of the golden data."""
    return json.loads((GOLDEN / name).read_text())


def golden_case(file: str, case: str) -> dict[str, torch.Tensor]:
    """The tensors of one case, by name."""
    tensors = load_file(GOLDEN / file)
    return {name.removeprefix(f"{case}."): value for name, value in tensors.items() if name.startswith(f"{case}.")}


def tagged_yaml(flow: dict[str, Any], hift: dict[str, Any], victim: Path) -> str:
    """A `config.yaml` as published: with tags, references, and arguments in a mapping named content."""
    flow = json.loads(json.dumps(flow))
    flow["decoder"]["cfm_params"] = {"content": flow["decoder"]["cfm_params"]}
    text = yaml.safe_dump(
        {
            "seed": 1986,
            "sample_rate": hift["sampling_rate"],
            "flow": flow,
            "hift": {**hift, "sampling_rate": "<sample_rate>"},
        },
        sort_keys=False,
    )
    for name, tag in TAGS.items():
        text = re.sub(rf"^( *{name}):$", rf"\1: {tag}", text, flags=re.M)
    text = re.sub("sampling_rate: <sample_rate>", "sampling_rate: !ref <sample_rate>", text)
    return f"__set_seed: !apply:os.system ['touch {victim}']\n{text}python: !!python/object/apply:os.getcwd []\n"


def write_published(folder: Path) -> tuple[Path, Path]:
    """Writes the published files of both parts into folders of their own."""
    tokenizer, decoder = folder / "tokenizer", folder / "decoder"
    tokenizer.mkdir(parents=True)
    decoder.mkdir()
    shutil.copyfile(GOLDEN / "encoder" / "wave128.config.json", tokenizer / "config.json")
    shutil.copyfile(GOLDEN / "encoder" / "wave128.weights.safetensors", tokenizer / "model.safetensors")
    settings = golden_json("flow/config.json"), golden_json("hift/config.json")
    (decoder / "config.yaml").write_text(tagged_yaml(*settings, folder / "victim"))
    torch.save(load_file(GOLDEN / "flow" / "weights.safetensors"), decoder / "flow.pt")
    torch.save(load_file(GOLDEN / "hift" / "weights.safetensors"), decoder / "hift.pt")
    return tokenizer, decoder


@functools.cache
def golden_codec() -> Glm4VoiceCodec:
    """The codec with the golden weights, converted and loaded. Shared: copy it before changing it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "codec"
        convert_glm4voice(*write_published(Path(folder) / "published"), target)
        return load_codec(target)
