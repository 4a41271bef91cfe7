"""What the paper says, and the rules by which the runs decide about it; written before the runs.

Every rule looks at one number per seed: mostly a difference between two networks of the same seed, or before and after.
Its 95% interval over the seeds (Student's t) is compared with a margin: *above* it, or *within* plus and minus it. The claim
holds if the whole interval is on the claim's side, does not hold if the whole interval is on the other side, and is not
decided otherwise. Figure 5 counts seeds. One or two seeds decide nothing; nor do the digits (scale smoke). *As good* is at
most 2 points worse. An interval covers the chance of the seeds alone, not that of the test images or of the one subset of
the training images; and of many rules some are met by chance. Claims with a star were added after the runs of scale `cpu`:
some because a rule before them can be met for another reason than the one that the claim is about, and those that compare X,
L and XL with mixup because they had been overlooked (until two of the three seeds of scale `mid` were in). Those on throughput, on what helps two heads and on the best recipe
were added before any of the networks that they add was trained, but for later variants of two heads, which the results of
earlier ones suggested. Two rules were changed after the first of their runs: that of 5 points looks only
at the variants that were run, and that of throughput at one single network, the best on average, in place of the best for each
seed. Before any second seed of a variant was run, the rule of 5 points was changed again: it looks at the variant that is best
with the first seed, which counts too. So far none of these changes decided a verdict. Warm-up was added when ResNet-56 had
turned out not to train without it, and the rule of throughput for two slots with a warm-up when their run was there."""
from functools import partial
import numpy as np, pandas as pd
from scipy.stats import t
from . import results, runs

HOLDS,FAILS,OPEN,NONE = 'holds','does not hold','not decided at this scale','not run'
PAPER = 'for scale `paper` alone'

def interval(
    x # One number per seed
)->tuple: # Lower and upper end
    "95% interval of the mean"
    x = np.asarray(x, float)
    if len(x)<3: return -np.inf,np.inf # of two seeds it is narrow by chance
    half = t.ppf(.975, len(x)-1)*x.std(ddof=1)/len(x)**.5
    return x.mean()-half,x.mean()+half

def above(x, margin=0.):
    "Whether the mean of `x` is above `margin`"
    lo,hi = interval(x)
    return HOLDS if lo>margin else FAILS if hi<=margin else OPEN

def within(x, margin):
    "Whether the mean of `x` is within `margin` of zero"
    lo,hi = interval(x)
    return HOLDS if -margin<lo and hi<margin else FAILS if lo>=margin or hi<=-margin else OPEN

def frame(
    claim:str, # One of `runs.claims`
    scale:str, # One of `runs.scales`
    done:dict # Finished runs, by their keys
)->pd.DataFrame: # A row per run: what tells it apart, whether it was `run`, and its figures
    "The runs of a claim"
    todo = runs.claims[claim](scale) + (runs.recipe_test(scale, done) if claim=='recipe' else [])
    lines = [done.get(runs.key(s), {}) for _,s in todo]
    rows = [{**tag, 'evaluate':s.get('evaluate'), 'run':bool(l), 'precision':l.get('precision'), 'void':l.get('void'), 'diverged':'failed' in l, **l.get('figures', {})}
            for (tag,s),l in zip(todo, lines)]
    return pd.DataFrame(rows)

def figures(
    df:pd.DataFrame, # From `frame`
    col:str, # A figure
    **tags # What the rows must have, as `net='ERM'`
)->pd.Series: # By seed
    "A figure of the runs with these tags"
    for k,v in tags.items(): df = df[df[k]==v]
    if col not in df: return pd.Series(dtype=float)
    return df[df.run].set_index('seed')[col].dropna().sort_index()

def paired(a, b):
    "`a` minus `b`, for the seeds that both have"
    return (a-b).dropna()

n_classes = 10

def growth(df, net, col):
    "How much a straight line through `col` over R rises from R=0 to R=.5, for each seed that has every R"
    rs,res = sorted(df.r.unique()),{}
    for seed,d in df[(df.net==net)&df.run].groupby('seed'):
        if col in d and d[col].notna().sum()==len(rs): res[seed] = .5*np.polyfit(d.r, d[col], 1)[0]
    return pd.Series(res, dtype=float)

