"""Runs that were killed and resumed, against one that was left alone; checkpoints that are damaged,
foreign or do not fit on the disk"""
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from functools import partial
from types import SimpleNamespace
import fcntl, json, math, os, random, resource, shutil, signal, subprocess, sys, time
import pytest
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.basics import (SGD, Adam, Lamb, RMSProp, Callback, CategoryMap, CrossEntropyLossFlat, DataLoaders, L,
                           LabelSmoothingCrossEntropyFlat, Learner, Path, accuracy, load_learner,
                           nn, noop, params, set_seed, torch)
import fastai.callback.schedule
from fastai.callback.progress import ProgressCallback, ShowGraphCallback
from fastai.vision.all import (CancelEpochException, CategoryBlock, DataBlock, F1Score, ImageBlock, IndexSplitter, PILImageBW, Resize, TensorImage,
                               Transform, aug_transforms, pd)
import numpy as np
from PIL import Image
from fastmix.all import (MixupC, Mixup, MixupLearner, MixupX, MultiSample, MultiSampleDataLoaders,
                         StepDecay, cifar_resnet, digits_dls, in_memory, mixup_c_learner,
                         mixup_learner, nesterov_sgd)
from fastmix.datasets import digit_image, digit_label
from fastmix.processes import lock_folder, write_whole
from fastmix.resuming import Checkpoint, RunLog, data_digest, generators, load_checkpoint, load_opt

here = Path(__file__).parent
Mode = Enum('Mode', 'fast slow')

def kills(tmp_path, n, processes, seed):
    "What came of killing `n` runs of `fastmix-train` at random moments"
    env = dict(os.environ, CUDA_VISIBLE_DEVICES='', PYTHONPATH=str(here.parent))
    cmd = [sys.executable, '-W','ignore', here/'kills.py', tmp_path, n, processes, seed]
    res = subprocess.run(list(map(str, cmd)), capture_output=True, text=True, env=env)
    assert res.returncode==0, res.stderr
    report = json.loads(res.stdout.splitlines()[-1])
    assert len(report)==n and all(r['same'] for r in report), report
    assert all('hangs' not in r['killed'] for r in report), report
    assert any(-signal.SIGKILL in r['killed'] for r in report), report
    return report

def test_killed(tmp_path): kills(tmp_path, 3, 1, random.randrange(10**6))

@pytest.mark.slow # like the twenty kills: it takes a minute and a half
def test_killed_with_two_processes(tmp_path):
    for r in kills(tmp_path, 2, 2, random.randrange(10**6)):
        early = r['alone'] and r['killed'][1]==-signal.SIGKILL and r['moment']<.8
        if early: assert r['killed'][0]==1 # the other one ends, too

@pytest.mark.slow
@pytest.mark.parametrize('processes', [1,2])
def test_killed_twenty_times(tmp_path, processes):
    report = kills(tmp_path, 20, processes, random.randrange(10**6))
    assert len({r['epochs'] for r in report})>2 # in different epochs

