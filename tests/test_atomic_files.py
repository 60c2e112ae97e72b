"""Files that are complete or not there."""

import pytest

from ttt_hf.atomic_files import atomic_write


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as part:
        part.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as part:
        part.write_text("half of it \udc80", encoding="utf-8")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
