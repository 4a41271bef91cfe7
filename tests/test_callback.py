"The mixing callbacks under every loss, batch and interruption"
import contextlib, io, pickle, pytest, torch, zipfile
from types import SimpleNamespace
from fastai.vision.all import *
from fastai.callback.all import *
from fastmix.all import *
from tests.names import plain
from fastmix.core import box_mask, draw_weights, fade, how_partners, keyed_rng
from fastmix.callback import Mix, _random_labels
from fastmix.losses import mixed_loss, unreduced
from functools import partial
from hypothesis import given, settings, strategies as st
from torch.distributions import Beta, Uniform

def dls(n=20, c=3, bs=8, y=None, **kw):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n,3,8,8, generator=g)
    y = torch.randint(c, (n,), generator=g) if y is None else y
    ds = list(zip(x, y))
    d = DataLoaders(DataLoader(ds, bs=bs, **kw), DataLoader(ds, bs=bs))
    d.c = c
    return d

def net(c=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3,4,3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,c))

def learner(cb=None, loss=None, d=None, model=None, cls=Learner, **kw):
    opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    loss = ifnone(loss, CrossEntropyLossFlat())
    learn = cls(d or dls(), model or net(), loss, opt_func=opt_func, lr=.01, cbs=cb, **kw)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

weights = lambda m: torch.cat([p.detach().flatten() for p in m.parameters()])

class Grab(Callback):
    "Keep what the first training batch came to"
    order,run_valid = 70,False
    def before_fit(self): self.seen = []
    def before_backward(self): self.seen.append((self.learn.loss_grad.detach().clone(), self.learn.loss.detach().clone(), self.learn.pred.detach().clone()))

ws = torch.tensor([.2,1.,3.])
def own(pred, y): return (pred.logsumexp(1) - pred.gather(1, y[:,None])[:,0]).mean()
class_losses = [CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, CrossEntropyLossFlat(weight=ws), nn.CrossEntropyLoss(weight=ws),
    nn.CrossEntropyLoss(ignore_index=1), nn.CrossEntropyLoss(weight=ws, ignore_index=0, label_smoothing=.1), nn.CrossEntropyLoss(reduction='sum'),
    partial(F.cross_entropy, weight=ws), LabelSmoothingCrossEntropyFlat(), FocalLossFlat(), FocalLossFlat(weight=ws),
    nn.MultiMarginLoss(), lambda p,y,reduction='mean': F.nll_loss(p.log_softmax(1), y, reduction=reduction)]

@pytest.mark.parametrize('loss', class_losses, ids=plain)
@pytest.mark.parametrize('per', ['sample','batch'])
def test_all_weight_on_the_first_sample_is_no_mixing_at_all(loss, per):
    plain,mixed = learner(loss=loss),learner(Mixup(Fixed(1.), per=per), loss=loss)
    for l in (plain,mixed): l.fit(1, cbs=Grab())
    assert torch.equal(weights(plain.model), weights(mixed.model))
    assert plain.recorder.losses==mixed.recorder.losses and mixed.loss_func is loss

@pytest.mark.parametrize('loss', class_losses+[own], ids=plain)
def test_one_lambda_a_batch_is_the_written_formula(loss):
    p,y1,y2 = torch.randn(9,3, requires_grad=True),torch.arange(9)%3,torch.arange(9).flip(0)%3
    got = mixed_loss(loss, p, [(y1,),(y2,)], torch.tensor([[.3,.7]]))
    want = .3*loss(p, y1) + .7*loss(p, y2)
    assert torch.allclose(got, want)
    assert torch.allclose(*[torch.autograd.grad(o, p)[0] for o in (got,want)], atol=1e-7)

@pytest.mark.parametrize('loss', class_losses, ids=plain)
def test_equal_lambdas_agree_with_one_lambda(loss):
    "Permuted labels are averaged alike, so a λ per sample that is the same for all is the λ of the batch; with its gradient"
    p,y1 = torch.randn(9,3, requires_grad=True),torch.arange(9)%3
    y2 = y1[torch.randperm(9)]
    a,b = (mixed_loss(loss, p, [(y1,),(y2,)], torch.tensor([[.3,.7]]).expand(n,2)) for n in (9,1))
    assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(*[torch.autograd.grad(o, p)[0] for o in (a,b)], atol=1e-6)

def test_per_sample_weighted_cross_entropy_in_float64():
    p,y1,lam = torch.randn(9,3, dtype=torch.double, requires_grad=True),torch.arange(9)%3,torch.rand(9).double()
    y2 = y1.roll(1)
    nll = lambda y: -p.log_softmax(1).gather(1, y[:,None])[:,0]*ws.double()[y]
    want = (lam*nll(y1)).sum()/ws[y1].sum() + ((1-lam)*nll(y2)).sum()/ws[y2].sum()
    got = mixed_loss(nn.CrossEntropyLoss(weight=ws.double()), p, [(y1,),(y2,)], torch.stack([lam,1-lam], 1))
    assert torch.allclose(got, want)
    assert torch.allclose(*[torch.autograd.grad(o, p)[0] for o in (got,want)], atol=1e-12)

@pytest.mark.parametrize('loss', class_losses, ids=plain)
def test_permuted_labels_need_no_second_look_at_how_they_are_averaged(loss):
    p,y,w = torch.randn(9,3, requires_grad=True),torch.arange(9)%3,draw_weights(.5, 9)
    a,b = (mixed_loss(loss, p, [(y,),(y.roll(2),)], w, permuted=o) for o in (True,False))
    assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(*[torch.autograd.grad(o.sum(), p)[0] for o in (a,b)], atol=1e-6)

def test_partners_of_another_class_have_their_gradient():
    "They are no permutation, so class weights average them otherwise; against the formula"
    p,y,y2 = torch.randn(9,3, dtype=torch.double, requires_grad=True),torch.arange(9)%2,torch.full((9,), 2)
    lam,f = torch.rand(9).double(),nn.CrossEntropyLoss(weight=ws.double(), reduction='none')
    want = (lam*f(p, y)).sum()/ws[y].sum() + ((1-lam)*f(p, y2)).sum()/ws[y2].sum()
    got = mixed_loss(nn.CrossEntropyLoss(weight=ws.double()), p, [(y,),(y2,)], torch.stack([lam,1-lam], 1))
    assert torch.allclose(*[torch.autograd.grad(o, p)[0] for o in (got,want)], atol=1e-12)

def test_constant_label_weights_need_no_reduction():
    "Half and half for the whole batch is the mean of two losses, of whatever kind"
    learn = learner([MixupX(seed=0), g:=Grab()], own)
    seen = []
    class See(Callback):
        order = 1
        def before_batch(self): seen.append(self.mixup_x.mixed and [yb[0] for yb in self.mixup_x.mixed.ybs])
    learn.fit(1, cbs=See())
    loss,_,pred = g.seen[0]
    assert torch.allclose(loss, (own(pred, seen[0][0]) + own(pred, seen[0][1]))/2)

def test_equal_to_fastai():
    "fastai's MixUp with the same λ and partners, one after the other on the same network"
    class Same(MixUp):
        def before_batch(self):
            got.append(torch.get_rng_state())
            super().before_batch()
            got.extend([self.lam.clone(), self.learn.xb[0].clone()])
    got,x,y = [],torch.randn(6,3,8,8),torch.arange(6)%3
    d = DataLoaders(DataLoader(list(zip(x, y)), bs=6), DataLoader(list(zip(x, y)), bs=6))
    a,grab = learner(Same(.4), d=d),Grab()
    a.fit(1, cbs=grab)
    torch.set_rng_state(got[0])
    b4 = torch.distributions.Beta(torch.tensor(.4), torch.tensor(.4)).sample((6,))
    lam,perm = torch.stack([b4,1-b4], 1).max(1)[0],torch.randperm(6)
    idx,w = torch.stack([torch.arange(6), perm]),torch.stack([lam, 1-lam], 1)
    assert torch.allclose(got[1], lam)
    assert torch.allclose(got[2], mix(x, idx, w), atol=1e-6)
    loss = mixed_loss(CrossEntropyLossFlat(), grab.seen[0][2], [(y,),(y[perm],)], w)
    assert torch.allclose(grab.seen[0][0], loss, atol=1e-6)

@pytest.mark.parametrize('loss,c,numbers', [(BCEWithLogitsLossFlat(),3,True), (nn.BCEWithLogitsLoss(),3,True), (MSELossFlat(),1,False), (L1LossFlat(),1,False), (F.mse_loss,1,False)], ids=plain)
def test_numbers_are_mixed_themselves(loss, c, numbers):
    y = (torch.rand(20,3)>.5).float() if numbers else torch.randn(20,1)
    plain,mixed,half = (learner(cb, loss, dls(y=y), net(c)) for cb in (None, Mixup(Fixed(1.)), Mixup(seed=1)))
    for l in (plain,mixed,half): l.fit(1)
    assert torch.equal(weights(plain.model), weights(mixed.model))
    assert not torch.equal(weights(plain.model), weights(half.model)) and torch.isfinite(weights(half.model)).all()

