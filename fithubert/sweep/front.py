"""Which points no other beats, and how much they cover. All values are to be made small."""

from collections.abc import Sequence

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, in their order; equal points are all on the front."""
    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between `points` and `reference` that at least one of them dominates.

    Exact, by slices along the last objective: for the few objectives and few dozen points of a study.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(p[0] for p in inside))
    heights = sorted({p[-1] for p in inside})
    total = 0.0
    for low, high in zip(heights, [*heights[1:], reference[-1]], strict=True):
        total += (high - low) * hypervolume([p[:-1] for p in inside if p[-1] <= low], reference[:-1])
    return total


def contributions(points: Sequence[Point], reference: Point) -> list[float]:
    """By how much the hypervolume shrinks without each point."""
    whole = hypervolume(points, reference)
    return [whole - hypervolume([*points[:i], *points[i + 1 :]], reference) for i in range(len(points))]
