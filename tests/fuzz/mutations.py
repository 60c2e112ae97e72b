"""Seeded damage to bytes, to trees of JSON or YAML, and to files."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


# Values that a field is not made for: other types, sizes at the limits, texts with a meaning elsewhere.
HOSTILE = (
    None, True, False, 0, 1, -1, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30,
    0.0, 0.5, -0.5, 1e-30, 1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "-1", "nan", "1e999", "true", "null", "None", "\0", "\ud800", "\ufdd0", "é中🙂", "x" * 100_000,
    "../../../etc/passwd", "/dev/zero", "/", ".", "~", "file:///etc/passwd", "http://[::1", "http://127.0.0.1:9/x",
    "https:// /", "data:audio/wav;base64,AAAA", "{{ 7 * 7 }}", "{% for x in range(10**9) %}{% endfor %}", "$(id)",
    "%s%n", "<|im_end|>", "<|audio|>", "(a+)+$", "auto", "cuda", "float64", "os.system",
    [], {}, [[]], [None], {"": {}}, [1, 2, 3], ["a", "b"], {"a": 1}, list(range(1000)), {"__class__": "x"},
)  # fmt: skip
# Pieces that mean something to a parser of text.
SNIPPETS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xf0\x9f", b"\r", b"\n\n", b"\t", b'"', b"'", b"{", b"}", b"[",
    b"]", b",", b":", b"\\", b"\\ud800", b"# ", b"- ", b"&a [*a, *a]", b"*b", b"<<: *a", b"!!binary x", b"? x",
    b"---\n", b"...\n", b"!!python/object/apply:os.getcwd []", b"NaN", b"-1", b"1e999", b"null", b"1" * 5000,
    b"{" * 2000, b"[" * 20000, b"{{", b"{%",
)  # fmt: skip
NUMBERS = (0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
READERS = {
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
}


class Damage(random.Random):
    """Random numbers, and damage that they decide.

    Args:
        seed: The seed.
        is_off: Leave everything as it is: the command must then succeed, or damage would show nothing.
    """

    def __init__(self, seed: str, is_off: bool = False) -> None:
        super().__init__(seed)
        self.is_off = is_off

    def chance(self, share: float) -> bool:
        """True in this share of cases; never without damage."""
        return not self.is_off and self.random() < share

    def word(self) -> str:
        """A hostile value as an argument of a command, which cannot hold a zero byte."""
        return str(self.choice(HOSTILE))[:2000].replace("\0", "")

    def bytes(self, data: bytes) -> bytes:
        """Damages data at one to four places."""
        result = bytearray(data)
        for _ in range(0 if self.is_off else self.randint(1, 4)):
            # Headers lie at the beginning and decide the most.
            end = self.choice([16, 64, 256, len(result)])
            start = self.randrange(max(1, min(end, len(result))))
            self._change_bytes(result, start, self.choice([1, 2, 4, 16, 256]))
        return bytes(result)

    def _change_bytes(self, data: bytearray, start: int, length: int) -> None:
        change = self.randrange(8)
        piece = data[start : start + length]
        if change == 0:
            data[start : start + 1] = self.randbytes(1)
        elif change == 1:
            data[start : start + length] = self.randbytes(length)
        elif change == 2:
            del data[start : start + length]
        elif change == 3:
            data[start:start] = piece * self.choice([1, 2, 50])
        elif change == 4:
            del data[start:]
        elif change == 5:
            size = self.choice([1, 2, 4, 8])
            number = self.choice(NUMBERS) % 2 ** (8 * size)
            data[start : start + size] = number.to_bytes(size, self.choice(["little", "big"]))
        elif change == 6:
            data[start : start + length] = b"\0" * length
        else:
            data[start:start] = self.choice(SNIPPETS)

    def tree(self, tree: Any) -> Any:
        """Damages a tree of dictionaries and lists at one to three places; the tree itself is left as it is."""
        root = [copy.deepcopy(tree)]
        for _ in range(0 if self.is_off else self.randint(1, 3)):
            parent, key = self.choice(list(_places(root)))
            change = self.randrange(8)
            if change <= 3:
                parent[key] = copy.deepcopy(self.choice(HOSTILE))
            elif change == 4 and parent is not root:
                del parent[key]
            elif change == 5:
                value = parent[key]
                parent[key] = self.choice([[value], {"a": value}, str(value), [value] * 3])
            elif change == 6 and isinstance(parent, dict):
                parent[self.choice([f"{key}_", str(key).upper(), "path", "auto_map", "name"])] = parent.pop(key)
            elif change == 7:
                parent[key] = _nested(self.choice([5, 300]))
        return root[0]

    def file(self, path: Path) -> None:
        """Damages a file in place: its bytes, its content if it is JSON, JSONL or YAML, or what kind of file it is."""
        if self.is_off:
            return
        change = self.randrange(12)
        if change == 0:
            self._replace(path)
            return
        data = path.read_bytes()
        if change <= 8 and path.suffix in READERS:
            tree = self.tree(READERS[path.suffix](data.decode()))
            # JSON is YAML, and holds what YAML's writer refuses.
            lines = tree if path.suffix == ".jsonl" and isinstance(tree, list) else [tree]
            data = "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()
        elif change == 9 and path.suffix in READERS:
            data = b'{"a": ' * 5000 + b"1" + b"}" * 5000
        else:
            data = self.bytes(data)
        path.unlink()  # a hard link to the sound file
        path.write_bytes(data)

    def _replace(self, path: Path) -> None:
        """Puts something else into the place of a file, or nothing."""
        path.unlink()
        change = self.randrange(7)
        if change == 0:
            path.touch()
        elif change == 1:
            path.mkdir()
        elif change == 2:
            os.mkfifo(path)
        elif change == 3:
            path.symlink_to(path)
        elif change == 4:
            path.symlink_to(self.choice(["/dev/zero", "/dev/null", "/etc/passwd", "/nowhere"]))
        elif change == 5:
            path.write_bytes(self.randbytes(self.choice([1, 100, 10_000])))


def _places(node: Any, depth: int = 20) -> Iterator[tuple[Any, Any]]:
    """All pairs of a container and a key in it, to a depth."""
    keys = node.keys() if isinstance(node, dict) else range(len(node))
    for key in list(keys):
        yield node, key
        if depth and isinstance(node[key], (dict, list)) and len(node[key]) < 500:
            yield from _places(node[key], depth - 1)


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value
