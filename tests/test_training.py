"The recipe against plain PyTorch, the schedule, precision, the watch on the loss, and `torch.compile`"
import math, re, shutil, warnings
from functools import partial
from fractions import Fraction
import pytest
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, load_learner, nn, set_seed, torch
from fastai.callback.hook import hook_output
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import ReduceLROnPlateau
from fastai.optimizer import SGD
import fastai.callback.core, fastai.callback.schedule
from fastai.callback.schedule import ParamScheduler, SchedLin
from hypothesis import given, settings, strategies as st
from tests.forks import fork, wait
from fastmix.all import MixupLearner, MultiSample, StepDecay, cifar_resnet, digits_dls, mixup_c_learner, mixup_learner, nesterov_sgd, resnet20
from fastmix.resuming import Checkpoint
from fastmix.training import DevicePrecision, LossWatch, SmoothLoss, compile_model, has_fast_bf16, pick_precision, set_precision, step_decay

class Batches(Callback):
    "Keep what the network was trained on"
    order = 100
    def before_fit(self): self.seen = []
    def before_batch(self):
        if self.training: self.seen.append((self.epoch, [x.clone() for x in self.xb], [y.clone() for y in self.yb]))

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

def small(n, c=10):
    return MultiSample(nn.Sequential(nn.Conv2d(n, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, n*c),
                                     *([nn.Unflatten(1, (n,c))] if n>1 else [])), n, n, 1)

def plain(model, batches, n_epoch, lr, loss):
    "The same training in plain PyTorch"
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=.9, nesterov=True, weight_decay=1e-4)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [math.ceil(Fraction(a)*n_epoch) for a in ('0.4','0.6','0.8')], gamma=.1)
    model.train()
    for epoch in range(3):
        for _,xb,yb in (b for b in batches if b[0]==epoch):
            opt.zero_grad()
            loss(model(*xb), *yb).backward()
            opt.step()
        sched.step()
    return model

@pytest.mark.parametrize('cb,rates', [(StepDecay(at=.5), [.001,.01]), (ParamScheduler({'mom': SchedLin(.9, .8)}), [1e-5,1e-4,.001,.01])], ids=['rate','momentum'])
def test_a_schedule_that_comes_with_fit(cb, rates):
    "The later one counts, if it is of the rate; its picture stays when the learner only looks"
    learn = quiet(mixup_learner(digits_dls(1, bs=256, size=8), arch=small(1), opt_func=nesterov_sgd, precision='fp32'))
    learn.fit(10, .01, cbs=cb)
    assert sorted(set(learn.recorder.lrs))==pytest.approx(rates)
    drawn = {k:list(v) for k,v in learn.recorder.hps.items()}
    learn.validate(), learn.get_preds()
    assert learn.recorder.hps==drawn and all(map(len, drawn.values()))

class Stop(Callback):
    def before_epoch(self):
        if self.epoch==3: raise fastai.callback.core.CancelFitException

