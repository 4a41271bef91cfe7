"Tables, plots and CLAIMS.md, all of them from the JSON lines"
import os
from pathlib import Path
import numpy as np, pandas as pd
from . import results, runs, verdicts
from .verdicts import FAILS, HOLDS, NONE, OPEN, frame

titles = dict(
    table1='Table 1: fine-tuning on single images', fig4='Figure 4: two heads', fig5='Figure 5: λ on images or on labels only',
    fig5_batch='Figure 5 with one λ per batch', fig2='Figure 2: additive against concatenated',
    fig6='Figure 6: random labels on one slot', fig1='Figure 1: accuracy under mixing, over R',
    gradient='Rules of the same expected gradient', slots='What one trunk can carry', speed='Images per second',
    calibration='Calibration', recipe='The best recipe for single images')
controls = dict(
    table1='ERM, and ERM with the same extra epochs. The order of mixup-L, and so its mixed top-1, is chance: both images are '
           'equally strong',
    fig4='confusion: what the errors over C-1 classes give by themselves',
    fig5='figure 4: the same network without λ (but judged on unscaled images, and with twice the weight on the losses)',
    fig5_batch='figure 4: the same network without λ',
    fig2='the same λ in both; a mixture of one class twice is never counted, so the best possible is 1-1/C = 90%',
    fig6='the same network with both labels true, which is that of figure 4; and ERM',
    fig1='Top2All, which does not ask for the order: where it does not grow with Top2, the order has become visible, and nothing else. The '
         'ceilings: .95 where λ_x tells the order and .5 where it is ½',
    gradient='one another', slots='N = 1, which is ERM', speed='N = 1', calibration='ERM before and after',
    recipe='ERM with the same weight decay and epochs')

# Rows of each table; its columns, each with a figure of the runs
seen = (('train','train_'), ('test',''))
both_heads = [(f'{w}, head {i}', f'{k}head_{i}') for w,k in seen for i in (0,1)]
def twice(**cols): return [(f'{w}, {nm}', k+c) for w,k in seen for nm,c in cols.items()]
tables = dict(
    table1=(['net'], [('original','single_acc'), ('fine-tuned','tuned_acc'), ('gain','gain'), ('on pairs, head 0','head_0'),
                      ('on pairs, head 1','head_1'), ('top-1, mixed','top1')]),
    fig4=(['net'], both_heads + [(f'head {i} names slot {1-i}', f'confused_{i}') for i in (0,1)]
                              + [(f'by chance, head {i}', f'chance_{i}') for i in (0,1)]),
    fig5=(['what','seed'], both_heads + [('winner','winner')]),
    fig2=(['net'], twice(**{'top-1':'top1', 'Top2':'top2', 'both, any order':'both'})),
    fig6=(['net'], both_heads + [('single image','single_acc')]),
    fig1=(['net','r'], twice(Top2='top2', Top2All='top2_all')),
    gradient=(['net'], [('original','single_acc'), ('fine-tuned','tuned_acc'), ('test Top2All','top2_all')]),
    slots=(['n'], [('mean of the slots','slot_acc'), ('best slot','best_slot'), ('worst slot','worst_slot'),
                   ('same image in every slot','single_acc')]),
    calibration=(['net'], [(f'{nm} {w}', f'{k}_{c}') for w,k in (('before','single'), ('after','tuned'))
                           for nm,c in (('accuracy','acc'), ('ECE','ece'), ('Brier','brier'))]),
    recipe=(['net','evaluate'], [('single-image accuracy','final')]))
tables['fig5_batch'] = tables['fig5']

def derived(df):
    "`df` with the figures that follow from others"
    df,has = df.copy(),lambda *cs: all(c in df for c in cs)
    if has('tuned_acc'): df['gain'] = df.tuned_acc-df.single_acc
    if has('single_acc'): df['final'] = df.get('tuned_acc', df.single_acc).combine_first(df.single_acc)
    for i in (0,1):
        if has(f'wrong_{i}'): df[f'chance_{i}'] = df[f'wrong_{i}']/(verdicts.n_classes-1)
    hs = [c for c in df if c.startswith('head_')]
    if has('n','single_acc'): # one slot has no `head_0`
        for k,f in dict(slot_acc='mean', best_slot='max', worst_slot='min').items():
            df[k] = df[hs].agg(f, axis=1).combine_first(df.single_acc.where(df.n==1))
    if has('what','head_0','head_1'):
        w = {(o,seed):h for o in df.what.unique() for seed,h in verdicts.winners(df, o).items()}
        df['winner'] = [w.get((o,seed)) for o,seed in zip(df.what, df.seed)]
    return df

