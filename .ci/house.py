"How the package reads: fails where lines, rooms or cells outgrow the limits that are named here"
import ast, io, json, re, sys, tokenize
from pathlib import Path

root = Path(__file__).resolve().parents[1]
limits = dict(lines=1900, room=260, widest=100, width_90=90, cell=25)

def counted(path):
    "Code lines of a module, without docstrings, comments and blank lines; a signature is one line"
    text = path.read_text()
    skip = set()
    for n in ast.walk(ast.parse(text)):
        documented = isinstance(n, (ast.FunctionDef,ast.ClassDef,ast.Module))
        if documented and ast.get_docstring(n) is not None:
            skip.update(range(n.body[0].lineno, n.body[0].end_lineno+1))
        if isinstance(n, ast.FunctionDef): skip.update(range(n.lineno+1, n.body[0].lineno))
    lines = [(i,l) for i,l in enumerate(text.splitlines(), 1)
             if l.strip() and not l.lstrip().startswith('#')]
    return sum(i not in skip for i,_ in lines),[len(l) for _,l in lines]

def export_cells():
    for nb in sorted((root/'nbs').glob('*.ipynb')):
        for c in json.loads(nb.read_text())['cells']:
            source = ''.join(c['source'])
            exported = re.search(r'^#\|\s*export', source, re.M)
            if c['cell_type']=='code' and exported: yield nb.name,source.count('\n')-1

def statements():
    "Lines that hold two statements"
    for f in modules:
        for t in tokenize.generate_tokens(io.StringIO(f.read_text()).readline):
            if t.type==tokenize.OP and t.string==';': yield f'{f.name}:{t.start[0]}'

modules = [f for f in sorted((root/'fastmix').glob('*.py')) if f.name!='_modidx.py']
rooms = {f.stem: counted(f) for f in modules}
widths = sorted(w for _,ws in rooms.values() for w in ws)
largest = max(rooms, key=lambda r: rooms[r][0])
cell = max(export_cells(), key=lambda o: o[1])
found = dict(lines=sum(n for n,_ in rooms.values()), room=rooms[largest][0], widest=widths[-1],
             width_90=widths[int(.9*len(widths))], cell=cell[1])
sizes = ', '.join(f'{k} {v} (at most {limits[k]})' for k,v in found.items())
print(f'{sizes}; largest room {largest}, longest cell in {cell[0]}')
bad = [k for k in limits if found[k]>limits[k]] + list(statements())
if bad: sys.exit(f"too large: {', '.join(bad)}")