@pytest.mark.parametrize('n', [1,2])
@pytest.mark.parametrize('n_epoch', [3,5])
def test_weights_of_plain_pytorch(n, n_epoch):
    "Three epochs, across the points where the rate falls"
    set_seed(0)
    model = small(n)
    other = small(n)
    other.load_state_dict(model.state_dict())
    other.to(memory_format=torch.channels_last) # as the learner's: other kernels round otherwise
    keep = Batches()
    f = mixup_c_learner if n>1 else mixup_learner
    kw = dict(arch=model, opt_func=nesterov_sgd, precision='fp32', cbs=[keep, Stop()])
    learn = quiet(f(digits_dls(n, bs=64, size=8), **kw))
    learn.fit(n_epoch)
    ce = nn.CrossEntropyLoss()
    ref = plain(other, keep.seen, n_epoch, .1, lambda p,*y: sum(ce(p_, y_.long()) for p_,y_ in zip(p.unbind(1) if n>1 else [p], y)))
    assert len(keep.seen)==66
    for a,b in zip(learn.model.state_dict().values(), ref.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

def test_weight_decay_on_all_parameters():
    "fastai exempts batch norm and biases; the paper's SGD does not"
    model = small(1)
    opt = nesterov_sgd([list(model.parameters())], lr=.1)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    opt.step()
    for p,q in zip(model.parameters(), before): torch.testing.assert_close(p.data, q*(1-.1*1e-4*1.9))

@given(st.integers(1, 2000), st.lists(st.fractions(0, 1, max_denominator=1000), min_size=1, max_size=4))
@settings(deadline=None)
def test_step_decay_is_exact(n, at):
    for e in {0, n-1, *(min(n-1, max(0, math.ceil(a*n)+d)) for a in at for d in (-1,0))}:
        assert step_decay(e, n, [float(a) for a in at])==pytest.approx(.1**sum(e>=a*n for a in at))

@pytest.fixture(scope='module')
def data():
    x = torch.randn(40, 4)
    return list(zip(x, x.sum(1, keepdim=True)))

def line(data, bs=10, **kwargs):
    dls = DataLoaders(DataLoader(data, bs=bs, shuffle=True), DataLoader(data, bs=7))
    return quiet(MixupLearner(dls, nn.Linear(4, 1), loss_func=nn.MSELoss(), **{'opt_func': nesterov_sgd, 'cbs': StepDecay(), **kwargs}))

@pytest.mark.parametrize('n', [1,2,3,4,7,10,13,30])
def test_schedule_through_fit(data, n):
    learn = line(data)
    learn.fit(n, lr=.01)
    expect = [.01*.1**sum(e>=Fraction(a)*n for a in ('0.4','0.6','0.8')) for e in range(n) for _ in range(4)]
    assert learn.recorder.lrs==pytest.approx(expect)
    assert learn.recorder.hps['lr']==pytest.approx(expect) # what `plot_sched` draws

class Look(Callback):
    "Judge the training images after each epoch, and note the rates before it"
    order = 70
    def before_fit(self): self.rates = getattr(self, 'rates', [])
    def before_train(self): self.rates.append(self.opt.hypers[-1]['lr'])
    def after_train(self): self.learn.validate(ds_idx=0)

@pytest.mark.parametrize('warmup', [0,2])
def test_a_validation_amid_a_fit_leaves_the_rates_alone(data, warmup):
    look = Look()
    one,two = [line(data, cbs=[StepDecay(warmup=warmup), *cbs]) for cbs in ([],[look])]
    for learn in (one,two): learn.fit(10, lr=.01)
    assert two.recorder.hps==one.recorder.hps and len(one.recorder.hps['lr'])==40
    assert len(look.rates)==10 and two.opt.hypers[-1]['lr']==pytest.approx(1e-5)

@pytest.mark.parametrize('mode', ['bf16','fp16'])
def test_a_validation_amid_a_fit_in_half_precision(data, mode):
    half,look = DevicePrecision(mode),Look()
    learn = line(data, cbs=[StepDecay(), half, look])
    for _ in range(2): # after a validation of its own, too
        learn.fit(3, lr=.01)
        assert half.autocast is None and learn.scaler is None
        learn.validate()
        assert half.autocast is None
    assert len(look.rates)==6

class Refuse(Callback):
    order = 80
    def before_fit(self): raise RuntimeError('not now')

@pytest.mark.parametrize('mode', ['bf16','fp16'])
def test_a_fit_after_one_that_could_not_begin(data, mode):
    "Begins and ends as any other"
    half = DevicePrecision(mode)
    learn = line(data, cbs=half)
    with pytest.raises(RuntimeError, match='not now'): learn.fit(1, lr=.01, cbs=Refuse())
    assert half.autocast is not None
    learn.fit(1, lr=.01)
    assert half.autocast is None and learn.scaler is None

def test_schedule_after_resuming(data, tmp_path):
    class Kill(Callback):
        def before_epoch(self):
            if self.epoch==5 and go: raise KeyboardInterrupt
    go = True
    with pytest.raises(KeyboardInterrupt): line(data).fit(9, lr=.01, cbs=[Kill(), Checkpoint(tmp_path)])
    go,learn = False,line(data)
    learn.fit(9, lr=.01, cbs=[Kill(), Checkpoint(tmp_path, resume=True)])
    expect = [.01*.1**sum(e>=Fraction(a)*9 for a in ('0.4','0.6','0.8')) for e in range(9) for _ in range(4)]
    assert learn.recorder.lrs==pytest.approx(expect) and learn.recorder.hps['lr']==pytest.approx(expect)

def test_other_points_and_warmup(data):
    learn = line(data, cbs=StepDecay(at=.5, factor=.2, warmup=1.5))
    learn.fit(4, lr=.06)
    assert learn.recorder.lrs==pytest.approx([.01,.02,.03,.04,.05,.06]+[.06]*2+[.012]*8)

def test_parameter_groups_keep_their_rates(data):
    learn = line(data, splitter=lambda m: [[m.weight],[m.bias]])
    learn.fit(5, lr=slice(.01, .1))
    assert [h['lr'] for h in learn.opt.hypers]==pytest.approx([.01*1e-3,.1*1e-3]) # 80% of five epochs are four

@pytest.mark.parametrize('fit', ['fit_one_cycle','fit_flat_cos','fit_sgdr'])
def test_fastai_schedules_keep_working(data, fit):
    args = (2,1) if fit=='fit_sgdr' else (3,)
    a,b = line(data, cbs=[]),line(data)
    for l in (a,b): getattr(l, fit)(*args)
    assert b.recorder.lrs==pytest.approx(a.recorder.lrs) and b.recorder.hps==a.recorder.hps

@pytest.mark.parametrize('fast', [True,False])
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, fast):
    for ask in ('_is_avx512_bf16_supported','_is_amx_tile_supported'): monkeypatch.setattr(torch.cpu, ask, lambda: False)
    if fast: monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    assert has_fast_bf16(torch.device('cpu'))==fast and not has_fast_bf16(torch.device('meta'))
    assert pick_precision('auto', 'cpu')==('bf16' if fast else 'fp32')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: fast or including_emulation)
    assert has_fast_bf16(torch.device('cuda'))==fast

