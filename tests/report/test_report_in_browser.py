"""The page in headless Chromium: filters, pointing, keys, counts, a narrow window.

Needs playwright (PyPI) and a Chromium: `apt install chromium-headless-shell` on Debian.
"""

import re
import shutil

import numpy as np
import pytest

from ggnet.cli import main
from ggnet.config import load_config
from ggnet.eval.errors import CAUSES, counted, triplet_causes
from ggnet.report import contents
from ggnet.report.make import browse, report_file
from ggnet.report.write import Page

pytestmark = pytest.mark.slow
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
WIDE, NARROW = (1280, 900), (400, 800)


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium found; on Debian: apt install chromium-headless-shell")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page's file in a window; it must stay without errors and fetch nothing else."""
    said, asked, opened = [], [], []

    def visit(path, size=WIDE):
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]})
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        opened.append(tab)
        return tab

    yield visit
    for tab in opened:
        assert tab.evaluate("window.ran") is None
        tab.context.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)


@pytest.fixture(scope="module")
def predicted(awkward, tmp_path_factory):
    """The page of the awkward dataset's predictions."""
    path = tmp_path_factory.mktemp("pages") / "a #1 & 100%.html"
    config = load_config(None, [f"data.root={awkward.root}"])
    return report_file(awkward.predictions, config, None, Page(path))


@pytest.fixture(scope="module")
def of_run(evaluated, tmp_path_factory):
    """The page of an untrained network's run, with its ActPoints, embedded."""
    page = tmp_path_factory.mktemp("pages") / "report.html"
    assert main(["report", str(evaluated), "--embed", "--out", str(page)]) == 0
    return page


def numbers(tab):
    """What the line over the gallery counts."""
    text = tab.locator("#count").inner_text().replace(",", "")
    return {name: int(count) for count, name in re.findall(r"(\d+) (?:of )?([a-z]+)", text)}


def count(tab, name):
    found = numbers(tab)
    return found.get(name, found.get(f"{name}s"))


def test_counts_are_those_of_the_metrics(visit, predicted, awkward):
    tab = visit(predicted)
    metrics = awkward.report.to_dict()
    best = metrics["best_f1"]
    assert count(tab, "correct") / count(tab, "triplet") == pytest.approx(best["precision"])
    for cause in CAUSES:
        button = tab.locator(f'#causes button[data-kind="{cause}"]')
        assert button.locator(".number").inner_text() == f"{metrics['errors'][cause]:,}"
        button.click()
        assert count(tab, "triplet") == metrics["errors"][cause]
        with_lines = tab.locator(".card").count()
        assert with_lines == int(re.search(r"in ([\d,]+) of", tab.inner_text("#count"))[1])
    tab.locator('#causes button[data-kind="missed pairs"]').click()
    pairs = sum(row["ground_truth"] for row in metrics["classes"])
    reached = sum(
        row["ground_truth"] * (row["max_recall"] or 0) / 100 for row in metrics["classes"]
    )
    assert count(tab, "missed") == pairs - round(reached)


def test_filters(visit, predicted, awkward):
    tab = visit(predicted)
    rng = np.random.default_rng(np.random.SeedSequence())
    records = {record.image_id: record for record in awkward.report.records}
    vocabulary, found = awkward.dataset.vocabulary, awkward.report.predictions
    chosen = counted(found, list(records.values()), vocabulary)
    rows = []  # verb, object, score, cause, counted
    for prediction, looks in zip(found, chosen, strict=True):
        valid = vocabulary.hoi_index(prediction.verbs, prediction.object_labels) >= 0
        causes, _ = triplet_causes(prediction, records[prediction.image_id], valid)
        causes = np.where(valid, causes, -1)
        columns = prediction.verbs, prediction.object_labels, prediction.scores, causes, looks
        rows += list(zip(*columns, strict=True))
    table = np.array(rows, dtype=np.float64)
    for _ in range(8):
        verb, object_, kind = rng.integers(3), rng.integers(1, 4), rng.integers(len(CAUSES))
        only, slider = bool(rng.integers(2)), int(rng.integers(0, 600))
        keep = np.ones(len(table), dtype=bool)
        tab.locator("#reset").click()
        if rng.random() < 0.7:
            tab.select_option("#filter-verb", str(verb))
            keep &= table[:, 0] == verb
        if rng.random() < 0.5:
            tab.select_option("#filter-object", str(object_))
            keep &= table[:, 1] == object_
        tab.select_option("#filter-kind", str(kind))
        tab.locator("#filter-counted").set_checked(only)
        tab.locator("#filter-min").fill(str(slider))
        keep &= table[:, 3] == kind
        keep &= (table[:, 4] == 1) | (not only)
        highest = max(1, *np.round(table[:, 2] / 1e-8))
        keep &= np.round(table[:, 2] / 1e-8) >= np.floor(highest * (slider / 1000) ** 3 + 0.5)
        assert count(tab, "triplet") == keep.sum()
    tab.locator("#reset").click()
    tab.select_option("#filter-kind", "errors")
    limit = awkward.report.f1.best()["threshold"]
    assert count(tab, "triplet") == ((table[:, 3] > 0) & (table[:, 2] >= limit)).sum()
    tab.select_option("#filter-order", "score")
    scores = [
        float(text) for text in tab.locator(".card .pair:first-child .score").all_inner_texts()
    ]
    first = tab.locator(".card").first.locator(".score").first.inner_text()
    best = table[table[:, 3] > 0, 2].max()
    assert float(first) == pytest.approx(best, abs=6e-4)
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_pointing_at_a_hoi_moves_nothing(visit, predicted, size):
    """Seen at its end, a page that grew or shrank would put another row under the pointer."""
    tab = visit(predicted, size)
    height = "document.documentElement.scrollHeight"
    first = tab.evaluate(height)
    rows = tab.locator("#class-table tbody tr").all()
    assert rows
    for row in rows:
        row.hover()
        name = row.locator("th").inner_text()
        shown = tab.locator("#class-curve figcaption")
        assert shown.inner_text() == shown.get_attribute("title")
        assert shown.inner_text() == f"Precision over recall of {name}"
        assert tab.evaluate(height) == first


