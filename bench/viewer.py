"""Size of the HTML report, and how long a browser needs for it.

    python -m bench.viewer [--images 300 2000]
    python -m bench.viewer --publish                and into docs/viewer.md

Photos of 640 x 640 pixels, 3.5 annotated pairs, 100 triplets and ten ActPoint sets each, with
HICO-DET's 600 HOIs; pictures beside the page and in it. Needs playwright and a Chromium. The first
picture is that of the gallery's first card, counted from opening the file (the best of three). The
other times are the processor's: of this process for making the page; of the browser's main thread
for opening it, for choosing one verb among all, and for each frame of a scroll through 60 windows
of cards. They hardly depend on what else the machine does.
"""

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as PageTab

from bench.__main__ import machine
from bench.eval import generate
from bench.publish import ROOT, replace_between
from ggnet.cores import usable_cores
from ggnet.data.annotations import ImageRecord
from ggnet.data.tables import hico_rare, hico_vocabulary
from ggnet.eval import hico
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.report import Report
from ggnet.report import contents
from ggnet.report.gaze import Looks
from ggnet.report.write import Page

PAGE, BEGIN = ROOT / "docs/viewer.md", "<!-- python -m bench.viewer --publish: begin -->"
COLUMNS = (
    "images", "pictures", "page, MB", "files, MB", "made, s", "first picture, ms",
    "opened, ms", "filter, ms", "frame, ms",
)  # fmt: skip
SIDE, STEPS, POINTS, GAZED = 640, 2, 25, 10
FIRST = """document.addEventListener("load", ({ target }) => {
  if (target.matches?.(".card img")) window.first ??= performance.now();
}, true);"""
WAIT = """async () => {
  while (!window.first) await new Promise(requestAnimationFrame);
  return window.first;
}"""
FILTER = """async () => {
  const select = document.getElementById("filter-verb");
  select.value = select.options[5].value;
  select.dispatchEvent(new Event("change"));
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
}"""
FRAMES = 180
SCROLL = """async (frames) => {
  document.getElementById("reset").click();
  document.getElementById("images").scrollIntoView();
  for (let frame = 0; frame < frames; frame++) {
    scrollBy(0, innerHeight / 3);
    await new Promise(requestAnimationFrame);
  }
}"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--publish", action="store_true", help="write the table into the page")
    options = parser.parse_args()
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        print("no Chromium found; on Debian: apt install chromium-headless-shell", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        version = browser.version
        for count in options.images:
            report, paths = make_report(count, Path(folder))
            for embed in (False, True):
                row = [f"{count:,}", *measure(report, paths, embed, Path(folder), browser)]
                rows.append(row)
                print(*row, file=sys.stderr, flush=True)
        browser.close()
    text = markdown(rows, version)
    print(text)
    if options.publish:
        replace_between(PAGE, BEGIN, text)
    return 0


def markdown(rows: list[list[str]], version: str) -> str:
    options = argparse.Namespace(device="cpu", cpu_time=False, threads=usable_cores())
    lines = [
        f"{machine(options)['cpu']}, Chromium {version}:",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---:" * len(COLUMNS) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(["", *lines, "", ""])


def measure(
    report: Report, paths: list[Path], embed: bool, folder: Path, browser: Browser
) -> list[str]:
    """One row of the table."""
    start = time.process_time()
    rng = np.random.default_rng(0)
    looks = [look(prediction, rng) for prediction in report.predictions]
    values = contents.of_report(report, "bench", looks)
    with Page(folder / f"{len(paths)}-{embed}.html", embed=embed) as page:
        page.write(values, paths, looks, lambda done, total: None)
    made = time.process_time() - start
    files = sum(path.stat().st_size for path in page.folder.glob("*.jpg"))
    firsts = []
    for _ in range(3):
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("pageerror", lambda error: sys.exit(f"the page says: {error}"))
        tab.add_init_script(FIRST)
        clock = Clock(tab)
        tab.goto(page.path.as_uri())
        firsts.append(tab.evaluate(WAIT))
        opened = clock.lap()
        tab.evaluate(FILTER)
        filtered = clock.lap()
        tab.evaluate(SCROLL, FRAMES)
        scrolled = clock.lap()
        tab.close()
    return [
        "embedded" if embed else "beside",
        f"{page.path.stat().st_size / 1e6:.1f}",
        f"{files / 1e6:.0f}" if files else "",
        f"{made:.0f}",
        f"{min(firsts):.0f}",
        f"{opened:.0f}",
        f"{filtered:.0f}",
        f"{scrolled / FRAMES:.1f}",
    ]


class Clock:
    """Processor time of a tab's main thread."""

    def __init__(self, tab: PageTab):
        self.session = tab.context.new_cdp_session(tab)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.last = 0.0

    def lap(self) -> float:
        """Milliseconds since the last call."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        now = next(1e3 * m["value"] for m in metrics if m["name"] == "TaskDuration")
        now, self.last = now - self.last, now
        return now


def make_report(count: int, folder: Path) -> tuple[Report, list[Path]]:
    """Metrics of `count` images, and their photos: one picture under many names."""
    vocabulary, rng = hico_vocabulary(), np.random.default_rng(0)
    records, predictions = generate(count, vocabulary, rng)
    coarse = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
    pixels = (pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
    photo = folder / "photo.jpg"
    Image.fromarray(pixels).save(photo, quality=92)
    result = hico.evaluate(predictions, records, vocabulary, rare=hico_rare())
    return Report(result, vocabulary, inside(records), predictions, "test"), [photo] * count


def inside(records: list[ImageRecord]) -> list[ImageRecord]:
    return [replace(record, boxes=record.boxes.clip(0, SIDE)) for record in records]


def look(prediction: ImagePrediction, rng: np.random.Generator) -> Looks:
    """ActPoints of ten interaction points, for the ten best triplets."""
    of_triplet = np.full(len(prediction), -1)
    of_triplet[np.argsort(-prediction.scores)[:GAZED]] = np.arange(GAZED)
    total = GAZED * STEPS * POINTS
    units = rng.integers(0, 8192, 2 * total).astype("<i2").tobytes()
    steps = units + rng.integers(0, 255, total).astype(np.uint8).tobytes()
    return Looks(rng.random((GAZED, 2)) * SIDE, of_triplet, steps, (STEPS, POINTS))


if __name__ == "__main__":
    sys.exit(main())
