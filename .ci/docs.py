"Builds docs/ and README.md from nbs/, with neither Quarto nor network: `python .ci/docs.py [--out DIR] [--check]`"
import argparse, base64, html, json, os, posixpath, re, shutil, sys, tempfile, yaml
from functools import partial
from inspect import formatannotation
from pathlib import Path
from types import FunctionType
from fastcore.docments import DocmentTbl, MarkdownRenderer, empty
from latex2mathml.converter import convert
from nbdev import processors, showdoc
from nbdev.config import nbpath2html
from nbdev.serve import proc_nbs
from smalldocs import llms, site
from smalldocs.notebook import cell_options, figure, source, split_front_matter

root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
skip = os.getenv('DOCS_PARTIAL') # leave out pages that are listed but not written yet, and let links to them dangle

def edit(f, pat, new):
    "Replace `pat` in the file `f`; how often"
    txt,n = re.subn(pat, new, f.read_text(), flags=re.S)
    f.write_text(txt)
    return n

# nbdev: runs show_doc, resolves links, hides cells; into _proc/

def type_name(t):
    "Without its modules, which are for machines; nothing for what fastcore guesses from a default"
    if t in (empty, type(None), FunctionType, partial): return empty
    return re.sub(r'(?:\w+\.)+(?=\w)', '', t if isinstance(t, str) else formatannotation(t))

class ShowDoc(MarkdownRenderer):
    "Heading, signature, docstring, and the table of parameters that nbdev 3 no longer makes"
    def _repr_markdown_(self):
        tbl,sig = DocmentTbl(self.sym),self.dm
        for p in [*tbl.dm.values(), *sig.dm.values()]: p['anno'] = type_name(p['anno'])
        for p in tbl.dm.values():
            d = p['default']
            if d is not empty: p['default'] = f"`{getattr(d, '__name__', None) or repr(d)}`"
        tbl.params = [o for o in tbl.params if tbl.dm[o]['docment'] is not empty] # the others are in the signature
        table = str(tbl).replace(r'\^', '^') # fastcore escapes it, also in code and in maths
        if table:
            for p in sig.dm.values(): p['docment'] = None # the table has them
        sig.maxline = 60
        sig = re.sub(r'\(\n    (.{,75})\n\)', r'(\1)', str(sig)).removesuffix(':').removesuffix('->None')
        if isinstance(self.sym, type): sig = sig.replace('def ', 'class ', 1)
        parts = [f'{"#"*self.title_level} {self.nm}', f'```python\n{sig}\n```', self.docs, table]
        res = '\n\n'.join(filter(None, parts))
        res = re.sub(r"<(?:class|function) '?(?:\w+\.)*(\w+).*?>|functools\.(?=partial)", r'\1', res) # in defaults
        return re.sub(r' at 0x[0-9a-f]+', '', res) # addresses differ from run to run

class Title(processors.FrontmatterProc):
    "Keeps the text under the title and the subtitle, which nbdev drops where it stands in their cell"
    def _update(self, f, cell):
        src = cell.source
        super()._update(f, cell)
        if cell.source is None and cell.cell_type=='markdown':
            for mark in '#>': src = re.sub(rf'^{mark}\s.*$', '', src, count=1, flags=re.M)
            cell.source = src.strip() or None

def process():
    "Run nbdev over nbs/, in this process: it sees our changes, and imports torch only once"
    showdoc.BasicMarkdownRenderer, processors.FrontmatterProc = ShowDoc, Title
    names = processors._def_names
    processors._def_names = lambda *args: names(*args)[::-1] # nbdev puts the last definition of a cell first
    return proc_nbs('nbs', force=True, n_workers=0)

# smalldocs: from notebooks to pages

def page_name(nb): return nbpath2html(nb).stem # `02_core.ipynb` is `core`, as nbdev's links have it

def config():
    "`_quarto.yml`, with the pages' new names"
    txt = (nbs/'_quarto.yml').read_text()
    missing = [n for n in re.findall(r'[\w-]+\.ipynb', txt) if not (nbs/n).exists()]
    if missing and not skip: sys.exit(f'nbs/ lacks {", ".join(missing)}: in _quarto.yml (DOCS_PARTIAL=1 skips)')
    txt = '\n'.join(o for o in txt.splitlines() if not any(n in o for n in missing))
    return yaml.safe_load(re.sub(r'[\w-]+\.ipynb', lambda m: f'{page_name(m[0])}.ipynb', txt))