@pytest.mark.parametrize('kw,said', [(dict(factor=10), 'factor=10: expected'), (dict(warmup=-1), 'warmup=-1: expected')])
def test_schedules_that_are_none(kw, said):
    with pytest.raises(ValueError, match=said): StepDecay(**kw)

def test_precision(data):
    seen = []
    class Look(Callback):
        order = 9.5
        def after_pred(self): seen.append(self.pred.dtype)
        def after_loss(self): seen.append(self.loss.dtype)
    learn = line(data)
    assert 'bf16 autocast' in set_precision(learn, 'bf16')
    learn.fit(1, lr=.01, cbs=Look())
    assert seen[:2]==[torch.bfloat16, torch.float32] and next(learn.model.parameters()).dtype==torch.float32
    assert not torch.is_autocast_enabled('cpu')
    set_precision(learn, 'fp16')
    seen.clear()
    learn.fit(1, lr=.01, cbs=Look())
    assert seen[0]==torch.float16
    assert 'fp32' in set_precision(learn, 'fp32') and not learn.cbs.filter(lambda o: isinstance(o, MixedPrecision))
    assert ('bf16' in set_precision(learn, 'auto'))==has_fast_bf16(torch.device('cpu'))

def test_auto_precision_is_the_same_in_every_process(tmp_path):
    assert wait([fork(lambda: print(pick_precision('auto', 'cpu')), tmp_path/'log') for _ in range(3)])==[0]*3
    assert (tmp_path/'log').read_text().split()==[pick_precision('auto', 'cpu')]*3

