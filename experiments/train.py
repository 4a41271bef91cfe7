"One run: settings in, figures and curves out"
import platform, subprocess, time
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from fastai.vision.all import *
import fastmix, fastmix.all
from fastmix.all import *
from fastmix.callback import MixBase
from fastmix.core import box_mask, draw_weights
from fastmix.memory import InMemoryDL
from fastmix.metrics import MixMetric, predicted
from fastmix.models import cifar_resnet
from fastmix.training import has_fast_bf16, pick_precision
from .results import here, processor, source
from .timing import images_per_s

n_held_out = dict(digits=200, cifar10=5000)

class First(HeadAccuracy):
    "Whether the most probable class is the stronger sample's: top-1 of figure 2"
    name = 'top1'

class Both(MixMetric):
    "Whether all classes of a mixture are named at once, in any order"
    name = 'both'
    def score(self, pred, y): return (predicted(pred, y.shape[1]).sort(1).values==y.sort(1).values).all(1).float()

class Confused(MixMetric):
    "How often head `i` names the next slot's class, among mixtures where the two classes differ"
    def __init__(self, i): self.i = i
    @property
    def name(self): return f'{type(self).__name__.lower()}_{self.i}'
    def counts(self, named, true, other): return named==other
    def score(self, pred, y):
        n = y.shape[1]
        named,true,other = predicted(pred, n)[:,self.i],y[:,self.i],y[:,(self.i+1)%n]
        return torch.where(true!=other, self.counts(named, true, other).float(), torch.nan)

class Wrong(Confused):
    "How often head `i` is wrong, among the same mixtures: what `Confused` is to be compared with"
    def counts(self, named, true, other): return named!=true

class AlternatingDL(InMemoryDL):
    "Single images, each flipped in every other epoch, half of them in the first (Jordan 2024)"
    epoch = 0
    @cached_property
    def turns(self):
        "1 for images that are flipped in epochs of even numbers, 0 for the others"
        n,g = len(self.dataset),torch.Generator().manual_seed(0)
        return torch.randint(2, (n,), generator=g).to(self.data[0].device)

    def stacked(self, idx):
        x,y = super().stacked(idx)
        flip = (self.turns[idx]+self.epoch)%2==1
        return torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x),y

class TellEpoch(Callback):
    "Tell the training loader in which epoch it is"
    def before_train(self): self.dls.train.epoch = self.epoch