def fix_outputs(nb, page, dst):
    "Pictures go to files, as wide as the notebook has them (retina plots hold twice the pixels); no styles in tables"
    n = 0
    for cell in nb['cells']:
        outs = [o for o in cell.get('outputs', []) if o.get('name')!='stderr'] # warnings name files of this machine
        for o in outs:
            if 'text' in o: o['text'] = re.sub(r'[^\n]*\r(?!\n)', '', ''.join(o['text'])) # what a progress bar leaves
        if cell['cell_type']=='code': cell['outputs'] = [o for o in outs if o.get('text')!='']
        outs = [o for o in outs if 'data' in o]
        for d in [o['data'] for o in outs if 'text/html' in o['data']]:
            d['text/html'] = re.sub(r'(?s)<style.*?</style>\s*| border="1"', '', ''.join(d['text/html']))
        for i,o in enumerate(o for o in outs if 'image/png' in o['data'] and 'text/html' not in o['data']):
            n += 1
            img = dst/f'{page}_files'/f'{n}.png'
            img.parent.mkdir(exist_ok=True)
            img.write_bytes(base64.b64decode(''.join(o['data']['image/png'])))
            width = o['metadata'].get('image/png', {}).get('width')
            tag = f'<img src="{page}_files/{n}.png"' + (f' width="{width}">' if width else '>')
            o['data'] = {'text/html': figure(tag, cell_options(source(cell))[0], i)}

def stage(proc, src):
    "Copy `_proc/` to `src` for smalldocs: notebooks and links to them renamed, outputs fixed"
    shutil.copytree(proc, src, ignore=shutil.ignore_patterns('*.ipynb'))
    for f in sorted(proc.glob('*.ipynb')):
        page = page_name(f)
        nb = json.loads(re.sub(r'(?<=\]\()[\w-]+\.ipynb', lambda m: f'{page_name(m[0])}.html', f.read_text()))
        fix_outputs(nb, page, src)
        (src/f'{page}.ipynb').write_text(json.dumps(nb))

def maths(m):
    "MathML, which browsers show by themselves"
    tex = html.unescape(m[2])
    try: res = convert(tex, display='inline' if m[1]=='inline' else 'block')
    except Exception as e: sys.exit(f'latex2mathml cannot read {tex}: {e!r}')
    return res if '\\' not in res else sys.exit(f'latex2mathml does not know a command in {tex}')

def offline(out):
    "Load nothing from elsewhere; and search on file://, where a page may load a script, but no JSON"
    for f in out.glob('*.html'):
        edit(f, r'<link[^>]*katex[^>]*>|<script[^>]*katex[^>]*></script>', '')
        edit(f, r'<span class="math (inline|display)">\\[([](.*?)\\[])]</span>', maths)
        edit(f, '</head>', '<script src="site_libs/search.js" defer></script></head>')
    for f in out.rglob('*.css'): edit(f, r'@import url\([^)]*\);?', '') # web fonts
    index = out/'search.json'
    (out/'site_libs'/'search.js').write_text(f'window.searchIndex = {index.read_text()}')
    index.unlink()
    fetch = r'const r = await fetch\([^)]*"search.json"\);\s*index = await r.json\(\);'
    n = edit(out/'site_libs'/'smalldocs.js', fetch, 'index = window.searchIndex;')
    if not n: sys.exit('smalldocs loads its search index in a new way: see offline() in .ci/docs.py')

def exact_links(out):
    "nbdev's anchors are lower case: `Top2` would lead to `top2`, `partners` to a section Partners. Find the heading"
    heads = {f.name: re.findall(r'<h3 id="([^"]+)"[^>]*>([\w.]+)</h3>', f.read_text()) for f in out.glob('*.html')}
    heads = {page: {name: i for i,name in ids} for page,ids in heads.items()}
    def link(m): return f'{m[1]}#{heads.get(m[1], {}).get(m[3], m[2])}"><code>{m[3]}<'
    for f in out.glob('*.html'): edit(f, r'(?<=href=")([\w-]+\.html)#([^"]*)"><code>([\w.]+)<', link)