def by_chance(wrong):
    "How often a head would name the other slot's class, if its errors did not depend on that slot"
    return wrong/(n_classes-1)

def excess(df):
    "How much more often a head names the other slot's class than if its errors did not depend on that slot"
    return sum(figures(df, f'confused_{i}') - by_chance(figures(df, f'wrong_{i}')) for i in (0,1))/2

def winners(df, what):
    "For each seed the winning head, where the other one is near chance, else -1"
    a = pd.DataFrame({i: figures(df, f'head_{i}', what=what) for i in (0,1)}).dropna()
    return a.idxmax(axis=1).where((a.min(axis=1)<1.5/n_classes) & (a.max(axis=1)>3/n_classes), -1)

def one_wins(df, what):
    w = winners(df, what)
    if len(w)<5: return w,OPEN
    share = (w>=0).mean()
    return w,HOLDS if share>=.8 else FAILS if share<=.2 else OPEN

def gain(df, net): return paired(figures(df, 'tuned_acc', net=net), figures(df, 'single_acc', net=net))

def ordered(df, col):
    "X below L below C: of both differences the one that decides, the worse of the two"
    steps = ('mixup-X','mixup-L'),('mixup-L','mixup-C')
    d = pd.DataFrame({b: paired(figures(df, col, net=b), figures(df, col, net=a)) for a,b in steps}).dropna()
    return d[min(d, key=lambda b: ((FAILS,OPEN,HOLDS).index(above(d[b])), d[b].mean()))]

def rule(
    claim, # One of `runs.claims`
    says, # What is claimed
    paper, # The paper's figure
    text, # The rule in words
    numbers, # Function of the frame: a number for each seed, or these and a verdict
    decide=None, # Function of the numbers: the verdict
    only=None # The scale without which nothing is decided
): return dict(claim=claim, says=says, paper=paper, text=text, numbers=numbers, decide=decide, only=only)

def difference(col, a, b): return lambda df: paired(figures(df, col, net=a), figures(df, col, net=b))

def slot_accuracy(df, prefix='', **tags):
    "Accuracy per image of a network of two slots, the mean of its heads"
    return (figures(df, f'{prefix}head_0', **tags)+figures(df, f'{prefix}head_1', **tags))/2

def mean_head(prefix, minus): return lambda df: slot_accuracy(df, prefix)-minus
def more_gain(net): return lambda df: paired(gain(df, net), gain(df, 'ERM'))
def final(df, net): return figures(df, 'tuned_acc', net=net).combine_first(figures(df, 'single_acc', net=net))
def recipe(df):
    "Test accuracy of the recipe that was chosen, of the best mixed one, and of the best of ERM"
    df = df[df.evaluate=='test']
    nets = list(dict.fromkeys(df.net)) or ['none']
    of = {runs.is_erm(nm): final(df, nm) for nm in nets}
    none = pd.Series(dtype=float)
    return final(df, nets[0]),of.get(False, none),of.get(True, none)

def image_rates(
    df # The frame of `throughput`
)->dict: # Images per second by network; empty before the timing
    "How many images per second each network answers for"
    timing = df[(df.net=='timing') & df.run].dropna(axis=1)
    cols = {nm: f"images_per_s_{nm.removesuffix(', warm-up')}" for nm in df.net}
    return {nm: timing[col].iloc[0] for nm,col in cols.items() if col in timing}

def fast_single(df, net):
    "Accuracy of the best single network at least as fast, or of guessing, minus that of `net`"
    rate = image_rates(df)
    if net not in rate: return pd.Series(dtype=float)
    ones = dict.fromkeys(df.net[(df.n==1) & ~df.diverged])
    acc = {nm: figures(df, 'single_acc', net=nm) for nm in ones if rate.get(nm, 0)>=rate[net]}
    acc['guessing'] = figures(df, 'head_0', net=net)*0 + 1/n_classes
    acc = pd.DataFrame(acc).dropna() # of the seeds that have all these networks
    best = acc[acc.mean().idxmax()] if len(acc) else pd.Series(dtype=float)
    return paired(best, slot_accuracy(df, net=net))

def slot_gain(df, net):
    return paired(slot_accuracy(df, net=net), slot_accuracy(df, net='mixup-C'))

