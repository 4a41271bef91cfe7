"Tables, plots and CLAIMS.md, all of them from the JSON lines"
import os
from pathlib import Path
import numpy as np, pandas as pd
from . import results, runs, verdicts
from .verdicts import FAILS, HOLDS, NONE, OPEN, PAPER, frame

titles = dict(
    table1='Table 1: fine-tuning on single images', fig4='Figure 4: two heads', fig5='Figure 5: λ on images or on labels only',
    fig5_batch='Figure 5 with one λ per batch', fig2='Figure 2: additive against concatenated',
    fig6='Figure 6: random labels on one slot', fig1='Figure 1: accuracy under mixing, over R',
    gradient='Rules of the same expected gradient', slots='What one trunk can carry', speed='Images per second',
    calibration='Calibration', recipe='The best recipe for single images',
    throughput='Accuracy against images per second', two_heads='What helps two heads')
controls = dict(
    table1='ERM (training without mixing), and ERM with the same extra epochs; in each epoch a network of two slots sees every image '
           'twice, cropped in two ways. For mixup-L both images are equally strong, so '
           'which comes first, and its top-1 on mixtures, is chance',
    fig4='for the confusion, a ninth of the errors, which is chance',
    fig5='the network of figure 4, without λ; its test images are not scaled, and its losses have twice the weight',
    fig5_batch='the network of figure 4, without λ',
    fig2='both networks get the same λ; a mixture of one class with itself never counts, so the ceiling is 90%; in '
         'training it is 88.6% for the additive network, whose partners come from the same batch of 64',
    fig6='the same network with both labels true, which is that of figure 4; and ERM',
    fig1='Top2All, which does not ask for the order. If it does not grow with Top2, only the order has become more visible. The ceiling '
         'of Top2 is 95%, and 50% where λ_x is ½',
    gradient='the other rule with the same expected gradient', slots='N = 1, which is ERM', speed='N = 1', calibration='ERM before and after',
    recipe='the best of ERM with the same weight decay and epochs',
    throughput='the single networks. All are timed in turn in one process, forward passes alone, '
               'each at the fastest of some batch sizes (at scale `mid` 30 to 960 rows); they are judged before any fine-tuning',
    two_heads="the paper's mixup-C, and ERM. The cost of training is in multiples of mixup-C's: "
              "rows times the trunk's multiply-adds, without the fine-tuning")