def test_interrupted_batch_leaves_no_autocast(data):
    class Kill(Callback):
        def after_pred(self): raise KeyboardInterrupt
    learn = line(data)
    set_precision(learn, 'bf16')
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Kill())
    learn.validate()
    assert not torch.is_autocast_enabled('cpu')

def test_smooth_loss_is_that_of_fastai(data):
    set_seed(1)
    a = line(data)
    a.fit(2, lr=.01)
    set_seed(1)
    b = line(data, cbs=[StepDecay(), LossWatch()])
    b.fit(2, lr=.01)
    assert isinstance(b.recorder.smooth_loss, SmoothLoss)
    assert torch.equal(torch.stack(list(a.recorder.losses)), torch.stack(list(b.recorder.losses))) and a.recorder.values==b.recorder.values

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_loss_that_is_not_finite(data, tmp_path, bad):
    class Spoil(Callback):
        order = 1
        def after_loss(self):
            if self.training and (self.epoch,self.iter)==(2,3): self.learn.loss_grad,self.learn.loss = self.loss_grad*bad,self.loss*bad
    learn = line(data, cbs=[StepDecay(), LossWatch()])
    with pytest.raises(FloatingPointError) as e: learn.fit(5, lr=.02, cbs=[Spoil(), Checkpoint(tmp_path)])
    assert f'epoch 2, batch 3, learning rate 0.002; the last good checkpoint is {tmp_path}/checkpoint-00001.pt' in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir())==['checkpoint-00000.pt','checkpoint-00001.pt']

def test_lr_find_beyond_divergence(data):
    "fastai's own: goes on until it has tried all, and puts the weights back"
    class Explode(Callback):
        order = 1
        def after_loss(self):
            if self.learn.train_iter>20: self.learn.loss_grad,self.learn.loss = self.loss_grad*math.inf,self.loss*math.inf
    learn = line(data, cbs=[LossWatch(), Explode()])
    was = [p.detach().clone() for p in learn.model.parameters()]
    learn.lr_find(num_it=40, stop_div=False, show_plot=False)
    assert len(learn.recorder.losses)==40 and all(map(torch.equal, was, learn.model.parameters()))

def test_every_network_is_compiled(monkeypatch):
    "Also the tenth; Dynamo gives up after eight variants of the same code, without a word"
    graphs,compile = [],nn.Module.compile
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **_: compile(self, backend=backend))
    for i in range(10):
        net,before = MultiSample(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)), 1, 1, 1),len(graphs)
        compile_model(net, 'cpu')
        for mode in (True,False): net.train(mode)(torch.randn(2, 1, 2, 2))
        assert len(graphs)>=before+2, i