def best_gain(df, cost=2):
    "That of the variant which gains most with the first seed, among those of at most this cost that were run"
    tried = df[(df.cost<=cost) & df.run & ~df.diverged].net
    gains = {nm: slot_gain(df, nm) for nm in dict.fromkeys(tried[tried.isin(variants)])}
    first = pd.Series({nm: x[0] for nm,x in gains.items() if 0 in x}, dtype=float)
    return gains[first.idxmax()] if len(first) else first

def more(margin): return partial(above, margin=margin)
def below(margin): return lambda x: above(margin-x)
def near_zero(margin): return partial(within, margin=margin)

ours = 'not in the paper'
tuned = {'mixup-X':'90.2 to 93.1', 'mixup-L':'90.8 to 93.5', 'mixup-C':'92.5 to 93.7', 'mixup':'', 'mixup-XL':'',
         'mixup-C, one softmax':''} # table 1, and networks that it does not have
none = 'no control in the paper'
again = 'figure 5, read in another way'
wins = ('at least 5 seeds; on test pairs the worse head is under 15% and the better one over 30% in at least 80% of them '
        '(does not hold: in at most 20%)')
two_slots = [*[f'ResNet-{d}, 2 slots{wide}' for wide in ('',', width 2') for d in (20,32)],
             'ResNet-32, 2 slots, warm-up'] # as single networks are compared with a warm-up too
variants = ('same .3','same .6','same .6, fading','repeats 2','same .3, repeats 2','width 2',
            'width 2, half the epochs','width 2, half the epochs, same .6, fading','patches',
            'patches, fading','norm','one cycle','warm-up','width 2, half the epochs, norm','norm, one cycle',
            'twice the epochs, norm, one cycle','twice the epochs, norm, ERM recipe',
            'twice the epochs, norm, patches, ERM recipe',
            'width 2, half the epochs, norm, one cycle')
rises = 'a straight line through {} Top2 over R rises by more than 1 point from R=0 to R=.5'