# What was found, for readers in a hurry. `tests/test_experiments.py` holds the verdicts that these
# sentences speak of: when they change, the sentences must
findings = dict(
    table1='At scale `mid`, a long training of few images with three seeds, fine-tuning on single images raises L by 7.3, XL by 4.6, X by '
           '3.8, one-softmax C by 0.8 and mixup by 0.5 points. Afterwards one-softmax C is 1.0 point above ERM with the same epochs, and X, '
           'XL, L and two-headed C are 1.0 to 2.6 points below.\n\n'
           'ERM gains nothing by the fine-tuning, and the 0.6 points of two-headed C are not decided; nor are the 0.6 points of mixup above ERM. '
           'The order of the paper, X below L below C, does not show: L is the lowest '
           'before (69.6%, X 74.4, C 76.1), and X the highest after (78.2%, L 76.8, C 76.6). X, L and XL are not comparable to mixup, which '
           'is 4.9, 9.8 and 7.0 points better before, and 1.6 (not decided), 3.0 and 2.9 after. In a short training (scale `cpu`) mixing '
           'costs: fine-tuned networks end 4.8 to 16.6 points below ERM.',
    fig4="Each head learns to look at its own slot: at scale `mid` it names the other slot's class in 3.0% of the pairs, where errors "
         'at random would give 3.1%, and at scale `cpu` in 6.0%, where they would give 5.9%. Whether both heads are equally good is '
         'not decided: in the three runs of scale `mid` head 1 is 0.9 and 7.0 points better, and 14.6 points worse.',
    fig5="At scale `cpu` the paper's winner does not appear: in none of five seeds does a head stay near chance, whether λ weights the "
         'images or the losses. Both heads of every run end between 33 and 48%.\n\n'
         'In a long training one head can fall far behind without '
         'any λ ([What helps two heads](36_beyond.ipynb#what-helps-two-heads)).',
    fig5_batch='One λ for the whole batch makes no winner either. Both heads of every run end between 29 and 48%.',
    fig2='Whether two concatenated images are told apart better than two added ones is not decided: both classes are named for 17.0 '
         'and 16.4% of the test mixtures in a long training (scale `mid`), far from the 70% of the paper, and for 11.1 and 10.7% in a '
         'short one (scale `cpu`). On the mixtures of the training concatenation is ahead, by 1.6 and 1.2 points.',
    fig6='At scale `cpu` the head with random labels stays at chance (10.0%), as it must. The other head does far better than beside a '
         'second task (65.3 against 46.4%), and nearly as well as ERM (68.0%): two tasks compete for one trunk.',
    fig1='At scale `cpu`, Top2 on the mixtures of the training grows with R by 7.9 points for mixup and 4.2 for X. But Top2All, which does '
         'not ask for the order, does not grow on test mixtures with X, L and XL, nor clearly with mixup (0.5 points).\n\n'
         'So it may be the order alone that the networks see better, as a larger R makes the weights differ more. The 2.1 points of XL are '
         'not decided, and L, where the order of two equally strong images is chance, falls by 1.3 (its ceiling is 50%). On test mixtures XL '
         'grows by 2.7 points, and there the claim holds.',
    gradient='X came out 2.0 points better than XL at scale `mid`, though the expected gradients are the same: the noise of random label '
             'weights costs accuracy. At scale `cpu` half-and-half is 4.4 points better than L.\n\n'
             'Whether either is more than the 2 points that the rule allows is not decided. The 4.4 ± 3.4 points between X and XL at '
             'scale `cpu` decide nothing.',
    slots='Each further slot costs accuracy: 68.0, 47.1, 39.1 and 31.9% per image for one to four slots in a short training (scale `cpu`). In a '
          'long one (scale `mid`) the second slot costs 7.4 points: 79.3 against 71.9%.',
    speed='A forward pass of two, three and four slots classifies 1.95, 2.84 and 3.75 times as many images per second as one of a '
          'single slot. Loading and decoding images is not counted.',
    calibration='In a long training (scale `mid`) the expected calibration error of ERM is 12.3%, and 13.1% after more epochs. Fine-tuned, all '
                'mixed networks are between 4.8 and 7.9%.\n\n'
                'Before fine-tuning, two-headed C (3.1%), mixup (6.4%), one-softmax C (8.3%) and L (10.9%) are better than ERM, X and XL far '
                'worse (28.1 and 26.7%). So fine-tuning makes mixup and two-headed C worse, the others better. '
                'In a short training (scale `cpu`) it improves every mixed network but one softmax, which is not decided; '
                'X and XL most of all (from 16 and 15% to 3%).',
    recipe='Mixup or CutMix until 80% of the epochs, with one cycle, is 0.7 points better than the best training without mixing (81.35 '
           'against 80.62% of the test images at scale `mid`, three seeds, which decide that it is better). The aim of one point is not '
           'decided; with mirror images for both the difference is 0.8.\n\n'
           'These two are the best of twelve candidates with 100 epochs each, by 5,000 '
           'held-out images and one seed, so that less than a point between two candidates may be chance; one softmax, and mixing with '
           'Jordan\'s settings, were not among them. The schedule counts for more than the mixing: there one cycle gives ERM 81.1 where the steps of the '
           'paper give 79.9%, and mixup 81.5 where they give 80.1%; fine-tuning within the same epochs ends at 80.0% for mixup, 79.9% '
           'for X and 77.8% for two-headed C. Mixing that fades from the first epoch on has the lowest calibration error of the recipes with one cycle '
           '(5.0%, the others 6.3 to 10.8%) and, with mirror images, the highest accuracy (83.4%; one seed, held-out images).',
    throughput='In a long training of few images (scale `mid`) it is not: a ResNet-8 for single images classifies 76.3 ± 0.2% correctly, and 1.41 times as '
               'many images per second as a ResNet-20 of two slots, which classifies 71.9 ± 2.1%. By the steps of the paper, a shallower or narrower single network was the '
               'better choice from 4,700 to 19,100 images per second, and two slots won nowhere.\n\n'
               'Three seeds decide that the ResNet-8 is at least as good: it is faster, and was more accurate with each of them, by 2.7, 3.9 and 6.6 points '
               '(95% interval -.5 to 9.4, so that this alone is not decided). '
               'The other networks of two slots have one seed. One of two heads falls behind in a ResNet-32 (78.1 and 52.0%, 65.1 on average, where a ResNet-14 for single images has 78.0% and is '
               '1.20 times as fast) and in a ResNet-20 of double width (79.5 and 60.1%, 69.8 on average, where a ResNet-20 for single images has '
               '79.2% with that seed and is 1.48 times as fast). Five epochs of warm-up keep both heads of the ResNet-32 going: 70.4 and 77.3%, 73.8 on '
               'average. Nothing as fast as a ResNet-8 or faster was measured with two slots. ResNet-56 has 66.7%: '
               'by this recipe it does not [begin to learn](45_howto.ipynb#let-a-deep-network-begin-to-learn) before the rate falls. '
               'A ResNet-32 of two slots and double width was timed, but not trained yet. By another schedule the answer may differ: two slots of a ResNet-20 reach '
               '75.9 ± 0.1% by one cycle, and 77.5 ± 0.1% by [their best recipe](#what-helps-two-heads), for twice the epochs; '
               'smaller single networks were not trained so.',
    two_heads="The best variant has 77.5 ± 0.1% per slot at twice the cost of the paper's mixup-C, 5.7 ± 2.1 points more than it (scale `mid`, three seeds) and 1.2 points "
              'more than mixup-C that is trained for as long (one seed). That it helps is decided (95% interval 0.5 to 10.8), and that it helps by the 5 points that were the aim is not; '
              "it trains for twice the epochs by one cycle, with a weight decay of .0005, fast biases and a norm of the heads' losses.\n\n"
              'Its heads are equally good in every run (77.7 and 77.1, 77.1 and 78.2, 77.5 and 77.5%), where those of mixup-C differ by 0.9, 7.0 and 14.6 points. It was '
              'chosen by the first seed, with which it gained 4.0 points, and gained 5.0 and 8.0 with the others; they were computed in float32, the first in bfloat16. Per slot '
              'mixup-C has 71.9 ± 2.1%; on single images ERM has 79.3%, and 80.6 by its own best recipe. Fine-tuned to a single image, the variant has '
              "79.4 ± 0.3%, where ERM after the paper's training has 79.2 ± 0.2; ERM with twice the epochs was not run.\n\n"
              'Of the 4.0 points of the first seed, twice the epochs alone give 2.8: mixup-C as it is has 76.2% then (76.5 and 75.9), where the '
              'variant has 77.4. One cycle alone, at no extra cost, gives 2.5; with all three seeds its heads have 75.9 ± 0.1%, 4.0 ± 2.0 points more '
              '(2.5, 3.2 and 6.3; not decided, as mixup-C varies), and both are about equally good.\n\n'
              "A warm-up of five epochs was run with the third seed, with which mixup-C's heads differ most (76.8 and 62.3%): they have 75.7 and 70.8% then, 3.7 points more. "
              "The other variants have one seed, the first, with which mixup-C is at its best: 73.4%. A norm of the heads' losses gives next to nothing: 73.7 with the paper's "
              'steps, 76.0 with one cycle (this run, one of one cycle and those of input and batch repetition were computed in float32). Batch repetition, '
              'two rows of each image for half the epochs, costs accuracy in a long training as in a short one: 67.0% (58.8 and 75.2). Input repetition in 60% of the rows costs 11.6 points per slot '
              '(55.1 and 68.5%, 61.8 on average), and makes single images as accurate as ERM does: 79.3% with the same image in every slot, where mixup-C has 75.3 with that seed, and 79.3% after fine-tuning, where '
              'mixup-C has 76.0 and ERM 79.2 ± 0.2. With norm, one cycle and twice the epochs, but without what the best ERM recipe has besides, they have '
              '77.2%. Patches on top of the best variant lower it to 76.5%. Double width does not help: one of its heads falls '
              'behind, with half the epochs (75.8 and 46.7%) and with all (79.5 and 60.1%, at four times the cost). In a '
              "short training (scale `cpu`) none of nine variants gives more than mixup-C's 47.1% per slot; input repetition helps single "
              'images there too: in 60% of the rows it lifts the accuracy after fine-tuning from 51.6 to 63.2%, where ERM has 67.7.')

