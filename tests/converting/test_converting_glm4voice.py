"""Converting the published files of GLM-4-Voice: every name and shape, old and new formats, and bad files."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from published_glm4voice import golden_codec, golden_json, write_published
from ttt_hf.codecs import (
    Glm4VoiceCodec,
    Glm4VoiceCodecConfig,
    Glm4VoiceDecoderConfig,
    Glm4VoiceTokenizerConfig,
    load_codec,
)
from ttt_hf.converting.glm4voice import (
    convert_flow,
    convert_glm4voice,
    convert_tokenizer,
    convert_vocoder,
    read_decoder_config,
    read_tagged_yaml,
    read_tokenizer_config,
    read_weights,
)


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path)


def codes_of(codec):
    return torch.tensor([[3, 1, 4, 1, 5]]) % codec.config.codebook_size


# -- the full size ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return Glm4VoiceCodec(Glm4VoiceCodecConfig())


@pytest.mark.parametrize(
    ("part", "keys", "convert", "module"),
    [
        ("encoder", 249, convert_tokenizer, lambda codec: codec.tokenizer),
        ("flow", 1185, convert_flow, lambda codec: codec.decoder.flow),
        ("hift", 227, convert_vocoder, lambda codec: codec.decoder.vocoder),
    ],
)
def test_every_published_name_and_shape_is_accounted_for(full_size, part, keys, convert, module):
    tensors = golden_json(f"manifests/{part}.json")["tensors"]
    assert len(tensors) == keys
    with torch.device("meta"):
        converted = convert({name: torch.empty(facts["shape"]) for name, facts in tensors.items()})
    expected = module(full_size).state_dict()
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_published_configurations_are_our_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(golden_json("manifests/encoder.json")["config"]))
    assert read_tokenizer_config(path).to_dict() == Glm4VoiceTokenizerConfig().to_dict()
    settings = {part: golden_json(f"manifests/{part}.json")["config"] for part in ("flow", "hift")}
    found = json.loads(read_decoder_config(settings, path).to_json_string())
    assert found == json.loads(Glm4VoiceDecoderConfig().to_json_string())


# -- formats ---------------------------------------------------------------------------------------------------------


def test_tags_are_read_as_plain_data(published, tmp_path):
    settings = read_tagged_yaml(published[1] / "config.yaml")
    assert settings["hift"]["sampling_rate"] == 22050  # a reference
    assert settings["__set_seed"] == [f"touch {tmp_path / 'victim'}"]
    assert settings["python"] == []
    assert settings["flow"]["decoder"]["cfm_params"]["content"]["inference_cfg_rate"] == 0.7
    assert not (tmp_path / "victim").exists()


def test_new_names_of_weight_normalisation_and_prefixed_keys(published, tmp_path):
    tokenizer, decoder = published
    weights = load_file(tokenizer / "model.safetensors")
    save_file({f"model.encoder.{name}": value for name, value in weights.items()}, tokenizer / "model.safetensors")
    weights = torch.load(decoder / "hift.pt", weights_only=True)
    modern = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in weights.items()
    }
    assert modern.keys() != weights.keys()
    torch.save(modern, decoder / "hift.pt")
    convert_glm4voice(tokenizer, decoder, tmp_path / "codec")
    expected = golden_codec().state_dict()
    for name, value in load_codec(tmp_path / "codec").state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_weight_normalisation_is_multiplied_out():
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(1.7)
    converted = convert_vocoder(layer.state_dict())
    assert converted.keys() == {"bias", "weight"}
    assert torch.equal(converted["weight"], layer.weight)


def test_pickles_of_the_old_format_are_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pt")["a"], torch.ones(2))


# -- bad files -------------------------------------------------------------------------------------------------------


def refuse(published, target, error, message):
    with pytest.raises(error, match=message) as caught:
        convert_glm4voice(*published, target)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    assert not list(target.parent.glob(".codec*"))


@pytest.mark.parametrize(
    ("part", "name"),
    [(0, "config.json"), (0, "model.safetensors"), (1, "config.yaml"), (1, "flow.pt"), (1, "hift.pt")],
)
def test_missing_files(published, tmp_path, part, name):
    (published[part] / name).unlink()
    refuse(published, tmp_path / "codec", FileNotFoundError, f"has no {name}: name the folder of the published")


def test_missing_folder(published, tmp_path):
    refuse((published[0], tmp_path / "nowhere"), tmp_path / "codec", FileNotFoundError, "There is no folder .*nowhere")


@pytest.mark.parametrize("name", ["flow.pt", "hift.pt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(published, tmp_path, name, share):
    path = next(folder / name for folder in published if (folder / name).is_file())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(published, tmp_path / "codec", ValueError, f"{name} is damaged or cut short: fetch it again")


def test_truncated_pickle_of_the_old_format(published, tmp_path):
    path = published[1] / "flow.pt"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # What goes wrong depends on what the cut falls into.
    for size in range(0, 6000, 125):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="fetch"):
            read_weights(path)
    refuse(published, tmp_path / "codec", ValueError, "fetch")


class Attack:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), "w"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_refused(published, tmp_path, is_zip):
    victim = tmp_path / "victim"
    torch.save({"a": Attack(victim)}, published[1] / "flow.pt", _use_new_zipfile_serialization=is_zip)
    refuse(published, tmp_path / "codec", ValueError, "flow.pt holds more than tensors.*refused")
    assert not victim.exists()


def test_a_bare_pickle_with_code_is_refused(published, tmp_path):
    victim = tmp_path / "victim"
    (published[1] / "flow.pt").write_bytes(pickle.dumps(Attack(victim)))
    refuse(published, tmp_path / "codec", ValueError, "flow.pt")
    assert not victim.exists()


def test_tensors_without_names(published, tmp_path):
    torch.save([torch.ones(1)], published[1] / "hift.pt")
    refuse(published, tmp_path / "codec", ValueError, "hift.pt does not hold tensors by name")


def replace_in(published, name, old, new):
    """Changes a text in the published file of this name."""
    path = next(folder / name for folder in published if (folder / name).is_file())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("config.yaml", "vocab_size: 64", "vocab_size: 65", "tokenizer has 64 codes and the decoder 65"),
        ("config.yaml", "base_channels: 32", "base_channels: 64", r"hift.pt does not fit .*another size of \d+"),
        ("config.yaml", "num_blocks: 2", "num_blocks: 3", "flow.pt does not fit .*lacks 19, such as encoder.layers.2"),
        ("config.yaml", "num_mid_blocks: 2", "num_mid_blocks: 1", r"flow.pt does not fit .*also has \d+"),
        ("config.yaml", "\n  input_size: 32", "\n  input_size: 48", "says input_size: 48, but .* that is 32"),
        ("config.json", '"d_model": 32', '"d_model": 34', r"model.safetensors does not fit .*another size"),
    ],
)
def test_configuration_that_disagrees_with_the_weights(published, tmp_path, name, old, new, message):
    replace_in(published, name, old, new)
    refuse(published, tmp_path / "codec", ValueError, message)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "config.yaml",
            "solver: euler",
            "solver: midpoint",
            "solver: 'midpoint', and .* with 'euler' only",
        ),
        ("config.yaml", "num_blocks: 2", "num_blocks: many", "not those of GLM-4-Voice: .*num_hidden_layers"),
        ("config.yaml", "n_blocks:", "blocks:", "no decoder.estimator.n_blocks"),
        ("config.yaml", "flow:", "flow: [", "config.yaml is damaged"),
        ("config.json", '"avg"', '"max"', "pooling_type: 'max'"),
        ("config.json", "{", "", "config.json is damaged"),
    ],
)
def test_bad_configurations(published, tmp_path, name, old, new, message):
    replace_in(published, name, old, new)
    refuse(published, tmp_path / "codec", ValueError, message)


def test_a_target_that_holds_something_stays_as_it_is(published, tmp_path):
    target = tmp_path / "codec"
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_glm4voice(*published, target)
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_a_saved_configuration_that_disagrees_with_the_weights(tmp_path):
    golden_codec().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["decoder_config"]["vocoder_channels"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit its config.json: fetch it again\.$"):
        load_codec(tmp_path)
