"""Draw grouped bars on a logarithmic scale as one self-contained SVG that follows the reader's light or dark mode."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from harness import short_number

WIDTH, HEIGHT = 900, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 884, 96, 396
GROUP_FILL = 0.84
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .heading { font-size: 16px; font-weight: 600; }
  .value { font-size: 10px; text-anchor: middle; }
  .group { text-anchor: middle; }
  .tick { text-anchor: end; }
  .paper { fill: #ffffff; }
  .line { stroke: #d0d7de; }
  .series0 { fill: #1e3a8a; } .series1 { fill: #3b82f6; } .series2 { fill: #92400e; } .series3 { fill: #d97706; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .paper { fill: #0d1117; }
    .line { stroke: #30363d; }
    .series0 { fill: #93c5fd; } .series1 { fill: #3b82f6; } .series2 { fill: #fcd34d; } .series3 { fill: #d97706; }
  }
"""


@dataclass(frozen=True)
class BarChart:
    """Positive values by group and series, at most four series, and the words around them."""

    heading: str
    description: str
    unit: str
    groups: Sequence[str]
    series: Sequence[str]
    values: Mapping[tuple[str, str], float]

    def to_svg(self) -> str:
        """Return the chart as an SVG document with an accessible title and description."""
        parts = [*self._head(), *self._legend(), *self._ticks(), *self._bars(), "</svg>"]
        return "\n".join(parts) + "\n"

    @property
    def decades(self) -> range:
        """The powers of ten that bound the values."""
        lowest, highest = min(self.values.values()), max(self.values.values())
        first = math.ceil(math.log10(lowest)) - 1
        return range(first, max(first + 1, math.ceil(math.log10(highest))) + 1)

    def _head(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-labelledby="title description">'
        )
        yield f'<title id="title">{escape(self.heading)}</title>'
        yield f'<desc id="description">{escape(self.description)}</desc>'
        yield f"<style>{STYLE}</style>"
        yield f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
        yield _text(16, 30, "heading", self.heading)

    def _legend(self) -> Iterator[str]:
        for index, name in enumerate(self.series):
            left = LEFT + index * 180
            yield f'<rect class="series{index}" x="{left}" y="48" width="12" height="12" rx="2"/>'
            yield _text(left + 18, 58, "key", name)

    def _ticks(self) -> Iterator[str]:
        for power in self.decades:
            height = self._height(10.0**power)
            yield f'<line class="line" x1="{LEFT}" x2="{RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            yield _text(LEFT - 8, height + 4, "tick", f"{10.0**power:g} {self.unit}")

    def _bars(self) -> Iterator[str]:
        span = (RIGHT - LEFT) / len(self.groups)
        for number, group in enumerate(self.groups):
            left = LEFT + span * (number + (1 - GROUP_FILL) / 2)
            yield _text(LEFT + span * (number + 0.5), BOTTOM + 22, "group", group)
            for index, name in enumerate(self.series):
                yield from self._bar(group, name, left, index, span * GROUP_FILL / len(self.series))

    def _bar(self, group: str, name: str, left: float, index: int, width: float) -> Iterator[str]:
        value = self.values[group, name]
        x, y = left + index * width, self._height(value)
        label = escape(f"{group}, {name}: {short_number(value)} {self.unit}")
        yield (
            f'<rect class="series{index}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
            f'height="{BOTTOM - y:.1f}"><title>{label}</title></rect>'
        )
        yield _text(x + width / 2, y - 4, "value", short_number(value))

    def _height(self, value: float) -> float:
        first, last = self.decades[0], self.decades[-1]
        return BOTTOM - (math.log10(value) - first) / (last - first) * (BOTTOM - TOP)


def _text(x: float, y: float, kind: str, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
