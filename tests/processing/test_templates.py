"""Chat templates of checkpoints: rendered as by transformers, within limits, and refused by one sentence."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ttt_hf.processing import TtTProcessor, templates
from ttt_hf.processing.templates import render_prompts
from ttt_hf.processing.tokenization import default_chat_template


CONVERSATION = [{"role": "user", "content": [{"type": "text", "text": "Hi \ud800 ü"}]}]
# As in published chat templates.
PUBLISHED = """{%- macro shown(content) -%}{% for item in content %}{{ item.text | trim }}{% endfor %}{%- endmacro -%}
{%- set ns = namespace(last=messages|length - 1) %}
{% for message in messages[::-1] %}
{% generation %}{{ loop.index }}{{ shown(message.content) }}{% endgeneration %}{% if loop.index > ns.last %}{% break %}
{% endif %}{% endfor %}{{ tools | tojson(indent=2) }}{{ eos_token }}
{{ strftime_now('%Y') }}"""
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SLOW = "{% for i in range(20000) %}{% for j in range(400) %}{% endfor %}{% endfor %}slow"
REFUSING = "{{ raise_exception('Roles must alternate.') }}"


def test_same_as_transformers() -> None:
    variables: dict[str, Any] = {"tools": [{"name": "ä"}], "eos_token": "<|im_end|>", "add_generation_prompt": True}
    conversations = [CONVERSATION, CONVERSATION * 2]
    expected, _ = render_jinja_template(conversations=conversations, chat_template=PUBLISHED, **variables)
    assert render_prompts(conversations, PUBLISHED, **variables) == expected


def test_our_own_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_ask", None)
    assert "Hi" in render_prompts([CONVERSATION], default_chat_template())[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ENDLESS, "too long or too much memory"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 10 ** 10 }}", "too much memory"),
        ("{{ 'a' * 10 ** 8 }}", "more than 10000000 characters"),
        ("{{ 'a'.ljust(10 ** 10) }}", "too much memory"),
        ("{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% if %}", "Expected an expression"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        (REFUSING, r"cannot be used: Roles must alternate\. Pass chat_template"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include '/etc/passwd' %}", "cannot be used"),
    ],
)  # fmt: skip
def test_refused_templates(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        render_prompts([CONVERSATION], template)
    assert "\n" not in str(raised.value)
    # The next template is rendered as if nothing had happened.
    assert render_prompts([CONVERSATION], "{{ messages | length }}!") == ["1!"]


def test_threads_and_forks_do_not_mix_their_answers() -> None:
    results: dict[int, str] = {}

    def render(number: int) -> None:
        results[number] = render_prompts([CONVERSATION], f"{{{{ {number} }}}}")[0]

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: str(number) for number in range(8)}
    before = templates._worker
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # It must not write into the pipe of its parent.
        os.write(writing, b"own" if templates._worker is None and before is not None else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"own"


def test_an_interruption_leaves_no_answer_behind() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    render_prompts([CONVERSATION], "{{ 1 }}")
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            render_prompts([CONVERSATION], SLOW)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert render_prompts([CONVERSATION], "{{ 2 }}") == ["2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": True}, "truncation is not supported"),
        ({"return_assistant_tokens_mask": True}, "return_assistant_tokens_mask is not supported"),
        ({"processor_kwargs": {"padding": "max_length"}}, "processor_kwargs is not supported"),
        ({"tools": [{"name": "f"}]}, "does not use tools"),
        ({"documents": [{"title": "a", "text": "b"}]}, "does not use documents"),
    ],
)
def test_options_are_not_ignored(processor: TtTProcessor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template([{"role": "user", "content": "Hi"}], **options)


def test_reply_that_goes_on(processor: TtTProcessor) -> None:
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello <|im_end|> and"}]
    prompt = processor.apply_chat_template(conversation, continue_final_message=True, tokenize=False)
    assert prompt.endswith("<|im_start|>assistant\nHello <|im_end|> and")


def test_template_saved_with_a_checkpoint(processor: TtTProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}")
    loaded = TtTProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The chat template cannot be used: it takes too much memory"):
        loaded.apply_chat_template([{"role": "user", "content": "Hi"}])


# -- tokenizers of checkpoints ----------------------------------------------------------------------------------------


def test_rule_of_a_tokenizer_that_takes_too_long(processor: TtTProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    file.write_text(json.dumps(content), encoding="utf-8")
    loaded = TtTProcessor.from_pretrained(tmp_path)
    assert loaded("Hello!")["input_ids"].shape[0] == 1
    for run in (loaded, lambda text: loaded.apply_chat_template([{"role": "user", "content": text}])):
        with pytest.raises(ValueError, match=r"The tokenizer of the checkpoint fails on this text \(.*retry-limit"):
            run("a" * 5000 + "c")


def test_half_a_character(processor: TtTProcessor) -> None:
    for run in (processor, lambda text: processor.apply_chat_template([{"role": "user", "content": text}])):
        with pytest.raises(ValueError, match=r"The text holds U\+D800, half a character"):
            run("Hi \ud800")