def norm_biases(model):
    "Parameter groups: the biases of batch norm, and the rest"
    biases = L(m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    ids = {id(p) for p in biases}
    return L(biases, L(p for p in model.parameters() if id(p) not in ids))

class BatchMixupC(MixupC):
    "One λ for each batch in training; at evaluation one per sample, as few batches would be few draws of λ"
    def before_train(self): self.per = 'batch'
    def before_validate(self): self.per = 'sample'

class PatchMixupC(MixupC):
    "In some rows the two slots share the picture, each image seen in its part of it (MixMo, Ramé et al. 2021)"
    def __init__(self, patch, **kwargs): # `patch`: probability that a row is one of these
        super().__init__(**kwargs)
        self.patch = patch

    def mix_batch(self, xb, yb, g, strength=1.):
        xb,yb,mixed = super().mix_batch(xb, yb, g, strength)
        if not self.training: return xb,yb,mixed
        bs,size,rng = len(xb[0]),xb[0].shape[2:],g(6)
        area = draw_weights(torch.distributions.Beta(2., 2.), bs, 2, rng)[:,1]
        row,column,swap,chance = torch.rand(4, bs, generator=rng, device=rng.device)
        centre = (torch.stack([row,column], 1)*tensor(size, device=rng.device)).long()
        box = box_mask(centre, area, size) ^ (swap<.5)[:,None,None] # either slot may have the box
        share = torch.stack([~box,box], 1).flatten(2).float().mean(2)
        w,cut = share**(1/3),chance<self.patch*strength # the paper's r=3
        w_l = torch.where(cut[:,None], 2*w/w.sum(1, keepdim=True), 1.)
        seen = [torch.where(cut[:,None,None], 2*o, 1)[:,None] for o in (~box,box)] # a sum's brightness
        return tuple(x*o for x,o in zip(xb, seen)),yb,replace(mixed, w_l=w_l)

@lru_cache
def images(data, n_samples):
    "All images, in loaders of `n_samples` slots"
    return digits_dls(n_samples, size=8) if data=='digits' else cifar_dls(n_samples, cache=True)

def balanced(
    y:Tensor, # Labels `[n]`
    seed:int=0
)->Tensor: # A permutation of 0..n-1 whose every beginning has equally many of each class
    "An order of the training images that does not depend on the run"
    p = np.random.default_rng(seed).permutation(len(y))
    nth = pd.Series(y.cpu().numpy()[p]).groupby(y.cpu().numpy()[p]).cumcount()
    return tensor(p[np.argsort(nth, kind='stable')])

def part(like, dl, idx, bs, alternate=False):
    "The images `idx` of `dl` in a loader like `like`, or one that flips them in turn"
    split = like.dataset.split_idx
    ds = Datasets(tls=[tl._new(tl._get(idx.tolist()), split_idx=split) for tl in dl.dataset.tls], n_inp=dl.dataset.n_inp)
    kw = dict(data=tuple(t[idx.to(t.device)] for t in dl.data), bs=bs)
    if not alternate: return like.new(ds, cls=InMemoryDL, **kw)
    tfms = [PadCrop(f.pad, flip=False) if isinstance(f, PadCrop) else f for f in like.after_batch.fs]
    return like.new(ds, cls=AlternatingDL, after_batch=tfms, **kw)

def loaders(
    s:dict, # Settings
    n_samples:int, # Number of slots
    n:int=None # Number of evaluation images; `None`: all
)->DataLoaders: # Training images of the run, and the images it is judged by in a fixed random order
    "Test images, or training images that no run of their kind is trained on"
    dls = images(s['data'], n_samples)
    order,held = balanced(dls.train.data[1]),n_held_out[s['data']]
    test = s['evaluate']=='test'
    train = order[:s.get('n_train') or (len(order) if test else len(order)-held)]
    if test: dl,idx = dls.valid,balanced(dls.valid.data[1])
    else: dl,idx = dls.train,order[-held:]
    p = torch.randperm(len(idx), generator=torch.Generator().manual_seed(0)) # mixing needs all classes in a batch
    train_dl = part(dls.train, dls.train, train, s['bs'], s.get('alternate'))
    return MultiSampleDataLoaders(train_dl, part(dls.valid, dl, idx[p][:n], 500), device=dls.device)

def mixing(s):
    "The callback that the settings ask for; it mixes at evaluation too, where it blends or scales images"
    kw = dict(seed=s['seed'], per=s.get('per') or 'sample')
    m,r = s['method'],s.get('r')
    if s.get('fade') is not None: kw['when'] = partial(fade, start=s['fade'])
    if s.get('until') is not None: kw['when'] = partial(until, end=s['until'])
    if m=='mixup_c':
        names = 'n_samples','lam_x','lam_l','random_label','same','repeats'
        kw.update({k:s[k] for k in names if s.get(k) is not None}, mix_valid=s.get('lam_x') is not None)
        if s.get('patch'): return PatchMixupC(s['patch'], **kw)
        return BatchMixupC(**kw) if s.get('per')=='batch' else MixupC(**kw)
    if m=='mixup_xl': return MixupXL(r, r, mix_valid=True, **kw)
    if m=='erm': return None
    if m=='mixup_cutmix': return MixChoice(Mixup(r, **kw), CutMixup(r, **kw), seed=s['seed'])
    return dict(mixup=Mixup, mixup_x=MixupX, mixup_l=MixupL)[m](r, mix_valid=True, **kw)

def computed_in(
    precision:str # What the settings ask for
)->str: # What this machine computes in
    "A CPU without instructions for bf16 emulates it, 12 times as slowly with AVX2, 3 times with AVX-512 (measured): float32 in its place"
    return 'fp32' if precision=='bf16' and not has_fast_bf16(default_device()) else precision

class NormLoss(HeadsLoss):
    "A norm of the heads' losses, not their sum: a head that falls behind counts more"
    def __init__(self, func, n, p): # `p`: 1 is the sum, infinity the worst head alone
        super().__init__(func, n)
        self.p = p
    def __call__(self, pred, *ys, w=None):
        each = torch.stack(self.each(pred, ys, w))
        return each.norm(self.p)*len(each)**(1-1/self.p) # the sum, where they are equal

def learner(s, dls, compile=False):
    mix,n = mixing(s),s.get('n_samples') or 1
    opt = nesterov_sgd if s.get('wd') is None else partial(nesterov_sgd, weight_decay=s['wd'])
    arch = partial(cifar_resnet, s['depth'], width=s.get('width') or 1)
    kw = dict(arch=arch, lr=s['lr'], precision=computed_in(s['precision']), compile=compile,
              opt_func=opt)
    if s.get('bias_lr'): kw['splitter'] = norm_biases
    if mix is None: return mixup_learner(dls, cbs=TellEpoch(), **kw)
    one = [First(0), Top2(), Top2All(), Both()]
    if n==1: return mixup_learner(dls, mix, metrics=one, **kw)
    if s.get('n_heads')==1: return mixup_c_learner(dls, n, n_heads=1, cbs=mix, metrics=one, **kw)
    per_head = [f(i) for f in (HeadAccuracy,Confused,Wrong) for i in range(n)]
    learn = mixup_c_learner(dls, n, cbs=mix, metrics=[*per_head, Top2(), Top2All(), Both()], **kw)
    if s.get('norm'): learn.loss_func = NormLoss(learn.loss_func.func, n, s['norm'])
    return learn

def schedule(learn, s):
    "What trains for a number of epochs: the paper's schedule, or fastai's one cycle"
    if not s.get('one_cycle'): return learn.fit
    lr = [s['lr']*s['bias_lr'], s['lr']] if s.get('bias_lr') else s.get('lr')
    return partial(learn.fit_one_cycle, lr_max=lr)

def checkpoints(folder, s):
    "Go on where an interrupted run stopped"
    return [Checkpoint(folder, resume=True, settings=s)]

def fit(learn, f, n, cbs):
    "Curves of `f(n)`, a fit of `n` epochs: metrics on the training batches as they were seen, and on evaluation images"
    learn.recorder.train_metrics = True
    with learn.no_bar(), learn.no_logging(): f(n, cbs=cbs)
    return {nm: [plain(row[i]) for row in learn.recorder.values] for i,nm in enumerate(learn.recorder.metric_names[1:-1])}

def plain(v): return round(float(v), 6) if v is not None and math.isfinite(float(v)) else None

def calibration(
    p:Tensor, # Probabilities `[n,c]`
    y:Tensor, # Labels `[n]`
    bins:int=15 # Number of bins of equal width, for the expected calibration error
)->dict: # `acc`, `ece` 0..1, `brier` 0..2, `nll` at least 0
    "Accuracy, and how far the probabilities can be trusted"
    return dict(acc=(p.argmax(1)==y).float().mean(), ece=CalibrationError(bins).func(p, y),
                brier=Brier().func(p, y), nll=F.nll_loss(p.clamp(min=1e-12).log(), y))

@torch.no_grad()
def single(
    learn:Learner, # Of any number of slots
    dl, # Loader of single images
    mirror:bool=False # Whether to average with the answers to the mirror images
)->dict:
    "Judge a network by single images: the same one in every slot, the heads' probabilities averaged (table 1)"
    m,ps,ys = learn.model.eval(),[],[]
    for x,y in dl:
        x = x.as_subclass(Tensor)
        seen = [x, x.flip(-1)] if mirror else [x]
        p = torch.stack([m(*[o]*m.n_samples).float().softmax(-1) for o in seen]).mean(0)
        ps.append(p.mean(1) if p.ndim==3 else p)
        ys.append(y.as_subclass(Tensor))
    return calibration(torch.cat(ps).cpu(), torch.cat(ys).cpu())

def train(
    s:dict, # Settings, from `runs`
    folder, # Where checkpoints of this run are kept meanwhile
    compile:bool=False # Whether `torch.compile` makes it faster
)->dict: # `figures`, `curves`, `seconds`, the `precision` that 'auto' came to, and `compile`
    "Train, evaluate, fine-tune, evaluate"
    start,n,figures = time.time(),s.get('n_samples') or 1,{}
    add = lambda prefix,d: figures.update({prefix+k: plain(v) for k,v in d.items()})
    for k in (1,n): images(s['data'], k) # before the seed is set: what is built only once draws random numbers
    set_seed(s['seed'], reproducible=True)
    n_loaded = 1 if s.get('repeats') else n # slots that are filled within a batch
    learn = learner(s, loaders(s, n_loaded, s.get('n_curve')), compile)
    if s.get('warmup'): learn.remove_cb(StepDecay).add_cb(StepDecay(warmup=s['warmup']))
    # A machine that computes otherwise cannot go on with them
    precision = pick_precision(computed_in(s['precision']))
    folder = folder/precision
    curves = dict(train=fit(learn, schedule(learn, s), s['epochs'], checkpoints(folder/'train', s)))
    trained = time.time()
    add('', {k:v[-1] for k,v in curves['train'].items() if k.startswith('train_')})
    if s['method']!='erm':
        with learn.no_bar(): values = learn.validate(dl=loaders(s, n).valid)[1:]
        add('', dict(zip(learn.recorder.metrics.attrgot('name'), values)))
    ones = loaders(s, 1).valid
    add('single_', single(learn, ones))
    seconds = dict(train=trained-start)
    if s.get('ft_epochs'):
        tuned = learn.to_single(precision=precision, compile=compile, opt_func=learn.opt_func)
        set_seed(s['seed']+1000, reproducible=True)
        whole = dict(s, bs=s['bs']*(s.get('repeats') or 1)) # fine-tuning repeats nothing
        tuned.dls = loaders(whole, 1, s.get('n_curve'))
        t = time.time()
        more = partial(tuned.fine_tune_single, lr=s['ft_lr'])
        curves['tune'] = fit(tuned, more, s['ft_epochs'], checkpoints(folder/'tune', s))
        seconds['tune'] = time.time()-t
        add('tuned_', single(tuned, ones))
    final = tuned if s.get('ft_epochs') else learn
    figures['mirrored_acc'] = plain(single(final, ones, mirror=True)['acc'])
    seconds['all'] = time.time()-start
    return dict(figures=figures, curves=curves, seconds={k:round(v, 1) for k,v in seconds.items()}, precision=precision, compile=compile)

def speed(
    s:dict, # Settings: `nets`, by their names; `batch_sizes`, `data`, `precision`
    rounds:int=15 # All are timed in turn in each, so that a disturbance meets all
)->dict: # Images per second of each network, its batch size, and the median ratio to the first
    "How many images a forward pass answers for"
    device = default_device()
    n_in,size = (1,8) if s['data']=='digits' else (3,32)
    nets = [cifar_resnet(n_in=n_in, **kw).to(device, memory_format=torch.channels_last) for kw in s['nets'].values()]
    half = pick_precision(computed_in(s['precision']), device)=='bf16'
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        rate,rows = images_per_s(nets, s['batch_sizes'], n_in, size, rounds=rounds)
    cols = dict(images_per_s=np.median(rate, 0), ratio=np.median(rate/rate[:,:1], 0), batch_size=rows)
    figures = {f'{k}_{nm}': plain(v) for k,vs in cols.items() for nm,v in zip(s['nets'], vs)}
    return dict(figures=figures, curves={}, seconds={}, precision='bf16' if half else 'fp32')

@lru_cache # as they are when it is first called: the code that is loaded, whatever is committed meanwhile
def provenance()->dict: # Code, libraries and machine
    "What a result depends on besides its settings"
    def git(*a): return subprocess.run(['git', *a], cwd=here, capture_output=True, text=True).stdout.strip() if source else ''
    changed = git('status', '--porcelain', '--', '../fastmix', *map(str, here.glob('*.py')))
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f'{processor()}, {os.cpu_count()} cores'
    libs = {m: __import__(m).__version__ for m in ('torch','torchvision','fastai','fastcore','numpy')}
    return dict(code=dict(commit=git('rev-parse', 'HEAD') or None, dirty=bool(changed), fastmix=fastmix.__version__),
                libraries=dict(python=platform.python_version(), **libs), device=device, threads=torch.get_num_threads())