# Rows of each table; its columns, each with a figure of the runs
seen = (('train','train_'), ('test',''))
both_heads = [(f'{w}, head {i}', f'{k}head_{i}') for w,k in seen for i in (0,1)]
def twice(**cols): return [(f'{w}, {nm}', k+c) for w,k in seen for nm,c in cols.items()]
tables = dict(
    table1=(['net'], [('original','single_acc'), ('fine-tuned','tuned_acc'), ('gain','gain'), ('on pairs, head 0','head_0'),
                      ('on pairs, head 1','head_1'), ('top-1 on mixtures','top1')]),
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
    recipe=(['net','evaluate'], [('single-image accuracy','final_acc'), ('ECE','final_ece'), ('with mirror images','mirrored_acc')]),
    throughput=(['net'], [('accuracy per image','slot_acc'), ('images/s','rate')]),
    two_heads=(['net','cost'], [('accuracy per slot','slot_acc'), ('more than mixup-C','slot_gain'), ('best slot','best_slot'),
                                ('worst slot','worst_slot'), ('fine-tuned','tuned_acc'),
                                ('same image in every slot','single_acc')]))
tables['fig5_batch'] = tables['fig5']

def derived(df):
    "`df` with the figures that follow from others"
    df,has = df.copy(),lambda *cs: all(c in df for c in cs)
    if has('tuned_acc'): df['gain'] = df.tuned_acc-df.single_acc
    for k in ('acc','ece'):
        if has(f'single_{k}'): df[f'final_{k}'] = df.get(f'tuned_{k}', df[f'single_{k}']).combine_first(df[f'single_{k}'])
    for i in (0,1):
        if has(f'wrong_{i}'): df[f'chance_{i}'] = verdicts.by_chance(df[f'wrong_{i}'])
    hs = [c for c in df if c.startswith('head_')]
    if has('n','single_acc'): # one slot has no `head_0`
        for k,f in dict(slot_acc='mean', best_slot='max', worst_slot='min').items():
            df[k] = df[hs].agg(f, axis=1).combine_first(df.single_acc.where(df.n==1))
    if has('cost','head_0','head_1'):
        gains = {(nm,seed):x for nm in {*df.net}-{'mixup-C'} for seed,x in verdicts.slot_gain(df, nm).items()}
        df['slot_gain'] = [gains.get(o) for o in zip(df.net, df.seed)]
    if has('what','head_0','head_1'):
        w = {(o,seed):h for o in df.what.unique() for seed,h in verdicts.winners(df, o).items()}
        df['winner'] = [w.get((o,seed)) for o,seed in zip(df.what, df.seed)]
    if has('net') and (df.net=='timing').any():
        df['rate'] = df.net.map(verdicts.image_rates(df))
        df = df[df.net!='timing']
    return df