def test_the_loss_of_mixed_numbers():
    "Is that of the numbers mixed, which are mixed once"
    came = []
    class See(Callback):
        order,run_valid = 80,False
        def before_backward(self): came.append((self.loss_grad.item(), F.mse_loss(self.pred, self.yb[0]).item()))
    learner([Mixup(seed=0), See()], MSELossFlat(), dls(y=torch.randn(20,1)), net(1)).fit(1)
    for got,want in came: assert got==pytest.approx(want, rel=1e-5)
    assert len(came)==3

def test_a_loss_without_a_reduction_names_the_remedy():
    with pytest.raises(Exception, match="per='batch'"): learner(Mixup(), own).fit(1)
    learner(Mixup(per='batch'), own).fit(1)

class Wrapped(nn.Module):
    "A loss whose `reduction` is that of another one, which it holds under a name of its own"
    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion
    @property
    def reduction(self): return self.criterion.reduction
    @reduction.setter
    def reduction(self, v): self.criterion.reduction = v
    def forward(self, p, y): return self.criterion(p, y)

def with_reduction(p, y): return F.cross_entropy(p, y, weight=ws, reduction=with_reduction.reduction)
with_reduction.reduction = 'mean'

@pytest.mark.parametrize('loss', [Wrapped(nn.CrossEntropyLoss(weight=ws)), with_reduction], ids=['wrapped','function'])
def test_a_reduction_is_as_it_was(loss):
    learners = [learner(Mixup(seed=0), o) for o in (nn.CrossEntropyLoss(weight=ws), loss)]
    for l in learners: l.fit(2)
    a,b = [l.recorder.values for l in learners]
    assert loss.reduction=='mean' and [list(o) for o in a]==[list(o) for o in b]
    with pytest.raises(ValueError): unreduced(loss)(torch.randn(4, 3), tensor([1,2])) # of another length
    assert loss.reduction=='mean'

@pytest.mark.parametrize('slots', [False,True])
def test_a_loss_that_does_not_reduce_trains(slots):
    def trained(reduction):
        set_seed(0)
        loss = nn.CrossEntropyLoss(reduction=reduction)
        if slots: learn = mixup_c_learner(digits_dls(size=8), arch=partial(cifar_resnet, 8), loss_func=loss, precision='fp32')
        else: learn = learner(Mixup(seed=0), loss)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return weights(learn.model)
    assert torch.allclose(trained('none'), trained('mean'), atol=1e-6)

@pytest.mark.parametrize('bs,n', [(1,3),(4,5),(7,8),(8,8)])
@pytest.mark.parametrize('cb', [Mixup, MixupX, MixupL, MixupXL, partial(SamplePairing, on=1, off=1)])
def test_batches_of_any_size(cb, bs, n):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192,3))
    learn = learner(cb(n_samples=3), d=dls(n, bs=bs), model=model)
    learn.fit(2)
    assert np.isfinite(learn.recorder.values[-1][0])

@pytest.mark.parametrize('cb', [Mixup(), MixupXL(n_samples=3), MixupC(lam_x=.5, lam_l=.5, random_label=1)], ids=plain)
def test_the_batch_is_not_written_to(cb):
    x,y = torch.randn(8,3,8,8),torch.arange(8)%3
    bx,by = x.clone(),y.clone()
    cb.learn = SimpleNamespace(training=True, epoch=0, n_epoch=1, dls=SimpleNamespace(c=3))
    cb.mix_batch((x,), (y,), partial(keyed_rng, 0))
    assert torch.equal(x, bx) and torch.equal(y, by)

# ---------- where training goes on

def run(seed=0, disturb=False, n=2, cb=None):
    class Disturb(Callback):
        def after_batch(self): torch.rand(3)
    torch.manual_seed(5)
    learn = learner([Mixup(seed=seed) if cb is None else cb] + ([Disturb()] if disturb else []))
    torch.manual_seed(6)
    learn.fit(n)
    return weights(learn.model)

def test_same_seed_same_run_whatever_else_draws():
    assert torch.equal(run(1), run(1)) and torch.equal(run(1), run(1, disturb=True)) and not torch.equal(run(1), run(2))

def test_a_callback_that_is_pickled_goes_on_where_it_stopped():
    a = Mixup(seed=3)
    run(cb=a)
    a.learn = None
    b = pickle.loads(pickle.dumps(a))
    assert (b.seed,b.count)==(a.seed,a.count) and 'mixed' not in b.__dict__

class Stop(Callback):
    "Raise in the middle of a training batch, as Ctrl-C or a lack of memory would"
    run_valid = False
    def __init__(self, exc, at='after_pred'): self.exc,self.at = exc,at
    def after_pred(self):
        if self.at=='after_pred' and self.learn.train_iter==1: raise self.exc
    def before_step(self):
        if self.at=='before_step' and self.learn.train_iter==1: raise self.exc

@pytest.mark.parametrize('exc', [KeyboardInterrupt(), RuntimeError('boom'), torch.OutOfMemoryError('no memory'), CancelFitException(), CancelBatchException(), CancelTrainException(), CancelEpochException()], ids=plain)
@pytest.mark.parametrize('cb', [Mixup,MixupC])
@pytest.mark.parametrize('bf16,at', [(False,'before_step'), (True,'after_pred')])
def test_after_an_interruption_all_is_right(exc, cb, bf16, at, tmp_path):
    multi = cb is not Mixup
    loss,model = (HeadsLoss(),resnet20(3, n_samples=2)) if multi else (CrossEntropyLossFlat(),net())
    cls = MixupLearner if bf16 else Learner # fastai's leaves autocast switched on
    learn = learner(cb(seed=0), loss, model=model, cls=cls, path=tmp_path)
    if bf16: learn.add_cb(DevicePrecision('bf16'))
    is_fastais = type(exc).__name__.startswith('Cancel') # which `fit` ends with quietly, unlike the others
    with contextlib.nullcontext() if is_fastais else pytest.raises(type(exc)): learn.fit(1, cbs=Stop(exc, at))
    assert learn.train_iter==1 or isinstance(exc, CancelBatchException)
    assert getattr(learn, 'scaler', None) is None # that of a step which did not end cannot be pickled
    assert learn.loss_func is loss
    p,t = learn.get_preds()
    assert torch.allclose(p.sum(-1), torch.ones(p.shape[:-1]), atol=1e-2 if bf16 else 1e-5) # probabilities, not logits
    assert not torch.is_autocast_enabled('cpu')
    assert np.isfinite(learn.validate()[0])
    learn.fit(1)
    data = io.BytesIO()
    for c in learn.cbs: assert getattr(c, 'mixed', None) is None
    learn.dls = None # tuples of tensors are no `Datasets`; what is looked at here are the callbacks
    torch.save([cb.__getstate__() for cb in learn.cbs if isinstance(cb, (Mixup,MixupC))], data)

@pytest.mark.parametrize('extra', [GradientAccumulation(16), GradientClip(.1), DevicePrecision('bf16'), DevicePrecision('fp16'), ChannelsLast(), ShortEpochCallback(.5), MixedPrecision()], ids=plain)
def test_other_callbacks(extra):
    learn = learner([MixupXL(seed=0), extra])
    learn.fit(2)
    assert np.isfinite(learn.recorder.losses).all()
    assert torch.isfinite(weights(learn.model)).all()

def test_gradient_accumulation_is_the_larger_batch():
    "Two halves of a batch, accumulated, give the step of the batch when λ = 1"
    lin = lambda: (torch.manual_seed(0), nn.Sequential(nn.Flatten(), nn.Linear(192,3)))[1]
    a = learner(Mixup(Fixed(1.)), d=dls(16, bs=16), model=lin())
    b = learner([Mixup(Fixed(1.)), GradientAccumulation(16)], d=dls(16, bs=8), model=lin())
    for l in (a,b): l.fit(1)
    assert torch.allclose(weights(a.model), weights(b.model), atol=1e-6)

def test_schedules_and_finder(tmp_path):
    learn = learner(MixupX(seed=0), path=tmp_path, d=dls(200))
    learn.lr_find(num_it=12, show_plot=False)
    assert learn.loss_func.__class__ is CrossEntropyLossFlat
    learn.fit_one_cycle(1)
    learn.fine_tune(1)
    assert np.isfinite(learn.recorder.values[-1][0])

def test_the_rhythm_is_kept():
    seen = []
    class See(Callback):
        order,run_valid = 1,False
        def before_batch(self): seen.append((self.epoch, self.sample_pairing.mixed is not None))
    learner([SamplePairing(on=2, off=1), See()]).fit(6)
    assert {e:m for e,m in seen}=={0:True,1:True,2:False,3:True,4:True,5:False}

def test_lr_find_mixes_every_batch(tmp_path):
    "The epochs that it makes up are none of a training"
    seen = []
    class See(Callback):
        order,run_valid = 1,False
        def before_batch(self): seen.append((self.epoch, self.sample_pairing.mixed is not None))
    cbs = [SamplePairing(on=2, off=1), See()]
    learner(cbs, path=tmp_path, d=dls(16)).lr_find(num_it=12, stop_div=False, show_plot=False)
    assert {0,1,2}<={e for e,_ in seen} and all(mixed for _,mixed in seen)

