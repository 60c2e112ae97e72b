"""`ttt-hf train`, as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from fixed_reply import make_codec
from ttt_hf import TtTForConditionalGeneration, embedded_checkpoint
from ttt_hf.atomic_files import lock_folder
from ttt_hf.cli.main import main
from ttt_hf.data import encode_source, open_source
from ttt_hf.training import finetuning
from ttt_hf.training.arguments import load_recipe
from ttt_hf.training.provenance import RUNS_FILE


QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"
SMALL = ["max_steps=2", "save_steps=1", "logging_steps=1", "per_device_train_batch_size=2", "lora_rank=2"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of recordings as `datasets` knows it: audio files and a metadata.csv."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = ["file_name,text"]
    for number in range(4):
        shutil.copy(QUESTION, folder / f"{number}.wav")
        rows.append(f"{number}.wav,What is this number {number}?")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def adapter(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter")
    data = f"train_data={{path: {recordings}, task: asr}}"
    assert main(["train", "lora_asr", data, f"output_dir={out}", *SMALL]) == 0
    return out


def test_from_recordings_to_an_adapter_that_plain_peft_loads(adapter):
    base = TtTForConditionalGeneration.from_pretrained(embedded_checkpoint(), dtype=torch.float32)
    ids = torch.tensor([[5, 6, base.config.audio_token_start_id + 7]])
    before = base(ids).logits
    assert not torch.equal(PeftModel.from_pretrained(base, adapter)(ids).logits, before)


def test_an_adapter_brings_the_length_of_the_recordings_that_it_was_trained_on(adapter, run, tmp_path):
    trained = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    file = trained / "processor_config.json"
    assert json.loads(file.read_text()) == {"max_audio_seconds": 8.0}
    file.write_text('{"max_audio_seconds": 1}')
    result = run("talk", QUESTION, "--model", trained)
    assert result.code == 1
    assert "this model was trained on at most 1 s" in result.err
    file.write_text('{"max_audio_seconds": "long"}')
    result = run("talk", QUESTION, "--model", trained)
    assert result.code == 1
    assert "must be a number of seconds" in result.err


def test_an_adapter_names_its_base_as_the_recipe_does(adapter, run):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded"
    for path in [*adapter.glob("*.*"), *adapter.glob("checkpoint-*/*.*")]:
        assert str(Path(embedded_checkpoint())).encode() not in path.read_bytes(), path
    result = run("talk", QUESTION, "--task", "asr", "--model", adapter)
    assert (result.code, bool(result.out.strip())) == (0, True), result.err


def test_a_finished_training_is_not_done_again(adapter, recordings, capsys):
    changed = (adapter / "adapter_model.safetensors").read_bytes()
    data = f"train_data={{path: {recordings}, task: asr}}"
    assert main(["train", "lora_asr", data, f"output_dir={adapter}", *SMALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["output_dir"] == str(adapter)
    assert (adapter / "adapter_model.safetensors").read_bytes() == changed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-recipe"], 2, "There is no recipe no-such-recipe"),
        (["lora_asr", "lora_rnk=3"], 2, "did you mean lora_rank"),
        (["lora_asr", "output_dir=x"], 1, "no train_data"),
        (["lora_asr", "output_dir={tmp}/x", "train_data=/no/such/folder"], 1, "no file or folder /no/such/folder"),
        (["lora_asr", "output_dir={tmp}/x", "train_data={{pth: a}}"], 1, "unknown key pth"),
        (["lora_asr", "output_dir={tmp}/x", "train_data={tmp}", "early_stopping_patience=2"], 1, "needs eval_data"),
        (["qlora", "output_dir={tmp}/x", "train_data={tmp}"], 1, "load_in_4bit needs a CUDA device"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(arguments, code, message, capsys, tmp_path):
    if "qlora" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["train", *(argument.format(tmp=tmp_path) for argument in arguments)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("ttt-hf: error: ")


# -- data, places and machines that do not do -------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    """`rows([...])` writes a JSONL file; a row is a dialogue whose audio is codes where it is a list of them."""

    def write(contents):
        def full(row):
            if isinstance(row, dict):
                return row
            speech = {"type": "audio", "codes": row}
            messages = [{"role": "user", "content": [speech]}, {"role": "assistant", "content": "Hello."}]
            return {"task": "asr", "messages": messages}

        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(full(row)) + "\n" for row in contents))
        return path

    return write


@pytest.fixture
def train(run, checkpoint, tmp_path):
    """`train(data, "key=value")`: trains the small model of this folder's tests, all its weights."""

    def call(data, *keys, out=tmp_path / "out"):
        settings = [f"model={checkpoint}", f"output_dir={out}", "max_steps=1", "save_steps=1", "lora_rank=0"]
        settings += ["per_device_train_batch_size=2", "use_cpu=true", "disable_tqdm=true"]
        return run("train", "lora_asr", f"train_data={data}", *settings, *keys)

    return call


