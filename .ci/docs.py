"Builds docs/ and README.md from nbs/, with neither Quarto nor network"
import argparse, base64, html, json, os, posixpath, re, shutil, sys, tempfile, yaml
from configparser import ConfigParser
from functools import partial
from inspect import formatannotation
from pathlib import Path
from types import FunctionType
from fastcore.docments import DocmentTbl, MarkdownRenderer, empty
from latex2mathml.converter import convert
from nbdev import processors, showdoc
from nbdev.config import nbpath2html
from nbdev.serve import proc_nbs
from smalldocs import llms, markdown, site
from smalldocs.notebook import cell_options, figure, source, split_front_matter

root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
paper = 'https://doi.org/10.1145/3231884.3231896'

def edit(f, pat, new):
    "Replace `pat` in the file `f`"
    f.write_text(re.sub(pat, new, f.read_text(), flags=re.S))

# nbdev: runs show_doc, resolves links, hides cells; into _proc/

def type_name(t):
    "Without its modules, which are for machines; nothing for what fastcore guesses from a default"
    if t in (empty, type(None), FunctionType, partial): return empty
    return re.sub(r'(?:\w+\.)+(?=\w)', '', t if isinstance(t, str) else formatannotation(t))

def passed_on(sym):
    "The function that takes what `sym` does not declare, and the names of what it declares"
    f = sym.__init__ if isinstance(sym, type) else getattr(sym, '__func__', sym)
    if (getattr(f, '__module__', None) or '').startswith('fastai'): return f.__qualname__,()
    to = getattr(f, '__delwrap__', None)
    if to is None: return None,()
    code = f.__code__
    return to.__qualname__,code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]

class ShowDoc(MarkdownRenderer):
    "Heading, signature, docstring, and the table of parameters that nbdev 3 no longer makes"
    def table(self):
        tbl = DocmentTbl(self.sym)
        for p in tbl.dm.values():
            p['anno'],d = type_name(p['anno']),p['default']
            if d is not empty: p['default'] = f"`{getattr(d, '__name__', None) or repr(d)}`"
        told = [o for o in tbl.params if tbl.dm[o]['docment'] is not empty] # others: the signature
        to,own = passed_on(self.sym)
        tbl.params = [o for o in told if not to or o in own]
        res = str(tbl)
        tbl.params,tbl.returns = [o for o in told if o not in tbl.params],False
        if tbl.params:
            res += f'\n\n<details><summary>Parameters of {to}</summary>\n\n{tbl}\n\n</details>'
        return res.replace(r'\^', '^') # fastcore escapes it, also in code and in maths

    def _repr_markdown_(self):
        sig,table = self.dm,self.table()
        for p in sig.dm.values():
            p['anno'] = type_name(p['anno'])
            if table: p['docment'] = None # the table has them
        sig.maxline = 60
        sig = re.sub(r'\(\n    (.{,75})\n\)', r'(\1)', str(sig))
        sig = sig.removesuffix(':').removesuffix('->None')
        if isinstance(self.sym, type): sig = sig.replace('def ', 'class ', 1)
        parts = [f'{"#"*self.title_level} {self.nm}', f'```python\n{sig}\n```', self.docs, table]
        res = '\n\n'.join(filter(None, parts))
        inner = r"<(?:class|function) '?(?:\w+\.)*(\w+).*?>|functools\.(?=partial)" # in defaults
        return re.sub(r' at 0x[0-9a-f]+', '', re.sub(inner, r'\1', res)) # other in each run

class Title(processors.FrontmatterProc):
    "Keeps the text under the title and the subtitle, which nbdev drops where it is in their cell"
    def _update(self, f, cell):
        src = cell.source
        super()._update(f, cell)
        if cell.source is None and cell.cell_type=='markdown':
            for mark in '#>': src = re.sub(rf'^{mark}\s.*$', '', src, count=1, flags=re.M)
            cell.source = src.strip() or None

def process():
    "Run nbdev over nbs/, in this process: it sees our changes, and imports torch only once"
    showdoc.BasicMarkdownRenderer, processors.FrontmatterProc = ShowDoc, Title
    names = processors._def_names # nbdev puts the last definition of a cell first
    processors._def_names = lambda *args: names(*args)[::-1]
    return proc_nbs('nbs', force=True, n_workers=0)

