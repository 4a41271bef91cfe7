"What the page of benchmarks shows of the results files"
from pathlib import Path
import matplotlib.pyplot as plt, pandas as pd
from experiments.report import md
from . import results

columns = 'benchmark','against','ours','theirs','ratio','asked'

def load(
    folder=results.folder
)->list: # Contents of the results files
    "What was measured, a machine each, the latest first"
    files = sorted(Path(folder).glob('*.json'))
    return sorted(map(results.read, files), key=lambda d: d['machine']['date'], reverse=True)

def machine(
    d:dict # Content of a results file
)->str:
    "The machine in words"
    m = d['machine']
    libraries = ', '.join(f'{k} {v}' for k,v in m['libraries'].items() if v)
    gpu = 'GPU: not measured' if m['device']=='CPU' else m['device']
    return (f"{m['processor']}, {m['cores']} cores, {m['threads']} threads; {gpu}; "
            f"Python {m['python']}, {libraries}; {m['date']}")

def _figure(x): return f'{x:,.0f}' if abs(x)>=100 else f'{x:.3g}'

def _cells(r):
    cells = {'benchmark': r['name'], 'against': r['against']}
    if 'missing' in r: return {**cells, 'ratio': r['missing']}
    ratio,low,high = (_figure(r[k]) for k in ('ratio','low','high'))
    asked = '' if r['asked'] is None else f"at {'most' if r['lower'] else 'least'} {r['asked']:g}"
    reached = {True: ': yes', False: ': no', None: ''}[results.reached(r)]
    return {**cells, 'ours': f"{_figure(r['ours'])} {r['unit']}",
            'theirs': f"{_figure(r['theirs'])} {r['unit']}", 'ratio': f'{ratio} ({low} to {high})',
            'asked': asked+reached}

def table(
    d:dict # Content of a results file
)->pd.DataFrame:
    "A row for each comparison: medians, and the middle half of the ratios"
    return pd.DataFrame(map(_cells, d['rows']), columns=columns).fillna('')

def text(
    d:dict # Content of a results file
)->str: # Markdown
    "The comparisons of a machine, those of one benchmark together"
    parts = [f'**{machine(d)}**']
    for name,rows in table(d).groupby('benchmark', sort=False):
        rows = rows.drop(columns='benchmark')
        parts += [f'*{name}*', md(rows.loc[:,(rows!='').any()])]
    return '\n\n'.join(parts)

def tables(
    done:list # From `load`
):
    "The comparisons of each machine, for a notebook"
    from IPython.display import Markdown
    return Markdown('\n\n'.join(map(text, done)) or 'not measured yet')

def bars(
    d:dict # Content of a results file
):
    "The ratios as bars with their middle half, and marks for what was asked"
    rows = [r for r in d['rows'] if 'missing' not in r and r['low']>0]
    fig,ax = plt.subplots(figsize=(7, .6+.45*len(rows)), layout='constrained')
    above = dict(xycoords=('axes fraction','data'), size=8.5, va='center')
    for i,r in enumerate(rows):
        err = [[r['ratio']-r['low']],[r['high']-r['ratio']]]
        ax.barh(i, r['ratio'], .4, xerr=err, color='C1' if r['lower'] else 'C0', alpha=.7)
        ax.annotate(f"{r['name']} / {r['against']}", (.01,i-.42), **above)
        if r['asked']: ax.plot([r['asked']]*2, [i-.25,i+.25], color='k')
    ax.axvline(1, color='gray', lw=1, ls=':')
    ax.set(xscale='log', xlabel='ours to theirs', yticks=[], ylim=(len(rows)-.5,-.7))
    ax.xaxis.set_major_formatter('{x:g}')
    ax.set_title(machine(d).split(';')[0], fontsize=9)
