"""What the examples share: their arguments, a small network, a table on the screen and a figure on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

INK, QUIET, RULE = "#22303c", "#7a8793", "#d5dbe0"
RED, BLUE, OCHRE = "#b5462f", "#2f6690", "#c8963e"


def is_small() -> bool:
    """Whether the script was called with `--small`."""
    return "--small" in sys.argv[1:]


def arguments(script: str, description: str | None) -> argparse.Namespace:
    """Read the command line: `small`, and `picture`, the path of the figure to write."""
    path = Path(script)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="fewer rows or steps, and a rough picture")
    parser.add_argument("--output", type=Path, default=path.parent / "output", help="folder for the picture")
    options = parser.parse_args()
    options.picture = options.output / f"{path.stem}.png"
    return options


def network(*widths: int, seed: int) -> torch.nn.Sequential:
    """Layers of tanh units, the first width being the inputs'; weights by Glorot & Bengio's rule."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = torch.nn.Linear(inputs, outputs, dtype=torch.float64)
        torch.nn.init.xavier_normal_(layer.weight, generator=generator)
        torch.nn.init.uniform_(layer.bias, -1.0, 1.0, generator=generator)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below a header, the first column to the left and numbers to the right."""
    lines = [
        list(header),
        *([f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0])] + [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        print("  ".join(cells))


def figure(
    columns: int, *, rows: int = 1, size: tuple[float, float] = (4.6, 4.1)
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels; `size` is that of one panel, in inches.

    With `--small` the panels are not arranged by what stands around them, which takes longer than drawing.
    """
    canvas = Figure(figsize=(size[0] * columns, size[1] * rows), facecolor="white")
    FigureCanvasAgg(canvas)
    if not is_small():
        canvas.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.04)
    return canvas, list(canvas.subplots(rows, columns, squeeze=False).flat)


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Name a panel and its axes, and take away what does not inform."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(which="both", color=RULE, labelcolor=QUIET, labelsize=8.5)


def say(axes: Axes, text: str, at: tuple[float, float], colour: str, **options: object) -> None:
    """Write a label straight into a panel, at a place in the units of the data."""
    halo = [withStroke(linewidth=3, foreground="white")]
    axes.text(
        *at,
        text,
        **{"color": colour, "fontsize": 9, "va": "center", "zorder": 6, "path_effects": halo} | options,
    )


def save(canvas: Figure, path: Path) -> None:
    """Write the figure; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=40 if is_small() else 150)
    print(f"\npicture: {path}")