# smalldocs: from notebooks to pages

def page_name(nb): return nbpath2html(nb).stem # `02_core.ipynb` is `core`, as nbdev's links have it

def info():
    "What settings.ini says, and the package's version"
    cfg = ConfigParser(delimiters='=')
    cfg.read(root/'settings.ini')
    version = re.search(r'__version__ = "(.+)"', (root/'fastmix'/'__init__.py').read_text())[1]
    return dict(cfg['DEFAULT'], version=version)

def config():
    "`_quarto.yml`, with the pages' new names, and what settings.ini knows"
    txt = (nbs/'_quarto.yml').read_text()
    cfg = yaml.safe_load(re.sub(r'[\w-]+\.ipynb', lambda m: f'{page_name(m[0])}.ipynb', txt))
    web,i = cfg['website'],info()
    web['page-footer']['left'] = f"{i['lib_name']} {i['version']} · {i['license']}"
    tool = {'icon': 'github', 'href': i['git_url'], 'text': 'Source code'}
    if i['git_url']: web['navbar']['tools'] = [tool]
    return cfg

def page_links(nb):
    "Links to the notebook of a page and to the paper; to source and Colab if `git_url` is set"
    url,colab = info()['git_url'].rstrip('/'),'https://colab.research.google.com/github/'
    links = {'Notebook': f'../nbs/{nb}'}
    if url: links = {'View source': f'{url}/blob/main/nbs/{nb}'}
    if 'github.com/' in url:
        links['Open in Colab'] = re.sub('https://github.com/', colab, links['View source'])
    links = [f'<a href="{href}">{text}</a>' for text,href in {**links, 'Paper': paper}.items()]
    return f'<p class="page-links">{" · ".join(links)}</p>'