def problems(out):
    "Links that lead nowhere, and what a page would load from elsewhere"
    txts = {f.name: f.read_text() for f in sorted([*out.glob('*.html'), *out.rglob('*.css')])}
    loads = re.compile(r'''<(?!a\s)\w[^>]*\s(?:src|href)="(?:https?:)?//[^"]*|(?:url\(|from )["']?https?:[^"')]*''')
    res = [f'{name} loads {m[0]}' for name,txt in txts.items() for m in loads.finditer(txt)]
    for name,txt in txts.items():
        for href in [] if skip else re.findall(r'\s(?:href|src)="([^":]+)"', txt):
            page,_,anchor = href.partition('#')
            here = (out/page).exists() or (nbs/page).exists() # ../benchmarks/ is the same from nbs/ as from docs/
            if not here or anchor and f' id="{anchor}"' not in txts.get(page or name, f' id="{anchor}"'):
                res.append(f'{name} links to {href}, which is not there')
    return res

def pages(src, out):
    "Write the site"
    cfg = config()
    cfg['project']['output-dir'] = str(out)
    (src/'_quarto.yml').write_text(yaml.safe_dump(cfg))
    warnings = site.build(src, quiet=True).warnings
    for w in warnings:
        if 'output-file' not in w and 'broken link' not in w: print(w, file=sys.stderr) # nbdev's; told by problems()
    for d in src.glob('*_files'): shutil.copytree(d, out/d.name)
    (out/'.nojekyll').touch() # or GitHub Pages would leave out some files
    offline(out)
    exact_links(out)
    if bad := problems(out): sys.exit('\n'.join(bad))

# README.md

def readme(src, out):
    "The index page for a git host: links go to notebooks and pictures to docs/, relative to the root"
    nb_of = {f'{page_name(f)}.html': f.name for f in nbs.glob('*.ipynb')}
    def link(href):
        path = href.partition('#')[0]
        if not path or re.match(r'\w+:', path): return href
        return posixpath.normpath('nbs/' + nb_of.get(path.lstrip('/'), path))
    txt = (src/'index.ipynb').read_text()
    body,files = llms.notebook(txt, {}, 'index', llms.Prose(link, {}), str)
    for k,v in files.items(): # SVG and attachments, which the page itself holds
        (out/'docs'/k).parent.mkdir(exist_ok=True)
        (out/'docs'/k).write_bytes(v)
    body = re.sub(r'(?<=\]\()/[\w-]+\.html[^)]*', lambda m: link(m[0]), body) # links in outputs
    body = re.sub(r'(src="|\]\()(index_files/)', r'\1docs/\2', body)
    front = split_front_matter(source(json.loads(txt)['cells'][0]))[0]
    (out/'README.md').write_text(llms.page_markdown(front['title'], f"> {front['description']}", body))

def build(out):
    config() # fails before the slow part
    proc = process()
    with tempfile.TemporaryDirectory() as tmp:
        src,new = Path(tmp)/'src',Path(tmp)/'new'
        stage(proc, src)
        pages(src, new/'docs')
        readme(src, new)
        shutil.rmtree(out/'docs', ignore_errors=True) # also pages that are no more
        shutil.copytree(new, out, dirs_exist_ok=True)

def contents(d):
    files = [d/'README.md', *(d/'docs').rglob('*')]
    return {f.relative_to(d).as_posix(): f.read_bytes() for f in files if f.is_file()}

def check():
    with tempfile.TemporaryDirectory() as tmp:
        build(Path(tmp))
        new,old = contents(Path(tmp)),contents(root)
    bad = sorted(k for k in new|old if new.get(k)!=old.get(k))
    if bad: sys.exit('\n'.join(['docs: not what the notebooks give (run `make docs`):', *bad]))
    print('docs: in step')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--out', type=Path, default=root, help='where to write docs/ and README.md')
    p.add_argument('--check', action='store_true', help='write nothing; fail where docs/ or README.md is out of step')
    args = p.parse_args()
    out = args.out.resolve()
    os.chdir(root) # where nbdev looks for its settings
    sys.path.insert(0, str(root)) # document this checkout, whatever is installed
    check() if args.check else build(out)
