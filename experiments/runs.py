"Which runs each claim needs, as plain settings; the same run may serve several claims"
import hashlib, json

# What all runs of a scale share. `n_curve`: number of images that are evaluated after each epoch
# (None: all); in the end it is always all of them
scales = dict(
    smoke=dict(data='digits', depth=8, n_train=256, epochs=2, bs=64, lr=.1,
               ft_epochs=1, ft_lr=.01, precision='fp32'),
    # 15 epochs of 10,000 images are 2,340 steps at batch size 64; chosen for that, not tuned. In
    # bfloat16, since a ResNet-20 trains 1.6 times as fast in it on the CPU it was planned for
    cpu=dict(data='cifar10', depth=20, n_train=10_000, n_curve=2000, epochs=15, bs=64, lr=.1,
             ft_epochs=3, ft_lr=.01, precision='bf16'),
    # The paper's epochs and schedule on a fifth of the images: long enough to fit them
    mid=dict(data='cifar10', depth=20, n_train=10_000, n_curve=1000, epochs=100, bs=64, lr=.1,
             ft_epochs=20, ft_lr=.01, precision='bf16'),
    paper=dict(data='cifar10', depth=56, epochs=100, bs=256, lr=.1,
               ft_epochs=20, ft_lr=.01, precision='auto'))
n_seeds = dict(smoke=1, cpu=3, mid=3, paper=3)
n_seeds5 = dict(smoke=2, cpu=5, mid=5, paper=5) # of figure 5
n_seeds1 = dict(smoke=1, cpu=1, mid=1, paper=1) # of `throughput` and `two_heads`, at first
# Their networks that have all seeds: what the advice rests on, and what it is compared with
confirmed = ('ResNet-8','ResNet-20','ResNet-20, 2 slots','ERM','mixup-C','one cycle','warm-up',
             'twice the epochs, norm, ERM recipe')
ranges = dict(smoke=(0,.3,.5), cpu=(0,.1,.2,.3,.4,.5), mid=(0,.25,.5), paper=(0,.1,.2,.3,.4,.5))
# Depths of the single networks and of those of two slots, whose throughput is compared
depths = {sc: ((8,14,20,32,56),(20,32)) for sc in scales} | dict(smoke=((8,),(8,)))
# At which networks are timed, since every network has a size at which it is fastest
batch_sizes = dict(smoke=[8,16], cpu=[30,60,120,240], mid=[30,60,120,240,480,960], paper=[512,2048,8192])
rules = {'mixup-X':'mixup_x', 'mixup-L':'mixup_l', 'mixup':'mixup', 'mixup-XL':'mixup_xl'}

