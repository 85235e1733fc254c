"""The charts: one drawing for files and page, names that can be read, and better always upwards."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fithubert.files import write_json
from fithubert.records import SweepMetrics
from fithubert.report.figures import draw_importance
from fithubert.report.page import render_front
from tests.report.pages import charts_of, page_of
from tests.report.sample import ablation, distill, sweep, write_metrics

VARIANTS = {"none": (1.08, 0.41, 55.3), "conv1d_x2": (0.44, 0.89, 57.4), "conv1d_x2_middle": (0.76, 0.79, 56.9)}


def write_ablation(
    folder: Path, noise: float | None, p: float | None = None, seeds: tuple[int, ...] = (1, 2, 3)
) -> None:
    """Metrics with an ablation of `VARIANTS` whose comparisons have this half width and p value."""

    def comparison(place: int) -> dict[str, Any]:
        means = {name: figures[place] for name, figures in VARIANTS.items()}
        deviation = None if noise is None else noise / 2
        return {
            "means": means,
            "half_width": noise,
            "seed_deviation": deviation,
            "f": None if p is None else 9.9,
            "p": p,
        }

    write_metrics(folder)
    latencies = {name: latency for name, (latency, _, _) in VARIANTS.items()}
    compared = {"dev_loss": comparison(1), "pr_per": comparison(2)}
    write_json(folder / "metrics" / "ablation" / "time_reduction.json", ablation(latencies, compared, list(seeds)))


@pytest.mark.parametrize(
    ("noise", "p", "seeds", "verdict"),
    [
        (0.024, 1e-9, (1, 2, 3), "variants differ by more than seeds do (deviation between seeds 0.012, F = 9.9"),
        (1.4, 0.1, (1, 2, 3), "no difference beyond seeds"),
        (None, None, (1,), "one seed, so differences cannot be separated from noise"),
    ],
)
def test_the_verdict_on_an_ablation_follows_from_its_seeds(
    noise: float | None, p: float | None, seeds: tuple[int, ...], verdict: str, tmp_path: Path
) -> None:
    write_ablation(tmp_path, noise, p, seeds)
    page = page_of(tmp_path)
    assert f"hint loss on dev: {verdict}" in page
    assert f"PR PER,\N{NO-BREAK SPACE}%: {verdict}" in page
    assert f"with {len(seeds)} seed{'s' if len(seeds) > 1 else ''}." in page
    places = [page.index(f'<th scope="row">{name}</th>') for name in VARIANTS]
    assert places == sorted(places)  # in the order of params.yaml


@pytest.mark.parametrize(("figure", "place"), [("dev_loss", 1), ("pr_per", 2)])
def test_a_chart_names_every_variant_and_has_better_upwards(figure: str, place: int, tmp_path: Path) -> None:
    write_ablation(tmp_path, 0.02, 0.01)
    svg = charts_of(tmp_path)[f"ablation_time_reduction_{figure}"].inline()
    heights = {}
    for name in VARIANTS:
        mark = svg.split(f"<title>{name}: ")[1]
        heights[name] = float(re.findall(r'<use [^>]*y="([\d.]+)"', mark)[0])
        assert f">{name}</text>" in svg
    assert sorted(heights, key=lambda n: heights[n]) == sorted(VARIANTS, key=lambda n: VARIANTS[n][place])


def test_two_heads_on_one_teacher_layer_are_two_lines_with_their_own_names(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    values = distill("fithubert")
    for point in values["curve"]:
        point["layer_losses"] = {"1-6": 0.5, "2-6": 0.4, "12-12": 0.3}
    write_json(tmp_path / "metrics" / "distill" / "fithubert.json", values)
    svg = charts_of(tmp_path)["heads_fithubert"].inline()
    names = ("layer 6 from student layer 1", "layer 6 from student layer 2", "layer 12")
    assert tuple(re.findall("<title>teacher (.*?)</title>", svg)) == names
    assert "best at update 2,000 of 2,000" in page_of(tmp_path)


def test_charts_in_a_page_use_its_colours_and_share_no_ids(tmp_path: Path) -> None:
    write_ablation(tmp_path, 0.02, 0.01)
    charts = charts_of(tmp_path)
    inline = [chart.inline() for name, chart in charts.items() if re.match("loss|heads|probe|ablation", name)]
    assert len(inline) == 9
    for svg in inline:
        assert not re.search(r"#[0-9a-f]{6}\b|url\(|<style|DejaVu", svg.replace('href="#', ""))
        assert "var(--hue-0)" in svg or "var(--ink)" in svg
    ids = [name for svg in inline for name in re.findall(r' id="(.*?)"', svg)]
    assert len(set(ids)) == len(ids)
    used = {name for svg in inline for name in re.findall(r'href="#(.*?)"', svg)}
    assert used <= set(ids)


def test_names_from_metrics_are_escaped_in_charts(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    write_json(tmp_path / "metrics" / "distill" / "a&b.json", distill("a&b"))
    svg = charts_of(tmp_path)["loss_a&b"].inline()
    assert 'aria-label="Loss of a&amp;b by update' in svg


def test_the_page_of_a_study_names_the_teacher_and_the_trial_of_the_students_shape() -> None:
    reference = {"student": "fithubert", "trial": "sweep_000", "params": 6_200_000, "macs_per_second": 3.1e8}
    page = render_front(SweepMetrics.from_json(sweep() | {"reference": reference}))
    assert "<title>Study default: quality against cost</title>" in page
    assert "The teacher has 6.20M parameters and needs 310 MMAC per second of audio. sweep_000 has the shape" in page
    assert '<th scope="row">sweep_000 (fithubert)</th>' in page
    assert ">sweep_000 (fithubert)</text>" in page
    assert '<th scope="col">Parameters</th>' in page
    not_trained = SweepMetrics.from_json(sweep() | {"reference": reference | {"trial": None}})
    assert "The shape of fithubert was not trained." in render_front(not_trained)


def test_the_page_of_a_study_shows_every_trial_and_its_curve() -> None:
    page = render_front(SweepMetrics.from_json(sweep()))
    assert "1 of 3 shapes are on the front." in page
    for name in ("sweep_000", "sweep_001", "sweep_002"):
        assert f'<th scope="row">{name}</th>' in page
        assert f"<title>{name}</title>" in page
    assert len(json.loads(page.split('<script type="application/json">')[1].split("</script>")[0])["points"]) == 2


@pytest.mark.parametrize(("importance", "blank"), [({}, True), ({"pr": {}}, True), ({"pr": {"depth": 1.0}}, False)])
def test_a_chart_of_importance_without_data_says_why(importance: dict[str, dict[str, float]], blank: bool) -> None:
    svg = draw_importance(SweepMetrics.from_json(sweep() | {"importance": importance})).inline()
    assert ("too few finished trials" in svg) == blank
