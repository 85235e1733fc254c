"""The page's section of ablations: every variant with its figures, and a verdict that follows from the seeds."""

from pathlib import Path
from typing import Any

import pytest

from fithubert.files import write_json
from fithubert.report.gather import gather
from fithubert.report.page import render_page
from fithubert.report.summary import build_summary
from tests.report.sample import PLAN, ablation, write_metrics

VARIANTS = {"none": (1.08, 0.41, 55.3), "conv1d_x2": (0.44, 0.89, 57.4), "conv1d_x2_middle": (0.76, 0.79, 56.9)}


def comparison(place: int, half_width: float | None, p: float | None) -> dict[str, Any]:
    noise = None if half_width is None else half_width / 2
    means = {name: figures[place] for name, figures in VARIANTS.items()}
    return {"means": means, "half_width": half_width, "seed_deviation": noise, "f": None if p is None else 9.9, "p": p}


def page_with(metrics_dir: Path, comparisons: dict[str, Any], seeds: list[int]) -> str:
    write_metrics(metrics_dir)
    latencies = {name: latency for name, (latency, _, _) in VARIANTS.items()}
    write_json(metrics_dir / "ablation" / "time_reduction.json", ablation(latencies, comparisons, seeds))
    metrics = gather(metrics_dir)
    return render_page(build_summary(metrics, PLAN), metrics, PLAN)


def test_the_page_says_which_figures_tell_variants_apart(tmp_path: Path) -> None:
    found = {"dev_loss": comparison(1, 0.024, 1e-9), "pr_per": comparison(2, 1.4, 0.1)}
    page = page_with(tmp_path, found, [1, 2, 3])
    assert "hint loss on dev: variants differ by more than seeds do (seeds alone deviate by 0.012, F = 9.9" in page
    assert "PR PER,\N{NO-BREAK SPACE}%: no difference beyond seeds" in page
    assert "PR PER,\N{NO-BREAK SPACE}%, better upwards" in page
    assert "Hint loss on dev, better upwards" in page
    places = [page.index(f'<th scope="row">{name}</th>') for name in VARIANTS]
    assert places == sorted(places)  # in the order of params.yaml


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    page = page_with(tmp_path, {"dev_loss": comparison(1, None, None)}, [1])
    assert "one seed: no telling differences from noise" in page
    assert "with 1 seed." in page


@pytest.mark.parametrize("figure", ["dev_loss", "pr_per"])
def test_a_chart_names_every_variant_and_has_better_upwards(figure: str, tmp_path: Path) -> None:
    place = {"dev_loss": 1, "pr_per": 2}[figure]
    page = page_with(tmp_path, {figure: comparison(place, 0.02, 0.01)}, [1, 2])
    heights = {}
    for name in VARIANTS:
        mark = page.split(f"<title>{name}: ")[1]
        heights[name] = float(mark.split('cy="')[1].split('"')[0])
    assert sorted(heights, key=lambda n: heights[n]) == sorted(VARIANTS, key=lambda n: VARIANTS[n][place])


def test_an_ablation_that_has_not_run_says_so(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    metrics = gather(tmp_path)
    page = render_page(build_summary(metrics, PLAN), metrics, PLAN)
    section = page.split('<section id="ablation">')[1].split("</section>")[0]
    assert "Time reduction" in section
    assert "not run" in section