def test_switched_off_from_an_epoch_on():
    seen = []
    class See(Callback):
        order,run_valid = 1,False
        def before_batch(self): seen.append((self.epoch, self.mixup.mixed is not None))
    learner([Mixup(when=partial(until, end=.5)), See()]).fit(4)
    assert dict(seen)=={0:True,1:True,2:False,3:False}

@pytest.mark.parametrize('d', [Beta(.4,.4), Uniform(0.,1.), lambda s: torch.rand(s)], ids=plain)
def test_weights_of_images_and_labels_are_drawn_independently(d):
    cb = MixupXL(d, d)
    m = cb.mix_batch((torch.randn(2000,1,1,1),), (torch.zeros(2000).long(),), partial(keyed_rng, 0))[2]
    assert torch.corrcoef(torch.stack([m.w_x[:,0], m.w_l[:,0]]))[0,1].abs()<.1

def test_weights_are_float32_under_autocast():
    seen = []
    class See(Callback):
        run_valid = False
        def after_pred(self): seen.append((self.pred.dtype, self.mixup.mixed.w_x.dtype, self.mixup.mixed.w_l.dtype, self.x.dtype))
    learner([Mixup(), DevicePrecision('bf16'), See()]).fit(1)
    assert set(seen)=={(torch.bfloat16, *[torch.float32]*3)}

def test_choice_of_rules():
    seen = []
    class See(Callback):
        order,run_valid = 1,False
        def before_batch(self): seen.append(type(self.mix_choice.rule).__name__)
    learn = learner([MixChoice(Mixup(), MixupX(), None, odds=(1,2,1), seed=0), See()], d=dls(200, bs=2))
    learn.fit(4)
    freq = {k:seen.count(k)/len(seen) for k in set(seen)}
    assert abs(freq['MixupX']-.5)<.1 and abs(freq['Mixup']-.25)<.1 and abs(freq['NoneType']-.25)<.1

@given(st.integers(1,257), st.integers(1,4), st.integers(0,2**31), st.sampled_from(class_losses[:3] + class_losses[9:10] + [FocalLossFlat(), nn.MultiMarginLoss()]))
@settings(max_examples=40, deadline=None)
def test_any_mixture_under_any_loss_is_the_written_formula(bs, n, seed, loss):
    "Value and gradient, in float64 where the loss allows it, for losses that are means over the batch"
    g = keyed_rng(seed)
    pred = torch.randn(bs, 3, generator=g).double().requires_grad_()
    y,w = torch.randint(3, (bs,), generator=g),draw_weights(.5, bs, n, g).double()
    ys = [y[i] for i in partners(bs, n, g=g)]
    want = sum((w[:,k]*unreduced(loss)(pred, ys[k])).mean() for k in range(n))
    for permuted in (True,False):
        got = mixed_loss(loss, pred, [(o,) for o in ys], w, permuted=permuted)
        assert torch.allclose(got.double(), want.double(), atol=1e-6)
        assert torch.allclose(*[torch.autograd.grad(o, pred, retain_graph=True)[0] for o in (got,want)], atol=1e-6)

@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_a_compiled_model_trains_as_it_would(backend):
    got = []
    for comp in (noop, partial(torch.compile, backend=backend)):
        learn = learner(Mixup(seed=0), model=comp(net()), d=dls(24))
        learn.fit(2)
        got.append(weights(learn.model))
    assert torch.allclose(*got, atol=1e-5)

def image(i): return TensorImage(torch.randn(3,8,8, generator=torch.Generator().manual_seed(i)))
def one_class(i): return TensorCategory(i%3)
def one_hot(i): return TensorMultiCategory([1.,i%2,0])
def number(i): return tensor([i/10])

def small(y=one_class): return Datasets(range(24), [[image],[y]], splits=[range(16), range(16,24)]).dataloaders(bs=8, device='cpu')

@pytest.mark.parametrize('arch', [models.resnet18, 'resnet10t'], ids=['torchvision','timm'])
def test_vision_learner(arch):
    "A body of each kind, frozen and then whole; the callback mixes in both"
    loss = CrossEntropyLossFlat()
    learn = vision_learner(small(), arch, n_out=3, normalize=False, pretrained=False, loss_func=loss, metrics=[accuracy, Top2All()], cbs=Mixup(seed=0))
    learn.remove_cb(ProgressCallback)
    learn.logger,learn.recorder.train_metrics = noop,True
    learn.fine_tune(1)
    rec = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    assert learn.loss_func is loss and 0<=rec['train_top2_all']<=1 and np.isfinite(rec['train_loss'])
    assert learn.mixup.count==4 # two batches frozen, two of the whole
    assert torch.allclose(learn.get_preds()[0].sum(1), torch.ones(8), atol=1e-4)

@pytest.mark.parametrize('loss,y,c', [(o,one_class,3) for o in class_losses[:13]] +
    [(BCEWithLogitsLossFlat(),one_hot,3), (nn.BCEWithLogitsLoss(),one_hot,3), (MSELossFlat(),number,1), (L1LossFlat(),number,1), (nn.MSELoss(),number,1)], ids=plain)
def test_an_export_holds_nothing_of_a_batch(loss, y, c, tmp_path):
    "An export after an interrupted fit has not one tensor more than one that was never mixed; fastai's MixUp has"
    def tensors(cb):
        learn = learner(cb, loss, small(y), net(c), path=tmp_path)
        try: learn.fit(1, cbs=Stop(RuntimeError('boom')))
        except RuntimeError: pass
        learn.export('a.pkl')
        with zipfile.ZipFile(tmp_path/'a.pkl') as z: return sum('/data/' in n for n in z.namelist())
    want = tensors(None)
    assert tensors([Mixup(seed=0)])==want
    if y is one_class:
        learn = learner(Mixup(seed=0), loss, small(), path=tmp_path)
        try: learn.fit(1, cbs=Stop(KeyboardInterrupt()))
        except KeyboardInterrupt: pass
        assert torch.allclose(learn.predict(3)[2], learner(loss=loss, d=small(), model=learn.model).predict(3)[2])
    new = load_learner(tmp_path/'a.pkl')
    assert type(new.loss_func) is type(loss) and new.mixup.mixed is None
    dl = new.dls.test_dl(list(range(16,24)))
    assert np.isfinite(new.get_preds(dl=dl)[0]).all()
    if isinstance(loss, CrossEntropyLossFlat): assert tensors(MixUp())>want

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('cb', [Mixup(), MixupX(), MixupL(), MixupXL(), Mixup(Beta(.4,.4)), Mixup(n_samples=3), Mixup(partner='other'), Mixup(partner='other_class'),
    Mixup(per='batch'), SamplePairing(), CutMixup(), Mixup(when=partial(fade, start=0)), MixupC(lam_x=.5, lam_l=.5, random_label=1)], ids=plain)
def test_no_host_synchronisation(cb):
    x,y = torch.randn(64,3,32,32, device='cuda'),torch.arange(64, device='cuda')%10
    multi = isinstance(cb, MixupC)
    cb.learn = SimpleNamespace(training=True, epoch=0, n_epoch=2, dls=SimpleNamespace(c=10), model=nn.Identity(), loss_func=HeadsLoss() if multi else CrossEntropyLossFlat(),
        pred=torch.randn(64, *[2]*multi, 10, device='cuda', requires_grad=True))
    for strict in (False,True): # the first time warms up
        torch.cuda.set_sync_debug_mode('error' if strict else 'default')
        try:
            cb.learn.xb,cb.learn.yb = (x,),(y,)
            cb.before_batch()
            cb.learn.loss_grad = cb.learn.loss_func(cb.learn.pred, *cb.learn.yb)
            cb.after_loss()
            cb.learn.loss_grad.backward()
        finally: torch.cuda.set_sync_debug_mode('default')

def test_a_choice_goes_on_from_its_own_seed_and_count():
    "Two numbers are the whole state, whatever the rules have drawn before"
    def go(n, **state):
        seen,cb = [],MixChoice(Mixup(), MixupXL(), odds=(1,2), seed=3)
        for k,v in state.items(): setattr(cb, k, v)
        class See(Callback):
            order,run_valid = 1,False
            def before_batch(self): seen.append((type(cb.rule).__name__, *cb.mixed.w_x[:,0].tolist()))
        learner([cb, See()], d=dls(16)).fit(n)
        return seen,cb
    (all_,_),(some,cb) = go(4),go(2)
    assert some + go(2, seed=cb.seed, count=cb.count)[0]==all_ and len(set(all_))==8

# ---------- metrics

def test_metrics_on_training_batches_are_of_what_was_mixed():
    learn = learner(Mixup(Fixed(.8), partner='other_class'), metrics=[Top2All(), Top2()], d=dls(64, 2, bs=16), model=net(2))
    learn.recorder.train_metrics = True
    learn.fit(1)
    rec = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    assert rec['train_top2_all']==1. and rec['valid_top2'] is None # two classes: both are always among the first two