def assert_one_error(result, message, code=1):
    assert result.code == code, result
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("ttt-hf: error: ") and message in last, last
    assert "Traceback" not in result.err


CODES = list(range(9))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "rows.jsonl is empty"),
        (
            [{"audio": str(QUESTION), "text": "Hi", "task": "asr"}, {"text": "Hi", "task": "asr"}],
            "line 2: Task asr needs",
        ),
        (
            [CODES, {"task": "asr", "messages": [{"role": "user", "content": "Hi"}]}],
            "line 2: This row is of the task asr",
        ),
        ([CODES, [3, 75]], "rows.jsonl, line 2: Audio codes must lie in [0, 75), and 75 does not"),
        (
            [CODES, {"messages": [{"role": "user", "content": "Hi"}]}],
            "rows.jsonl, line 2: The conversation has no turn",
        ),
        ([CODES, {"audio": "nowhere.wav"}], "rows.jsonl, line 2: There is no audio file"),
    ],
)
def test_bad_rows(train, rows, contents, message):
    assert_one_error(train(rows(contents), "max_broken=0"), message)


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_error(train(tmp_path / "empty"), "empty holds no data that can be read")


def test_broken_recordings_are_left_out_up_to_a_limit(train, recordings, tmp_path, caplog):
    folder = shutil.copytree(recordings, tmp_path / "recordings")
    (folder / "2.wav").write_bytes(b"this is no audio")
    data = f"{{path: {folder}, task: asr}}"
    result = train(data, "max_broken=0")
    assert_one_error(result, "2.wav is not audio")
    assert "raise max_broken" in result.err
    result = train(data)
    assert result.code == 0, result.err
    assert "rows left out because they cannot be used: 1, see" in caplog.text
    (listed,) = tmp_path.glob("out-encoded/*/broken.jsonl")
    assert [json.loads(line)["row"] for line in listed.read_text().splitlines()] == [3]


def test_codes_and_codecs_of_others(train, recordings, rows, checkpoint, tmp_path):
    make_codec((5, 3, 5)).save_pretrained(tmp_path / "other")  # as many codes, which mean something else
    encode_source(open_source(recordings, task="asr"), tmp_path / "other", tmp_path / "encoded")
    assert_one_error(train(tmp_path / "encoded"), "encoded by another codec")
    make_codec((3, 3, 3)).save_pretrained(tmp_path / "small")
    assert_one_error(train(rows([CODES]), f"codec={tmp_path / 'small'}"), "The codec has 27 codes, the model 75")
    assert_one_error(train(rows([CODES]), "codec=./nowhere"), "There is no folder ./nowhere")
    mute = shutil.copytree(checkpoint, tmp_path / "mute")
    shutil.rmtree(mute / "codec")
    data = f"{{path: {recordings}, task: asr}}"
    assert_one_error(
        train(data, f"model={mute}"), "without a codec, which the audio of the data needs: set the key codec"
    )


