"""Uploads: a list of files that never holds the user's data, and nothing through links."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttt_hf.uploads import files_to_push, upload_files


KEPT = ["README.md", "config.json", "model-00001-of-00002.safetensors", "codec/config.json", "codec/model.safetensors"]
LOCAL = ["training_args.bin", "trainer_state.json", "spoken/1.wav", "checkpoint-1/model.safetensors",
         "prepared/a.json", "notes.txt", "codec/notes.txt", ".env", "adapter/config.json"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in (*KEPT, *LOCAL):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("x", encoding="utf-8")
    return folder


def test_files_of_a_model(folder: Path) -> None:
    assert sorted(files_to_push(folder)) == sorted(KEPT)


@pytest.mark.parametrize("linked", ["README.md", "codec/config.json", "codec"])
def test_no_link_out_of_the_folder_is_followed(folder: Path, tmp_path: Path, linked: str) -> None:
    (folder / linked).rename(tmp_path / "outside")
    (folder / linked).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"is a link to .*outside.* and is not uploaded"):
        files_to_push(folder)


def test_links_are_not_uploaded(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(ValueError, match="is a link to"):
        upload_files("me/model", {"config.json": folder / "link"}, "No link")
