"""Every page that a command writes or serves, in headless Chromium: pictures to look at, and what a machine can see.

    make bench-pages ARGS="--quickstart quickstart --output shots"

From the folder of a quickstart it makes the pages of ``audit``, ``probe``, ``certify``, ``best-of-n``, ``rivals``,
``pareto``, ``report`` and ``reproduce``, builds the docs site, and starts ``serve`` and ``study``. Each page is opened
at 390, 1,280 and 1,920 px, most pages of the site at the first two, light and dark. Counted are: faults that axe-core
finds (``AXE_CORE`` names its ``axe.min.js``), console messages, requests to other places, what is cut off at the right,
text in figures that is cut off. The exit code is 1 where anything is found. Without Chromium it says so and ends.

``--only`` takes names of pages, or ``site`` for all of the site.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.chromium import AXE, chromium, colour_scheme

from odin_rm.core.files import atomic_write_json

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (390, 1280, 1920)
SCHEMES = ("light", "dark")
TALLEST = 4000
"""Pixels of one picture; a longer page makes several."""
SHOWN_WHOLE = ("site_index", "site_settings", "site_evidence")
"""Pages of the docs site that are opened at all widths; the others are text alike, and are opened at two."""
COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""What axe-core looks at in the dark: there only colours differ."""
ROWS = 240
FAULTS = ("axe", "console", "asked_elsewhere", "cut", "scrolls_sideways")
CUT = """
const held = (e) => { for (let q = e.parentElement; q; q = q.parentElement)
  { const o = getComputedStyle(q).overflowX; if (o != 'visible') return true; } return false; };
const cut = [...document.querySelectorAll('body *')].filter((e) => { const r = e.getBoundingClientRect();
  return r.width && getComputedStyle(e).visibility != 'hidden' && r.right + scrollX > innerWidth + 1 && !held(e); });
const labels = [...document.querySelectorAll('svg.main-svg')].flatMap((s) => { const b = s.getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter((t) => { const r = t.getBoundingClientRect();
    return r.width && (r.left < b.left - 2 || r.right > b.right + 2 || r.bottom > b.bottom + 2); })
    .map((t) => 'label: ' + t.textContent); });
return [...cut.slice(0, 6).map((e) => e.tagName + '.' + e.className), ...labels.slice(0, 6)];
"""


START = """
const start = document.querySelector('#start'); if (start.offsetParent && !window.named) { window.named = true;
  const name = document.querySelector('#name'); name.value = 'Ann';
  name.dispatchEvent(new Event('input', { bubbles: true })); start.click(); }
"""
ACTS = {
    "playground_scored": (
        """if (!window.filled) { window.filled = true;
          const fill = (name, text) => { document.querySelector(name).value = text; };
          fill('#prompt', 'How do I tune a guitar?'); fill('#answer-B', 'Great question! '.repeat(40));
          fill('#answer-A', 'Tighten all bolts evenly.\\n\\n- one\\n- two');
          document.querySelector('#score').click(); }""",
        "return document.querySelector('#verdict').textContent != '' && !document.querySelector('#more').hidden",
    ),
    "study_pair": (START, "return document.querySelector('#pair').offsetParent != null"),
    "study_finished": (
        START + "const left = document.querySelector('[data-side=left]'); if (left.offsetParent) left.click();",
        "return document.querySelector('#finished').offsetParent != null",
    ),
}
"""Pages after something was done on them: what is done again and again until the second script says yes."""