def cell(x, col):
    "Mean ± standard deviation over the seeds, in percent but for Brier scores"
    x = x.dropna()
    if not len(x): return ''
    if col=='winner': return {-1:'neither'}.get(int(x.iloc[0]), f'head {int(x.iloc[0])}')
    k,d = (1,3) if 'brier' in col else (100,1)
    return f'{k*x.mean():.{d}f}' + (f' ± {k*x.std():.{d}f}' if len(x)>1 else '')

def table(
    claim:str, # One of `runs.claims`
    scale:str, # One of `runs.scales`
    done:dict # Finished runs, by their keys
)->pd.DataFrame: # A row per network; 'not run' where nothing is there
    "The figures of a claim, mean ± standard deviation over seeds, in percent"
    if claim=='speed': return speed_table(scale, done)
    by,cols = tables[claim]
    df = derived(frame(claim, scale, done))
    rows = []
    for tags,d in df.groupby(by, sort=False):
        lost = f', {d.diverged.sum()} diverged' if d.diverged.any() else ''
        row = {**dict(zip(by, tags)), 'runs': f'{(d.run & ~d.diverged).sum()} of {len(d)}{lost}' if d.run.any() else NONE}
        rows.append({**row, **{nm: cell(d[c], c) if c in d else '' for nm,c in cols}})
    res = pd.DataFrame(rows)
    return res[[c for c in res if c in by+['runs'] or (res[c]!='').any()]]

def speed_table(scale, done):
    (_,s), = runs.speed(scale)
    line = done.get(runs.key(s))
    if line is None: return pd.DataFrame([dict(runs=NONE)])
    f = line['figures']
    device = f"{line['device']}, {line['threads']} threads"
    rows = []
    for n in s['ns']:
        per_s,ratio = f[f'images_per_s_{n}'],f[f'ratio_{n}']
        rows.append({'n':n, 'images/s':f'{per_s:.0f}', 'times N=1':f'{ratio:.2f}',
                     'images in flight':f['images'], 'device':device})
    return pd.DataFrame(rows)

def measured(x):
    "The numbers of a verdict in words, in points"
    if not len(x): return ''
    if pd.api.types.is_integer_dtype(x): # which head won
        return ', '.join(f'{ {-1:"neither"}.get(k, f"head {k}")} in {n}' for k,n in x.value_counts().items())
    return f'{100*x.mean():+.1f}' + (f' ± {100*x.std():.1f}' if len(x)>1 else '') + f' ({len(x)} seed{"s"*(len(x)>1)})'

def judged(
    claim:str, # One of `runs.claims`
    done:dict # For each scale its finished runs, by their keys
)->pd.DataFrame: # A row per statement
    "The verdicts on a claim, with the rules, which were written before the runs"
    dfs,rows = {sc: frame(claim, sc, d) for sc,d in done.items()},[]
    dfs = {sc:df for sc,df in dfs.items() if df.run.any()} or {'cpu':dfs['cpu']} # no columns for a scale without runs
    for r in verdicts.rules:
        if r['claim']!=claim: continue
        row = {'claim':r['says'], 'paper':r['paper'], 'rule':r['text']}
        for sc,df in dfs.items():
            v,x = verdicts.verdict(r, df, sc)
            lost = f' ({df.diverged.sum()} runs of this figure diverged)' if df.diverged.any() else ''
            row.update({f'{sc}: measured':measured(x), f'{sc}: verdict':v+lost})
        rows.append(row)
    return pd.DataFrame(rows)

def md(df):
    "`df` as a Markdown table"
    if not len(df): return ''
    def line(cells): return '| '+' | '.join(str(c).replace('|', '/') for c in cells)+' |'
    rows = [line(row) for row in df.itertuples(index=False)]
    return '\n'.join([line(df.columns), line(['---']*df.shape[1]), *rows])

def ran(claim, scale, done):
    "Whether any run of the claim is there"
    return frame(claim, scale, done).run.any()

