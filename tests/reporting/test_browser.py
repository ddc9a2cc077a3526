"""The report in headless Chromium: no console message, every figure visible, texts inert."""

import json
import re
import shutil
import subprocess
import warnings

from reporting.synthetic import make_study

from ttoaa.reporting import page

HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script></svg>"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCRIPT = """<script nonce="test">addEventListener('load', () => {
  for (const each of document.querySelectorAll('details')) each.open = true;
  const box = each => each.getBoundingClientRect();
  const plots = [...document.querySelectorAll('svg.plot')].map(
    each => [box(each).width, box(each).height, each.querySelectorAll('path').length]);
  const levels = [...document.querySelectorAll('h1, h2, h3')].map(each => +each.tagName[1]);
  const unnamed = [...document.querySelectorAll('table')].filter(each => !each.caption).length;
  const found = {title: document.title, plots, levels, unnamed, wide: document.body.scrollWidth};
  document.body.textContent = 'FOUND' + JSON.stringify(found) + 'END';
});</script></body>"""


def open_page(path, width):
    """Return what `SCRIPT` found on the page, and the messages of the console; None without one."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        warnings.warn("no Chromium: the report was not opened in a browser", stacklevel=1)
        return None
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    html = html.replace("default-src 'none'", "default-src 'none'; script-src 'nonce-test'", 1)
    copy = path.with_name("opened.html")
    copy.write_text(html.replace("</body>", SCRIPT), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--window-size={width},900", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r"FOUND(.*)END", done.stdout, re.DOTALL)
    assert match, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">")), console


def test_page_in_a_browser(tmp_path):
    conditions = ["0x", HOSTILE.replace("/", "|")]
    experiments = make_study(tmp_path, {"a": conditions, "b": ["0x", "4x"]}, text=HOSTILE)
    _, report = page.write(tmp_path, HOSTILE, experiments)
    opened = open_page(report, 500)
    if opened is None:
        return
    found, console = opened
    assert console == []
    assert found["title"] == f"{HOSTILE} · ttoaa"
    assert len(found["plots"]) >= 5  # a figure and the arms of both experiments, and the losses
    assert all(width > 200 and height > 100 and paths for width, height, paths in found["plots"])
    assert found["levels"][0] == 1 and found["unnamed"] == 0
    assert all(b - a <= 1 for a, b in zip(found["levels"], found["levels"][1:], strict=False))
    assert found["wide"] <= 500  # nothing scrolls sideways on a phone