def test_models_that_cannot_be_trained(train, rows, adapter):
    assert_one_error(
        train(rows([CODES]), f"model={adapter}"), "is an adapter, and adapters are trained on a whole model"
    )
    assert_one_error(train(rows([CODES]), "model=./nowhere"), "There is no folder ./nowhere")
    assert_one_error(train(rows([CODES]), "lora_rank=-1"), "lora_rank must be at least 1")
    assert_one_error(train(rows([CODES]), "eval_strategy=steps"), "eval_strategy needs eval_data")


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("lm_head.weight"), "are incomplete (lm_head.weight ...)"),
        (lambda weights: weights.update(new=torch.zeros(1)), "it describes no new ..."),
        (lambda weights: weights.update({"lm_head.weight": torch.zeros(3, 3)}), "do not fit its config.json"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_weights_that_do_not_fit_are_not_trained(train, rows, checkpoint, tmp_path, change, message):
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    edit_weights(model, change)
    assert_one_error(train(rows([CODES]), f"model={model}"), message)
    assert not (tmp_path / "out").exists()


def test_parts_of_different_models_are_not_trained(train, rows, checkpoint, tmp_path):
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config["end_audio_token_ids"].reverse()
    (model / "config.json").write_text(json.dumps(config))
    assert_one_error(train(rows([CODES]), f"model={model}"), "number the audio tokens differently")
    (model / "tokenizer_config.json").unlink()
    assert_one_error(train(rows([CODES]), f"model={model}"), "it has no tokenizer_config.json")


def test_models_by_any_of_their_names(train, rows, checkpoint, tmp_path, monkeypatch):
    data = rows([CODES] * 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(checkpoint, tmp_path / "model")
    result = train(data, "model=~/model", "codec=~/model/codec", out="~/out")
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    small = ["model=ttt-tiny", "lora_rank=2"]
    assert train(data, *small, out=tmp_path / "adapter").code == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded"
    result = train(data, "model=embedded", *small[1:], out=tmp_path / "adapter")
    assert result.code == 0, result.err  # finished: both names are those of one model


def test_adapters_are_refused_without_the_command_line_too(adapter, tmp_path):
    keys = [f"model={adapter}", f"output_dir={tmp_path}", "train_data=rows"]
    with pytest.raises(ValueError, match="is an adapter, and adapters are trained on a whole model"):
        finetuning.train(load_recipe("lora_asr", keys))


@pytest.mark.parametrize(
    ("package", "keys", "message"),
    [
        ("peft", ["lora_rank=2"], "Adapters need PEFT: pip install 'ttt-hf[train]'"),
        ("datasets", [], "needs the package datasets: pip install 'ttt-hf[train]'"),
        ("trackio", ["report_to=trackio"], "report_to=trackio needs the package trackio"),
    ],
)
def test_missing_packages_are_said_first(train, monkeypatch, package, keys, message):
    monkeypatch.setitem(sys.modules, package, None)
    assert_one_error(train("/no/such/folder", "model=/no/such/model", *keys), message)


def test_output_that_cannot_be_written(train, rows, tmp_path):
    data = rows([CODES])
    assert_one_error(train(data, out=data), "rows.jsonl is a file: name a folder")
    assert_one_error(train(data, out=data / "out"), "cannot be written (Not a directory): name another folder")
    if os.geteuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert_one_error(train(data, out=locked), "cannot be written (Permission denied)")


def test_output_of_another_training(train, rows):
    data = rows([CODES] * 4)
    assert train(data).code == 0
    assert_one_error(
        train(data, "lora_rank=2"), "holds another training (lora_rank was 0 and is 2 here): name another"
    )
    result = train(data, "lora_rank=2", "resume=force")
    assert_one_error(result, "is of another training (of a whole model, not of an adapter): name another output_dir")


def test_two_trainings_in_one_folder(train, rows, tmp_path):
    data = rows([CODES] * 4)
    with lock_folder(tmp_path / "out"):
        assert_one_error(train(data), "Another process is writing")
        assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert train(data).code == 0


@pytest.mark.parametrize("recipe", ["lora_asr", "lora_tts"])
def test_a_recipe_named_for_a_task_implies_it(run, recipe, recordings, checkpoint, tmp_path):
    keys = [f"train_data={recordings}", f"model={checkpoint}", f"output_dir={tmp_path / 'out'}", "max_steps=1"]
    result = run("train", recipe, *keys, "audio_variants=0", "use_cpu=true")
    assert result.code == 0, result.err
    (encoded,) = (tmp_path / "out-encoded").glob("*")
    tasks = {row["task"] for row in open_source(encoded).rows}
    assert tasks == {recipe.removeprefix("lora_")}
    assert f"| `recordings0` | {recipe.removeprefix('lora_')} |" in (tmp_path / "out" / "README.md").read_text()


def test_dialogues_in_a_mixture_keep_their_own_tasks(train, rows, recordings, tmp_path):
    written = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    path = rows([{"messages": written, "task": "text"}])
    result = train(f"[{{path: {recordings}}}, {{path: {path}}}]", "audio_variants=0")
    assert result.code == 0, result.err


def test_no_space_left_for_a_checkpoint(train, rows, tmp_path, limit_file_size):
    data, out = rows([CODES] * 4), tmp_path / "out"
    assert train(data).code == 0
    saved = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with limit_file_size(30_000):
        result = train(data, "max_steps=2", "resume=force")
    assert_one_error(result, "checkpoint-2 cannot be written")
    assert "free some space, or name another output_dir, and run the same command again" in result.err
    assert {path for path in saved if path.read_bytes() != saved[path]} == {out / RUNS_FILE}
    assert {path for path in out.rglob("*") if path.is_file()} == set(saved)
    assert train(data, "max_steps=2", "resume=force").code == 0
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 2


def test_no_space_left_for_the_model(train, rows, tmp_path, limit_file_size):
    data, out = rows([CODES] * 4), tmp_path / "out"
    assert train(data, "save_strategy=no").code == 0
    before = (out / "model.safetensors").read_bytes()
    with limit_file_size(30_000):
        assert_one_error(train(data, "save_strategy=no", "seed=1", "resume=force"), "out cannot be written")
    assert (out / "model.safetensors").read_bytes() == before
    assert not list(out.rglob("*.part"))


def allocate_too_much(*args, **kwargs):
    return torch.empty(2**60, dtype=torch.uint8)  # what PyTorch raises on this computer


def raise_as_on_a_gpu(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("forward", [allocate_too_much, raise_as_on_a_gpu])
def test_too_little_memory(train, rows, monkeypatch, forward):
    monkeypatch.setattr(TtTForConditionalGeneration, "forward", forward)
    result = train(rows([CODES]))
    assert_one_error(result, "halve per_device_train_batch_size and double gradient_accumulation_steps, or set")
    assert "gradient_checkpointing=true" in result.err


def test_loss_that_is_not_a_number(train, rows, monkeypatch):
    plain = TtTForConditionalGeneration.forward

    def broken(self, *args, **kwargs):
        outputs = plain(self, *args, **kwargs)
        outputs.loss = outputs.loss * float("nan")
        return outputs

    monkeypatch.setattr(TtTForConditionalGeneration, "forward", broken)
    assert_one_error(train(rows([CODES])), "loss of step 1 is not a number. Its batch held the samples 0")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(train, rows, checkpoint, tmp_path, number, code):
    data, out = rows([CODES] * 4), tmp_path / "out"
    command = [sys.executable, "-m", "ttt_hf.cli", "train", "lora_asr", f"train_data={data}", f"model={checkpoint}"]
    command += [f"output_dir={out}", "max_steps=100000", "save_steps=3", "per_device_train_batch_size=2"]
    command += ["lora_rank=0", "use_cpu=true"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 300
        while not list(out.glob("checkpoint-*/trainer_state.json")) and process.poll() is None:
            assert time.monotonic() < end, "no step in five minutes"
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    steps = max(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
    assert f"checkpoint-{steps} is saved: run the same command again to go on from there" in err
    assert "Traceback" not in err
    assert (out / f"checkpoint-{steps}" / "trainer_state.json").is_file()
    result = train(data, f"max_steps={steps + 1}", "save_steps=3", "resume=force")
    assert result.code == 0, result.err
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] == steps + 1