def cell(x, col):
    "Mean ± standard deviation over the seeds, in percent but for Brier scores"
    x = x.dropna()
    if col=='rate': return f'{x.iloc[0]:.0f}' if len(x) else NONE # of one timing
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
    for tags,d in df.groupby(by, sort='seed' in by):
        lost = f', {d.diverged.sum()} diverged' if d.diverged.any() else ''
        row = {**dict(zip(by, tags)), 'runs': f'{(d.run & ~d.diverged).sum()} of {len(d)}{lost}' if d.run.any() else NONE}
        row |= {nm: cell(d[c], c) if c in d else '' for nm,c in cols}
        rows.append({**row, 'computed in': ' and '.join(sorted(set(d.precision.dropna())))})
    res = pd.DataFrame(rows)
    if claim=='throughput': res['timed on'] = timed_on(runs.throughput(scale)[-1][1], done)
    if df.precision.nunique()<2: del res['computed in']
    return res[[c for c in res if c in by+['runs'] or (res[c]!='').any()]]

def timed_on(
    s, # Settings of a timing
    done:dict # Finished runs, by their keys
)->str: # Empty before it
    "The machine of a timing"
    if runs.key(s) not in done: return ''
    line = done[runs.key(s)]
    return f"{line['device']}, {line['threads']} threads"

