"""Reads the code blocks of the documents, for the tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    language: str
    text: str


def blocks(path: Path, *languages: str) -> list[Block]:
    """The code blocks of a page in these languages, in order; examples of formats have no language, or another."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)
    return [Block(language, text) for language, text in found if language in languages]


def commands(block: Block) -> list[str]:
    """The commands of a shell block, continued lines joined, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
