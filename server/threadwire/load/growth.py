"""Whether something grows: a line fitted through what was seen over time, and what to say of it; pure.

The slope is Theil's and Sen's, the median of the slopes between all pairs: a few spikes do not bend it. The first
third is left out, since caches fill and allocators settle. "Flat" means that, over the time that was fitted, the line
rises by no more than the larger of a share of the level and twice the scatter around the line.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP = 1 / 3
#: Of the level: below it, over the time that was fitted, nothing grows.
FLAT_SHARE = 0.05
#: With fewer points nothing can be said.
MIN_POINTS = 12
#: Pairs of points that are looked at, at most: their number grows with the square.
MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Growth:
    """How a quantity went; ``per_hour`` is the slope of its line, in its own unit."""

    first: float
    last: float
    per_hour: float
    grows: bool


def fit(points: Sequence[tuple[float, float]], least: float) -> Growth | None:
    """Fit ``(seconds, value)`` points; None where there are too few.

    ``least`` is a rise that is nothing in any case, in the quantity's own unit.
    """
    end = points[-1][0] if points else 0.0
    begin = points[0][0] + (end - points[0][0]) * WARM_UP if points else 0.0
    kept = [point for point in points if point[0] >= begin]
    kept = kept[:: max(1, len(kept) // MAX_POINTS)]
    if len(kept) < MIN_POINTS:
        return None
    slope = statistics.median(
        (b[1] - a[1]) / (b[0] - a[0]) for index, a in enumerate(kept) for b in kept[index + 1 :] if b[0] > a[0]
    )
    base = statistics.median(value - slope * at for at, value in kept)
    scatter = statistics.median(abs(value - slope * at - base) for at, value in kept)
    level = statistics.median(value for _, value in kept)
    rise = slope * (kept[-1][0] - kept[0][0])
    grows = rise > max(least, FLAT_SHARE * level, 2 * scatter)
    return Growth(points[0][1], points[-1][1], slope * 3600, grows)