def speed_table(scale, done):
    (_,s), = runs.speed(scale)
    if runs.key(s) not in done: return pd.DataFrame([dict(runs=NONE)])
    f,device,rows = done[runs.key(s)]['figures'],timed_on(s, done),[]
    for n in s['nets']:
        per_s,ratio = f[f'images_per_s_{n}'],f[f'ratio_{n}']
        rows.append({'n':n, 'images/s':f'{per_s:.0f}', 'times N=1':f'{ratio:.2f}',
                     'batch size':f"{f[f'batch_size_{n}']:.0f}", 'device':device})
    return pd.DataFrame(rows)

def which_head(x): return pd.api.types.is_integer_dtype(x) # or else `x` are differences

def numbers(x):
    "The numbers of a verdict in words, in points"
    if not len(x): return ''
    if which_head(x): # of those that won
        return ', '.join(f'{ {-1:"neither"}.get(k, f"head {k}")} in {n}' for k,n in x.value_counts().items())
    return f'{100*x.mean():+.1f}' + (f' ± {100*x.std():.1f}' if len(x)>1 else '')

def measured(x):
    "The numbers of a verdict, and of how many seeds they are"
    seeds = '' if which_head(x) or not len(x) else f' ({len(x)} seed{"s"*(len(x)>1)})'
    return numbers(x)+seeds

def begun(
    claim:str, # One of `runs.claims`
    done:dict # For each scale its finished runs, by their keys
)->dict: # Their frames by scale; that of `cpu` where no run is there
    "The scales at which a claim was tried: first those with all their runs, the largest first"
    dfs = {sc: frame(claim, sc, d) for sc,d in done.items()}
    tried = {sc:df for sc,df in dfs.items() if df.run.any()} or {'cpu':dfs['cpu']}
    return dict(sorted(tried.items(), key=lambda o: not o[1].run.all()))

def summary(
    done:dict # From `load`
)->pd.DataFrame: # A row per statement
    "All verdicts, each of the largest scale that has all seeds of its number, or else any"
    rows = []
    for r in verdicts.rules:
        dfs = {sc: frame(r['claim'], sc, d) for sc,d in done.items()} # the largest first
        judged = {sc: verdicts.verdict(r, df, sc) for sc,df in dfs.items()}
        n = {sc: len(x) for sc,(_,x) in judged.items()}
        sc = min(dfs, key=lambda sc: (n[sc]<dfs[sc].seed.nunique(), not n[sc]))
        v,x = judged[sc]
        row = dict(where=r['claim'], of_the_paper=verdicts.of_the_paper(r), claim=r['says'],
                   paper=r['paper'], ours=numbers(x), verdict=v)
        rows.append(row | dict(scale=sc if len(x) else '', seeds=len(x) or ''))
    return pd.DataFrame(rows)

def counts(
    table:pd.DataFrame # With the columns `of_the_paper` and `verdict`
)->pd.DataFrame: # A row per verdict
    "How many statements came to each verdict"
    names = {True:'claims of the paper', False:'controls and additions of ours'}
    n = pd.crosstab(table.verdict, table.of_the_paper.map(names))
    order = [v for v in (HOLDS,FAILS,OPEN,PAPER,NONE) if v in n.index]
    return n.reindex(order, columns=names.values(), fill_value=0).reset_index()

def summary_text(
    table:pd.DataFrame # From `summary`
)->str: # Markdown
    "The verdicts under the titles of their figures, each with its control"
    parts = []
    for claim,rows in table.groupby('where', sort=False):
        parts += [f'### {titles[claim]}', f'Control: {controls[claim]}.', md(rows.drop(columns=['where','of_the_paper']))]
    return '\n\n'.join(parts)