def test_names_are_shown_as_they_are(visit, predicted, awkward):
    tab = visit(predicted)
    vocabulary = awkward.dataset.vocabulary
    names = set(tab.locator("#class-table tbody th").all_inner_texts())
    assert names == {vocabulary.hoi_name(hoi) for hoi in range(len(vocabulary.hois))}
    shown = tab.locator(".card").first.get_attribute("aria-label")
    assert shown == awkward.report.records[0].file_name
    tab.locator("#class-table tbody th button").first.click()
    row = tab.locator("#class-table tbody tr").first.locator("td, th").all_inner_texts()
    verb = tab.locator("#filter-verb option:checked").inner_text()
    object_ = tab.locator("#filter-object option:checked").inner_text()
    assert row[0].replace("_", " ") == f"{verb} {object_}"


def test_no_script_but_the_page_s_own_runs(chromium, predicted):
    tab = chromium.new_page()
    tab.goto(predicted.as_uri())
    tab.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = 4";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = 5'>");
        }"""
    )
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.ran") is None
    tab.close()


def drawn(place):
    """What is drawn over a picture."""
    kinds = {"boxes": "rect", "links": "polyline", "step1": ".step1", "step2": ".step2"}
    return {name: place.locator(f".frame svg {kind}").count() for name, kind in kinds.items()}


ALONE = {"boxes": 2, "links": 1, "step1": 9, "step2": 9}


def test_pointing_at_a_triplet(visit, of_run):
    tab = visit(of_run)
    tab.locator("#filter-min").fill("0")
    card = tab.locator(".card").first
    card.scroll_into_view_if_needed()
    assert (
        card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    )
    before = drawn(card)
    assert before["links"] > 1
    assert before["step1"] == 0
    card.locator(".pair").nth(1).hover()
    assert drawn(card) == ALONE
    tab.mouse.move(0, 0)
    assert drawn(card) == before
    card.click()
    detail = tab.locator("#detail")
    assert drawn(detail)["step1"] == 0
    detail.locator(".list button").nth(2).hover()
    assert drawn(detail) == ALONE
    box = detail.locator(".frame rect").first.bounding_box()
    assert box["width"] > 0
    detail.locator('input[data-key="1"]').uncheck()
    detail.locator(".list button").nth(1).hover()
    assert drawn(detail) == ALONE | {"step1": 0}
    detail.locator(".close").click()
    detail.wait_for(state="hidden")


def test_keyboard(visit, of_run):
    tab = visit(of_run)
    press = tab.keyboard.press
    press("/")
    tab.keyboard.type("ball")
    names = tab.locator("#class-table tbody tr:visible th").all_inner_texts()
    assert names
    assert all("ball" in name for name in names)
    tab.locator("#class-search").fill("")
    tab.locator("#class-table thead button").nth(4).focus()
    for order in ("descending", "ascending"):
        press("Enter")
        assert tab.locator("#class-table thead th").nth(4).get_attribute("aria-sort") == order
        figures = tab.locator("#class-table tbody td:nth-child(5)").all_inner_texts()
        values = [int(figure) for figure in figures]
        assert values == sorted(values, reverse=order == "descending")
    tab.locator("#reset").focus()
    press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    first = tab.evaluate(focused)
    press("ArrowRight")
    second = tab.evaluate(focused)
    press("ArrowLeft")
    assert tab.evaluate(focused) == first != second
    press("ArrowRight")
    press("Enter")
    detail = tab.locator("#detail")
    title = detail.locator(".top strong")
    assert title.inner_text() == second
    annotated = detail.locator(".list .missed, .list .truth").count()
    together = drawn(detail)
    press("m")
    assert drawn(detail)["links"] < together["links"]
    press("m")
    assert drawn(detail) == together
    press("g")
    assert drawn(detail)["links"] >= annotated
    press("g")
    press("ArrowDown")
    assert "pair" in tab.evaluate("document.activeElement.firstChild.className")
    pointed = drawn(detail)
    assert (pointed["boxes"], pointed["links"]) == (2, 1)
    press("ArrowDown")
    press("ArrowUp")
    assert drawn(detail) == pointed
    if pointed["step1"]:
        press("1")
        assert drawn(detail) == pointed | {"step1": 0}
        press("1")
    press("ArrowLeft")
    assert title.inner_text() == first
    press("ArrowLeft")  # there is none before
    assert title.inner_text() == first
    press("Escape")
    detail.wait_for(state="hidden")
    tab.wait_for_function(f"label => {focused} === label", arg=first)  # on the dialog's close event
    press("?")
    tab.locator("#help").wait_for(state="visible")
    press("Escape")
    tab.locator("#help").wait_for(state="hidden")


def test_a_narrow_window(visit, predicted):
    tab = visit(predicted, NARROW)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    for control in tab.locator("#filters select, #filters input, #reset, nav a").all():
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW[0]
    tops = [card.bounding_box()["y"] for card in tab.locator(".card").all()[:3]]
    assert tops[0] == tops[1] < tops[2]
    tab.locator(".card").first.click()
    detail = tab.locator("#detail")
    assert detail.bounding_box()["width"] == NARROW[0]
    frame = detail.locator(".frame").bounding_box()
    assert frame["width"] == NARROW[0]
    assert frame["height"] >= 200
    for part in ("#detail .list", "#detail .toggles", "#detail .top"):
        assert tab.locator(part).evaluate("part => part.scrollWidth <= part.clientWidth")
    last = detail.locator(".list button").last
    last.scroll_into_view_if_needed()
    last.click()
    assert drawn(detail)["boxes"] == 2
    assert tab.evaluate(fits)


def test_only_cards_near_the_window_are_filled(visit, predicted):
    tab = visit(predicted, NARROW)
    cards = tab.locator(".card")
    first, last = cards.first.locator("img"), cards.last.locator(".foot")
    assert last.count() == 0
    cards.last.scroll_into_view_if_needed()
    last.wait_for()
    cards.first.locator(".foot").wait_for(state="detached")
    assert first.count() == 0
    tab.evaluate("scrollTo(0, document.getElementById('images').offsetTop)")
    cards.first.locator(".foot").wait_for()


def test_very_many_triplets(visit, awkward, tmp_path):
    """More than a call can have arguments."""
    values = contents.of_report(awkward.report, "many")
    number = max(range(len(values["images"])), key=lambda n: len(values["images"][n]["found"]))
    found = values["images"][number]["found"]
    times = 200_000 * 8 // len(found)
    values["images"][number]["found"] = found * times
    paths = [awkward.root / "images" / record.file_name for record in awkward.report.records]
    with Page(tmp_path / "many.html") as page:
        page.write(values, paths, None, lambda done, total: None)
    tab = visit(page.path)
    tab.locator("#filter-min").fill("0")
    scored = (np.array(found).reshape(-1, 8)[:, 4] >= 0).sum()
    total = sum(
        (np.array(image.get("found", [])).reshape(-1, 8)[:, 4] >= 0).sum()
        for image in values["images"]
    )
    assert count(tab, "triplet") == total >= scored * times


def test_browsing_a_dataset(visit, awkward, tmp_path):
    tab = visit(browse(awkward.root, "test", Page(tmp_path / "browse.html", embed=True)))
    records = awkward.report.records
    assert count(tab, "pair") == sum(len(record.pairs) for record in records)
    assert tab.locator(".card").count() == len(records)
    assert tab.locator("#filter-kind, #filter-min, #causes button").count() == 0
    tab.select_option("#filter-verb", "2")
    assert count(tab, "pair") == sum(int((record.pairs[:, 2] == 2).sum()) for record in records)
    card = tab.locator(".card").first
    card.click()
    detail = tab.locator("#detail")
    tab.keyboard.press("ArrowDown")
    assert drawn(detail) == {"boxes": 2, "links": 1, "step1": 0, "step2": 0}
