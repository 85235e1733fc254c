"""The page of a folder of metrics, and a reader of its HTML."""

from html.parser import HTMLParser
from pathlib import Path

from fithubert.report.chart import Chart
from fithubert.report.figures import draw_charts
from fithubert.report.page import render_page
from fithubert.report.sections import Sections, build_sections
from fithubert.report.summary import ReportPlan, build_summary, gather
from tests.report.sample import PLAN


def sections_of(reports: Path, plan: ReportPlan = PLAN) -> Sections:
    metrics = gather(reports, plan)
    return build_sections(metrics, build_summary(metrics, plan), plan)


def page_of(reports: Path, plan: ReportPlan = PLAN) -> str:
    """The page without its charts."""
    return render_page(sections_of(reports, plan))


def charts_of(reports: Path) -> dict[str, Chart]:
    return {chart.name: chart for chart in draw_charts(sections_of(reports))}


def section_of(page: str, name: str) -> str:
    """The text of a section, without its markup."""
    body = page.split(f'<section id="{name}">')[1].split("</section>")[0]
    return " ".join(" ".join(PageReader(body).text).split())


class PageReader(HTMLParser):
    """Ids, link targets, attributes that load something, images of text, and the visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.unnamed: list[str] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        self.loads += [
            v or "" for k, v in attrs if k in ("src", "srcset", "data") or (k == "href" and tag not in ("a", "use"))
        ]
        self.headings += [int(tag[1])] if tag in ("h1", "h2", "h3", "h4") else []
        if values.get("role") in ("img", "region") and not values.get("aria-label"):
            self.unnamed.append(tag)
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)