def not_run(
    claim:str, # One of `runs.claims`
    done:dict # For each scale its finished runs, by their keys
)->str: # Empty where every scale has a run
    "The scales at which no run of the claim is there, in words"
    scales = [f'`{sc}`' for sc,d in done.items() if not ran(claim, sc, d)]
    return f"Not run yet: scale {', '.join(scales)}." if scales else ''

def at_scale(claim, scale, done):
    "The table of a claim under its heading"
    if not ran(claim, scale, done): return ''
    return f'Scale `{scale}`:\n\n{md(table(claim, scale, done))}'

def where(done):
    "Machines, code and libraries behind the runs"
    if not done: return NONE
    one = lambda f: ', '.join(sorted({f(d) for d in done.values()}))
    commits = one(lambda d: (d['code']['commit'] or 'no commit')[:7] + (' (changed)' if d['code']['dirty'] else ''))
    libs = one(lambda d: f"PyTorch {d['libraries']['torch']}, fastai {d['libraries']['fastai']}")
    def how_computed(d):
        precision = d.get('precision', '')
        return f'{precision}, compiled' if d.get('compile', False) else precision
    how = one(how_computed).removeprefix(', ')
    return f"{len(done)} of its runs, on {one(lambda d: d['device'])}; {how}; code {commits}; {libs}"

def counted(sc, done):
    "How many claims came to each verdict at a scale"
    vs = pd.Series([verdicts.verdict(r, frame(r['claim'], sc, done), sc)[0] for r in verdicts.rules]).value_counts()
    return 'Of {} claims: {}'.format(len(verdicts.rules), ', '.join(f'{v} {vs[v]}' for v in (HOLDS,FAILS,OPEN,NONE) if v in vs))

def load(
    folder=results.default_folder # Of the JSON lines
)->dict: # For each scale that can decide, the largest first, its finished runs by their keys
    "What was run so far"
    return {sc: results.read(Path(folder)/f'{sc}.jsonl') for sc in ('paper','mid','cpu')}

about = """Accuracies are of the last epoch, in percent, mean ± standard deviation over seeds. CIFAR-10 is a JPEG-coded copy in
fastai's layout, so expect them a little under those of the original pixels. Training accuracies are those of the batches as
they were trained on. No setting was chosen by test images. Scale `paper` is the paper's training. Scale `mid` has its epochs and
schedule, a ResNet-20 and a fifth of the images, which ERM fits. Scale `cpu` is a short training of few images: see how low the
training accuracies still are. Its verdicts are about such a training, and need not be those of the paper's."""

def text(
    folder # Of the JSON lines
)->str: # Markdown
    "All claims at the scales that can decide about them"
    done = load(folder)
    out = ['# Claims', '*Written by `fastmix-paper report` from `results/*.jsonl`; not to be edited.*', verdicts.__doc__, about]
    for sc,d in done.items():
        s = ', '.join(f'{k} {v}' for k,v in runs.scales[sc].items())
        out.append(f'**Scale `{sc}`**: {s}; {runs.n_seeds[sc]} seeds, {runs.n_seeds5[sc]} for figure 5. {where(d)}. '
                   f'`fastmix-paper all --scale {sc}`' + (f'\n\n{counted(sc, d)}.' if d else ''))
    for c in runs.claims:
        out += [f'## {titles[c]}', f'`fastmix-paper {c} --scale …`. Control: {controls[c]}.', md(judged(c, done))]
        out += [at_scale(c, sc, d) for sc,d in done.items()] + [not_run(c, done)]
    return '\n\n'.join(o for o in out if o)+'\n'

def show(
    claim:str, # One of `runs.claims`
    done:dict # From `load`
):
    "Verdicts and figures of a claim, for a notebook"
    from IPython.display import Markdown
    parts = [md(judged(claim, done)), *[at_scale(claim, sc, d) for sc,d in done.items()]]
    parts += [not_run(claim, done), f'Control: {controls[claim]}.']
    return Markdown('\n\n'.join(filter(None, parts)))

def write(
    folder # Of the JSON lines
):
    "Write CLAIMS.md, beside the results of a checkout, else among them"
    folder = Path(folder)
    path = (folder.parent if folder==results.default_folder and results.source else folder)/'CLAIMS.md'
    tmp = path.with_suffix(f'.{os.getpid()}.tmp')
    tmp.write_text(text(folder), encoding='utf-8')
    os.replace(tmp, path)
    print(path)
