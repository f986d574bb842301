"""How the charts of all reports look, drawn with matplotlib.

Colours are those of `PALETTE`; `as_svg` turns each into a CSS variable, so that a page can
show the same drawing light or dark.
"""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import aios

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = {
    "surface": ("#fcfcfb", "#1a1a19"),
    "ink": ("#0b0b0b", "#ffffff"),
    "muted": ("#52514e", "#c3c2b7"),
    "grid": ("#e4e3df", "#33332f"),
    "stable": ("#2a78d6", "#3987e5"),
    "canary": ("#eb6834", "#d95926"),
    "shadow": ("#4a3aa7", "#9085e9"),
    "light": ("#86b6ef", "#1c5cab"),
    "middle": ("#256abf", "#5598e7"),
    "deep": ("#0d366b", "#cde2fb"),
    "good": ("#008300", "#0ca30c"),
    "bad": ("#d03b3b", "#e66767"),
    "warning": ("#b77b00", "#fab219"),
}
"""Name to colour on a light and on a dark page."""

WIDTH_IN = 10.0
PNG_DPI = 160


def colour(name: str) -> str:
    """The colour on a light page."""
    return PALETTE[name][0]


def as_svg(figure: "Figure", title: str) -> str:
    """The figure as an SVG element whose colours are CSS variables.

    Args:
        figure: any drawn with `PALETTE`.
        title: what a screen reader says; also makes the ids inside unique on the page.
    """
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)
    return _unique_ids(svg, re.sub(r"\W+", "-", title))


def save_png(figure: "Figure", path: Path) -> Path:
    """Write the figure as a picture on a light ground."""
    figure.savefig(path, dpi=PNG_DPI, facecolor=colour("surface"))
    return path


def _unique_ids(svg: str, prefix: str) -> str:
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def blank_figure(width_in: float, height_in: float) -> "Figure":
    """A figure to draw on.

    Raises:
        aios.UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise aios.UsageError(
            "the report's charts need `matplotlib`, which is not installed; "
            "run `pip install 'aios[demo]'`"
        ) from error
    return Figure(figsize=(width_in, height_in), layout="constrained")


def label_one_two_five(axes: "Axes") -> None:
    """A log axis that spans less than a decade has no label by default."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def tidy(axes: "Axes") -> None:
    """No frame, a light grid."""
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colour("grid"))
    axes.grid(axis="y", color=colour("grid"), lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colour("muted"), labelsize=8, length=0)
    axes.xaxis.label.set_color(colour("muted"))
    axes.xaxis.label.set_fontsize(8.5)
    axes.margins(x=0)


def entitle(axes: "Axes", text: str) -> None:
    """A title on the left."""
    axes.set_title(text, loc="left", fontsize=10.5, color=colour("ink"))


def add_legend(axes: "Axes") -> None:
    """A legend above the right end of the title's line."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=colour("ink"),
        handlelength=1.2,
        borderaxespad=0.2,
    )