def judged(
    claim:str, # One of `runs.claims`
    done:dict # For each scale its finished runs, by their keys
)->pd.DataFrame: # A row per statement
    "The verdicts on a claim, with the rules, which were written before the runs"
    dfs,rows = begun(claim, done),[]
    for r in verdicts.rules:
        if r['claim']!=claim: continue
        row = {'claim':r['says'], 'paper':r['paper'], 'rule':r['text']}
        for sc,df in dfs.items():
            v,x = verdicts.verdict(r, df, sc)
            lost = f' ({df.diverged.sum()} runs of this figure diverged)' if df.diverged.any() else ''
            row.update({f'{sc}: measured':measured(x), f'{sc}: verdict':v+lost})
        rows.append(row)
    bare = [sc for sc in dfs if all(row[f'{sc}: verdict']==NONE for row in rows)] # whose runs decide nothing here
    without = [f'{sc}: {o}' for sc in bare for o in ('measured','verdict')] if len(bare)<len(dfs) else []
    return pd.DataFrame(rows).drop(columns=without)

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
    t = table(claim, scale, done)
    lost = (t.get('runs')==NONE) & (t.get('images/s', NONE)==NONE)
    def name(o): return f"{o['net']}, R = {o['r']}" if 'r' in o else o.get('net') or f"N = {o['n']}"
    names = [name(o)+(f" ({o['evaluate']})" if 'evaluate' in o else '') for o in t[lost].to_dict('records')]
    end = [f"Not run yet: {'; '.join(names)}."] if names else []
    void = frame(claim, scale, done).void.value_counts()
    end += [f'Runs to be made again: {n}. Void: {why}.' for why,n in void.items()]
    return '\n\n'.join([f'Scale `{scale}`:', md(t[~lost]), *end])

def where(done):
    "Machines, code and libraries behind the runs"
    if not done: return 'Not run'
    one = lambda f, sep=', ': sep.join(sorted({f(d) for d in done.values()} - {''}))
    commits = one(lambda d: (d['code']['commit'] or 'no commit')[:7] + (' (changed)' if d['code']['dirty'] else ''))
    libs = one(lambda d: f"PyTorch {d['libraries']['torch']}, fastai {d['libraries']['fastai']}")
    def how_computed(d):
        precision = d.get('precision', '')
        return f'{precision}, compiled' if d.get('compile', False) else precision
    parts = [f"{len(done)} runs, on {one(lambda d: d['device'], ' and ')}", one(how_computed, ' and '),
             f'code {commits}', libs]
    return '; '.join(filter(None, parts))

def counted(sc, done):
    "How many claims came to each verdict at a scale"
    judged = [dict(of_the_paper=verdicts.of_the_paper(r), verdict=verdicts.verdict(r, frame(r['claim'], sc, done), sc)[0])
              for r in verdicts.rules]
    return md(counts(pd.DataFrame(judged)))

def load(
    folder=results.default_folder # Of the JSON lines
)->dict: # For each scale that can decide, the largest first, its finished runs by their keys
    "What was run so far"
    return {sc: results.read(Path(folder)/f'{sc}.jsonl') for sc in ('paper','mid','cpu')}

about = """Accuracies are of the last epoch, in percent, mean ± standard deviation over seeds. CIFAR-10 is a JPEG-coded copy in
fastai's layout; what the coding costs was not measured. Training accuracies are those of the batches as
they were trained on. No setting was chosen by test images, but for later variants of two heads, and
momentum and schedule of the pretrained network (chosen for ERM, by 2,000 of its 4,000 test images); and the rules of throughput
and of 5 points choose a network by the test images that judge it. A machine without
instructions for bfloat16 computes in float32; the machines and precisions behind each scale are named. Scale `paper` is the paper's training. Scale `mid` has its epochs and
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
                   f'`fastmix-paper all --scale {sc}`' + (f'\n\n{counted(sc, d)}' if d else ''))
    for c in runs.claims:
        out += [f'## {titles[c]}', f'`fastmix-paper {c} --scale …`. Control: {controls[c]}.', md(judged(c, done))]
        out += [at_scale(c, sc, done[sc]) for sc in begun(c, done)] + [not_run(c, done)]
    return '\n\n'.join(o for o in out if o)+'\n'

def finding(
    claim:str # One of `runs.claims`
):
    "What was found, in two sentences, and then what else, for a notebook"
    from IPython.display import Markdown
    return Markdown(f'**Finding.** {findings[claim]}')

def figures(
    claim:str, # One of `runs.claims`
    done:dict # From `load`
):
    "The figures of a claim without its verdicts, for a notebook"
    from IPython.display import Markdown
    return Markdown('\n\n'.join(at_scale(claim, sc, done[sc]) for sc in begun(claim, done)))

def show(
    claim:str, # One of `runs.claims`
    done:dict # From `load`
):
    "Verdicts and figures of a claim, for a notebook"
    from IPython.display import Markdown
    parts = [md(judged(claim, done)), figures(claim, done).data]
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
