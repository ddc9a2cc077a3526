"""The report in headless Chromium: no console message, every figure visible, texts inert."""

import html as html_module
import itertools
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
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => channels(colour).slice(0, 3).map(
    c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  ).reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = each => {
    for (; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = each => {
    const style = getComputedStyle(each);
    const pair = [each.closest('svg') ? style.fill : style.color, behind(each)].map(light);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const texts = [...document.querySelectorAll('main *, header *')].filter(each =>
    box(each).width && !each.closest('.skip') &&
    [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  const faint = texts.filter(each => contrast(each) < 4.5).map(
    each => `${each.tagName} ${each.textContent.trim().slice(0, 40)}: ${contrast(each)}`);
  const names = [...document.querySelectorAll('.provenance th')].map(each => box(each).width);
  const found = {title: document.title, plots, levels, unnamed, texts: texts.length, faint,
                 page: channels(getComputedStyle(document.body).backgroundColor).slice(0, 3),
                 names, wide: document.documentElement.scrollWidth};
  parent.postMessage({width: innerWidth, found}, '*');
});</script></body>"""
FRAMES = """<!doctype html><body><pre>FOUND[]END</pre><script>
const found = [];
addEventListener('message', event => {
  found.push(event.data);
  document.querySelector('pre').textContent = 'FOUND' + JSON.stringify(found) + 'END';
});
</script>"""
WIDTHS = (360, 1280)


def open_page(path, dark=False):
    """Return {width: what `SCRIPT` found}, and console messages; None without a browser."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        warnings.warn("no Chromium: the report was not opened in a browser", stacklevel=1)
        return None
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    html = html.replace("default-src 'none'", "default-src 'none'; script-src 'nonce-test'", 1)
    copy = path.with_name("opened.html")
    copy.write_text(html.replace("</body>", SCRIPT), encoding="utf-8")
    frames = path.with_name("frames.html")
    inner = (f'<iframe src="{copy.name}" width="{w}" height="900"></iframe>' for w in WIDTHS)
    frames.write_text(FRAMES + "".join(inner), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--window-size=1400,900", "--virtual-time-budget=5000"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", frames.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    match = re.search(r"<pre>FOUND(.*?)END</pre>", done.stdout, re.DOTALL)
    assert match, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = json.loads(html_module.unescape(match[1]))
    return {each["width"]: each["found"] for each in found}, console


def test_page_in_a_browser(tmp_path):
    conditions = ["0x", HOSTILE.replace("/", "|")]
    experiments = make_study(tmp_path, {"a": conditions, "b": ["0x", "4x"]}, text=HOSTILE)
    _, report = page.write(tmp_path, HOSTILE, experiments)
    pages = []
    for dark in (False, True):
        opened = open_page(report, dark)
        if opened is None:
            return
        found, console = opened
        assert console == [] and found.keys() == set(WIDTHS)
        for width, page_ in found.items():
            assert page_["title"] == f"{HOSTILE} · ttoaa"
            # A figure and the arms of both experiments, and the losses.
            assert len(page_["plots"]) >= 5
            assert all(w > 200 and h > 100 and paths for w, h, paths in page_["plots"])
            assert page_["levels"][0] == 1 and page_["unnamed"] == 0
            assert all(b - a <= 1 for a, b in itertools.pairwise(page_["levels"]))
            assert page_["wide"] <= width, "it scrolls sideways"
            assert min(page_["names"]) > 90, "letters of a name are below each other"
            assert page_["texts"] > 100 and page_["faint"] == [], "contrast below WCAG AA"
        pages.append(found[WIDTHS[0]]["page"])
    assert min(pages[0]) > 200 and max(pages[1]) < 60  # light, then dark
