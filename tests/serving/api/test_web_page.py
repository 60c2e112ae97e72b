"""The web page: its files, what they may fetch, and what they are told. In a browser: test_web_page_browser.py."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_server import LocalServer
from websockets.sync.client import connect

from ttt_hf.processing import load_audio, reply_pictures
from ttt_hf.serving.api import web_page
from ttt_hf.serving.api.guard import Rules


FILES = sorted(file.name for file in web_page.FOLDER.iterdir())


@pytest.fixture(scope="module")
def site(embedded: tuple[Any, Any]) -> Iterator[LocalServer]:
    with LocalServer(embedded, has_page=True) as running:
        yield running


@pytest.mark.parametrize("name", FILES)
def test_files_come_from_here_and_fetch_nothing_from_elsewhere(name: str, site: LocalServer) -> None:
    response = httpx.get(f"{site.url}/{'' if name == 'index.html' else name}")
    assert response.status_code == 200
    kinds = {".html": "text/html", ".css": "text/css", ".js": "javascript"}
    assert kinds[Path(name).suffix] in response.headers["content-type"]
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*|unsafe", policy)
    assert not re.search(r"(?<!`)\bhttps?://|@import|url\(", response.text)
    assert len(response.text.splitlines()) <= 500


def test_files_name_files_that_are_there(site: LocalServer) -> None:
    for name in FILES:
        text = (web_page.FOLDER / name).read_text(encoding="utf-8")
        for link in re.findall(r'(?:src|href|from|addModule\()[= ]*"(?:\./)?([\w.]+)"', text):
            assert link in FILES
    assert httpx.get(f"{site.url}/page.py").status_code == 404
    assert httpx.get(f"{site.url}/../page.py").status_code == 404


def test_others_may_ask_and_show_it_only_if_it_is_public(fixed: tuple[Any, Any], site: LocalServer) -> None:
    elsewhere = {"Host": "me-model.example"}
    assert httpx.get(site.url, headers=elsewhere).status_code == 403
    assert "frame-ancestors 'none'" in httpx.get(site.url).headers["content-security-policy"]
    with LocalServer(fixed, Rules(is_public=True), has_page=True) as public:
        response = httpx.get(public.url, headers=elsewhere)
        assert response.status_code == 200
        assert "frame-ancestors" not in response.headers["content-security-policy"]
        foreign = {**elsewhere, "Origin": "https://other.example"}
        assert httpx.get(public.url, headers=foreign).status_code == 403


def test_a_server_without_the_page_has_none_of_it(server: LocalServer) -> None:
    assert {httpx.get(f"{server.url}/{name}").status_code for name in ["", "about.json", "example", *FILES]} == {404}


def test_what_the_page_is_told_of_the_model(site: LocalServer, embedded: tuple[Any, Any]) -> None:
    about = httpx.get(f"{site.url}/about.json").json()
    settings = embedded[0].generation_config
    assert about["model"] == "embedded" and about["has_dialogues"] is False
    assert about["frame_rate"] == embedded[1].codec.config.frame_rate
    assert about["defaults"]["audio_steps_per_block"] == settings.audio_steps_per_block
    assert about["defaults"]["temperature"] == 0  # greedy
    # The defaults are shown in fields of these names.
    html = (web_page.FOLDER / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in html for name in web_page.SHOWN_DEFAULTS)


def test_the_example_is_a_recording(site: LocalServer, tmp_path: Path) -> None:
    path = tmp_path / "example.ogg"
    path.write_bytes(httpx.get(f"{site.url}/example").content)
    assert len(load_audio(str(path), None, 16_000)) > 16_000


def test_the_page_has_the_colours_of_the_pictures() -> None:
    script = (web_page.FOLDER / "picture.js").read_text(encoding="utf-8")
    (colours,) = re.findall(r"const COLOURS = \[(.*?)\]", script, re.S)
    (bounds,) = re.findall(r"const BOUNDS = \[(.*?)\]", script, re.S)
    assert tuple(re.findall(r"#\w+", colours)) == reply_pictures.COLOURS
    assert tuple(map(float, bounds.split(","))) == reply_pictures.BOUNDS


def reply_events(server: LocalServer, **session: Any) -> list[dict[str, Any]]:
    """All events of an answer to a question in writing."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is two plus three?"}]}
    events = []
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as socket:
        for event in (
            {"type": "session.update", "session": {"type": "realtime", **session}},
            {"type": "conversation.item.create", "item": item},
            {"type": "response.create"},
        ):
            socket.send(json.dumps(event))
        while not events or events[-1]["type"] != "response.done":
            events.append(json.loads(socket.recv(timeout=30)))
    return events


def test_each_denoising_step_is_told_if_wanted(server: LocalServer, embedded: tuple[Any, Any]) -> None:
    settings = {"audio_steps_per_block": 4, "audio_confidence_threshold": 1.0, "seed": 0}
    events = reply_events(server, drafts=True, generation=settings)
    assert "error" not in {event["type"] for event in events}
    kinds = [event["type"] for event in events if event["type"] in ("response.draft", "response.block")]
    assert kinds == ["response.draft"] * 4 + ["response.block"]
    drafts = [event for event in events if event["type"] == "response.draft"]
    assert [sum(draft["committed"]) for draft in drafts] == [8, 16, 24, 32]
    assert all(0 <= value <= 1 for draft in drafts for value in draft["confidences"])
    assert {len(draft["confidences"]) for draft in drafts} == {32}
    (block,) = [event for event in events if event["type"] == "response.block"]
    usage = events[-1]["response"]["usage"]["output_token_details"]
    assert 0 < block["codes"] < usage["audio_tokens"]  # which counts the markers, too


def test_steps_are_not_told_unless_wanted(server: LocalServer) -> None:
    kinds = {event["type"] for event in reply_events(server)}
    assert "response.output_audio.delta" in kinds and not kinds & {"response.draft", "response.block"}