def heading(cell):
    "The last one in a cell of text, or in what show_doc wrote"
    outs = [''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', [])]
    txt = source(cell) if cell['cell_type']=='markdown' else '\n'.join(outs)
    heads = re.findall(r'^##+ +(.+?)(?: *\{.*\})? *$', txt, flags=re.M)
    return re.sub(r'[`*]|\]\(.*?\)|\[', '', heads[-1]) if heads else None

def fix_outputs(nb, page, dst):
    "Pictures go to files, with a caption, as wide as the notebook has them; tables without styles"
    n,head = 0,split_front_matter(source(nb['cells'][0]))[0].get('title', page)
    for cell in nb['cells']:
        head = heading(cell) or head
        # warnings name files of this machine
        outs = [o for o in cell.get('outputs', []) if o.get('name')!='stderr']
        for o in outs: # without what a progress bar leaves
            bar = r'[^\n]*\r(?!\n)| +(?=\n)'
            if 'text' in o: o['text'] = re.sub(bar, '', ''.join(o['text']))
        if cell['cell_type']=='code': cell['outputs'] = [o for o in outs if o.get('text')!='']
        outs = [o for o in outs if 'data' in o]
        for d in [o['data'] for o in outs if 'text/html' in o['data']]:
            styles = r'(?s)<style.*?</style>\s*| border="1"'
            d['text/html'] = re.sub(styles, '', ''.join(d['text/html']))
        pics = [o for o in outs if 'image/png' in o['data'] and 'text/html' not in o['data']]
        for i,o in enumerate(pics):
            n += 1
            img = dst/f'{page}_files'/f'{n}.png'
            img.parent.mkdir(exist_ok=True)
            img.write_bytes(base64.b64decode(''.join(o['data']['image/png'])))
            # Retina: half of its pixels. With its height, nothing moves when the picture arrives
            size = o['metadata'].get('image/png', {})
            size = ''.join(f' {k}="{size[k]}"' for k in ('width','height') if k in size)
            tag = f'<img src="{page}_files/{n}.png"{size}>'
            opts = {'fig-cap': head, **cell_options(source(cell))[0]}
            cap = opts['fig-cap']
            opts.setdefault('fig-alt', cap if isinstance(cap, str) else cap[i])
            o['data'] = {'text/html': figure(tag, opts, i)}

def stage(proc, src):
    "Copy `_proc/` to `src` for smalldocs: notebooks and links to them renamed, outputs fixed"
    shutil.copytree(proc, src, ignore=shutil.ignore_patterns('*.ipynb'))
    for f in sorted(proc.glob('*.ipynb')):
        def link(m): return f'{page_name(m[0])}.html'
        nb = json.loads(re.sub(r'(?<=\]\()[\w-]+\.ipynb', link, f.read_text()))
        fix_outputs(nb, page_name(f), src)
        (src/f'{page_name(f)}.ipynb').write_text(json.dumps(nb))

def maths(tex, opts):
    "MathML, which browsers show by themselves"
    res = convert(tex, display='block' if opts else 'inline')
    if '\\' in res: sys.exit(f'latex2mathml does not know a command in {tex}')
    return res

def finish(out):
    "Load nothing from elsewhere; search on file:// too, where a page may load no JSON; page links"
    for nb in nbs.glob('*.ipynb'):
        f = out/f'{page_name(nb)}.html'
        edit(f, r'<link[^>]*katex[^>]*>|<script[^>]*katex[^>]*></script>', '')
        edit(f, '</head>', '<script src="site_libs/search.js"></script></head>')
        edit(f, r'(id="title-block-header".*?)(?=</header>)', rf'\1{page_links(nb.name)}')
    for f in out.rglob('*.css'): edit(f, r'@import url\([^)]*\);?', '') # web fonts
    index = (out/'search.json').read_text() # all that smalldocs ever fetches
    js = f'const searchIndex = {index}\nwindow.fetch = async () => ({{json: () => searchIndex}})\n'
    (out/'site_libs'/'search.js').write_text(js)
    (out/'search.json').unlink()

def exact_links(out):
    "nbdev's anchors are lower case: `Top2` would lead to `top2`. Find the heading"
    pat = r'<h3 id="([^"]+)"[^>]*>([\w.]+)</h3>'
    heads = {f.name: re.findall(pat, f.read_text()) for f in out.glob('*.html')}
    heads = {page: {name: i for i,name in ids} for page,ids in heads.items()}
    def link(m): return f'{m[1]}#{heads.get(m[1], {}).get(m[3], m[2])}"><code>{m[3]}<'
    for f in out.glob('*.html'):
        edit(f, r'(?<=href=")([\w-]+\.html)#([^"]*)"><code>([\w.]+)<', link)

def pages(src, out):
    "Write the site"
    cfg = config()
    cfg['project']['output-dir'] = str(out)
    (src/'_quarto.yml').write_text(yaml.safe_dump(cfg))
    markdown.math_renderer = maths
    for w in site.build(src, quiet=True).warnings: # nbdev's; told by test_site
        if 'output-file' not in w and 'broken link' not in w: print(w, file=sys.stderr)
    for d in src.glob('*_files'): shutil.copytree(d, out/d.name)
    (out/'.nojekyll').touch() # or GitHub Pages would leave out some files
    finish(out)
    exact_links(out)

# README.md

def readme(src, out):
    "The index page for a git host: links go to notebooks and pictures, relative to the root"
    nb_of = {f'{page_name(f)}.html': f.name for f in nbs.glob('*.ipynb')}
    def link(href):
        path = href.partition('#')[0]
        if not path or re.match(r'\w+:', path): return href
        return posixpath.normpath('nbs/' + nb_of.get(path.lstrip('/'), path))
    txt = (src/'index.ipynb').read_text()
    body,_ = llms.notebook(txt, {}, 'index', llms.Prose(link, {}), str)
    body = re.sub(r'(?<=\]\()/[\w-]+\.html[^)]*', lambda m: link(m[0]), body) # links in outputs
    body = re.sub(r'(src="|\]\()(index_files/)', r'\1docs/\2', body)
    front = split_front_matter(source(json.loads(txt)['cells'][0]))[0]
    txt = llms.page_markdown(front['title'], f"> {front['description']}", body)
    (out/'README.md').write_text(txt)

def build(out):
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
    if bad: sys.exit('\n'.join(['docs: not what nbs/ gives (run `make docs`):', *bad]))
    print('docs: in step')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--out', type=Path, default=root, help='where to write docs/ and README.md')
    p.add_argument('--check', action='store_true', help='write nothing; fail if out of step')
    args = p.parse_args()
    out = args.out.resolve()
    os.chdir(root) # where nbdev looks for its settings
    sys.path.insert(0, str(root)) # document this checkout, whatever is installed
    check() if args.check else build(out)