def key(
    s:dict # Settings of a run
)->str: # 12 hexadecimal digits; settings that are `None` do not count
    "What a run is known by"
    text = json.dumps({k:v for k,v in s.items() if v is not None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

def run(
    scale:str, # One of `scales`
    seed:int,
    method:str, # 'erm', 'mixup', 'mixup_x', 'mixup_l', 'mixup_xl' or 'mixup_c'
    tune:bool=True, # Whether the network is fine-tuned on single images in the end
    **kw # More settings
)->dict:
    "Settings of one run"
    s = {**scales[scale], 'evaluate':'test', 'seed':seed, 'method':method, **kw}
    return s if tune else {**s, 'ft_epochs':None, 'ft_lr':None}

def additive(scale, seed, rule, r):
    "Mixup, X, L or XL; with R=0 they are the same: half of each image and of each label"
    inner = 0<r<.5 # nobody asks for its fine-tuned accuracy
    return run(scale, seed, rules[rule] if r else 'mixup', r=r, tune=not inner)

def heads(scale, seed, n_samples=2, **kw):
    return run(scale, seed, 'mixup_c', n_samples=n_samples, **kw)
def softmax(scale, seed): return heads(scale, seed, n_heads=1, lam_x=.5, lam_l='x') # section 4.1

def networks(scale, seed):
    "The rows of table 1 and their controls"
    separate = {'ERM': run(scale, seed, 'erm'),
                'mixup-C': heads(scale, seed),
                'mixup-C, one softmax': softmax(scale, seed)}
    return separate | {nm: additive(scale, seed, nm, .5) for nm in rules}

def _seeds(scale): return range(n_seeds[scale])

# Each claim: a list of (what tells its rows apart, settings)
def _each_seed(scale, of_seed):
    "Rows of every seed; `of_seed` gives the settings of a seed by the names of their networks"
    return [(dict(net=nm, seed=i), s) for i in _seeds(scale) for nm,s in of_seed(i).items()]

def table1(scale): return _each_seed(scale, lambda i: networks(scale, i))

def fig4(scale): return _each_seed(scale, lambda i: {'mixup-C': heads(scale, i)})

def fig2(scale):
    def nets(i): return dict(additive=additive(scale, i, 'mixup', .5), concatenated=softmax(scale, i))
    return _each_seed(scale, nets)

def fig5(scale, **kw):
    res = []
    for i in range(n_seeds5[scale]):
        res.append((dict(what='images', seed=i), heads(scale, i, tune=False, **kw, lam_x=.5)))
        res.append((dict(what='labels', seed=i), heads(scale, i, tune=False, **kw, lam_l=.5)))
    return res

def fig5_batch(scale):
    "Figure 5 with one λ for the whole batch, the other reading of the paper's words"
    return fig5(scale, per='batch')

def fig6(scale):
    def nets(i):
        return {'random labels': heads(scale, i, tune=False, random_label=1),
                'both labels': heads(scale, i), 'ERM': run(scale, i, 'erm')}
    return _each_seed(scale, nets)

def fig1(scale):
    return [(dict(net=nm, r=r, seed=i), additive(scale, i, nm, r))
            for i in _seeds(scale) for r in ranges[scale] for nm in rules]

def slots(scale):
    res = []
    for i in _seeds(scale):
        res.append((dict(n=1, seed=i), run(scale, i, 'erm')))
        res += [(dict(n=n, seed=i), heads(scale, i, n, tune=n==2)) for n in (2,3,4)]
    return res

def speed(scale):
    nets = {str(n): dict(depth=scales[scale]['depth'], n_samples=n) for n in (1,2,3,4)}
    return [({}, _timing(scale, nets))]

def _timing(scale, nets):
    shared = {k:scales[scale][k] for k in ('data','precision')}
    return dict(kind='speed', nets=nets, batch_sizes=batch_sizes[scale], **shared)

def _nets(scale):
    "What the networks of `throughput` are made with, by their names"
    ones,twos = depths[scale]
    nets = {f'ResNet-{d}': dict(depth=d) for d in ones}
    for wide in ({}, dict(width=2)):
        end = ', width 2' if wide else ''
        nets |= {f'ResNet-{d}, 2 slots{end}': dict(depth=d, n_samples=2, **wide) for d in twos}
    return nets

def _warmed(scale):
    "The deeper of these networks, trained with five epochs of warm-up: without it their features die in the first steps"
    return {f'{nm}, warm-up': dict(net, warmup=5) for nm,net in _nets(scale).items() if net['depth']>20 and 'width' not in net}

def _asked(scale, seed, net): return seed<n_seeds1[scale] or net in confirmed

def throughput(scale):
    "Networks of one and of two slots before fine-tuning, and one timing of all of them"
    res = []
    for i in _seeds(scale):
        for nm,net in {**_nets(scale), **_warmed(scale)}.items():
            if not _asked(scale, i, nm): continue
            n,method = net.get('n_samples', 1),'mixup_c' if 'n_samples' in net else 'erm'
            tune = net['depth']==scales[scale]['depth'] # such a run is one of other claims too
            res.append((dict(net=nm, n=n, seed=i), run(scale, i, method, tune=tune, **net)))
    return res + [(dict(net='timing', seed=0), _timing(scale, _nets(scale)))]

def _cost(s):
    "Training cost: rows times the trunk's multiply-adds, which grow with the width squared"
    return s['epochs']*(s.get('repeats') or 1)*(s.get('width') or 1)**2

best_erm = 'ERM, one cycle, fast biases' # of the recipes of claim `recipe`

def _families(scale, seed):
    "What may help two heads"
    whole = scales[scale]['epochs']
    epochs,bs = whole//2,scales[scale]['bs']//2
    # Half the images a step in two rows each, for half the epochs: as many steps of as many rows
    twice = dict(repeats=2, bs=bs, epochs=epochs)
    half = dict(width=2, epochs=epochs)
    long = dict(norm=2, one_cycle=True, epochs=2*whole)
    erm_recipe = _recipes(scale, seed, 'test')[best_erm]
    erm = {k: erm_recipe[k] for k in ('wd','bias_lr')} # what it has besides one cycle
    # The most promising first, as one head won at double width without a norm: 76 and 47 % per slot
    return {'ERM': run(scale, seed, 'erm'),
            'mixup-C': heads(scale, seed),
            'norm': heads(scale, seed, norm=2),
            # For single images the schedule counted for more than the mixing (claim `recipe`)
            'norm, one cycle': heads(scale, seed, norm=2, one_cycle=True),
            'one cycle': heads(scale, seed, one_cycle=True), # what the schedule gives alone
            'warm-up': heads(scale, seed, warmup=5), # as one cycle begins, then the paper's steps
            'ERM, one cycle': run(scale, seed, 'erm', one_cycle=True),
            best_erm: erm_recipe,
            f'twice the epochs, {best_erm}': dict(erm_recipe, epochs=2*whole),
            'twice the epochs, norm, one cycle': heads(scale, seed, **long),
            'twice the epochs, norm, ERM recipe': heads(scale, seed, **long, **erm),
            # Which overfits still: 88 and 86% per slot in training, 78 and 77% on test pairs
            'twice the epochs, norm, patches, ERM recipe': heads(scale, seed, patch=.5, **long, **erm),
            'width 2, half the epochs, norm, one cycle': heads(scale, seed, norm=2, one_cycle=True, **half),
            'width 2, half the epochs, norm': heads(scale, seed, norm=2, **half),
            'same .6, fading': heads(scale, seed, same=.6, fade=0), # from the first epoch on
            'width 2, half the epochs, same .6, fading': heads(scale, seed, same=.6, fade=0, **half),
            'repeats 2': heads(scale, seed, **twice),
            'patches': heads(scale, seed, patch=.5), # as Ramé et al. 2021 draw them
            'patches, fading': heads(scale, seed, patch=1, fade=0),
            'same .3': heads(scale, seed, same=.3),
            'same .6': heads(scale, seed, same=.6),
            'same .3, repeats 2': heads(scale, seed, same=.3, **twice),
            'width 2, half the epochs': heads(scale, seed, **half),
            # What the same cost as that of the double width buys without anything new
            'twice the epochs': heads(scale, seed, epochs=2*whole),
            'width 2': heads(scale, seed, width=2)}

def two_heads(scale):
    "Variants of mixup-C, with their cost as a multiple of its own"
    res = []
    for i in _seeds(scale):
        family = _families(scale, i)
        one = _cost(family['mixup-C'])
        for nm,s in family.items():
            if not _asked(scale, i, nm): continue
            tag = dict(net=nm, cost=round(_cost(s)/one, 2), n=s.get('n_samples', 1), seed=i)
            res.append((tag, s))
    return res

calibration = table1

def gradient(scale):
    "Rules of one expected gradient: X and XL, L and half-and-half (R=0)"
    nets = {nm: (nm,.5) for nm in ('mixup-X','mixup-XL','mixup-L')}
    nets['half and half'] = 'mixup',0
    return _each_seed(scale, lambda i: {nm: additive(scale, i, *o) for nm,o in nets.items()})

def _recipes(scale, seed, evaluate):
    "Candidates for the best single-image accuracy; fine-tuning is part of the paper's epochs"
    n,ft = scales[scale]['epochs'],scales[scale]['ft_epochs']
    step = dict(evaluate=evaluate, wd=5e-4)
    short = dict(epochs=n-ft, **step) if n>ft else step
    def whole(method, **kw): return run(scale, seed, method, tune=False, **step, **kw)
    def cycle(method, **kw): return whole(method, one_cycle=True, **kw)
    mixed = dict(method='mixup', r=.5)
    return {'ERM': whole('erm'),
            'ERM, one cycle': cycle('erm'),
            # Both of Jordan 2024 (airbench)
            'ERM, one cycle, alternating flip': cycle('erm', alternate=True),
            'ERM, one cycle, fast biases': cycle('erm', bias_lr=64),
            'mixup': whole(**mixed),
            'mixup, one cycle': cycle(**mixed),
            'mixup until .8, one cycle': cycle(**mixed, until=.8),
            'mixup fading, one cycle': cycle(**mixed, fade=0),
            'mixup or CutMix until .8, one cycle': cycle('mixup_cutmix', r=.5, until=.8),
            'mixup, fine-tuned': run(scale, seed, **mixed, **short),
            'mixup-X, fine-tuned': run(scale, seed, 'mixup_x', r=.5, **short),
            'mixup-C, fine-tuned': heads(scale, seed, **short)}

def is_erm(name): return name.startswith('ERM') # of a candidate

def recipe(scale):
    "Candidates on held-out training images"
    return [(dict(net=nm, seed=0), s) for nm,s in _recipes(scale, 0, 'held_out').items()]

def recipe_test(scale, done=None):
    "The best mixed candidate and the best of ERM, once all are there, on test images; the better one first"
    from .results import final_accuracy, finished
    keys = {tag['net']: key(s) for tag,s in recipe(scale)}
    if not {*keys.values()}<=finished(done or {}): return []
    lines = {nm: done[k] for nm,k in keys.items()}
    order = sorted(lines, key=lambda nm: -final_accuracy(lines[nm]))
    best = [next(nm for nm in order if is_erm(nm)==erm) for erm in (False,True)]
    return [(dict(net=nm, seed=i), _recipes(scale, i, 'test')[nm])
            for nm in sorted(best, key=order.index) for i in _seeds(scale)]

# In the order in which they are run: what matters most first
claims = dict(table1=table1, fig4=fig4, fig5=fig5, fig2=fig2, fig6=fig6, slots=slots,
              fig1=fig1, gradient=gradient, speed=speed,
              calibration=calibration, fig5_batch=fig5_batch, recipe=recipe,
              throughput=throughput, two_heads=two_heads)
# The recipe is for the budgets of `mid` and `paper`, and what is not in the paper for that of `mid`
beyond = 'throughput','two_heads'
not_in_all = dict(smoke=(), cpu=('recipe', *beyond), mid=('recipe',), paper=beyond)

def runs_of(
    claim:str, # One of `claims`, or 'all'
    scale:str, # One of `scales`
    done:dict=None # Finished runs, by their keys
)->dict: # Settings by their keys, each once, in order
    "The runs that a claim needs"
    names = [claim] if claim!='all' else [c for c in claims if c not in not_in_all[scale]]
    todo = [o for c in names for o in claims[c](scale)]
    if 'recipe' in names: todo += recipe_test(scale, done)
    return {key(s):s for _,s in todo}