def test_metrics_are_exact_for_uneven_batches():
    set_seed(0)
    d = digits_dls(val_bs=77, size=8) # 360 are 4 batches and 52 more
    learn = mixup_c_learner(d, arch=partial(cifar_resnet, 8), precision='fp32')
    learn.remove_cb(ProgressCallback)
    v = dict(zip(['loss','head_0','head_1','top2','top2_all'], learn.validate()))
    p,(y1,y2) = learn.get_preds()
    h = p.argmax(-1)==torch.stack([y1,y2], 1)
    assert abs(v['head_0']-h[:,0].float().mean())<1e-6 and abs(v['head_1']-h[:,1].float().mean())<1e-6 and abs(v['top2']-h.float().mean())<1e-6

def test_mixing_in_validation_is_the_same_every_epoch():
    "However far the training is, and each batch has weights of its own"
    seen = []
    class See(Callback):
        order = 1
        def before_validate(self): seen.append([])
        def before_batch(self):
            if not self.training: seen[-1].append(self.mixup.mixed.w_x[0,0].item())
    learner([Mixup(mix_valid=True, seed=0), See()], metrics=Top2()).fit(2)
    assert seen[0]==seen[1] and len(set(seen[0]))==3

def titles(learn, **kw):
    plt.close('all')
    learn.show_mixed(max_n=2, **kw)
    return [ax.get_title() for ax in plt.gcf().axes]

@pytest.mark.parametrize('y,loss,c', [(one_class,CrossEntropyLossFlat(),3), (one_hot,BCEWithLogitsLossFlat(),3), (number,MSELossFlat(),1)])
def test_show_mixed(y, loss, c):
    learn = learner(Mixup(Fixed(.75)), loss, small(y), net(c))
    t = titles(learn)
    assert len(t)==6 and all('(75%)' in o for o in t[::3]) and all('(25%)' in o for o in t[1::3]) and all(' +\n' in o for o in t[2::3])
    assert [ax.texts[0].get_text() for ax in plt.gcf().axes[:2]]==['+','=']
    assert learn.mixup.count==0 and learn.mixup.mixed is None # it disturbs no draw of training

def test_show_mixed_of_a_choice(): assert len(titles(learner(MixChoice(None, Mixup()), d=small())))==6

def test_show_mixed_cuts_no_weights():
    d = small()
    d.vocab = [f'a very long name of class number {i}' for i in range(3)]
    t = titles(learner(Mixup(Fixed(.75)), d=d))
    assert all(o.endswith('(75%)') and '…' in o for o in t[::3])

def test_show_mixed_slots():
    learn = learner(MixupC(lam_l=Fixed(.6)), HeadsLoss(), small(), resnet20(3, n_samples=2))
    assert [o[-5:] for o in titles(learn)]==['(60%)','(40%)']*2
    with pytest.raises(ValueError, match='no mixing callback'): learner().show_mixed()

# ---------- mixup-C

def test_one_softmax_mixes_labels_by_the_images_weights():
    came,cb = [],MixupC(2, lam_x=.5, lam_l='x', seed=0)
    class See(Callback):
        order,run_valid = 80,False
        def before_backward(self):
            nll = torch.stack([F.cross_entropy(self.pred, y, reduction='none') for y in self.yb], 1)
            came.append((self.loss_grad.item(), (cb.mixed.w_x*nll).sum(1).mean().item()))
    learner([cb, See()], HeadsLoss(), model=multi_sample_model(net(), 2, 3, n_heads=1)).fit(1)
    assert len(came)==3
    for got,want in came: assert got==pytest.approx(want, rel=1e-5)

def test_slots_of_a_pair_loader_are_taken_as_they_are():
    "Labels of one slot are replaced, images are scaled by their weights, and nothing else is touched"
    xs,ys = torch.randn(2,9,3,8,8),torch.arange(18).reshape(2,9)%3
    cb = MixupC(lam_x=.5, random_label=1)
    cb.learn = SimpleNamespace(training=True, epoch=0, n_epoch=1, dls=SimpleNamespace(c=1000))
    xb,yb,m = cb.mix_batch(tuple(xs), tuple(ys), partial(keyed_rng, 0))
    assert m.idx is None and torch.equal(yb[0], ys[0]) and not torch.equal(yb[1], ys[1])
    for x,x0,w in zip(xb, xs, m.w_x.T): assert torch.equal(x, x0*w[:,None,None,None])

def test_weights_on_losses_are_the_written_formula():
    pred,ys,w = torch.randn(9,2,3, dtype=torch.double, requires_grad=True),torch.arange(18).reshape(2,9)%3,torch.rand(9,2).double()
    f = partial(F.cross_entropy, weight=ws.double())
    want = sum((w[:,k]*f(pred[:,k], ys[k], reduction='none')).sum()/ws[ys[k]].sum() for k in (0,1))
    got = HeadsLoss(f)(pred, *ys, w=w)
    assert torch.allclose(got, want) and torch.allclose(*[torch.autograd.grad(o, pred)[0] for o in (got,want)], atol=1e-12)

def test_random_labels_are_classes():
    "Each as often as the others, of one slot alone"
    y = torch.zeros(9000).long()
    a,b = (_random_labels((y,y), 1, 3, keyed_rng(0)) for _ in range(2))
    assert torch.equal(a[0], y) and torch.equal(a[1], b[1])
    assert torch.allclose(torch.bincount(a[1], minlength=3)/9000, torch.full((3,), 1/3), atol=.03)
    for t,i in ((torch.eye(3),1), (torch.rand(4),0)):
        with pytest.raises(ValueError, match=f'random_label={i}: expected one class per sample'): _random_labels((t,t), i, 3, keyed_rng(0))

def test_wrong_data_is_refused_with_what_came():
    with pytest.raises(Exception, match='expected loaders of one image per sample, these give 2'):
        learner(Mixup(), d=digits_dls(), model=net()).fit(1)

def test_names_shadow_none_of_fastai():
    import fastai.vision.all as fa, fastmix.all as fm
    assert not [n for n in vars(fm) if not n.startswith('_') and hasattr(fa, n)]

def test_validation_of_one_class_a_batch_is_spoken_of_once():
    for cb,many in ((Mixup(mix_valid=True),False), (MixupC(),False), (Mixup(mix_valid=True),True), (Mixup(),False)):
        d = digits_dls(n_samples=1, bs=32, size=8, device='cpu')
        y = d.valid.data[1]
        if not many: d.valid.data = d.valid.data[0],y.sort().values.as_subclass(type(y))
        learn = Learner(d, cifar_resnet(8, n_in=1, n_samples=2 if isinstance(cb, MixupC) else 1), HeadsLoss() if isinstance(cb, MixupC) else CrossEntropyLossFlat(), cbs=cb)
        with warnings.catch_warnings(record=True) as seen, learn.no_bar(), learn.no_logging():
            warnings.simplefilter('always')
            for _ in range(2): learn.validate()
        told = [str(o.message) for o in seen if 'of one class' in str(o.message)]
        assert len(told)==(not many and (cb.mix_valid or isinstance(cb, MixupC)))
        if told: assert 'all 32 images of a validation batch' in told[0] and 'list the validation files in a mixed order' in told[0]

@pytest.mark.parametrize('cb', [Mixup(Fixed(.3), n_samples=1), MixupXL(Beta(1.,1.), n_samples=1), MixupC(1), MixupC(1, lam_x=Beta(1.,1.), lam_l='x')], ids=plain)
def test_a_mixture_of_one_sample_is_that_sample(cb):
    x,y = torch.rand(5,3,4,4),torch.arange(5)
    cb.learn = SimpleNamespace(training=True, epoch=0, n_epoch=1)
    (xm,),_,m = cb.mix_batch((x,), (y,), partial(keyed_rng, 3))
    assert torch.equal(xm, x) and torch.equal(m.labels, y[:,None])
    assert len(titles(learner(cb, d=small())))>0

# ---------- what is refused before the first batch

class Batches(Callback):
    order = -9
    def before_fit(self): self.n = 0
    def before_batch(self): self.n += 1

@pytest.mark.parametrize('cbs,names', [
    ([Mixup(), MixupX()], 'Mixup and MixupX'), ([Mixup(), MixUp()], 'MixUp and Mixup|Mixup and MixUp'),
    ([CutMix(), MixupXL()], 'CutMix and MixupXL|MixupXL and CutMix'), ([MixChoice(Mixup(), None), Mixup()], 'MixChoice and Mixup'),
    ([MixupC(), Mixup()], 'MixupC and Mixup')], ids=plain)
def test_two_at_once(cbs, names):
    multi = isinstance(cbs[0], MixupC)
    learn = learner([*cbs, Batches()], HeadsLoss() if multi else None, model=resnet20(3, n_samples=2) if multi else None)
    with pytest.raises(ValueError, match=f'({names}) in one learner: expected one mixing callback; MixChoice'): learn.fit(1)
    assert learn.batches.n==0
    learner(cbs[0], learn.loss_func, model=learn.model).fit(1)