@pytest.mark.skipif(not shutil.which('c++') and not shutil.which('g++'), reason='torch.compile needs a C++ compiler on a CPU')
def test_compile(tmp_path):
    "With resuming, export, validation, and a last batch of another size"
    def learner(compile):
        set_seed(0)
        kw = dict(opt_func=nesterov_sgd, precision='fp32', compile=compile)
        return quiet(mixup_c_learner(digits_dls(2, bs=128, size=8), arch=small(2), **kw))
    class Kill(Callback):
        def before_epoch(self):
            if self.epoch==1: raise KeyboardInterrupt
    Same = type('Kill', (Callback,), {}) # what a run is resumed with must have the same names
    plain_ = learner(False)
    plain_.fit(2, lr=.01)
    learn = learner(True)
    assert learn.dls.valid.n%128 and learn.model._compiled_call_impl is not None
    with pytest.raises(KeyboardInterrupt): learn.fit(2, lr=.01, cbs=[Kill(), Checkpoint(tmp_path)])
    learn = learner(True)
    learn.fit(2, lr=.01, cbs=[Same(), Checkpoint(tmp_path, resume=True)])
    for a,b in zip(learn.model.state_dict().values(), plain_.model.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert list(learn.validate())==pytest.approx(list(plain_.validate()), rel=1e-2, abs=.02)
    learn.path = tmp_path
    learn.export('m.pkl')
    loaded = load_learner(tmp_path/'m.pkl')
    assert all(torch.equal(a, b) for a,b in zip(loaded.model.state_dict().values(), learn.model.state_dict().values()))

def test_a_plateau_lowers_the_rate():
    "Instead of the paper's schedule; it cannot reach PyTorch's optimizers"
    def plateau(): return ReduceLROnPlateau(monitor='valid_loss', min_delta=100, patience=1)
    learn = quiet(mixup_learner(digits_dls(1, bs=256, size=8), arch=small(1), opt_func=SGD, cbs=plateau()))
    learn.fit(4, .01)
    assert learn.recorder.lrs[::len(learn.dls.train)]==pytest.approx([.01,.01,.001,.0001])
    learn = quiet(mixup_learner(digits_dls(1, bs=256, size=8), arch=small(1), opt_func=nesterov_sgd, cbs=plateau()))
    learn.validate()
    with pytest.raises(ValueError, match='ReduceLROnPlateau has no effect on PyTorch.s optimizers'): learn.fit(1)

def told(f):
    "The warnings about features in `f()`"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        f()
    return [str(o.message) for o in seen if 'features' in str(o.message)]

@pytest.mark.parametrize('warmup,low,high', [(0,.6,1), (2,0,.3)], ids=['without','with'])
def test_a_deep_network_begins_to_learn_with_a_warm_up(warmup, low, high):
    "At the paper's rate nearly all features of a ResNet-56 become zero in the first steps, which is said aloud once"
    set_seed(0, reproducible=True)
    learn = quiet(mixup_learner(digits_dls(1, size=8), precision='fp32', cbs=StepDecay(warmup=warmup)))
    said = told(lambda: learn.fit(2))
    assert len(said)==(0 if warmup else 1)
    for s in said: assert re.match(r'\d+% of the features .* at a learning rate of 0.1: .*StepDecay.warmup=5.', s)
    with hook_output(learn.model.net.pool) as hook: learn.model.train()(learn.dls.one_batch()[0])
    assert low<=(hook.stored==0).float().mean()<=high

def dead(share, **kw):
    "A learner whose first features are zero, as a ReLU makes them"
    learn = quiet(mixup_learner(digits_dls(1, size=8), arch=resnet20, precision='fp32', **kw))
    norm = learn.model.net.body[-1].bn2
    nn.init.constant_(norm.bias[:int(share*64)], -1e4)
    return learn

@pytest.mark.parametrize('share', [0,.2,.4,1.])
@pytest.mark.parametrize('fit,kw', [('fit',{}), ('fit_one_cycle',{}), ('fit',dict(cbs=StepDecay(warmup=5)))], ids=['steps','one cycle','warm-up'])
def test_dead_features_are_told(share, fit, kw):
    learn = dead(share, **kw)
    said = told(lambda: getattr(learn, fit)(1))
    assert len(said)==(fit=='fit' and share>.25)
    if said: assert said[0].startswith(f'{int(share*64)/64:.0%} of the features') and ('StepDecay' in said[0])!=bool(kw)

@pytest.mark.parametrize('arch,size', [(partial(cifar_resnet, 20, width=2), 8), (partial(cifar_resnet, 8), 4), (small(1), 8)], ids=['wide','small images','another'])
def test_networks_that_learn_are_left_alone(arch, size):
    "Half of the features of an image may be zero then, but of no feature all"
    learn = quiet(mixup_learner(digits_dls(1, size=size), arch=arch, precision='fp32', opt_func=nesterov_sgd))
    assert not told(lambda: learn.fit(1))