def run(*arguments: str | Path) -> None:
    """A command of ours, in a process of its own."""
    command = [sys.executable, "-m", "odin_rm", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def make_pages(quickstart: Path, folder: Path) -> dict[str, str]:
    """Addresses of the pages of our commands, by command; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (quickstart / "data" / "held_out.jsonl").read_text().splitlines()[:ROWS]]
    few, samples, table = folder / "few.jsonl", folder / "samples.jsonl", folder / "runs.jsonl"
    write(few, rows)
    write(samples, [{"prompt": f"{row['prompt']} ({k})", "response": row[side], "gold": row[f"{side}_true_quality"]}
                    for k, row in enumerate(rows) for side in ("chosen", "rejected")])  # fmt: skip
    write(table, [{"name": f"{arm}-{k}-{seed}", "arm": arm, "mean_tokens": 20 + 12 * k + shift, "win_score": 52 + 9 * k
                   - k * k + shift / 2, "seed": seed, "kl_coef": 0.1 / (k + 1)}
                  for arm, shift in (("vanilla", 6), ("odin", 0), ("vanilla + length penalty", 3))
                  for k in range(5) for seed in (0, 1)])  # fmt: skip
    models = [quickstart / name / "model" for name in ("vanilla", "odin")]
    data = ("--dataset", few, "--bootstrap_samples", "200")
    made: dict[str, tuple[str | Path, ...]] = {
        "audit": ("audit", "--compare", *models, *data, "--output"),
        "audit_one": ("audit", "--model", models[0], *data, "--output"),
        "audit_odin": ("audit", "--model", models[1], *data, "--output"),
        "probe": ("probe", "--model", models[0], *data, "--output"),
        "probe_odin": ("probe", "--model", models[1], *data, "--output"),
        "certify": ("certify", "--evidence", folder / "audit_odin", folder / "probe_odin", "--baseline",
                    folder / "audit_one", folder / "probe", "--output"),
        "best_of_n": ("best-of-n", "--model", models[0], "--input", samples, "--n", "1", "2", "--output"),
        "rivals": ("rivals", "--model", quickstart / "initial_model", "--datasets", few, "--arms", "bradley_terry",
                   "odin", "crm", "--output"),
        "pareto": ("pareto", "--runs", table, "--y", "win_score", "--output"),
        "reproduce": ("reproduce", "--preset", "miniature", "--output"),
    }  # fmt: skip
    for name, command in made.items():
        if not (folder / name).exists():
            run(*command, folder / name)
    if not (folder / "report.html").exists():
        parts = [quickstart / "vanilla", quickstart / "odin", folder / "audit", folder / "pareto"]
        run("report", "--runs", *parts, "--output", folder / "report.html")
    found = {name: folder / name / "report.html" for name in made if name not in ("pareto", "audit_odin", "probe_odin")}
    found |= {"quickstart": quickstart / "report.html", "report": folder / "report.html"}
    return {name: page.resolve().as_uri() for name, page in found.items()}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_site(folder: Path) -> dict[str, str]:
    """Addresses of all pages of the docs site, but for the one that a server shows in place of a missing one."""
    if not folder.exists():
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder.resolve())]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    pages = {f"site_{page.stem}": page for page in sorted(folder.glob("*.html")) if page.stem != "404"}
    order = [*SHOWN_WHOLE, *(name for name in pages if name not in SHOWN_WHOLE)]
    return {name: pages[name].resolve().as_uri() for name in order}


@contextmanager
def served(quickstart: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Addresses of the playground and of a study, while they run."""
    sides = []
    for name in ("a", "b"):
        rows = [{"instruction": f"How do I tune a guitar, part {k}?", "output": f"{name}: tighten bolts. " * (k + 1),
                 "generator": name} for k in range(8)]  # fmt: skip
        sides.append(folder / f"{name}.json")
        sides[-1].write_text(json.dumps(rows))
    ports = [free_port(), free_port()]
    shutil.rmtree(folder / "study", ignore_errors=True)
    models = [f"{name}={quickstart / name / 'model'}" for name in ("odin", "vanilla")]
    commands = [
        ["serve", "--model", *models, "--port", str(ports[0])],
        [
            "study",
            "--a",
            str(sides[0]),
            "--b",
            str(sides[1]),
            "--output",
            str(folder / "study"),
            "--port",
            str(ports[1]),
        ],
    ]
    programs, logs = [], [open(folder / f"{command[0]}.log", "wb") for command in commands]  # noqa: SIM115
    try:
        for command, log in zip(commands, logs, strict=True):
            programs.append(subprocess.Popen([sys.executable, "-m", "odin_rm", *command], stdout=log, stderr=log))
        for port, program in zip(ports, programs, strict=True):
            wait_for(port, program)
        playground, study = (f"http://127.0.0.1:{port}/" for port in ports)
        yield {"playground": playground, "playground_scored": playground, "study": study, "study_pair": study,
               "study_finished": study}  # fmt: skip
    finally:
        for program in programs:
            program.terminate()
            program.wait(120)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int, program: subprocess.Popen[bytes]) -> None:
    """Until its page answers; a port can take callers before there is anybody to answer."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60):
                return
        except OSError:
            pass
        if program.poll() is not None:
            sys.exit(f"a server ended with code {program.returncode}; its log is beside the pages")
        time.sleep(0.5)
    sys.exit("a server did not start in five minutes")


def act(browser: Any, name: str) -> None:
    """Do what brings a page into the state of a name in :data:`ACTS`."""
    does, done = ACTS[name]
    for _ in range(200):
        if browser.execute_script(done):
            return
        browser.execute_script(does)
        time.sleep(0.3)
    sys.exit(f"{name} was not reached in a minute")


def look_at(browser: Any, name: str, address: str, folder: Path) -> list[dict[str, Any]]:
    """Pictures of a page at every width, light and dark, and what is wrong with it."""
    rows = []
    brief = name.startswith("site_") and name not in SHOWN_WHOLE
    for width in WIDTHS[:2] if brief else WIDTHS:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for scheme in SCHEMES:
            colour_scheme(browser, scheme)
            browser.get(address)
            settle(browser)
            if name in ACTS:
                act(browser, name)
                settle(browser)
            row = {"page": name, "width": width, "scheme": scheme, "cut": browser.execute_script(CUT)}
            row["scrolls_sideways"] = browser.execute_script("return document.documentElement.scrollWidth > innerWidth")
            row["console"] = [entry["message"] for entry in browser.get_log("browser")]
            asked = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
            start = "file:" if address.startswith("file:") else address
            row["asked_elsewhere"] = [one for one in asked if not one.startswith(("data:", start, "blob:"))]
            row["axe"] = axe_faults(browser, COLOUR_RULES if scheme == "dark" else [])
            browser.get_log("browser")  # axe-core reads the style sheets once more, which a page of a file may not
            shoot(browser, folder / f"{name}_{width}_{scheme}", width, 1 if brief else 3)
            rows.append(row)
    return rows


def settle(browser: Any) -> None:
    """Wait until a page is loaded and its height stays for half a second; charts are drawn late."""
    height, same = -1, 0
    for _ in range(50):
        time.sleep(0.1)
        now = browser.execute_script(
            "return document.readyState == 'complete' ? document.documentElement.scrollHeight : -1"
        )
        height, same = now, same + 1 if now == height and now >= 0 else 0
        if same >= 5:
            break
    browser.execute_script("document.getAnimations().forEach((one) => one.finish())")


def axe_faults(browser: Any, rules: Sequence[str]) -> list[str]:
    """What axe-core finds in the page as it stands, by some of its rules or by all."""
    if not AXE.is_file():
        return []
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    violations = browser.execute_async_script(
        "const done = arguments[1], only = arguments[0].length ? { runOnly: arguments[0] } : {};"
        "axe.run({ resultTypes: ['violations'], ...only }).then((r) => done(r.violations))",
        list(rules),
    )
    return [f"{one['id']}: {one['nodes'][0]['html'][:160]} ({len(one['nodes'])})" for one in violations]


def shoot(browser: Any, stem: Path, width: int, pieces: int) -> None:
    """The page as PNG, in pieces where it is long; of a very long one the first ones."""
    height = int(browser.execute_script("return document.documentElement.scrollHeight"))
    for number, top in enumerate(range(0, min(height, pieces * TALLEST), TALLEST)):
        clip = {"x": 0, "y": top, "width": width, "height": min(TALLEST, height - top), "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(f"{stem}_{number}.png").write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    """Make the pages, look at each, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", help="folder of odin-rm quickstart; not needed for --only site")
    parser.add_argument("--output", required=True, help="folder for pages and pictures; pages there are kept")
    parser.add_argument("--only", nargs="*", default=[], help="names of pages; site for all of the docs site")
    options = parser.parse_args()
    if not (shutil.which("chromium") or shutil.which("chromium-browser")) or not shutil.which("chromedriver"):
        sys.exit("chromium or chromedriver is not installed")
    if not AXE.is_file():
        print("axe-core is not looked at: set AXE_CORE to axe.min.js of the npm package axe-core")
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    of_the_site = bool(options.only) and all(name.startswith("site") for name in options.only)
    if not of_the_site and options.quickstart is None:
        parser.error("--quickstart is missing")
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        pages = make_site(folder / "site")
        if not of_the_site:
            quickstart = Path(options.quickstart)
            pages = make_pages(quickstart, folder) | stack.enter_context(served(quickstart, folder)) | pages
        browser = stack.enter_context(chromium(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        for name, address in pages.items():
            if options.only and name not in options.only and not (name.startswith("site_") and "site" in options.only):
                continue
            found = look_at(browser, name, address, folder)
            rows += found
            count = {key: sum(bool(row[key]) for row in found) for key in FAULTS}
            said = ", ".join(f"{key}: {number}" for key, number in count.items())
            print(f"{name:12} {len(found)} views; views with {said}", flush=True)
            for fault in sorted({f"{key}: {one}" for row in found for key in FAULTS[:-1] for one in row[key]}):
                print(f"    {fault}", flush=True)
    atomic_write_json(folder / "pages.json", rows)
    total = {key: sum(bool(row[key]) for row in rows) for key in FAULTS}
    print(f"{len(rows)} views of {len({row['page'] for row in rows})} pages: {total}")
    sys.exit(any(total.values()))


if __name__ == "__main__":
    main()