def test_two_at_once_for_one_fit():
    with pytest.raises(ValueError, match='expected one mixing callback'): learner(Mixup()).fit(1, cbs=MixupX())

@pytest.mark.parametrize('model,n', [(resnet20(3), 1), (net(), 1), (resnet20(3, n_samples=3), 3)], ids=['one','own','three'])
def test_slots_that_the_network_lacks(model, n):
    said = rf'MixupC\(n_samples=2\) on a network of n_samples={n}: expected 2; mixup_c_learner or multi_sample_model\(model, 2'
    with pytest.raises(ValueError, match=said): learner(MixupC(), HeadsLoss(), model=model)
    with pytest.raises(ValueError, match=said): learner(None, HeadsLoss(), model=model).fit(1, cbs=MixupC())

def test_weights_that_are_none_of_a_user():
    learn = learner(Mixup(lambda shape: torch.full(shape, 1.5)))
    with pytest.raises(ValueError, match='gave weights of 1.5..1.5: expected 0..1'): learn.fit(1)

def test_beta_as_the_readme_writes_it():
    names = {}
    exec('from fastai.vision.all import *\nfrom fastmix.all import *\ncb = Mixup(Beta(.5,.5))', names)
    assert names['cb'].settings()['x']=="Beta({'concentration1': 0.5, 'concentration0': 0.5})"

@pytest.mark.parametrize('a,b', [(Mixup(), Mixup(.3)), (Mixup(), Mixup(per='batch')), (Mixup(Beta(.4,.4)), Mixup(Beta(1.,1.))),
    (Mixup(), Mixup(partner='other')), (MixupC(), MixupC(lam_x=.5)), (MixupC(random_label=0), MixupC(random_label=1)), (Mixup(Fixed(.5)), Mixup(Fixed(.4))),
    (MixupC(), MixupC(lam_l=.5)), (MixupC(), MixupC(same=.5)), (MixupC(), MixupC(repeats=2)), (MixupXL(), MixupXL(r_l=.3)), (Mixup(), Mixup(combine=patches)),
    (Mixup(), Mixup(n_samples=3)), (Mixup(), Mixup(mix_valid=True)), (MixChoice(Mixup(), None), MixChoice(Mixup(), None, odds=(1,3))),
    (SamplePairing(), SamplePairing(on=3)), (MixChoice(Mixup(), None), MixChoice(Mixup(.3), None)), (Mixup(when=until), Mixup(when=rhythm))], ids=plain)
def test_settings_tell_callbacks_apart(a, b):
    import json
    assert a.settings()!=b.settings() and json.loads(json.dumps(a.settings()))==a.settings()
    assert a.settings()==pickle.loads(pickle.dumps(a)).settings()

# patches, repetition, fading

@pytest.mark.parametrize('size', [(8,8), (5,9), (32,17)])
def test_a_box_is_that_of_torchvisions_cutmix(size, monkeypatch):
    "The same images and labels, where the place and the size of the box are theirs"
    from torchvision.transforms import v2
    h,w = size
    x,y = torch.rand(3,2,h,w),torch.tensor([0,1,2])
    for seed in range(20):
        torch.manual_seed(seed)
        want,want_y = v2.CutMix(num_classes=3)(x, y)
        torch.manual_seed(seed) # the same draws again, in torchvision's order
        lam = float(v2.CutMix(num_classes=3)._dist.sample(()))
        column,row = int(torch.randint(w, (1,))),int(torch.randint(h, (1,)))
        place = torch.tensor([[(row+.5)/h,(column+.5)/w]])
        with monkeypatch.context() as m:
            m.setattr(torch, 'rand', lambda *a, **kw: place)
            got,shares = patches(x, torch.stack([y, y.roll(1)]), torch.tensor([[lam,1-lam]]), lambda: None)
        assert torch.equal(got, want)
        ys = F.one_hot(y, 3)
        assert torch.allclose(shares[0,0]*ys + shares[0,1]*ys.roll(1, 0), want_y, atol=1e-6)

@given(st.integers(1,9), st.integers(1,4), st.integers(1,12), st.integers(1,12), st.integers(0,99))
@settings(max_examples=40, deadline=None)
def test_labels_weigh_the_pixels_that_are_seen(b, n, h, w, seed):
    x = torch.arange(b).float()[:,None,None,None].expand(b,2,h,w)
    before = x.clone()
    g = keyed_rng(seed)
    idx = torch.stack([torch.arange(b), *[torch.randperm(b, generator=g) for _ in range(n-1)]])
    mixed,share = patches(x, idx, draw_weights(.5, b, n, g), lambda: g)
    assert torch.equal(x, before) and torch.allclose(share.sum(1), torch.ones(b))
    for i in range(b):
        for who in range(b):
            seen = (mixed[i]==who).float().mean()
            assert abs(seen - share[i][idx[:,i]==who].sum()) < 1e-6

def test_gradients_go_through_patches_to_the_images():
    x = torch.rand(3, 2, 8, 8, requires_grad=True)
    idx = torch.tensor([[0,1,2],[1,2,0]])
    mixed,_ = patches(x, idx, draw_weights(.5, 3), keyed_rng)
    mixed.sum().backward()
    assert x.grad.sum()==mixed.numel() # each pixel comes from one image

@pytest.mark.parametrize('cls', [Mixup, MixupX, MixupL, MixupXL])
@pytest.mark.parametrize('n', [2,3])
def test_every_rule_takes_patches(cls, n):
    grab = Grab()
    learner(cls(combine=patches, n_samples=n, seed=0)).fit(1, cbs=grab)
    assert grab.seen and all(loss.isfinite() for _,loss,_ in grab.seen)
    cb = cls(combine=patches, n_samples=n)
    x,y = torch.rand(4,3,8,8),torch.tensor([0,1,2,1])
    _,_,mixed = cb.mix_batch((x,), (y,), partial(keyed_rng, 0))
    halves = cls in (MixupX,)
    assert torch.equal(mixed.w_x.expand(4,-1), mixed.w_l.expand(4,-1))==(cls is Mixup)
    if halves: assert (mixed.w_l==1/n).all()

def test_a_box_without_area_is_no_mixing_at_all():
    plain,mixed = learner(),learner(CutMixup(Fixed(1.)))
    for l in (plain,mixed): l.fit(1)
    assert torch.equal(weights(plain.model), weights(mixed.model))

@pytest.mark.parametrize('p', [.2,.5,.8])
def test_as_many_batches_are_cut_as_timm_switches(p):
    from timm.data import Mixup as TimmMixup
    np.random.seed(0)
    timm,n = TimmMixup(mixup_alpha=1., cutmix_alpha=1., switch_prob=p, num_classes=3),1000
    theirs = sum(timm._params_per_batch()[1] for _ in range(n))
    cb = MixChoice(Mixup(), CutMixup(), odds=(1-p,p), seed=0)
    x,y,ours = torch.rand(2,1,4,4),torch.tensor([0,1]),0
    cb.learn = SimpleNamespace(training=True, epoch=0, n_epoch=1)
    for _ in range(n):
        cb.learn.xb,cb.learn.yb = (x,),(y,)
        cb.before_batch()
        ours += isinstance(cb.rule, CutMixup)
    assert abs(theirs/n-p)<.05 and abs(ours/n-p)<.05

def mixup_c_batch(x, y, strength=1., training=True, **kw):
    cb = MixupC(**kw)
    cb.learn = SimpleNamespace(training=training, dls=SimpleNamespace(c=1000))
    return cb.mix_batch(x, y, partial(keyed_rng, 0), strength)

many = (torch.arange(400.)[:,None,None,None],),(torch.arange(400),) # images that tell who they are

def test_repetition_fades_with_the_mixing():
    xs,ys,_ = mixup_c_batch(*many, .25, same=1.)
    assert (ys[0]==ys[1]).float().mean().item()==pytest.approx(.25, abs=.1)

def test_epochs_without_mixing_have_neither_random_labels_nor_repeats():
    xs,ys,m = mixup_c_batch(*many, 0., random_label=1, repeats=2)
    assert len(xs[0])==400 and torch.equal(ys[1], m.idx[1])
    xs,ys,m = mixup_c_batch(*many, 1., random_label=1, repeats=2)
    assert len(xs[0])==800 and not torch.equal(ys[1], m.idx[1])

def test_slots_weigh_images_and_losses_independently():
    m = mixup_c_batch(*many, lam_x=.5, lam_l=.5)[2]
    assert torch.corrcoef(torch.stack([m.w_x[:,0], m.w_l[:,0]]))[0,1].abs()<.2

def test_slots_have_no_weights_in_validation():
    m = mixup_c_batch(*many, 0., training=False, lam_x=.5, lam_l=.5)[2]
    assert m.w_l is None and (m.w_x is None or (m.w_x==.5).all())

@pytest.mark.parametrize('repeats', [1,2])
def test_slots_with_partners_of_another_class(repeats):
    y = torch.arange(8)//4
    _,ys,_ = mixup_c_batch((torch.rand(8,1,2,2),), (y,), partner='other_class', repeats=repeats)
    assert (ys[0]!=ys[1]).all()

