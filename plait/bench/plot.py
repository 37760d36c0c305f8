"""Plots of what `plait bench tunnel` found: a file a figure, medians as bars, least and most as whiskers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plait import extras


def require() -> None:
    """Raise Failure where matplotlib is missing: before anything is measured, not after."""
    extras.require("matplotlib", "cannot plot")


def tunnel(result: dict[str, Any], directory: Path) -> list[Path]:
    """Write DIRECTORY/KEY.png for each figure of the result; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    names = {one["title"]: one["name"] for one in result["implementations"]}
    files = []
    for figure in result["figures"]:
        found = figure["found"]
        medians = [of["median"] for of in found.values()]
        below = [of["median"] - of["min"] for of in found.values()]
        above = [of["max"] - of["median"] for of in found.values()]
        drawing, axes = pyplot.subplots(figsize=(7, 0.6 + 0.6 * len(found)), layout="constrained")
        axes.barh([names[title] for title in found], medians, xerr=[below, above], capsize=3)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(figure["unit"])
        note = f" ({figure['better']} is better)" if figure["better"] else ""
        axes.set_title(figure["title"] + note, loc="left")
        files.append(directory / f"{figure['key']}.png")
        drawing.savefig(files[-1], dpi=120)
        pyplot.close(drawing)
    return files
