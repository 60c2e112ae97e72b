"""Fixed shapes and compilation (`cache_implementation="static"`): the ids of `generate()` without, few shapes."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_generation_ttt import GOLDEN, OFFICIAL_DEFAULTS
from test_session_ttt import BEGINS, TINY, alone, finish, random_requests
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig, GenerationConfig

from ttt_hf.modeling import DecodingSession, TtTForConditionalGeneration
from ttt_hf.modeling.compiled_ttt import fixed_keys, fixed_width, static_capacity


STATIC: dict[str, Any] = {"cache_implementation": "static"}

Models = Callable[..., TtTForConditionalGeneration]


@pytest.fixture
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that are compiled during the test."""
    torch._dynamo.reset()
    made: list[torch.fx.GraphModule] = []
    yield made
    torch._dynamo.reset()


def compiling(graphs: list[torch.fx.GraphModule], dynamic: bool = False) -> CompileConfig:
    """Compiles everything into whole graphs, on the CPU too, which run as they are."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(fullgraph=True, dynamic=dynamic, backend=backend, mode=None)
    config._compile_all_devices = True
    return config


def run_all(session: DecodingSession, requests: list[tuple[list[int], dict[str, Any]]]) -> dict[int, list[int]]:
    """Runs requests of which one joins at each tick, as long as there is room; returns their ids."""
    waiting, found, running = list(enumerate(requests)), {}, {}
    while waiting or session.is_active:
        if waiting and session.num_free:
            index, (prompt, settings) = waiting.pop(0)
            running[session.admit(prompt, **settings)] = index
        session.tick()
        for event in session.events():
            if event.kind == "end":
                found[running.pop(event.slot)] = session.row(event.slot).ids
                session.release(event.slot)
    return found


@pytest.mark.parametrize("attention", ["span", "block_causal"])
@pytest.mark.parametrize("backbone", ["qwen2", "qwen3", "llama"])
def test_rows_of_a_static_session_are_the_rows_alone(backbone: str, attention: str, tiny_model: Models) -> None:
    model = tiny_model(backbone, audio_attention=attention, seed=1)
    requests = random_requests(48, seed=len(backbone + attention))
    # Sampled and guided rows, entropy bounds, and limits from 1 to 49 new tokens.
    found = run_all(DecodingSession(model, slots=5, capacity=64, **STATIC), requests)
    assert found == {index: alone(model, prompt, **settings) for index, (prompt, settings) in enumerate(requests)}


@pytest.mark.parametrize("name", GOLDEN)
def test_official_generations_come_out_with_fixed_shapes(
    name: str, golden_models: dict[str, TtTForConditionalGeneration]
) -> None:
    case = GOLDEN[name]
    args = case["args"]
    ids = alone(
        golden_models[case["weights"]],
        case["prompt"],
        max_new_tokens=args["max_gen_len"],
        audio_block_length=args["block_length"],
        audio_steps_per_block=args["diffusion_steps"] * args["block_length"] // args["diffusion_gen_length"],
        audio_max_span_length=args["diffusion_gen_length"],
        audio_cfg_scale=args["cfg_scale"],
        min_text_tokens_after_audio=args["min_text_tokens_after_audio"],
        **OFFICIAL_DEFAULTS,
        **STATIC,
    )
    assert ids == case["output"]


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_rows_are_the_rows_alone(
    dynamic: bool, tiny_model: Models, graphs: list[torch.fx.GraphModule]
) -> None:
    model = tiny_model("qwen2", text={"num_hidden_layers": 1})
    bounded = {"audio_steps_per_block": 4, "audio_entropy_bound": 4.0}
    requests = [
        (prompt, {**TINY, **(bounded if index > 3 else {})}) for index, (prompt, _) in enumerate(random_requests(6))
    ]
    requests[2][1].update(do_sample=True, audio_temperature=0.8, seed=2)
    session = DecodingSession(model, slots=3, capacity=64, compile_config=compiling(graphs, dynamic), **STATIC)
    assert run_all(session, requests) == {
        index: alone(model, prompt, **settings) for index, (prompt, settings) in enumerate(requests)
    }
    assert graphs


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_other_attention_compiles_too(attention: str, tiny_model: Models, graphs: list[torch.fx.GraphModule]) -> None:
    model, prompt = tiny_model("qwen2", text={"num_hidden_layers": 1}), [5, 6, BEGINS[0]]
    settings = {**TINY, "max_new_tokens": 12}
    expected = alone(model, prompt, **settings)
    session = DecodingSession(model, slots=1, capacity=64, compile_config=compiling(graphs), **STATIC)
    slot = session.admit(prompt, **settings)
    session.tick()
    # After the prompt: torch's compiler cannot build every kernel of flex attention for a CPU.
    model.set_attn_implementation(attention)
    finish(session)
    assert session.row(slot).ids == expected
    assert graphs


def test_later_calls_compile_nothing_and_graphs_hold_what_cuda_graphs_allow(
    tiny_model: Models, graphs: list[torch.fx.GraphModule]
) -> None:
    model = tiny_model("qwen2", text={"num_hidden_layers": 1})
    requests = [(prompt, {**TINY, "max_new_tokens": 30}) for prompt, _ in random_requests(6)]
    expected = [alone(model, prompt, **settings) for prompt, settings in requests]
    options, counts = {**STATIC, "compile_config": compiling(graphs)}, []
    for _ in range(2):
        assert [alone(model, prompt, **settings, **options) for prompt, settings in requests] == expected
        counts.append(len(graphs))
    # One position in text; a block, with its begin marker or not; and the span's last forward, which chooses text.
    assert 3 <= counts[0] <= 4
    assert counts[1] == counts[0]
    for graph in graphs:
        nodes = list(graph.graph.nodes)
        # Nothing waits for a value, and every new tensor is made on the device.
        assert not [node for node in nodes if node.target in ("item", "tolist", "nonzero", torch.nonzero)]
        assert all("device" in node.kwargs for node in nodes if node.target in (torch.arange, torch.full, torch.zeros))
        # Memory that is written stays where it is.
        inputs = {node.name: node for node in nodes if node.op == "placeholder"}
        written = [node.args[0] for node in nodes if node.op == "call_function" and node.target is operator.setitem]
        memory = [node.name for node in written if node.name in inputs]
        assert len(memory) == 2 * model.config.text_config.num_hidden_layers
        assert all("_dynamo_static_input_type" in inputs[name].meta["tensor_dict"] for name in memory)


def test_shapes_are_few() -> None:
    class Config:
        audio_block_length = 32

    widths = {fixed_width(width, Config) for width in range(1, 641)}
    assert widths == {1, 40, 80, 160, 320, 640}
    assert all(fixed_width(width, Config) >= width for width in range(1, 641))
    assert {fixed_keys(length, 1500) for length in range(1, 1501)} == {256, 512, 1024, 1500}
    assert [static_capacity(length) for length in (1, 256, 257, 3000)] == [256, 256, 512, 4096]


class HostWaits(TorchDispatchMode):
    """Counts what waits for the device: values that are read, and shapes that depend on values."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = (
            [index for index in args[1] if index is not None] if name in ("index", "index_put_", "index_put") else []
        )
        if name in self.waiting or any(index.dtype == torch.bool for index in masks):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class Transfers(TorchFunctionMode):
    """Counts tensors that are made from lists, and lists that are made from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, STATIC], ids=["dynamic", "static"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"audio_entropy_bound": 4.0}, {"do_sample": True, "audio_temperature": 0.8, "seed": 1}],
    ids=["greedy", "bounded", "sampled"],
)
def test_a_tick_waits_for_the_device_once(
    settings: dict[str, Any], options: dict[str, Any], tiny_model: Models
) -> None:
    session = DecodingSession(tiny_model("qwen2"), slots=4, capacity=64, **options)
    for prompt in ([5, 6, BEGINS[0]], [7, 8, 9], [9, 4, 3, BEGINS[1]]):
        session.admit(prompt, **{**TINY, **settings})
    session.tick()
    # A row that joins has a forward of its own, but all of a tick's ids are fetched together.
    session.admit([11, 12], **{**TINY, **settings})
    for _ in range(20):
        with HostWaits() as waits, Transfers() as transfers:
            session.tick()
        assert waits.names == []
        assert transfers.names.count("tolist") == 1
        assert set(transfers.names) <= {"tolist", "tensor"}
    if options and settings == {}:
        # What a forward needs is sent at once; tensors that come after the transfer stay on the host.
        assert session.is_active
        assert transfers.names.index("tolist") == 1


def test_a_dialogue_goes_on_in_a_static_slot(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    session = DecodingSession(model, slots=2, capacity=200, **STATIC)
    prompt = [5, *range(41, 47), 6, 8]
    slot = session.admit(prompt, keep_cache=True, **TINY)
    for _ in range(3):
        finish(session)
        assert session.row(slot).ids == alone(model, prompt, **TINY)
        prompt = [*session.row(slot).ids, 11, 12, 13]
        session.admit(prompt, slot=slot, keep_cache=True, **TINY)


def test_generation_config_turns_it_on_and_other_caches_are_refused(
    tiny_model: Models, graphs: list[torch.fx.GraphModule]
) -> None:
    model = tiny_model("qwen2", text={"num_hidden_layers": 1})
    ids = torch.tensor([[7, 8, 9], [5, 6, 8]])
    settings = {"max_new_tokens": 3, "suppress_tokens": BEGINS}
    expected = model.generate(ids, **settings)
    config = GenerationConfig.from_model_config(model.config)
    config.update(cache_implementation="static", compile_config=compiling(graphs), max_cache_len=300)
    assert torch.equal(model.generate(ids, config, **settings), expected)
    assert len(graphs) == 1
    assert torch.equal(model.generate(ids, config, disable_compile=True, **settings), expected)
    assert len(graphs) == 1
    with pytest.raises(ValueError, match="'static' for fixed shapes"):
        model.generate(ids, cache_implementation="quantized", **TINY)
    with pytest.raises(ValueError, match="give it to DecodingSession"):
        DecodingSession(model, slots=1).admit([5, 6], **STATIC)
    with pytest.raises(ValueError, match="give it a capacity"):
        DecodingSession(model, slots=1, **STATIC)
    with pytest.raises(ValueError, match="'static' for fixed shapes"):
        DecodingSession(model, slots=1, capacity=64, cache_implementation="offloaded")


def test_kept_memory_follows_the_model_and_is_used_by_one_session(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    sessions = [DecodingSession(model, slots=1, capacity=256, **STATIC) for _ in range(2)]
    assert sessions[0].cache is not sessions[1].cache
    sessions[0].admit([5, 6], **TINY)
    finish(sessions[0])
    sessions[0].close()
    again = DecodingSession(model, slots=1, capacity=256, **STATIC)
    assert again.cache is sessions[0].cache
    assert again.cache.lengths == [0]
    again.close()
    # In another data type it needs other memory.
    model.to(torch.bfloat16)
    assert DecodingSession(model, slots=1, capacity=256, **STATIC).cache is not sessions[0].cache