def test_what_slots_draw_depends_on_the_seed_alone():
    "Whatever else draws from PyTorch's generator"
    kw = dict(same=.5, lam_x=.5, partner='any', repeats=2)
    a,b = [(torch.rand(3), mixup_c_batch(*many, **kw))[1] for _ in range(2)]
    assert all(torch.equal(s, t) for s,t in zip((*a[0],*a[1],a[2].w_x), (*b[0],*b[1],b[2].w_x), strict=True))

def test_a_loss_that_takes_no_weights_of_the_slots():
    model = multi_sample_model(net(), 2, 3)
    def two(pred, a, b): return F.cross_entropy(pred[:,0], a) + F.cross_entropy(pred[:,1], b)
    learner(MixupC(), two, model=model).fit(1)
    with pytest.raises(ValueError, match='lam_l with loss_func=.*: expected a HeadsLoss, or'): learner(MixupC(lam_l=.5), two, model=model).fit(1)
    one = partial(F.cross_entropy, label_smoothing=.1)
    with pytest.raises(ValueError, match='expected a loss of all slots, such as HeadsLoss'): learner(MixupC(), one, model=model).fit(1)
    learner(MixupC(lam_l=.5), partial(HeadsLoss(one)), model=model).fit(1)

def test_keywords_reach_the_single_losses():
    p,ys,w = torch.randn(4,2,3),(torch.tensor([0,1,2,0]),torch.tensor([1,1,0,2])),torch.rand(4,2)
    want = HeadsLoss(partial(F.cross_entropy, weight=ws))(p, *ys, w=w)
    assert torch.allclose(HeadsLoss(F.cross_entropy)(p, *ys, w=w, weight=ws), want)
    total = HeadsLoss(F.cross_entropy)(p, *ys, w=w, reduction='sum')
    assert torch.allclose(total, sum((F.cross_entropy(p[:,i], ys[i], reduction='none')*w[:,i]).sum() for i in (0,1)))

def test_images_and_slots_that_do_not_fit():
    with pytest.raises(ValueError, match='expected floats'): Mixup().mix_batch((torch.zeros(4,1,2,2).byte(),), (torch.arange(4),), partial(keyed_rng, 0), 1.)
    (x,),(y,) = many
    with pytest.raises(ValueError, match='loaders of 3 slots: expected n_samples=2'): mixup_c_batch((x,)*3, (y,)*3)

@pytest.mark.parametrize('same', [0,.25,1])
@pytest.mark.parametrize('repeats', [1,3])
def test_batches_as_torch_uncertainty_formats_them(same, repeats):
    "Each slot sees every image as often as there; as many rows have one image in all slots"
    theirs = pytest.importorskip('torch_uncertainty.transforms.batch').MIMOBatchFormat # of the development packages
    n,b = 3,200
    x,y = torch.arange(b).view(-1,1,1,1).float(),torch.arange(b)
    def alike(xs, ys):
        assert torch.equal(xs.flatten(1), ys.float()) # labels go with their images
        return (xs==xs[0]).all(0).float().mean().item()
    set_seed(0)
    x1,y1 = (o.unflatten(0, (n,-1)) for o in theirs(n, same, repeats)((x, y)))
    xs,ys,_ = mixup_c_batch((x,), (y,), n_samples=n, same=same, repeats=repeats, partner='any')
    x2,y2 = torch.stack(xs),torch.stack(ys)
    assert x1.shape==x2.shape
    if same in (0,1): assert torch.equal(x1.flatten(1).sort().values, x2.flatten(1).sort().values)
    # There in exactly this share of the rows, here in each with this probability
    sd = (same*(1-same)/len(x2[0]))**.5
    assert alike(x1, y1)==pytest.approx(same, abs=.02)
    assert alike(x2, y2)==pytest.approx(same, abs=4*sd+.02) # few rows meet by chance

@given(st.integers(2,9), st.integers(2,4), st.sampled_from(how_partners), st.integers(1,9))
@settings(max_examples=40, deadline=None)
def test_each_image_stands_in_several_rows_with_other_partners(b, n, partner, repeats):
    repeats = min(repeats, b)
    x,y = torch.arange(b).float()[:,None,None,None].expand(b,1,2,2),torch.arange(b)%3
    xs,ys,mixed = mixup_c_batch((x,), (y,), n_samples=n, partner=partner, repeats=repeats)
    who = torch.stack([o[:,0,0,0] for o in xs]).long()
    assert who.shape==(n,repeats*b) and torch.equal(who, mixed.idx)
    assert torch.equal(torch.stack(ys), y[who])
    assert torch.equal(who[0], torch.arange(b).repeat(repeats))
    if n==2 and (partner=='any' or partner=='other' and repeats<b):
        assert all(len(set(who[1,who[0]==i].tolist()))==repeats for i in range(b))

