"The paper's figures, drawn from the JSON lines"
import matplotlib.pyplot as plt, numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from . import runs
from .report import derived, frame, ran
from .verdicts import by_chance, n_classes

def _axes(n, done, claim, scale, width=4, height=3.2):
    "`n` axes, or `None` where no run of the claim is there"
    if not ran(claim, scale, done): return
    fig,axs = plt.subplots(1, n, figsize=(width*n, height), sharey=True, squeeze=False, layout='constrained')
    for ax in axs[0]: ax.grid(alpha=.3)
    return axs[0]

def _band(ax, x, ys, label, **kw): # mean over the seeds, and one standard deviation
    m,sd = np.mean(ys, 0),np.std(ys, 0, ddof=1) if len(ys)>1 else np.zeros(len(x))
    line, = ax.plot(x, m, label=label, **kw)
    ax.fill_between(x, m-sd, m+sd, color=line.get_color(), alpha=.2)

def over_r(
    done:dict, # Finished runs, by their keys
    scale:str # One of `runs.scales`
):
    "Figure 1: accuracy of the last epoch over R, with the ceilings of Top2"
    df = frame('fig1', scale, done)
    if df[df.run].r.nunique()<2: return
    fig,axs = plt.subplots(2, 2, figsize=(8,6.6), sharex=True, sharey=True, layout='constrained')
    cols = dict(train_top2=('Top2, training','C0--'), top2=('Top2, test','C0-'),
                train_top2_all=('Top2All, training','C1--'), top2_all=('Top2All, test','C1-'))
    for ax,nm in zip(axs.flat, runs.rules):
        for col,(label,fmt) in cols.items():
            d = 100*df[(df.net==nm)&df.run].groupby('r')[col].agg(['mean','std']).fillna(0)
            ax.errorbar(d.index, d['mean'], d['std'], label=label, fmt=fmt, marker='.', capsize=2)
        rs = sorted(df.r.unique())
        # With λ_x=½ the order is chance; else it is `fastmix.core.top2_ceiling`
        ceiling = [50 if nm=='mixup-L' or r==0 else 100-50/n_classes for r in rs]
        ax.plot(rs, ceiling, color='gray', ls='', marker='_', ms=14, label='ceiling of Top2')
        ax.set(title=nm, ylim=(0,103))
        ax.grid(alpha=.3)
    for ax in axs[1]: ax.set_xlabel('range R of the weights')
    for ax in axs[:,0]: ax.set_ylabel('accuracy, %')
    fig.suptitle(f'Accuracy on mixtures, scale {scale}')
    fig.legend(*axs[0,0].get_legend_handles_labels(), loc='outside lower center', ncols=3)

def _with_chance(curves):
    "With `valid_chance_i`, from how often head `i` is wrong"
    wrong = {k:np.array(v, float) for k,v in curves.items() if k.startswith('valid_wrong_')}
    return curves | {k.replace('wrong', 'chance'): by_chance(v) for k,v in wrong.items()}

def over_epochs(
    claim:str, # One of `runs.claims`
    done:dict, # Finished runs, by their keys
    scale:str, # One of `runs.scales`
    by:str, # What tells the panels apart
    cols:dict, # Label of each curve, by its name
    each=False, # Whether to draw every seed, instead of mean and standard deviation
    chance=dict(chance=100/n_classes), # Levels of guessing, in percent, by their labels
    top=103 # Of the vertical axis, in percent
):
    "Curves of training and evaluation over the epochs, a panel for each `by` that was run"
    todo = [(tag,s) for tag,s in runs.claims[claim](scale) if runs.key(s) in done]
    panels = list(dict.fromkeys(tag[by] for tag,_ in todo))
    axs = _axes(len(panels), done, claim, scale)
    if axs is None: return
    whose = list(dict.fromkeys(label.partition(', ')[2] for label in cols.values()))
    for ax,p in zip(axs, panels):
        curves = [_with_chance(done[runs.key(s)]['curves'].get('train', {})) for tag,s in todo if tag[by]==p]
        for k,(col,label) in enumerate(cols.items()):
            when,_,what = label.partition(', ')
            style = dict(color=f'C{whose.index(what) if what else k}', ls='--' if when in ('train','by chance') else '-')
            ys = [100*np.array(c[col], float) for c in curves if col in c]
            for i,y in enumerate(ys if each else []):
                ax.plot(range(1, len(y)+1), y, lw=1, label=None if i else label, **style)
            if ys and not each: _band(ax, range(1, len(ys[0])+1), ys, label, **style)
        for label,y in chance.items(): ax.axhline(y, color='gray', lw=1, ls=':', label=label)
        ax.set(title=p, xlabel='epoch', ylim=(0,top))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=8)
    n = runs.scales[scale].get('n_curve')
    axs[0].set_ylabel(f'%, scale {scale}' + (f'\n(test: {n:,} images)' if n else ''))

def dots(
    claim:str, # One of `runs.claims`
    done:dict, # Finished runs, by their keys
    scale:str, # One of `runs.scales`
    by:str, # What the rows are
    cols:dict, # Label of each figure, by its name
    xlabel='single-image accuracy, %',
    ylabel=''
):
    "A dot for every seed"
    axs = _axes(1, done, claim, scale, 6)
    if axs is None: return
    df = derived(frame(claim, scale, done))
    df = df[df.run]
    names = list(dict.fromkeys(df[by]))
    for k,(col,label) in enumerate(cols.items()):
        d = df if col in df else df.iloc[:0]
        axs[0].plot(100*d[col] if col in d else [], [names.index(o)-.12*(k-(len(cols)-1)/2) for o in d[by]], 'o', ms=4, color=f'C{k}', alpha=.7, label=label)
    axs[0].set(yticks=range(len(names)), yticklabels=[str(o) for o in names], xlabel=f'{xlabel}, scale {scale}', ylabel=ylabel)
    axs[0].invert_yaxis()
    axs[0].legend(fontsize=8)

def against_rate(
    done:dict, # Finished runs, by their keys
    scale:str # One of `runs.scales`
):
    "Accuracy per image against images per second: single networks on a line, two slots as marks"
    df = derived(frame('throughput', scale, done))
    if 'slot_acc' not in df: return
    d = df.groupby('net', sort=False)[['n','rate','slot_acc']].mean().dropna()
    if not len(d): return # before the timing
    fig,ax = plt.subplots(figsize=(6,4), layout='constrained')
    ones,twos = d[d.n==1],d[d.n==2]
    ax.plot(ones.rate, 100*ones.slot_acc, 'o-', label='single image')
    ax.plot(twos.rate, 100*twos.slot_acc, 'D', label='two slots')
    for nm,o in d.iterrows():
        short = nm.replace('ResNet-', '').replace(', 2 slots', '')
        ax.annotate(short, (o.rate,100*o.slot_acc), (4,4), textcoords='offset points', fontsize=8)
    ax.set(xscale='log', xlabel='images per second', ylabel=f'accuracy per image, %, scale {scale}')
    ax.xaxis.set_major_locator(LogLocator(subs=(1,1.5,2,3,5,7)))
    ax.xaxis.set_major_formatter('{x:,.0f}')
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(.12)
    ax.grid(alpha=.3)
    ax.legend(title='ResNet of depth …', fontsize=8)
