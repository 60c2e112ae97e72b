"""The model card that is uploaded: the folder's own, with the metadata by which the Hub finds and shows a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCard

from ..names import EMBEDDED_NAMES


CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def complete_card(
    own: Path | None, otherwise: str | None, out: Path, repo: str, base: str | None, license: str | None
) -> Path:
    """Writes a card that has metadata. What a card says already stays.

    Args:
        own: The folder's card, if it has one.
        otherwise: Text of another card to take; without one, a short card is made.
        out: The file.
        repo: Id of the repository.
        base: Name of the base model, of an adapter.
        license: Licence, as the Hub calls it.

    Returns:
        `out`.

    Raises:
        ValueError: If the card cannot be read, or names another licence.
    """
    # As bytes: in text mode, Python would change the line ends.
    text = own.read_bytes().decode("utf-8") if own is not None else otherwise
    if text is None:
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
        )
        text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            repo=repo, name=repo.split("/")[-1], base=base, is_embedded=base in EMBEDDED_NAMES
        )
    name = own or f"the card of {repo}"
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The metadata of {name}, between the lines of dashes, cannot be read: correct them."
        ) from error
    metadata = card.data.to_dict()
    if license is not None and metadata.get("license", license) != license:
        raise ValueError(
            f"{name} names the licence {metadata['license']}: leave out --license {license}, or correct the card."
        )
    missing = {key: value for key, value in _metadata(base, license).items() if not metadata.get(key)}
    if missing:
        for key, value in missing.items():
            card.data[key] = value
        text = str(card)
    out.write_bytes(text.encode())
    return out


def _metadata(base: str | None, license: str | None) -> dict[str, Any]:
    """The Hub's keys of every TtT model, and those of adapters."""
    metadata: dict[str, Any] = {
        "library_name": "transformers" if base is None else "peft",
        "pipeline_tag": "any-to-any",
        "tags": ["ttt", "ttt-hf", "speech", *(["lora"] if base is not None else [])],
    }
    if base is not None and base not in EMBEDDED_NAMES:
        metadata["base_model"] = base
    return {**metadata, "license": license} if license is not None else metadata