@given(st.floats(0, 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_same_image_in_all_slots_as_often_as_asked(same, pairs):
    x,y = torch.arange(400).float()[:,None,None,None].expand(400,1,2,2),torch.arange(400)
    xb,yb = ((x,x.flip(0)),(y,y.flip(0))) if pairs else ((x,),(y,))
    xs,ys,_ = mixup_c_batch(xb, yb, same=same, partner='other')
    equal = xs[0].eq(xs[1]).all((1,2,3))
    assert torch.equal(equal, ys[0]==ys[1]) and equal.float().mean().item()==pytest.approx(same, abs=5*(same*(1-same)/400)**.5+1/400)
    assert torch.equal(xs[0], xb[0])

def test_repetition_trains_and_bad_values_are_named():
    model = multi_sample_model(net(), 2, 3)
    learn = learner(MixupC(same=.5, repeats=2), loss=HeadsLoss(), model=model)
    grab = Grab()
    learn.fit(1, cbs=grab)
    assert len(grab.seen[0][2])==16
    with pytest.raises(ValueError, match='repeats=9: expected a whole number in 1..8'):
        learner(MixupC(repeats=9), loss=HeadsLoss(), model=model).fit(1)
    with pytest.raises(ValueError, match='repeats=2: expected loaders of one image per sample'):
        mixup_c_batch((torch.rand(2,1,2,2),)*2, (torch.arange(2),)*2, repeats=2)
    for kw,msg in ((dict(same=-.1), 'same=-0.1: expected a number in 0..1'),
                   (dict(repeats=0), 'repeats=0: expected a whole number'),
                   (dict(repeats=2, n_samples=1), 'repeats=2: expected a whole number in 1..1')):
        with pytest.raises(ValueError, match=msg): MixupC(**kw)
    with pytest.raises(ValueError, match='combine=3: expected a function'): Mixup(combine=3)
    with pytest.raises(ValueError, match=r'images of \(2, 5\)'):
        patches(torch.rand(2,5), torch.tensor([[0,1],[1,0]]), torch.tensor([[.5,.5]]), partial(keyed_rng, 0))

@pytest.mark.parametrize('when,said', [(partial(fade, start=2), 'start=2: expected a number in 0..1'), (partial(until, end=-1), 'end=-1: expected'),
    (lambda epoch,n: 'x', "when=<lambda>: strength='x': expected a number in 0..1"), (lambda epoch,n: None, 'strength=None: expected a number')], ids=plain)
def test_strengths_that_are_none(when, said):
    learn = learner(Mixup(when=when))
    with pytest.raises(ValueError, match=said): learn.fit(1)

@given(strength=st.floats(1e-9, 1), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_strength_moves_the_weights_towards_the_image_itself(strength, seed):
    x,y = torch.rand(6,3,4,4),torch.arange(6)
    for cb in (Mixup(), MixupXL()):
        some,full = [cb.mix_batch((x,), (y,), partial(keyed_rng, seed), s)[2] for s in (strength,1.)]
        for own,all_mixed in ((some.w_x[:,0],full.w_x[:,0]), (some.w_l[:,0],full.w_l[:,0])):
            assert torch.allclose(own, 1-strength*(1-all_mixed), atol=1e-6)

def test_mixing_fades_to_none():
    x,y = torch.rand(6,3,4,4),torch.arange(6)
    def mixed(strength, cb): return cb.mix_batch((x,), (y,), partial(keyed_rng, 0), strength)
    for cb in (Mixup(), MixupXL(), CutMixup()):
        full,none = mixed(1., cb)[2],mixed(1e-12, cb)
        assert torch.allclose(none[0][0], x) and (none[2].w_l[:,0]==1).all()
    seen = []
    class Seen(Callback):
        order,run_valid = 1,False
        def after_batch(self): seen.append(float(self.learn.mixup.mixing))
    learner(Mixup(when=partial(fade, start=.5))).fit(4, cbs=Seen())
    assert seen[0]==1 and seen[-1]==.5
    with pytest.raises(ValueError, match='strength=1.5: expected a number in 0..1'):
        learner(Mixup(when=lambda epoch, n: 1.5)).fit(1)

@pytest.mark.parametrize('gave,said', [(None, 'gave None: expected a tensor of weights'), ('half', "gave 'half'"), (torch.rand(0), r'gave weights of \(0,\): expected \('),
                                       (torch.rand(3,3,3), r'gave weights of \(3, 3, 3\)'), ([.5,math.nan], r'gave weights of \(2,\)')], ids=str)
def test_functions_that_give_no_weights(gave, said):
    with pytest.raises(ValueError, match=said): draw_weights(lambda shape: gave, 5)
    with pytest.raises(ValueError, match='r=<class .*Beta.*>: expected a half-width'): Mixup(Beta)

@pytest.mark.parametrize('combine,said', [(lambda x,idx,w,rng: (x,3*w), 'gave weights of .*: expected 0..1'), (lambda x,idx,w,rng: None, r'combine gave \[\]: expected images'),
    (lambda x,idx,w,rng: (x[:2],w), 'combine gave .*: expected images'), (lambda x,idx,w,rng: (x,w[:,0]), r'gave weights of \(\d+,\): expected')], ids=['range','none','images','shape'])
def test_what_a_combination_of_a_user_gives(combine, said):
    with pytest.raises(ValueError, match=said): learner(Mixup(combine=combine)).fit(1)

def test_two_of_fastai_in_a_learner_of_ours():
    learn = mixup_learner(digits_dls(1, size=8), arch=partial(cifar_resnet, 8), cbs=CutMix())
    with pytest.raises(ValueError, match='CutMix and MixUp|MixUp and CutMix'): learn.fit(1, cbs=MixUp())

@pytest.mark.parametrize('loss', [LabelSmoothingCrossEntropy(weight=ws), LabelSmoothingCrossEntropyFlat(weight=ws)], ids=['plain','flat'])
def test_a_loss_of_two_divisors(loss):
    "fastai's label smoothing with class weights divides one of its parts by their sum and the other by the batch's size"
    with pytest.raises(TypeError, match='use CrossEntropyLossFlat.weight=…, label_smoothing=…., or mix with per='): learner(Mixup(), loss).fit(1)
    learner(Mixup(per='batch'), loss).fit(1)

@pytest.mark.parametrize('cb', [partial(Mixup, when=until), partial(MixChoice, Mixup(), None), SamplePairing], ids=['until','choice','pairing'])
def test_a_loss_that_does_not_average_in_batches_without_mixing(cb):
    a,b = [learner(cb(seed=0), nn.CrossEntropyLoss(reduction=r)) for r in ('none','mean')]
    for o in (a,b): o.fit(10)
    torch.testing.assert_close(weights(a.model), weights(b.model))

class NoReduction(nn.Module):
    def forward(self, pred, y): return F.cross_entropy(pred, y)

def test_a_wrapped_loss_without_a_reduction_names_the_remedy():
    with pytest.raises(TypeError, match='BaseLoss has no `reduction`, so it cannot weigh samples: give it one'): learner(Mixup(), BaseLoss(NoReduction)).fit(1)

class OwnSlots(nn.Module):
    n_samples = 2
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 6)
    def forward(self, a, b): return self.layer((a+b).flatten(1)).reshape(-1, 2, 3)

def test_weighted_slots_of_a_network_of_the_users_own():
    cb = MixupC(lam_x=.5)
    with pytest.raises(ValueError, match='lam_x=0.5 on a OwnSlots: expected a network of multi_sample_model'): learner(cb, HeadsLoss(), model=OwnSlots())

def test_a_batch_that_is_no_tensor():
    cb = Mixup()
    cb.learn = SimpleNamespace(xb=({'image':1},), yb=(tensor([1]),), training=True)
    with pytest.raises(ValueError, match='batch of dict: expected tensors'): cb.apply(1.)

def deaf(pred, y, **kwargs): return F.cross_entropy(pred, y)
class Deaf(nn.Module):
    reduction = 'mean'
    def forward(self, pred, y): return F.cross_entropy(pred, y)

@pytest.mark.parametrize('loss', [deaf, Deaf()], ids=['function','module'])
def test_a_loss_that_ignores_the_reduction(loss):
    with pytest.raises(TypeError, match="(?i)deaf takes a `reduction` and ignores it, so .*or mix with per='batch'"): learner(Mixup(), loss).fit(1)
    learner(Mixup(per='batch'), loss).fit(1)

@pytest.mark.parametrize('rule', [Mixup(), MixupX(), CutMixup(), MixChoice(Mixup())], ids=['mixup','x','cutmix','choice'])
def test_classes_beside_numbers_are_refused(rule):
    "Numbers are mixed themselves, of classes the losses are"
    ds = [(torch.randn(3,8,8),torch.rand(1),torch.tensor(i%3)) for i in range(16)]
    d = DataLoaders(*[DataLoader(ds, bs=8) for _ in range(2)])
    d.n_inp,d.c = 1,3
    def loss(pred, number, y, reduction='mean'): return F.cross_entropy(pred, y, reduction=reduction)
    with pytest.raises(ValueError, match="targets of .'torch.float32', 'torch.int64'.: expected all of them classes"): learner(rule, loss, d).fit(1)

def test_a_choice_keeps_nothing_of_a_batch():
    rule = MixChoice(Mixup(), CutMixup())
    l = learner(rule)
    l.fit(1)
    assert [r.mixed for r in (rule,*rule.rules)]==[None]*3
    class Stop(Callback):
        order = 5
        def before_batch(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): l.fit(1, cbs=Stop())
    l.validate(), l.fit(1)
    assert [r.mixed for r in (rule,*rule.rules)]==[None]*3

def test_a_choice_mixes_no_validation_batches():
    with pytest.raises(ValueError, match='rules: Mixup.*: expected None or a callback such as Mixup.., which mixes training batches only'): MixChoice(Mixup(mix_valid=True))

@pytest.mark.parametrize('kw,said', [(dict(x=.8),'x=0.8: expected a number in 0..0.5'), (dict(x='abc'),"x='abc': expected a half-width"), (dict(x=.5, l=-.1),'l=-0.1: expected')])
def test_weights_of_any_rule_are_refused_where_they_are_given(kw, said):
    with pytest.raises(ValueError, match=said): Mix(**kw)
    assert Mix(.5, l=0).l_dist==0 and Mix(.5).l_dist is None

@pytest.mark.parametrize('rule,n', [(CutMixup(Fixed(.5), seed=0),8), (CutMixup(0., seed=0),8), (CutMixup(Fixed(.5), seed=0, per='batch'),1)], ids=['fixed','zero','batch'])
def test_boxes_of_one_area_have_places_of_their_own(rule, n):
    "A constant λ is no constant place; the partner is black, the image white"
    learner(rule).fit(1)
    x = torch.arange(1., 9)[:,None,None,None].expand(8,1,32,32)
    rule.learn = SimpleNamespace(training=True)
    rule.partner = 'other'
    (m,),_,_ = rule.mix_batch((x,), (torch.arange(8),), lambda i: keyed_rng(i))
    boxes = {tuple((o!=x[i,0]).flatten().tolist()) for i,o in enumerate(m[:,0])}
    assert n-1<=len(boxes)<=n # two of eight may fall together

@pytest.mark.parametrize('lam_l', [.3,'x'])
def test_weighted_losses_keep_their_scale_when_mixing_ends(lam_l):
    "The weights sum to 1, as do those without mixing, one half for each slot"
    learn = mixup_c_learner(digits_dls(2, bs=512, size=8), arch=partial(cifar_resnet, 8), precision='fp32',
                            cbs=MixupC(lam_x=.3, lam_l=lam_l, seed=0, when=partial(until, end=0)))
    came = []
    class One(Callback):
        order = 80
        def before_backward(self):
            heads = [F.cross_entropy(self.pred[:,i], self.yb[i]) for i in (0,1)]
            came.extend([float(self.learn.loss_grad), float(sum(heads))/2])
            raise CancelFitException
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=One())
    assert came[0]==pytest.approx(came[1], rel=1e-5)

class Penalty(Callback):
    "What a user adds to the loss"
    run_valid = False
    def after_loss(self): self.learn.loss_grad = self.loss_grad + 10.

@pytest.mark.parametrize('per', ['sample','batch'])
def test_a_loss_that_another_callback_adds_to(per):
    "The order of the callbacks does not matter"
    def first_loss(*cbs):
        learner([*cbs]).fit(1, cbs=(grab := Grab()))
        return grab.seen[0][0]
    mixed = first_loss(Mixup(seed=0, per=per))
    for cbs in ([Mixup(seed=0, per=per), Penalty()], [Penalty(), Mixup(seed=0, per=per)]):
        assert torch.allclose(first_loss(*cbs), mixed+10)

def test_a_random_when_is_asked_once():
    asked = []
    def when(epoch, n_epoch):
        asked.append(epoch)
        return len(asked)%2
    learn = learner(cb := Mixup(seed=0, when=when))
    learn.fit(2)
    assert len(asked)==2*len(learn.dls.train) and cb.count==len(asked)//2

def test_a_choice_keeps_no_learner():
    rules = Mixup(),CutMixup()
    learn = learner(cb := MixChoice(*rules, seed=0))
    learn.fit(2)
    assert all(rule.learn is None for rule in rules)
    learn.remove_cb(cb)
    assert len(pickle.dumps(cb))<10_000

def test_an_interrupted_choice_keeps_no_learner():
    learn = learner(cb := MixChoice(Mixup(), seed=0), cls=MixupLearner)
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop(KeyboardInterrupt()))
    assert cb.rules[0].learn is None

