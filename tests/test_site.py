"docs/ as a reader meets it: links as they are written, then every page in a real browser"
import html, os, re, shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
docs = root/'docs'
pages = {f.name: f.read_text() for f in sorted(docs.glob('*.html'))}
names = 'Mixup','MixupX','MixupXL','MixupC','Checkpoint','StepDecay','MultiSample','digits_dls'
names += 'mixup_learner','mixup_c_learner'

def test_links_lead_somewhere():
    dead = []
    for name,txt in pages.items():
        for href in re.findall(r'\s(?:href|src)="([^":]+)"', txt):
            page,_,anchor = html.unescape(href).partition('#')
            there = f' id="{anchor}"' in pages.get(page or name, f' id="{anchor}"')
            if not (docs/page).exists() or anchor and not there: dead.append((name, href))
    assert len(pages)>20 and not dead

def test_nothing_is_loaded_from_elsewhere():
    tag = r'<(?!a\s)\w[^>]*\s(?:src|href)="(?:https?:)?//[^"]*'
    loads = re.compile(tag + r'''|(?:url\(|from |import )["']?https?:[^"')]*''')
    txts = {**pages, **{f.name: f.read_text() for f in docs.rglob('*.css')}}
    assert not [(name, m[0]) for name,txt in txts.items() for m in loads.finditer(txt)]

def test_every_page_says_what_it_is():
    version = re.search(r'__version__ = "(.+)"', (root/'fastmix'/'__init__.py').read_text())[1]
    parts = 'rel="icon"','property="og:title"','property="og:description"','10.1145/3231884.3231896'
    parts += '.ipynb"',f'fastmix {version}','Apache-2.0'
    assert not [(name, o) for name,txt in pages.items() for o in parts if o not in txt]
    copies = (docs/'llms.txt').read_text()
    assert not [o for o in pages if o.replace('.html', '.llms.md') not in copies]

# in a browser

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    try: from playwright.sync_api import sync_playwright
    except ImportError: chromium = None
    if not chromium and not os.getenv('BROWSER_TESTS'):
        pytest.skip('needs playwright and chromium: make test-docs')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium)
        yield b
        b.close()

@pytest.fixture(scope='module')
def bases():
    "Where docs/ is found: as files, and from a server"
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [docs.as_uri(), f'http://127.0.0.1:{server.server_port}/docs']
    server.shutdown()

def new_page(context, base):
    "A page, and the list of what goes wrong on it"
    page,bad = context.new_page(),[]
    def asked(o):
        if not o.url.startswith((base, 'data:')): bad.append(f'outside: {o.url}')
    def answered(o):
        if o.status>=400: bad.append(f'{o.status}: {o.url}')
    page.on('request', asked)
    page.on('response', answered)
    def failed(o):
        if o.failure!='net::ERR_ABORTED': bad.append(f'{o.failure}: {o.url}') # that: page left
    def said(o):
        if o.type in ('error','warning'): bad.append(f'console: {o.text}')
    page.on('requestfailed', failed)
    page.on('pageerror', lambda o: bad.append(f'error: {o}'))
    page.on('console', said)
    return page,bad

# What a reader would stumble over, as a list of strings
faults = r'''async () => {
  document.querySelectorAll('details').forEach(e => e.open = true)
  for (const i of [1, 2]) await new Promise(requestAnimationFrame) // site.js lays tables out anew
  const bad = [], width = innerWidth, main = document.querySelector('main')
  const name = e => e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40)
  if (document.documentElement.scrollWidth > width) bad.push('the page scrolls sideways')
  for (const e of main.querySelectorAll('*')) {
    const past = e.getBoundingClientRect().right > width + 1
    if (!past && e.scrollWidth <= e.clientWidth + 1) continue
    if (!e.checkVisibility() || e.closest('math, .visually-hidden, pre > code')) continue
    if (past) bad.push('out of sight: ' + name(e))
    else if (getComputedStyle(e).overflowX != 'visible') bad.push('cut off: ' + name(e))
  }
  for (const e of main.querySelectorAll('img')) {
    if (!e.complete || !e.naturalWidth) bad.push('missing: ' + e.src)
    if (!e.alt) bad.push('no alternative text: ' + e.src)
    if (!e.closest('figure')?.querySelector('figcaption')) bad.push('no caption: ' + e.src)
  }
  const text = main.cloneNode(true)
  text.querySelectorAll('pre, code, script, math').forEach(e => e.remove())
  const raw = /\$[^$\s][^$\n]*\$|\\[(\[]|\s–\w.{9}/g // formulas, options typeset as dashes
  for (const m of text.textContent.matchAll(raw)) bad.push('raw: ' + m[0])
  return bad
}'''

dark = "document.documentElement.classList.contains('quarto-dark')"

# each page four times: files and server, light and dark, desktop and phone, in all pairs of these
looks = [('light', 1280), ('dark', 390)],[('dark', 1280), ('light', 390)]

def look(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(dict(width=width, height=900))
    page.wait_for_function(f'{dark} == {str(scheme=="dark").lower()}')
    return [f'{scheme}, {width}: {o}' for o in page.evaluate(faults)]

@pytest.mark.parametrize('i', [0, 1], ids=['file','server'])
def test_pages(browser, bases, i):
    (scheme,width),_ = looks[i]
    context = browser.new_context(color_scheme=scheme, viewport=dict(width=width, height=900))
    res = {}
    for name in pages:
        page,bad = new_page(context, bases[i])
        page.goto(f'{bases[i]}/{name}')
        for scheme,width in looks[i]: bad += look(page, scheme, width)
        page.close()
        if bad: res[name] = bad
    context.close()
    assert not res

landed = '''() => {
  const e = document.getElementById(decodeURIComponent(location.hash.slice(1)))
  const y = e?.getBoundingClientRect().y
  return y >= 0 && y < innerHeight
}'''

@pytest.mark.parametrize('i', [0, 1], ids=['file','server'])
def test_search(browser, bases, i):
    context = browser.new_context()
    page,bad = new_page(context, bases[i])
    for name in names[i::2]:
        page.goto(f'{bases[i]}/index.html')
        page.locator('#quarto-search input').fill(name)
        hit = page.locator('.search-result').first
        section = hit.locator('.search-result-section').text_content()
        hit.click()
        page.wait_for_load_state()
        try: page.wait_for_function(landed)
        except Exception: section = f'{section}, not in sight'
        if section!=name: bad.append(f'{name}: found {section} at {page.url}')
    context.close()
    assert not bad

def test_the_toggle_is_remembered(browser, bases):
    context = browser.new_context()
    page,bad = new_page(context, bases[1])
    page.goto(f'{bases[1]}/index.html')
    assert not page.evaluate(dark)
    page.locator('.quarto-color-scheme-toggle').click()
    page.wait_for_function(dark)
    page.goto(f'{bases[1]}/learner.html')
    page.wait_for_function(dark)
    page.emulate_media(color_scheme='light') # a choice wins over the system's
    page.reload()
    page.wait_for_function(dark)
    context.close()
    assert not bad