def net(n):
    layers = [nn.Conv2d(n, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(.1)]
    layers += [nn.Flatten(), nn.Linear(36, n*10)]
    if n>1: layers.append(nn.Unflatten(1, (n,10)))
    return MultiSample(nn.Sequential(*layers), n, n, 1)

class Stop(Callback):
    "Break off in the middle of an epoch"
    order = 55
    def __init__(self, epoch): self.at = str(epoch)
    def before_batch(self):
        if str(self.epoch)==self.at and self.training and self.iter==2: raise KeyboardInterrupt

def run(folder, stop=None, resume=False, mix=True, precision='fp32', epochs=5, fit='fit', cbs=(),
        **kwargs):
    "The learner after training with everything random: pairs, crops, dropout, λ"
    set_seed(0)
    torch.set_num_threads(1)
    kwargs = dict(opt_func=nesterov_sgd, precision=precision) | kwargs
    dls = digits_dls(2 if mix else 1, bs=256, size=8)
    if mix: learn = mixup_c_learner(dls, arch=net(2), cbs=MixupC(lam_x=.3), **kwargs)
    else: learn = mixup_learner(dls, Mixup(), arch=net(1), **kwargs)
    learn.remove_cb(ProgressCallback)
    with learn.no_logging():
        try: getattr(learn, fit)(epochs, cbs=[Stop(stop), Checkpoint(folder, resume=resume), *cbs])
        except KeyboardInterrupt: return learn
    learn.memory = remembered(learn) # now: it draws from the generators that all runs here share
    return learn

def remembered(learn):
    rec = learn.recorder
    momenta = [v for s in learn.opt.opt.state.values() for v in s.values() if v is not None]
    values = torch.tensor([list(v) for v in rec.values])
    numbers = rec.lrs, list(rec.hps['lr']), np.random.rand(3), random.random()
    return [*learn.model.state_dict().values(), *momenta, torch.stack(list(rec.losses)), values,
            torch.rand(3), *map(torch.tensor, numbers)]

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run that nothing interrupted"
    return run(tmp_path_factory.mktemp('whole'))

def same(a, b): return len(a.memory)==len(b.memory) and all(map(torch.equal, a.memory, b.memory))

@pytest.mark.parametrize('kwargs', [
    dict(), dict(mix=False), dict(precision='bf16'), dict(mix=False, fit='fit_one_cycle'),
    dict(cbs=[EarlyStoppingCallback(patience=1, min_delta=10)]),
    dict(cbs=[GradientAccumulation(600)])],
    ids=['mixup_c','mixup','bf16','one_cycle','early_stop','accumulation'])
def test_learner(tmp_path, kwargs):
    whole = run(tmp_path/'a', **kwargs)
    run(tmp_path/'b', stop=1, **kwargs)
    run(tmp_path/'b', stop=3, resume=True, **kwargs)
    assert same(whole, run(tmp_path/'b', resume=True, **kwargs))

def test_differs_without_resuming(tmp_path, whole):
    "The comparison can fail: another seed of the generators gives another training"
    run(tmp_path/'b', stop=2)
    p = max((tmp_path/'b').iterdir())
    d = load_checkpoint(p)
    d['state']['processes'][0]['random'][2] = torch.get_rng_state()
    torch.save(d, p)
    assert not same(whole, run(tmp_path/'b', resume=True))

def test_in_the_same_session(tmp_path, whole):
    learn = run(tmp_path/'b', stop=2)
    with learn.no_logging(): learn.fit(5, cbs=[Stop(None), Checkpoint(tmp_path/'b', resume=True)])
    learn.memory = remembered(learn)
    assert same(whole, learn)

def test_two_callbacks_of_a_kind(tmp_path):
    "Each gets back what it remembered, also where a progress bar came or went in between"
    best = lambda: [SaveModelCallback(monitor='head_0', fname='a'), SaveModelCallback(fname='b')]
    cbs = best()
    seen = []
    class Look(Callback):
        def before_epoch(self): seen.append([cb.best for cb in cbs])
    same_name = type('Look', (Callback,), {})
    learn = run(tmp_path/'c', stop=1, path=tmp_path, cbs=[*best(), same_name()])
    _,valid_loss,head_0 = learn.recorder.values[0][:3]
    run(tmp_path/'c', stop=2, resume=True, path=tmp_path, cbs=[*cbs, Look()])
    assert seen[0]==[head_0,valid_loss]

def learner(path, **kwargs):
    set_seed(0)
    kwargs = dict(arch=net(1), opt_func=nesterov_sgd, precision='fp32', path=path, **kwargs)
    learn = mixup_learner(digits_dls(1, bs=256, size=8), MixupX(.3), **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *_: None
    return learn

def test_as_a_callback_of_the_learner(tmp_path):
    "`validate`, `get_preds` and `lr_find` leave the checkpoints alone"
    learn = learner(tmp_path, cbs=Checkpoint(tmp_path/'c'))
    learn.validate()
    learn.lr_find(num_it=10, show_plot=False)
    assert not (tmp_path/'c').exists()
    learn.fit(2)
    files = {p:p.stat().st_mtime_ns for p in (tmp_path/'c').iterdir()}
    learn.validate(), learn.get_preds(), learn.lr_find(num_it=10, show_plot=False)
    assert len(files)==2 and files=={p:p.stat().st_mtime_ns for p in (tmp_path/'c').iterdir()}

def test_a_validation_amid_a_fit(tmp_path):
    "It counts as no epoch, and the checkpoints are those of the training's epochs"
    class Look(Callback):
        order = 70
        def after_train(self): self.learn.validate(ds_idx=0)
    whole = flat(small_learner(tmp_path/'a', cbs=[Look()]))
    small_learner(tmp_path/'b', stop=3, cbs=[Look()])
    assert numbers(tmp_path/'b')==['00001','00002']
    resumed = flat(small_learner(tmp_path/'b', resume=True, cbs=[Look()]))
    assert numbers(tmp_path/'b')==['00002','00003'] and torch.equal(whole, resumed)

@pytest.fixture(scope='module')
def once(tmp_path_factory):
    run(p:=tmp_path_factory.mktemp('once'), stop=3)
    return p

@pytest.fixture
def broken_off(once, tmp_path): return Path(shutil.copytree(once, tmp_path/'b'))

def numbers(folder): return [p.name[-8:-3] for p in sorted(folder.iterdir())]

def test_two_are_kept(once):
    assert sorted(p.name for p in once.iterdir())==['checkpoint-00001.pt','checkpoint-00002.pt']

def test_a_learner_of_fastai(tmp_path):
    "It would begin anew"
    learn = Learner(digits_dls(1, bs=256, size=8), net(1), cbs=Checkpoint(tmp_path/'c'))
    learn.validate()
    expected = 'Learner with a Checkpoint: expected mixup_learner'
    with learn.no_logging(), pytest.raises(ValueError, match=expected): learn.fit(1)
    assert not (tmp_path/'c').exists()

def cut(p): p.write_bytes(p.read_bytes()[:-100])
def flip(p):
    b = bytearray(p.read_bytes())
    b[len(b)//2] ^= 1
    p.write_bytes(b)
def empty(p): p.write_bytes(b'')
def foreign(p): torch.save({'model': {}}, p)
def code(p): torch.save(CategoryMap, p) # what only loads by importing

@pytest.mark.parametrize('spoil', [cut, flip, empty, foreign, code])
def test_spoiled(broken_off, spoil):
    newest = broken_off/'checkpoint-00002.pt'
    spoil(newest)
    with pytest.raises(ValueError, match=f'{newest} is no'): load_checkpoint(newest)

def crafted(change, p):
    d = load_checkpoint(p)
    change(d)
    torch.save(d, p)

@pytest.mark.parametrize('change,problem', [
    (lambda d: d['state'].update(epoch=-5), 'epoch=-5: expected a whole number in 0..4'),
    (lambda d: d['state'].update(epoch=5), 'epoch=5: expected'),
    (lambda d: d['state'].update(epoch='1'), "epoch='1': expected"),
    (lambda d: d['state'].pop('epoch'), 'epoch=None: expected'),
    (lambda d: d['state'].pop('model'), "cannot be loaded: 'model'"),
    (lambda d: d['state'].update(opt=[]), 'cannot be loaded'),
    (lambda d: d['state']['recorder'].update(lrs=None), 'cannot be loaded'),
    (lambda d: d['state'].update(processes=[]), 'cannot be loaded'),
    (lambda d: d['state']['model'].popitem(), 'cannot be loaded'),
    (lambda d: d['facts'].pop('lr'), r'lr=\[0.1\] \(was None\)'),
    (lambda d: d['facts'].update(bs=128), r'bs=256 \(was 128\)'),
    (lambda d: d['facts'].update(processes=2), r'processes=1 \(was 2\)')])
def test_crafted(broken_off, change, problem):
    newest = broken_off/'checkpoint-00002.pt'
    crafted(change, newest)
    with pytest.raises(ValueError, match=f'{newest}.*{problem}') as e: run(broken_off, resume=True)
    assert 'weights_only' not in str(e.value) and len(str(e.value).splitlines())==1

@pytest.mark.parametrize('change', [lambda d: d.pop('state'), lambda d: d.update(facts=1),
                                    lambda d: d.update(format='fastmix 1')])
def test_no_checkpoint(broken_off, change):
    newest = broken_off/'checkpoint-00002.pt'
    crafted(change, newest)
    with pytest.raises(ValueError, match=f'{newest} is not a checkpoint of this fastmix'):
        load_checkpoint(newest)

def test_no_advice_to_run_code(broken_off):
    newest = broken_off/'checkpoint-00002.pt'
    code(newest)
    with pytest.raises(ValueError, match='no whole checkpoint, UnpicklingError') as e:
        load_checkpoint(newest)
    assert str(e.value).startswith(str(newest)) and 'weights_only' not in str(e.value)

@pytest.mark.parametrize('leave', [lambda p: os.mkfifo(p), lambda p: p.mkdir()])
def test_what_is_no_file(broken_off, leave, whole):
    "A pipe would be waited for, a folder not be replaced"
    leave(broken_off/'checkpoint-00009.pt')
    assert same(whole, run(broken_off, resume=True))

def test_weights_that_are_not_finite(tmp_path):
    "The loss of the last batch was, and the step after it spoiled the weights"
    class Spoil(Callback):
        order = 60
        def after_train(self):
            if self.epoch==2: next(self.model.parameters()).data[0] = math.nan
    with pytest.raises(FloatingPointError) as e: run(tmp_path/'a', cbs=[Spoil()])
    last = tmp_path/'a'/'checkpoint-00001.pt'
    assert f'not finite after epoch 2; the last good checkpoint is {last}' in str(e.value)
    assert numbers(last.parent)==['00000','00001']

def test_what_a_kill_left(broken_off):
    "Of a file that was not complete"
    (broken_off/'.checkpoint-00003.pt.01234567.tmp').touch()
    (broken_off/'.checkpoint-notes.tmp').touch() # a user's own
    (broken_off/'notes.tmp').touch()
    run(broken_off, resume=True)
    assert sorted(p.name for p in broken_off.glob('*.tmp'))==['.checkpoint-notes.tmp','notes.tmp']
    assert [p.name for p in broken_off.glob('.*')]==['.checkpoint-notes.tmp']

# Other data of the same size

def pictures(folder, seed=0, names='ab', n=6):
    rng = np.random.default_rng(seed)
    for c in names:
        (folder/c).mkdir(parents=True)
        for i in range(n):
            im = rng.integers(0, 255, (8,8), dtype=np.uint8)
            Image.fromarray(im).save(folder/c/f'{c}{i}.bmp')
    return folder

def folder_dls(folder, memory=False):
    kwargs = dict(valid_pct=.3, seed=0, n_samples=1, bs=4, num_workers=0)
    dls = MultiSampleDataLoaders.from_folder(folder, **kwargs)
    return in_memory(dls) if memory else dls

def rename(folder): (folder/'b').rename(folder/'c')
def replace(folder):
    f = folder/'a'/'a0.bmp'
    f.write_bytes(f.read_bytes()[:-8]+bytes(8))
def move(folder):
    for f,to in (('a/a0','b/a0'),('b/b0','a/b0')): (folder/f'{f}.bmp').rename(folder/f'{to}.bmp')

@pytest.mark.parametrize('memory', [False,True])
@pytest.mark.parametrize('change', [rename, replace, move])
def test_other_data(tmp_path, change, memory):
    digests = lambda folder: [data_digest(dl) for dl in folder_dls(folder, memory).loaders]
    folder = pictures(tmp_path/'data')
    before = digests(folder)
    copied = Path(shutil.copytree(folder, tmp_path/'elsewhere'/'copy'))
    assert digests(copied)==before
    change(folder)
    assert digests(folder)!=before

def test_other_data_is_refused(tmp_path):
    folder = pictures(tmp_path/'data')
    def fit(stop=None):
        set_seed(0)
        learn = mixup_learner(folder_dls(folder), arch=partial(cifar_resnet, 8), precision='fp32')
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(), suppress(KeyboardInterrupt):
            learn.fit(3, cbs=[Stop(stop), Checkpoint(tmp_path/'c', resume=True)])
    fit(stop=None)
    replace(folder)
    with pytest.raises(ValueError, match='other settings: digest of images and labels='): fit()

def test_the_one_before(broken_off, capsys, whole):
    cut(broken_off/'checkpoint-00002.pt')
    learn = run(broken_off, resume=True)
    out = capsys.readouterr().out
    assert 'checkpoint-00002.pt is no whole checkpoint' in out
    assert 'checkpoint-00001.pt is used' in out
    assert same(whole, learn)

def test_all_spoiled(broken_off):
    for p in broken_off.iterdir(): empty(p)
    with pytest.raises(ValueError, match='holds no whole checkpoint'): run(broken_off, resume=True)

@pytest.mark.parametrize('kwargs,said', [
    (dict(epochs=6), r'epochs=6 \(was 5\)'), (dict(mix=False), r"callbacks=.*'Mixup'"),
    (dict(lr=.2), r'lr=\[0.2\] \(was \[0.1\]\)'), (dict(precision='bf16'), 'DevicePrecision'),
    (dict(wd=.3), r'wd=\[0.3\] \(was \[0.0001\]\)'), (dict(metrics=[]), "metrics=.*head_0"),
    (dict(opt_func=Adam), "optimizer='Optimizer .*adam_step' .was 'SGD'")])
def test_other_settings(broken_off, kwargs, said):
    before = {p:p.read_bytes() for p in broken_off.iterdir()}
    with pytest.raises(ValueError, match='other settings.*'+said):
        run(broken_off, resume=True, **kwargs)
    assert before=={p:p.read_bytes() for p in broken_off.iterdir()}

class CountDown(Callback):
    "One of a user's own, without `settings()`, which changes what it was made with"
    def __init__(self, left): self.left = left
    def after_epoch(self): self.left -= 1

@pytest.mark.parametrize('cb,other,said', [
    (lambda: StepDecay(at=.2), lambda: StepDecay(at=(.2,.9), factor=.5),
     r"StepDecay.at=\(0.2, 0.9\) \(was \(0.2,\)\), StepDecay.factor=0.5 \(was 0.1\)"),
    (lambda: Mixup(), lambda: Mixup(.3), r'Mixup.x=0.3 \(was 0.5\)'),
    (lambda: EarlyStoppingCallback(patience=9),
     lambda: EarlyStoppingCallback('accuracy', patience=9),
     "EarlyStoppingCallback.monitor='accuracy'"),
    *[(lambda k=k,v=v: EarlyStoppingCallback(**dict(patience=9)|{k: v}),
       lambda k=k: EarlyStoppingCallback(**dict(patience=9)|{k: 5}),
       f'EarlyStoppingCallback.{k}=-?5 .was {v}') for k,v in (('min_delta',0),('patience',8))],
    *[(lambda k=k,v=v: ReduceLROnPlateau(**{k: v}), lambda k=k: ReduceLROnPlateau(**{k: 1}),
       f'ReduceLROnPlateau.{k}=1.*was {v}') for k,v in (('factor',10.),('min_lr',0))],
    (lambda: GradientAccumulation(512), lambda: GradientAccumulation(64),
     r'GradientAccumulation.n_acc=64 \(was 512\)'),
    (lambda: GradientClip(.5), lambda: GradientClip(2.), r'GradientClip.max_norm=2.0 \(was 0.5\)'),
    (lambda: CountDown(3), lambda: CountDown(5), r'CountDown.left=5 \(was 3\)')])
def test_other_settings_of_a_callback(tmp_path, cb, other, said):
    "What a callback was made with belongs to the run; what it counts does not"
    def fit(cb, n=3):
        set_seed(0)
        learn = MixupLearner(digits_dls(1, bs=256, size=8), net(1), metrics=accuracy)
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(): learn.fit(n, cbs=[*cb, Checkpoint(tmp_path, resume=True)])
    fit([cb()])
    fit([cb()])
    with pytest.raises(ValueError, match='other settings.*'+said): fit([other()])

def shorten(learn):
    for tl in learn.dls.train.dataset.tls: tl.items = tl.items[:1400]

@pytest.mark.parametrize('change,said', [
    (lambda l: l.freeze(), 'trained='), (shorten, 'samples='),
    (lambda l: setattr(l, 'loss_func', LabelSmoothingCrossEntropyFlat()), "loss='LabelSmoothing"),
    (lambda l: None, 'schedules=')])
def test_other_trainings(tmp_path, change, said):
    def fit(change, rate):
        set_seed(0)
        groups = lambda m: L(m.net[:2], m.net[2:]).map(params)
        dls,loss = digits_dls(1, bs=256, size=8),CrossEntropyLossFlat()
        learn = MixupLearner(dls, net(1), loss_func=loss, splitter=groups)
        learn.remove_cb(ProgressCallback)
        change(learn)
        with learn.no_logging(): learn.fit_one_cycle(2, rate, cbs=Checkpoint(tmp_path, resume=True))
    fit(noop, .01)
    fit(noop, .01)
    with pytest.raises(ValueError, match='other settings.*'+said):
        fit(change, .5 if said=='schedules=' else .01)

def test_within_a_fit(tmp_path):
    "A learner can be exported, and begin with a later epoch"
    class Out(Callback):
        def after_epoch(self): self.learn.export('model.pkl')
    learn = learner(tmp_path)
    learn.fit(3, start_epoch=1, cbs=[Checkpoint(tmp_path/'c'), Out()])
    assert numbers(tmp_path/'c')==['00001','00002']
    assert load_learner(tmp_path/'model.pkl').dls.vocab

def test_a_copy_is_no_checkpoint_of_the_run(broken_off, whole):
    shutil.copy(broken_off/'checkpoint-00001.pt', broken_off/'checkpoint-best.pt')
    assert same(whole, run(broken_off, resume=True))
    assert (broken_off/'checkpoint-best.pt').exists()

def test_loaders_of_pytorch(tmp_path):
    def fit(n):
        torch.manual_seed(0)
        ds = torch.utils.data.TensorDataset(torch.randn(32, 3), torch.randint(2, (32,)))
        loader = partial(torch.utils.data.DataLoader, ds, batch_size=8)
        dls = DataLoaders(loader(shuffle=True), loader())
        learn = MixupLearner(dls, nn.Linear(3, 2), CrossEntropyLossFlat(), opt_func=SGD)
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(), suppress(KeyboardInterrupt):
            learn.fit(3, .1, cbs=[Stop(n), Checkpoint(tmp_path, resume=True)])
        return learn.recorder.values
    fit(1)
    assert len(fit(None))==3
    for p in tmp_path.iterdir(): cut(p)
    with pytest.raises(ValueError, match='holds no whole'): fit(None)

def test_state_of_fastais_optimizers_comes_to_the_weights():
    "`meta` stands in for a GPU"
    learner = partial(Learner, DataLoaders([], []), loss_func=noop, opt_func=Adam)
    on_meta,on_cpu = learner(model=nn.Linear(2, 2, device='meta')),learner(model=nn.Linear(2, 2))
    for learn in (on_meta,on_cpu): learn.create_opt()
    for p in on_cpu.model.parameters(): p.grad = torch.ones_like(p)
    on_cpu.opt.step()
    load_opt(on_meta, on_cpu.opt.state_dict())
    state = [v for s in on_meta.opt.state.values() for v in s.values()]
    assert {v.device.type for v in state if isinstance(v, torch.Tensor)}=={'meta'}

def test_folder_in_use(broken_off):
    with pytest.raises(ValueError, match='expected a folder without checkpoints, or resume=True'):
        run(broken_off)

def test_folder_just_left_by_another(tmp_path, monkeypatch):
    "Who has the folder leaves it, and removes the lock's file, between our opening and locking it"
    lock,seen,name = fcntl.flock,[],str(tmp_path/'.lock.tmp')
    def flock(fd, how): # also of files without a name, by which filelock tries what the system can do
        ours = how & fcntl.LOCK_EX and os.readlink(f'/proc/self/fd/{fd}')==name
        if ours: seen.append(name)
        if ours and len(seen)==1: os.unlink(name)
        return lock(fd, how)
    monkeypatch.setattr(fcntl, 'flock', flock)
    cb = Checkpoint(tmp_path)
    cb.folder_lock = lock_folder(tmp_path)
    monkeypatch.undo()
    assert len(seen)==2
    with pytest.raises(ValueError, match='busy'): lock_folder(tmp_path)
    cb.leave_fit()
    assert not os.listdir(tmp_path)

def test_workers_do_not_inherit_the_lock(tmp_path):
    "A process that was killed while its worker lives on has left the folder"
    ours,theirs = os.pipe()
    pid = os.fork()
    if not pid:
        lock = lock_folder(tmp_path)
        worker = os.fork()
        if worker: os.write(theirs, b'%d' % worker)
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(ours, 20))
    try:
        with pytest.raises(ValueError, match='that no other process is busy with'):
            lock_folder(tmp_path)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lock_folder(tmp_path).release()
    finally: os.kill(worker, signal.SIGKILL)

def test_log_of_an_early_stop(tmp_path):
    run(tmp_path/'a', cbs=[RunLog(tmp_path, {}), EarlyStoppingCallback(patience=1, min_delta=10)])
    log = json.loads((tmp_path/'run.json').read_text())
    assert (log['state'],log['epochs_done'])==('finished',2)
    assert len((tmp_path/'metrics.csv').read_text().splitlines())==3

def test_full_disk(tmp_path):
    "A limit on the size of files stands in for a disk without room"
    class Fill(Callback):
        def before_epoch(self):
            if self.epoch==2: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        said = 'could not be written, File too large; what was there before is whole'
        with pytest.raises(OSError, match=f'checkpoint-00002.pt {said}'):
            run(tmp_path/'b', cbs=[Fill()])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert numbers(tmp_path/'b')==['00000','00001']
    load_checkpoint(tmp_path/'b'/'checkpoint-00001.pt')

def test_write_whole(tmp_path, monkeypatch):
    "A crash before the rename leaves the old file"
    write_whole(tmp_path/'f', b'old')
    def crash(*_): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'replace', crash)
    with pytest.raises(KeyboardInterrupt): write_whole(tmp_path/'f', b'new')
    assert (tmp_path/'f').read_bytes()==b'old'

@pytest.mark.parametrize('kwargs,what', [
    (dict(opt_func=partial(nesterov_sgd, momentum=.1)), r'optimizer.momentum=0.1 .was 0.9.'),
    (dict(loss_func=CrossEntropyLossFlat(weight=torch.arange(1.,11))), r'loss.weight=\[1.0, 2.0, .* .was None.'),
    (dict(loss_func=CrossEntropyLossFlat(label_smoothing=.1)), r'loss.label_smoothing=0.1 .was 0.0.')], ids=['momentum','weights','smoothing'])
@pytest.mark.parametrize('mix', [True, False])
def test_another_loss_or_momentum(tmp_path, mix, kwargs, what):
    run(tmp_path, stop=1, mix=mix)
    with pytest.raises(ValueError, match=f'other settings: {what}'): run(tmp_path, resume=True, mix=mix, **kwargs)

@pytest.mark.parametrize('one,other', [(Adam, RMSProp), (SGD, Lamb), (RMSProp, SGD)])
def test_another_optimizer_of_fastai(tmp_path, one, other):
    "All of them are of one class"
    def fit(opt_func):
        set_seed(0)
        learn = MixupLearner(digits_dls(1, bs=256, size=8), net(1), opt_func=opt_func, wd=.01, lr=1e-3)
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(): learn.fit(2, cbs=Checkpoint(tmp_path, resume=True))
    fit(one)
    fit(one)
    with pytest.raises(ValueError, match='other settings.*optimizer='): fit(other)

def test_settings_of_any_type(tmp_path):
    "A checkpoint holds Python's own types alone, so that it can be read"
    def fit(folder):
        set_seed(0)
        learn = MixupLearner(digits_dls(1, bs=256, size=8), net(1))
        learn.remove_cb(ProgressCallback)
        settings = dict(data=Path(folder), device=torch.device('cpu'), mode=Mode.fast)
        with learn.no_logging(): learn.fit(1, cbs=Checkpoint(tmp_path, resume=True, settings=settings))
    fit('photos')
    fit('photos')
    with pytest.raises(ValueError, match="other settings: data='other' .was 'photos'"): fit('other')

def small_learner(folder, resume=False, stop=None, epochs=4, quiet=True, cbs=(), dls=None, model=None, **kwargs):
    "A learner of single images after a training that may be interrupted"
    set_seed(0)
    torch.set_num_threads(1)
    dls = dls or digits_dls(1, bs=256, size=8)
    learn = mixup_learner(dls, MixupX(.3), arch=model or net(1), precision='fp32', **{'opt_func':nesterov_sgd, **kwargs})
    if quiet: learn.remove_cb(ProgressCallback)
    learn.path = folder
    with suppress(KeyboardInterrupt), learn.no_logging():
        learn.fit(epochs, cbs=[Stop(stop), Checkpoint(folder, resume=resume), *cbs])
    return learn

def flat(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def check_resumed(tmp_path, **kwargs):
    "Interrupted in epoch 2 and resumed is the same as whole"
    one = small_learner(tmp_path/'a', **kwargs)
    small_learner(tmp_path/'b', stop=2, **kwargs)
    assert torch.equal(flat(one), flat(small_learner(tmp_path/'b', resume=True, **kwargs)))

def test_with_a_progress_bar(tmp_path):
    "fastprogress fails at a number that is not its first"
    check_resumed(tmp_path, quiet=False)

def test_with_a_graph(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt
    monkeypatch.setattr('fastprogress.fastprogress.plt', plt, raising=False)
    seen = []
    class Graph(ShowGraphCallback):
        name = 'show_graph'
        def after_epoch(self):
            if not self.nb_batches: return
            seen.append((len(self.nb_batches), len(self.recorder.values)))
    small_learner(tmp_path, stop=2, cbs=[Graph()], quiet=False)
    seen.clear()
    small_learner(tmp_path, resume=True, cbs=[Graph()], quiet=False)
    assert seen==[(3,3),(4,4)]

class Thaw(Callback):
    "Train all layers from epoch 1 on"
    def before_epoch(self):
        if self.epoch==1: self.learn.unfreeze()
class Frozen(Callback):
    order = -50
    def before_fit(self): self.learn.freeze()

@pytest.mark.parametrize('opt_func', [nesterov_sgd, Adam], ids=['sgd','adam'])
def test_layers_that_thaw(tmp_path, opt_func):
    halves = lambda m: L(m).map(params) if isinstance(m, nn.Sequential) else L([[*m.net[0].parameters()], [*m.net[1:].parameters()]])
    check_resumed(tmp_path, cbs=[Frozen(), Thaw()], splitter=halves, opt_func=opt_func)

class Sometimes(nn.Module):
    "A layer that every other batch leaves out"
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)
    def forward(self, x): return self.layer(x) if self.training and random.random()<.5 else x

@pytest.mark.parametrize('opt_func', [nesterov_sgd, Adam], ids=['sgd','adam'])
def test_layers_without_a_gradient(tmp_path, opt_func):
    for seed in range(3): # it matters in some of them
        model = MultiSample(nn.Sequential(nn.Flatten(), Sometimes(), nn.Linear(64, 10)), 1, 1, 1)
        def again(): return dict(model=deepcopy(model), opt_func=opt_func, cbs=[Seed(seed)])
        one = flat(small_learner(tmp_path/f'a{seed}', **again()))
        small_learner(tmp_path/f'b{seed}', stop=2, **again())
        assert torch.equal(one, flat(small_learner(tmp_path/f'b{seed}', resume=True, **again())))

class Seed(Callback):
    "Other random numbers"
    order = -50
    def __init__(self, seed): self.seed = seed
    def before_fit(self): random.seed(self.seed)

def test_after_an_interrupted_lr_find(tmp_path):
    learn = small_learner(tmp_path/'a', epochs=1)
    learn.add_cb(Checkpoint(tmp_path/'b'))
    learn.add_cb(stop := Stop(0))
    with suppress(KeyboardInterrupt), learn.no_bar(): learn.lr_find(show_plot=False)
    learn.remove_cb(stop)
    assert not (tmp_path/'b').exists()
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert numbers(tmp_path/'b')[:2]==['00000','00001']

def dropout(p):
    model = net(1)
    next(m for m in model.modules() if isinstance(m, nn.Dropout)).p = p
    return model

@pytest.mark.parametrize('one,other,said', [
    (dict(), dict(dls=lambda: with_tfms(aug_transforms(size=8))), 'after_batch of loader 0='),
    (dict(dls=lambda: with_tfms(aug_transforms(size=8))), dict(dls=lambda: with_tfms(aug_transforms(size=8, max_rotate=40))), 'after_batch of loader 0='),
    (dict(dls=lambda: with_tfms(aug_transforms(size=8))), dict(dls=lambda: with_tfms(aug_transforms(size=8, max_lighting=.5))), 'after_batch of loader 0='),
    (dict(model=lambda: dropout(.1)), dict(model=lambda: dropout(.5)), 'network=')],
    ids=['transforms','rotation','light','dropout'])
def test_another_script(tmp_path, one, other, said):
    "What changes the training is refused, not answered with the old result"
    def now(kw): return {k:v() for k,v in kw.items()}
    small_learner(tmp_path, epochs=1, **now(one))
    small_learner(tmp_path, epochs=1, resume=True, **now(one))
    with pytest.raises(ValueError, match=f'other settings: {said}'):
        small_learner(tmp_path, epochs=1, resume=True, **now(other))

def with_tfms(tfms):
    dls = digits_dls(1, bs=256, size=8)
    dls.add_tfms(tfms, 'after_batch')
    return dls

class Shade(Transform):
    "A transform of a user, which tells its settings to nobody"
    order = 20
    def __init__(self, k): self.k = k
    def encodes(self, x:TensorImage): return x+self.k

@pytest.mark.parametrize('name,one,other', [('item_tfms',Resize(8),Resize(6)), ('batch_tfms',Shade(1),Shade(2))], ids=['resize','own'])
def test_transforms_with_other_settings(tmp_path, name, one, other):
    for i in range(12):
        (tmp_path/'im'/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (9,9), (20*i,0,0)).save(tmp_path/'im'/'ab'[i%2]/f'{i}.png')
    def fit(tfm, resume):
        kw = dict(n_samples=1, seed=0, valid_pct=.5, bs=4, num_workers=0, device='cpu', item_tfms=Resize(8))
        dls = MultiSampleDataLoaders.from_folder(tmp_path/'im', **kw|{name: tfm})
        learn = mixup_learner(dls, arch=partial(cifar_resnet, 8), precision='fp32')
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(): learn.fit(1, cbs=Checkpoint(tmp_path/'run', resume=resume))
    fit(one, False)
    fit(one, True)
    with pytest.raises(ValueError, match=f"after_{name.split('_')[0]} of loader 0="): fit(other, True)

def test_the_generator_of_a_gpu_is_resumed():
    gpu = SimpleNamespace(device=torch.device('cuda', 0))
    learn = SimpleNamespace(dls=SimpleNamespace(loaders=[]), model=SimpleNamespace(parameters=lambda: iter([gpu])))
    get,put = generators(learn)[-1]
    assert get.func is torch.cuda.get_rng_state and get.args==(gpu.device,)
    assert put.func is torch.cuda.set_rng_state and put.keywords==dict(device=gpu.device)

def test_another_choice_of_pairs(tmp_path):
    def train(resume=True, **kw):
        learn = mixup_c_learner(digits_dls(2, bs=256, size=8, **kw), arch=net(2), precision='fp32')
        learn.remove_cb(ProgressCallback)
        with learn.no_logging(): learn.fit(1, cbs=Checkpoint(tmp_path, resume=resume))
    train(resume=False)
    train()
    for kw,said in ((dict(partner='other_class'), "partner=.*'other_class', 0"), (dict(pair_seed=7), "partner=.*'any', 7"),
                    (dict(n=1000), 'order=.*1000'), (dict(drop_last=False), 'order=.*False, False')):
        with pytest.raises(ValueError, match=f'other settings: {said}'): train(**kw)

def test_a_log_makes_its_folder(tmp_path):
    small_learner(tmp_path/'a', epochs=1, cbs=[RunLog(tmp_path/'new'/'log', {})])
    assert (tmp_path/'new'/'log'/'run.json').exists()

def test_a_log_of_a_metric_of_several_numbers(tmp_path):
    def fit(name, **kw):
        metric = F1Score(labels=range(10), average=None)
        small_learner(tmp_path/name, epochs=2, metrics=metric, cbs=[RunLog(tmp_path/f'log {name}', {})], **kw)
        return tmp_path/f'log {name}'/'metrics.csv'
    table = pd.read_csv(fit('a'))
    assert len(table)==2 and all(len(json.loads(v))==10 for v in table.f1_score)
    fit('b', stop=1)
    assert fit('b', resume=True).read_bytes()==fit('a2').read_bytes()

def test_a_log_of_a_metric_that_is_a_tensor(tmp_path):
    def both(pred, y): return torch.stack([accuracy(pred, y), 1-accuracy(pred, y)])
    small_learner(tmp_path/'a', epochs=2, metrics=both, cbs=[RunLog(tmp_path/'log', {})])
    table = pd.read_csv(tmp_path/'log'/'metrics.csv')
    assert table.epoch.tolist()==[0,1] and all(sum(json.loads(v))==pytest.approx(1) for v in table.both)

def test_a_log_is_not_finished_by_a_validation_amid_the_fit(tmp_path):
    states = []
    def state(): return json.loads((tmp_path/'log'/'run.json').read_text())['state']
    class Look(Callback):
        order = 70
        def after_train(self):
            self.learn.validate()
            states.append(state())
    small_learner(tmp_path/'a', epochs=2, cbs=[RunLog(tmp_path/'log', {}), Look()])
    assert states==['running','running'] and state()=='finished'

def test_an_epoch_that_is_left_out(tmp_path):
    "The checkpoint before it stays as it is"
    class Skip(Callback):
        order = 60
        def before_epoch(self):
            if self.epoch==2: raise CancelEpochException
    whole = small_learner(tmp_path/'a', cbs=[Skip()])
    small_learner(tmp_path/'b', stop=3, cbs=[Skip()])
    assert numbers(tmp_path/'b')==['00000','00001']
    resumed = small_learner(tmp_path/'b', resume=True, cbs=[Skip()])
    assert torch.equal(flat(whole), flat(resumed)) and len(whole.recorder.values)==len(resumed.recorder.values)

def test_items_that_are_long_texts():
    "Longer than the name of any file: images as text, say, which a function opens"
    block = DataBlock((ImageBlock(PILImageBW),CategoryBlock), get_x=lambda s: digit_image(len(s)-300), get_y=lambda s: digit_label(len(s)-300), splitter=IndexSplitter([0]))
    digests = [data_digest(block.dataloaders(['x'*i for i in range(300,n)], bs=8, num_workers=0).train) for n in (330,330,331)]
    assert digests[0]==digests[1]!=digests[2]

def test_a_log_leaves_other_files_alone(tmp_path):
    (tmp_path/'metrics.csv').write_text('mine')
    with pytest.raises(ValueError, match='expected that of a run, or a new one'):
        small_learner(tmp_path/'a', epochs=1, cbs=[RunLog(tmp_path, {})])
    assert (tmp_path/'metrics.csv').read_text()=='mine' and not (tmp_path/'run.json').exists()

def test_a_log_without_times(tmp_path):
    class NoTime(Callback):
        def before_fit(self): self.recorder.add_time = False
    small_learner(tmp_path/'a', epochs=1, metrics=accuracy, cbs=[NoTime(), log := RunLog(tmp_path, {})])
    assert list(log.figures)==['train_loss','valid_loss','accuracy']

class Average(Callback):
    "Average the weights over the training"
    order = 60
    def before_fit(self): self.model_copy = deepcopy(self.learn.model) # which is no number
    def after_batch(self):
        if not self.training: return
        for a,p in zip(self.model_copy.parameters(), self.learn.model.parameters()): a.data.lerp_(p.data, .1)
    def state_dict(self): return self.model_copy.state_dict()
    def load_state_dict(self, d): self.model_copy.load_state_dict(d)

def test_what_a_callback_remembers(tmp_path):
    def average(folder, **kw): return flat(SimpleNamespace(model=small_learner(folder, cbs=[cb := Average()], **kw) and cb.model_copy))
    one = average(tmp_path/'a')
    average(tmp_path/'b', stop=2)
    assert torch.equal(one, average(tmp_path/'b', resume=True))

class Scale(Callback):
    "Change the scale of fp16's losses once, and note what it is in each epoch"
    def before_fit(self): self.seen = []
    def before_epoch(self): self.seen.append(self.learn.scaler.get_scale())
    def after_epoch(self):
        if self.epoch==0: self.learn.scaler.update(1024.)

def test_the_scale_of_fp16(tmp_path):
    run(tmp_path, stop=1, precision='fp16', epochs=2, mix=False, cbs=[Scale()])
    run(tmp_path, resume=True, precision='fp16', epochs=2, mix=False, cbs=[cb := Scale()])
    assert cb.seen==[1024]