@pytest.mark.parametrize('y', [torch.zeros(20,8,8).long(), torch.zeros(20,5,2)], ids=['masks','points'])
def test_no_box_is_cut_into_a_mask(y):
    model = nn.Conv2d(3, 2, 1) if y.dtype==torch.long else nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.Unflatten(1, (5,2)))
    loss = CrossEntropyLossFlat(axis=1) if y.dtype==torch.long else MSELossFlat()
    with pytest.raises(ValueError, match='expected labels or numbers of an image'):
        learner(CutMixup(seed=0), loss, dls(y=y), model).fit(1)
    learner(Mixup(seed=0), loss, dls(y=y), model).fit(1) # blends of them are right

@pytest.mark.parametrize('mix', [Mixup(mix_valid=True, seed=0), CutMixup(mix_valid=True, seed=0)], ids=plain)
def test_predictions_are_of_the_images_as_they_are(mix):
    "With `mix_valid` too, whether labels come along or not"
    learn = learner(mix, d=small())
    plain_preds = learner(model=learn.model, d=learn.dls).get_preds()[0]
    assert torch.equal(learn.get_preds()[0], plain_preds)
    assert torch.equal(learn.get_preds(with_loss=True)[0], plain_preds)
    assert learn.validate()[0]!=learner(model=learn.model, d=learn.dls).validate()[0] # these are mixed

@pytest.mark.parametrize('mix', [Mixup, MixupXL, CutMixup, lambda d: MixChoice(Mixup(d))], ids=['mixup','xl','cut','choice'])
def test_drawing_a_seed_changes_no_other_draw(mix):
    "With all weight on the first sample, augmentation and dropout are those of a training without mixing"
    def train(cb):
        set_seed(0)
        d = digits_dls(1, size=8, bs=100)
        set_seed(0)
        learn = learner(cb, d=d, model=nn.Sequential(nn.Flatten(), nn.Dropout(.2), nn.Linear(64,10)))
        learn.fit(1)
        return weights(learn.model)
    one = partial(mix, Fixed(1.), Fixed(1.)) if mix is MixupXL else partial(mix, Fixed(1.))
    assert torch.equal(train(None), train(one()))

def test_learners_of_one_state_draw_one_seed():
    cbs = [Mixup() for _ in range(3)]
    for cb,s in zip(cbs, (1,1,2)):
        learn = learner(cb)
        torch.manual_seed(s)
        learn.fit(1)
    assert cbs[0].seed==cbs[1].seed!=cbs[2].seed

class TwoSlots(nn.Module):
    def __init__(self):
        super().__init__()
        self.m,self.n_samples,self.slot_scale = net(6),2,None
    def forward(self, a, b): return self.m(a+b).unflatten(1, (2,3))

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, FocalLoss()], ids=plain)
def test_a_loss_of_one_slot_is_refused_with_its_remedy(loss):
    with pytest.raises(ValueError, match=r'loss_func=.*expected a loss of all slots, such as HeadsLoss\(loss_func\)'):
        Learner(dls(), TwoSlots(), loss, cbs=MixupC(2)).fit(1)

class LossOfTwo(nn.Module):
    def forward(self, p, a, b): return F.cross_entropy(p[:,0], a)+F.cross_entropy(p[:,1], b)

@pytest.mark.parametrize('loss', [HeadsLoss(), LossOfTwo(), LossOfTwo().forward], ids=['heads','module','function'])
def test_a_loss_of_two_slots_trains(loss):
    learn = learner(MixupC(2), loss=loss, model=TwoSlots())
    before = weights(learn.model)
    learn.fit(1)
    assert not torch.equal(before, weights(learn.model))

@pytest.mark.parametrize('cb', [Mixup(), MixupC(1)], ids=plain)
def test_training_without_labels_is_refused(cb):
    d = dls()
    d.train,d.n_inp = DataLoader([(torch.randn(3,8,8),) for _ in range(8)], bs=4),1
    with pytest.raises(ValueError, match='loaders without labels: expected a label for each image'): learner(cb, d=d).fit(1)

def test_random_labels_of_unknown_classes():
    d = dls()
    d.c = 0
    with pytest.raises(ValueError, match='classes of the loaders=0: expected a whole number of at least 2'):
        learner(MixupC(2, random_label=0), d=d, loss=HeadsLoss(), model=TwoSlots()).fit(1)

def choice(partner, seed): return MixChoice(Mixup(partner=partner), MixupXL(partner=partner), seed=seed)

@pytest.mark.parametrize('partner', how_partners)
@pytest.mark.parametrize('rule', [Mixup, MixupX, MixupL, MixupXL, choice])
def test_the_loss_of_a_training_batch_is_the_written_formula(rule, partner):
    "Weighted by the labels' λ; class weights divide by their sum, which partners of another class change"
    came,cb = [],rule(partner=partner, seed=0)
    class See(Callback):
        order,run_valid = 80,False
        def before_backward(self):
            total = 0
            for (y,),w in zip(cb.mixed.ybs, cb.mixed.w_l.expand(len(self.pred), -1).T, strict=True):
                nll = F.cross_entropy(self.pred, y, weight=ws, reduction='none')
                total = total + (w*nll).sum()/ws[y].sum()
            came.append((self.loss_grad.item(), total.item()))
    learner([cb, See()], CrossEntropyLossFlat(weight=ws)).fit(1)
    assert len(came)==3
    for got,want in came: assert got==pytest.approx(want, rel=1e-5)

def test_validation_is_neither_repeated_nor_the_same_in_all_slots_nor_random():
    cb = MixupC(same=1., repeats=3, random_label=1, mix_valid=True)
    cb.learn = SimpleNamespace(training=False, dls=SimpleNamespace(c=1000))
    x,y = torch.arange(8).float()[:,None,None,None],torch.arange(8)
    xs,ys,mixed = cb.mix_batch((x,), (y,), partial(keyed_rng, 0))
    assert len(xs[0])==8 and not (mixed.idx[1]==mixed.idx[0]).all()
    assert torch.equal(ys[1], y[mixed.idx[1]])

@pytest.mark.parametrize('rule,lam', [(MixupX(Fixed(.8)),.5), (MixupL(Fixed(.8)),.8), (MixupXL(Fixed(.8), Fixed(.3)),.3)], ids=['x','l','xl'])
def test_numbers_are_mixed_by_the_weights_of_labels(rule, lam):
    y = torch.rand(6,1)
    _,(got,),m = rule.mix_batch((torch.rand(6,1,2,2),), (y,), partial(keyed_rng, 3))
    assert torch.allclose(got, lam*y + (1-lam)*y[m.idx[1]])

@pytest.mark.parametrize('permuted', [True,False])
def test_a_batch_whose_first_losses_are_all_zero(permuted):
    "What the loss divides by cannot be seen from 0/0"
    p,y,loss = 9*torch.eye(3),torch.arange(3),nn.MultiMarginLoss()
    lam = torch.tensor([.2,.5,.6])
    want = ((1-lam)*nn.MultiMarginLoss(reduction='none')(p, y.roll(1))).mean()
    got = mixed_loss(loss, p, [(y,),(y.roll(1),)], torch.stack([lam,1-lam], 1), permuted=permuted)
    assert loss(p, y)==0 and torch.allclose(got, want)

def test_rules_given_as_classes():
    rule = MixChoice(Mixup, CutMixup(.3), None, seed=0)
    assert [type(r) for r in rule.rules]==[Mixup,CutMixup,type(None)]
    learner(rule).fit(1)

def test_a_function_of_a_number_is_no_distribution():
    with pytest.raises(ValueError, match=r'<lambda>\(\(5,\)\): expected it to take a shape, full'): draw_weights(lambda n: torch.full((n,), .7), 5)

@pytest.mark.parametrize('l', [False, '', []], ids=repr)
def test_weights_of_labels_that_are_none(l):
    with pytest.raises(ValueError, match='l=.*: expected'): Mix(.5, l)
    assert Mix(.5).l_dist is None and Mix(.5, 0.).l_dist==0

def test_partners_are_chosen_where_the_slots_are_filled():
    "By the loaders, where they give pairs"
    learn = mixup_c_learner(digits_dls(2, size=8), arch=partial(cifar_resnet, 8), cbs=MixupC(partner='other_class'))
    learn.remove_cb(ProgressCallback)
    with pytest.raises(ValueError, match="partner='other_class': expected 'any', as the loaders have theirs"): learn.fit(1)

def curve(p): return p
def test_settings_name_functions_wherever_they_stand():
    "Without an address, by which a resumed run would differ"
    def ramp(epoch, n_epoch, curve): return curve(epoch/n_epoch)
    assert Mixup(when=partial(ramp, curve=curve)).settings()['when']=="ramp((), {'curve': 'curve'})"
    assert Mixup(when=partial(fade, start=.5)).settings()['when']=="fade((), {'start': 0.5})"
