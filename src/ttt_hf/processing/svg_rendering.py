"""SVG to PNG, for documents that take no SVG."""

from __future__ import annotations

from pathlib import Path


FONTS = {"sans": "DejaVu Sans", "mono": "DejaVu Sans Mono"}


def check_rendering() -> None:
    """Checks that the packages are there that `render_png` needs.

    Raises:
        ImportError: If one is missing, with what to install.
    """
    try:
        import matplotlib  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Pictures as PNG need the package {error.name}: pip install 'ttt-hf[pictures]', or write SVG."
        ) from None


def render_png(svg: str, zoom: float = 2.0) -> bytes:
    """Renders an SVG, the same on every machine: with the fonts that matplotlib carries.

    Args:
        svg: The picture.
        zoom: Pixels for a unit of the picture.

    Returns:
        Content of a PNG file.

    Raises:
        ImportError: If a package is missing.
        ValueError: If it is no SVG.
    """
    check_rendering()
    import matplotlib
    import resvg_py

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # Without a font that it knows, the renderer would leave all words out, without a word.
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=zoom,
            skip_system_fonts=True,
            font_files=[
                str(folder / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf")
            ],
            font_family=FONTS["sans"],
            sans_serif_family=FONTS["sans"],
            monospace_family=FONTS["mono"],
        )
    )