rules = [
    *[rule('table1', f'Fine-tuning helps {nm}', p, 'fine-tuned minus original single-image accuracy is above 0',
           partial(gain, net=nm), above) for nm,p in tuned.items()],
    *[rule('table1', f'Fine-tuning helps {nm} more than the same extra epochs help ERM', none,
           "its gain minus ERM's gain is above 0", more_gain(nm), above) for nm in tuned],
    *[rule('table1', f'Fine-tuned {nm} is better than ERM with the same extra epochs', none,
           "its fine-tuned accuracy minus ERM's is above 0", difference('tuned_acc', nm, 'ERM'), above) for nm in tuned],
    *[rule('table1', f'X below L below C, {w}', p, 'L minus X and C minus L are both above 0; the one that decides is shown', partial(ordered, col=c), above)
      for w,p,c in (('original','90.2, 90.8, 92.5','single_acc'), ('fine-tuned','93.1, 93.5, 93.7','tuned_acc'))],

    *[rule('table1', f'{nm} is as good as mixup, {w}*', '"comparable"', "its accuracy minus mixup's is above -2 points",
           difference(c, nm, 'mixup'), more(-.02))
      for w,c in (('original','single_acc'), ('fine-tuned','tuned_acc')) for nm in ('mixup-X','mixup-L','mixup-XL')],

    rule('fig4', 'Both heads are equally good on test pairs', '88.41% and 88.61%', 'head 1 minus head 0 is within 2 points of 0',
         lambda df: paired(figures(df, 'head_1'), figures(df, 'head_0')), near_zero(.02)),
    rule('fig4', 'The two heads of a run differ by less than 2 points*', '0.2 points',
         'the absolute difference of the heads, on average over the runs, is below 2 points (either head may be '
         'the better one, so the difference itself is 0 on average)', lambda df: paired(figures(df, 'head_1'), figures(df, 'head_0')).abs(), below(.02)),
    rule('fig4', 'There is little confusion between the slots', '"very low"',
         "a head names the other slot's class, where the two differ, less than 5 points more often than if its errors did "
         'not depend on the other slot (a ninth of its errors)', excess, below(.05)),
    rule('fig4', 'Test accuracy of the heads', '88.5%', "the mean of both heads is within 1 point of the paper's",
         mean_head('', .885), near_zero(.01), 'paper'),
    rule('fig4', 'Training accuracy of the heads', '96%',
         "the mean of both heads in the last epoch is within 2 points of the paper's", mean_head('train_', .96), near_zero(.02), 'paper'),

    *[rule('fig5', f'λ on {w} only: one head wins, the other is near chance', 'figure 5', wins, partial(one_wins, what=w))
      for w in ('images','labels')],
    *[rule('fig5_batch', f'The same with one λ per batch, on {w}', again, 'as for figure 5', partial(one_wins, what=w))
      for w in ('images','labels')],

    rule('fig2', 'Concatenation separates the two', 'additive lower',
         'share of test mixtures whose classes are both named: concatenated minus additive is above 0',
         difference('both', 'concatenated', 'additive'), above),
    rule('fig2', 'Both classes at once, concatenated', 'about 70%', "within 5 points of the paper's",
         lambda df: figures(df, 'both', net='concatenated')-.7, near_zero(.05), 'paper'),

    rule('fig6', 'The head with random labels is at chance', 'a tenth', 'its test accuracy is within 2 points of a tenth',
         lambda df: figures(df, 'head_1', net='random labels')-1/n_classes, near_zero(.02)),
    rule('fig6', 'The other head is not harmed', 'figure 6',
         'its test accuracy minus that of the same head when both labels are true is above -5 points',
         difference('head_0', 'random labels', 'both labels'), more(-.05)),

    *[rule('fig1', f'{w} accuracy grows with R: {nm}', p, rises.format(w.lower()), partial(growth, net=nm, col=c), more(.01))
      for w,p,c in (('Training','figure 1','train_top2'), ('Test',ours,'top2')) for nm in runs.rules],
    *[rule('fig1', f'Test accuracy without the order (Top2All) grows with R: {nm}*', ours, rises.format('test').replace('Top2','Top2All'),
           partial(growth, net=nm, col='top2_all'), more(.01)) for nm in runs.rules],

    *[rule('gradient', f'{a} and {b} are as good (same expected gradient)', ours,
           'the difference of their single-image accuracies is within 2 points of 0', difference('single_acc', b, a), near_zero(.02))
      for a,b in (('mixup-X','mixup-XL'), ('half and half','mixup-L'))],

    rule('recipe', 'ResNet-56 reaches 94.5% on single images', ours,
         'test accuracy of the recipe chosen on held-out images is above 94.5%', lambda df: recipe(df)[0]-.945, above, 'paper'),
    *[rule('recipe', f'The best mixed recipe is {by}better than the best of ERM*', ours,
           'both chosen on held-out images, with the same weight decay and epochs; the difference of '
           f'their test accuracies is above {m}', lambda df: paired(*recipe(df)[1:]), more(v))
      for by,m,v in (('','0',0.), ('1 point ','1 point',.01))],

    *[rule('throughput', f'A single network at least as fast as {nm} is as good*',
           ours,
           'accuracy of the single network that is best on average, among those that answer for at least as many images per '
           'second (guessing, where none does), minus accuracy per slot is above -2 points',
           partial(fast_single, net=nm), more(-.02)) for nm in two_slots],
    rule('two_heads', 'A variant reaches 5 points more per slot, at no more than twice the cost*',
         ours,
         'accuracy per slot of the variant that is best with the first seed (which counts too), among those run of at most twice '
         "the training cost, minus mixup-C's is above 5 points", best_gain, more(.05)),
    *[rule('two_heads', f'It helps two heads: {nm}*', ours,
           "its accuracy per slot minus mixup-C's is above 0", partial(slot_gain, net=nm), above)
      for nm in variants],
]

def of_the_paper(
    r:dict # One of `rules`
)->bool:
    "Whether the paper claims it, or a control or an addition of ours"
    return r['paper'] not in ('',none,ours,again)

def verdict(
    r:dict, # One of `rules`
    df:pd.DataFrame, # From `frame`
    scale:str # Where the runs come from
)->tuple: # The verdict, and the number of each seed
    "What the runs say"
    res = r['numbers'](df)
    x,v = res if isinstance(res, tuple) else (res,None)
    x = x.dropna()
    if not len(x): return NONE,x
    if r['only'] not in (None,scale): return PAPER,x
    if scale=='smoke': return OPEN,x
    return v or r['decide'](x),x
