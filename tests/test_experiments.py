import json, math, multiprocessing, os, re, resource, signal, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from experiments import backbone, cli, plots, report, results, runs, timing, train, verdicts
from experiments.verdicts import FAILS, HOLDS, NONE, OPEN, PAPER
import fastmix.all
from fastai.vision.all import Callback, F, IntToFloatTensor, nn, noop, risinstance, tensor, torch
from fastmix.all import CutMixup, HeadsLoss, MixChoice, Mixup, PadCrop
from torch.utils.flop_counter import FlopCounterMode

fork = multiprocessing.get_context('fork')

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "Every claim, run once on the digits by the processes that share the tests"
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'smoke'
    folder.mkdir(exist_ok=True)
    while cli.work('all', 'smoke', folder): time.sleep(.2) # until the other one has done its share
    return folder

def test_smoke_runs_every_claim(smoke):
    done = results.read(smoke/'smoke.jsonl')
    assert set(done)==set(runs.runs_of('all', 'smoke', done)) and len(done)>len(runs.runs_of('all', 'smoke')) # with the recipes that were chosen
    for c in runs.claims:
        assert verdicts.frame(c, 'smoke', done).run.all()
        table = report.table(c, 'smoke', done)
        assert NONE not in table.to_string() and {nm for nm,_ in report.tables.get(c, ((),()))[1]}<=set(table)

def test_a_line_tells_all(smoke):
    done = results.read(smoke/'smoke.jsonl')
    s = runs.heads('smoke', 0)
    d = done[runs.key(s)]
    assert d['settings']==s and d['seed']==0 and d['precision']=='fp32' and d['seconds']['all']>0
    assert d['code']['fastmix'] and d['libraries']['torch'] and d['device']
    assert {'single_acc','tuned_ece','tuned_brier','head_0','head_1','confused_0','train_head_1'}<=set(d['figures'])
    curves = d['curves']['train']
    assert len(curves['valid_head_0'])==s['epochs'] and curves['valid_head_0'][-1]==d['figures']['head_0']
    wrong = results.read(smoke/'smoke.jsonl')[runs.key(runs.heads('smoke', 0, tune=False, random_label=1))]
    assert 'tuned_acc' not in wrong['figures']

def test_figures_are_those_of_the_last_epoch(smoke):
    "Of test images, of the network that they are called after; the curves are of the same images at this scale"
    for d in results.read(smoke/'smoke.jsonl').values():
        f,c,s = d['figures'],d['curves'],d['settings']
        for k in f.keys() & c.get('train', {}).keys(): assert f[k]==c['train'][k][-1]
        if s.get('method')=='erm': assert c['train']['valid_accuracy'][-1]==pytest.approx(f['single_acc'], abs=2e-6)
        if not s.get('ft_epochs'): continue
        assert len(c['tune']['valid_accuracy'])==s['ft_epochs']
        assert c['tune']['valid_accuracy'][-1]==pytest.approx(f['tuned_acc'], abs=2e-6)

def test_nothing_of_a_finished_run_is_left(smoke): assert not list((smoke/'unfinished').rglob('*.pt'))

def test_compile_reaches_both_trainings(smoke, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr('fastmix.learner.compile_model', lambda m, *_, **__: compiled.append(m.n_samples))
    s = runs.heads('smoke', 0)
    d = train.train(s, tmp_path, compile=True)
    assert compiled==[2,1] and d['compile'] and d['figures']==results.read(smoke/'smoke.jsonl')[runs.key(s)]['figures']

def test_nothing_runs_twice(smoke, monkeypatch):
    before = (smoke/'smoke.jsonl').read_bytes()
    monkeypatch.setattr(cli, 'do', lambda *a: pytest.fail('ran again'))
    cli.main(['all', '--scale', 'smoke', '--results', str(smoke)])
    assert (smoke/'smoke.jsonl').read_bytes()==before

def test_same_seed_same_figures(smoke, tmp_path):
    s = runs.heads('smoke', 0)
    old = results.read(smoke/'smoke.jsonl')[runs.key(s)]
    new = train.train(s, tmp_path/'a')
    assert new['figures']==old['figures'] and new['curves']==old['curves']
    assert train.train({**s, 'seed':1}, tmp_path/'b')['curves']!=old['curves']

class Bomb(Callback):
    order = 101 # what comes after Checkpoint is not compared with the first start
    def __init__(self, epoch): self.at = epoch
    def before_epoch(self):
        if self.epoch==self.at: raise KeyboardInterrupt

def interrupt(s, folder, monkeypatch, phase, epoch):
    "Begin a run that breaks off in this epoch of this phase"
    real = train.checkpoints
    with monkeypatch.context() as m:
        m.setattr(train, 'checkpoints', lambda folder,s: real(folder, s) + [Bomb(epoch)]*(folder.name==phase))
        with pytest.raises(KeyboardInterrupt): train.train(s, folder)

@pytest.mark.skipif(not hasattr(fastmix.all, 'Checkpoint'), reason='this version of fastmix cannot resume')
@pytest.mark.parametrize('phase,epoch', [('train',1), ('tune',0)])
def test_an_interrupted_run_goes_on(smoke, tmp_path, monkeypatch, phase, epoch):
    s = runs.heads('smoke', 0)
    interrupt(s, tmp_path, monkeypatch, phase, epoch)
    assert len(list((tmp_path/'fp32'/'train').glob('*.pt')))==(1 if phase=='train' else 2)
    new,old = train.train(s, tmp_path),results.read(smoke/'smoke.jsonl')[runs.key(s)]
    assert new['figures']==old['figures'] and new['curves']==old['curves']

def test_another_machine_that_computes_otherwise_starts_anew(tmp_path, monkeypatch):
    s = runs.run('smoke', 0, 'erm', tune=False)
    interrupt(s, tmp_path, monkeypatch, 'train', 1)
    monkeypatch.setattr(train, 'computed_in', lambda precision: 'bf16')
    assert train.train(s, tmp_path)['precision']=='bf16'

def fake(s, key, scale, folder, *_):
    time.sleep(.02)
    results.append(folder/f'{scale}.jsonl', dict(key=key, settings=s, by=os.getpid(), figures={}))

def test_two_processes_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'do', fake)
    ps = [fork.Process(target=cli.work, args=('fig1','cpu',tmp_path)) for _ in range(2)]
    for p in ps: p.start()
    for p in ps: p.join()
    lines = [json.loads(l) for l in (tmp_path/'cpu.jsonl').read_text().splitlines()]
    assert sorted(d['key'] for d in lines)==sorted(runs.runs_of('fig1', 'cpu'))
    assert len({d['by'] for d in lines})==2

def test_what_another_process_does_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'do', fake)
    first = next(iter(runs.runs_of('fig4', 'cpu')))
    with results.Claim(tmp_path/'unfinished'/first) as mine:
        assert mine and cli.work('fig4', 'cpu', tmp_path)==1
    assert first not in results.read(tmp_path/'cpu.jsonl') and cli.work('fig4', 'cpu', tmp_path)==0

def test_a_killed_run_is_taken_over(tmp_path, monkeypatch):
    def hang(s, key, scale, folder, *_):
        (folder/'started').touch()
        time.sleep(60)
    monkeypatch.setattr(cli, 'do', hang)
    p = fork.Process(target=cli.work, args=('fig4','cpu',tmp_path))
    p.start()
    while not (tmp_path/'started').exists(): time.sleep(.01)
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    assert not (tmp_path/'cpu.jsonl').exists()
    monkeypatch.setattr(cli, 'do', fake)
    assert cli.work('fig4', 'cpu', tmp_path)==0 and len(results.read(tmp_path/'cpu.jsonl'))==3

def test_a_torn_line_is_no_result(tmp_path):
    f = tmp_path/'cpu.jsonl'
    results.append(f, dict(key='a', n=1))
    with f.open('ab') as o: o.write(b'{"key": "b", "n"')
    assert list(results.read(f))==['a']
    results.append(f, dict(key='b', n=2))
    assert {k:d['n'] for k,d in results.read(f).items()}=={'a':1,'b':2}

def test_a_full_disk_is_an_error(tmp_path):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        results.append(tmp_path/'cpu.jsonl', dict(key='a'*200)) # of which 50 bytes can be written
    p = fork.Process(target=fill)
    p.start()
    p.join()
    assert p.exitcode==1 and results.read(tmp_path/'cpu.jsonl')=={}

def test_a_run_with_a_void_figure_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'do', fake)
    f,(key,*others) = tmp_path/'cpu.jsonl',runs.runs_of('fig4', 'cpu')
    for k in (key,*others): results.append(f, dict(key=k, figures={}) | (dict(void='head_0: misread') if k==key else {}))
    assert results.finished(results.read(f))=={*others} and set(results.read(f))=={key,*others}
    shown = report.at_scale('fig4', 'cpu', results.read(f))
    assert shown.endswith('Runs to be made again: 1. Void: head_0: misread.')
    assert cli.work('fig4', 'cpu', tmp_path)==0 and len(f.read_text().splitlines())==4
    assert results.finished(results.read(f))=={key,*others} and 'void' not in results.read(f)[key]
    assert 'Void' not in report.at_scale('fig4', 'cpu', results.read(f))

def test_a_single_image_is_as_bright_as_in_training():
    "What weighted slots are given adds up to one image, as in the network of one slot that `to_single` makes of them"
    s = runs.softmax('smoke', 0)
    learn,ones = train.learner(s, train.loaders(s, 2)),train.loaders(s, 1).valid
    two,one = train.single(learn, ones),train.single(learn.to_single(), ones)
    assert two.keys()==one.keys() and all(abs(float(two[k]-one[k]))<1e-5 for k in two)
    assert learn.model.n_heads==1

def test_two_heads_are_averaged_and_mirror_images_too():
    s = {**runs.heads('smoke', 0), 'n_train':64}
    learn,ones = train.learner(s, train.loaders(s, 2)),train.loaders(s, 1).valid
    (x,y),m = (o.as_subclass(torch.Tensor) for o in next(iter(ones))),learn.model.eval()
    with torch.no_grad(): p,q = (m(o, o).softmax(-1).mean(1) for o in (x, x.flip(-1)))
    for mirror,want in ((False,p), (True,(p+q)/2)):
        assert float(train.single(learn, ones, mirror)['nll'])==pytest.approx(float(F.nll_loss(want.log(), y)), abs=1e-5)

def test_each_method_is_its_rule():
    def rule(m):
        cb = train.mixing(dict(seed=0, method=m, r=.3))
        return type(cb).__name__,cb.x_dist,cb.l_dist,cb.mix_valid
    rules = [rule(m) for m in ('mixup','mixup_x','mixup_l','mixup_xl')]
    assert rules==[('Mixup',.3,None,True), ('MixupX',.3,0.,True), ('MixupL',0.,.3,True), ('MixupXL',.3,.3,True)]
    images,labels = (s for _,s in runs.fig5('smoke')[:2])
    cbs = [train.mixing(s) for s in (images, labels, runs.softmax('smoke', 0), runs.fig6('smoke')[0][1])]
    assert [(cb.lam_x,cb.lam_l,cb.random_label,cb.mix_valid) for cb in cbs]==[
        (.5,None,None,True), (None,.5,None,False), (.5,'x',None,True), (None,None,1,False)]

def test_settings_of_optimizer_and_network():
    s = {**runs._families('smoke', 0)['twice the epochs, norm, ERM recipe'], 'n_train':64}
    learn = train.learner(s, train.loaders(s, 2))
    learn.create_opt()
    assert [h['wd'] for h in learn.opt.hypers]==[5e-4]*2 and train.schedule(learn, s).keywords['lr_max']==[6.4,.1]
    s = {**runs.run('smoke', 0, 'erm'), 'depth':14, 'bs':32}
    dls = train.loaders(s, 1)
    assert train.learner(s, dls).model.arch=='fastmix/resnet14' and dls.train.bs==32
    s = runs.additive('smoke', 0, 'mixup', .5)
    assert [m.i for m in train.learner(s, train.loaders(s, 1)).metrics if isinstance(m, train.First)]==[0]

@pytest.mark.parametrize('kw,rates', [(dict(warmup=5),[5]), (dict(),[0])], ids=['warm-up','none'])
def test_warm_up_reaches_the_training(tmp_path, monkeypatch, kw, rates):
    class Seen(Exception): pass
    def stop(learn, *_): raise Seen([cb.warmup for cb in learn.cbs if isinstance(cb, fastmix.all.StepDecay)])
    monkeypatch.setattr(train, 'fit', stop)
    with pytest.raises(Seen) as e: train.train(runs.heads('smoke', 0, **kw), tmp_path)
    assert e.value.args==(rates,)

def test_fine_tuning_after_repeats_has_the_batches_of_the_others(tmp_path, monkeypatch):
    sizes = []
    def fit(learn, f, n, cbs):
        sizes.append(learn.dls.train.bs)
        return {}
    monkeypatch.setattr(train, 'fit', fit)
    monkeypatch.setattr(fastmix.all.MultiSampleLearner, 'validate', lambda self, dl: [0])
    train.train(runs._families('smoke', 0)['repeats 2'], tmp_path)
    assert sizes==[32,64]

def test_runs_are_shared():
    key = runs.key
    fig1 = {(t['net'],t['r'],t['seed']):key(s) for t,s in runs.fig1('cpu')}
    table1 = {(t['net'],t['seed']):key(s) for t,s in runs.table1('cpu')}
    assert len({fig1[nm,0,0] for nm in runs.rules})==1 and len({fig1[nm,.1,0] for nm in runs.rules})==4
    assert all(fig1[nm,.5,2]==table1[nm,2] for nm in runs.rules)
    assert [key(s) for _,s in runs.fig4('cpu')]==[table1['mixup-C',i] for i in range(3)]
    assert key(dict(a=1, b=None))==key(dict(a=1))!=key(dict(a=2))

@pytest.mark.parametrize('scale', ['cpu','mid','paper'])
def test_finished_runs_are_still_asked_for(scale):
    done = results.read(results.here/'results'/f'{scale}.jsonl')
    asked = set().union(*[runs.runs_of(c, scale, done) for c in runs.claims])
    assert set(done)<=asked and all(k==runs.key(d['settings']) for k,d in done.items())

def test_what_is_beyond_the_paper_shares_its_runs():
    def keys(claim): return {t['net']:runs.key(s) for t,s in claim('mid') if t['seed']==0}
    pace,family,table1 = keys(runs.throughput),keys(runs.two_heads),keys(runs.table1)
    assert family['ERM']==pace['ResNet-20']==table1['ERM']
    assert family['mixup-C']==pace['ResNet-20, 2 slots']==table1['mixup-C']
    assert family['width 2']==pace['ResNet-20, 2 slots, width 2']
    assert len({*pace.values(), *family.values()})==13+25-3 # three are in both
    assert not {'throughput','two_heads'} & set(runs.not_in_all['mid'])

def test_a_norm_of_the_losses_favours_the_head_that_falls_behind():
    pred,ys = torch.randn(5,2,3),[torch.tensor([0,1,2,0,1]),torch.tensor([2,0,1,1,0])]
    each = torch.stack([F.cross_entropy(pred[:,i], y) for i,y in enumerate(ys)])
    def loss(p): return train.NormLoss(F.cross_entropy, 2, p)(pred, *ys)
    torch.testing.assert_close(loss(1), each.sum())
    torch.testing.assert_close(loss(2), (2*(each**2).sum())**.5)
    torch.testing.assert_close(loss(math.inf), 2*each.max())
    w = torch.tensor([[2.,0.]]).expand(5, 2) # as patches weigh the slots
    torch.testing.assert_close(train.NormLoss(F.cross_entropy, 2, 1)(pred, *ys, w=w), 2*each[0])

def test_two_slots_share_the_picture():
    cb,bs = train.PatchMixupC(1., seed=0),200
    cb.learn = type('L', (), dict(training=True))
    x,y = [torch.ones(bs,3,16,16), 3*torch.ones(bs,3,16,16)],[torch.zeros(bs).long()]*2
    def mixed(strength, patch=1.):
        cb.patch = patch
        def g(purpose): return torch.Generator().manual_seed(purpose)
        return cb.mix_batch(tuple(x), tuple(y), g, strength)
    (a,b),_,m = mixed(1.)
    assert ((a==0) ^ (b==0)).all() and set(a.unique().tolist())=={0,2} and set(b.unique().tolist())=={0,6}
    share = torch.stack([a/2,b/6], 1).mean((2,3,4))
    torch.testing.assert_close(m.w_l, 2*share**(1/3)/(share**(1/3)).sum(1, keepdim=True))
    assert abs(share.mean(0)[0]-.5)<.05 and share.std(0).min()>.1 # neither slot has the larger part
    (a,b),_,m = mixed(.5)
    whole = (a!=0).all((1,2,3)) & (b!=0).all((1,2,3))
    assert .35<whole.float().mean()<.65 and (m.w_l[whole]==1).all()
    assert mixed(1., 0.)[0][0].equal(x[0]) and mixed(1., 0.)[0][1].equal(x[1])

def test_costs_are_multiples_of_mixup_c():
    cost = {t['net']:t['cost'] for t,_ in runs.two_heads('mid')}
    assert cost.pop('width 2')==4
    assert {cost.pop(nm) for nm in list(cost) if nm.startswith(('twice the epochs','width 2, half the epochs'))}=={2}
    assert set(cost.values())=={1}
    x = [torch.zeros(1,3,32,32)]*2
    flops = []
    for width in (1,2):
        net = train.cifar_resnet(20, n_samples=2, width=width)
        with FlopCounterMode(display=False) as counter: net(*x)
        flops.append(counter.get_total_flops())
    assert 3.9<flops[1]/flops[0]<=4 # the stem and the heads grow less than the trunk

def test_the_settings_reach_network_and_callback():
    def made(**kw):
        s = {**runs.heads('smoke', 0, **kw), 'n_train':64}
        learn = train.learner(s, train.loaders(s, 1 if 'repeats' in kw else 2))
        return learn,learn.mixup_c
    learn,cb = made(same=.6, fade=0)
    assert (cb.same,cb.repeats)==(.6,1) and [cb.when(i, 4) for i in range(4)]==[1,.75,.5,.25]
    plain_size = sum(p.numel() for p in learn.model.parameters())
    cut = train.learner(runs.heads('smoke', 0, patch=.5), learn.dls).cbs
    assert [cb.patch for cb in cut if isinstance(cb, train.PatchMixupC)]==[.5]
    assert type(learn.loss_func) is HeadsLoss and made(norm=2)[0].loss_func.p==2
    learn,cb = made(same=.3, repeats=2, width=2)
    assert (cb.same,cb.repeats,cb.when)==(.3,2,None)
    assert 3.5<sum(p.numel() for p in learn.model.parameters())/plain_size<4

def test_timings_come_after_the_trainings_of_all_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'do', fake)
    todo = list(runs.runs_of('throughput', 'cpu'))
    with results.Claim(tmp_path/'unfinished'/todo[3]) as mine:
        assert mine and cli.work('throughput', 'cpu', tmp_path)==2 # that training, and the timing
    assert cli.work('throughput', 'cpu', tmp_path)==0
    assert list(results.read(tmp_path/'cpu.jsonl'))==[*todo[:3], *todo[4:-1], todo[3], todo[-1]]

def test_the_recipe_is_chosen_on_held_out_images():
    cands = runs.recipe('paper')
    assert all(s['evaluate']=='held_out' for _,s in cands)
    done = {}
    accs = {'mixup':.9, 'ERM, one cycle':.8, 'mixup, one cycle':.85}
    for t,s in cands: done[runs.key(s)] = dict(figures=dict(single_acc=accs.get(t['net'], .5)))
    test = runs.recipe_test('paper', done)
    assert [t['net'] for t,_ in test]==['mixup']*3+['ERM, one cycle']*3
    assert all(s['evaluate']=='test' for _,s in test)
    k,line = done.popitem()
    assert runs.recipe_test('paper', done)==[]
    done[k] = dict(line, void='single_acc: misread')
    assert runs.recipe_test('paper', done)==[]

def test_a_recipe_with_fine_tuning_is_judged_after_it():
    figures = dict(single_acc=.1, tuned_acc=.9)
    assert results.final_accuracy(dict(figures=figures))==.9
    done = {}
    for t,s in runs.recipe('mid'): done[runs.key(s)] = dict(figures=figures if t['net']=='mixup, fine-tuned' else dict(single_acc=.5))
    assert runs.recipe_test('mid', done)[0][0]['net']=='mixup, fine-tuned'
    for t,s in runs.recipe_test('mid', done): done[runs.key(s)] = dict(figures=figures)
    assert verdicts.recipe(verdicts.frame('recipe', 'mid', done))[0].tolist()==[.9]*3

def test_recipes_cost_the_same():
    for t,s in runs.recipe('mid'):
        assert s['epochs']+(s['ft_epochs'] or 0)==100 and s['wd']==5e-4 and s['n_train']==10_000, t

@pytest.mark.parametrize('mixed,erm,want', [(.83,.8,'++'), (.805,.8,'+-'), (.8,.81,'--')])
def test_the_best_mixed_recipe_against_the_best_of_erm(mixed, erm, want):
    done = {}
    for t,s in runs.recipe('mid'): done[runs.key(s)] = dict(figures=dict(single_acc=erm if t['net']=='ERM' else mixed if t['net']=='mixup' else .1))
    for t,s in runs.recipe_test('mid', done):
        done[runs.key(s)] = dict(figures=dict(single_acc=(erm if t['net']=='ERM' else mixed)+.0001*t['seed']*(t['net']=='ERM')))
    df = verdicts.frame('recipe', 'mid', done)
    came = [verdicts.verdict(r, df, 'mid')[0] for r in verdicts.rules if r['claim']=='recipe']
    assert came==[PAPER, *({'+':HOLDS, '-':FAILS}[o] for o in want)] # the first is for scale `paper`
    assert verdicts.recipe(df)[0].mean()>=max(mixed, erm)

def test_what_recipes_are_made_of():
    def made(method, **kw): # a learner with these settings
        s = {**runs.run('smoke', 0, method, tune=False, **kw), 'n_train':64, 'epochs':10}
        return train.learner(s, train.loaders(s, 1)),s
    learn,s = made('mixup_cutmix', r=.5, until=.8, one_cycle=True)
    rules = learn.cbs.filter(risinstance(MixChoice))[0].rules
    assert [type(r) for r in rules]==[Mixup,CutMixup] and [r.when(e, 10) for r in rules for e in (7,8)]==2*[True,False]
    assert train.schedule(learn, s).func==learn.fit_one_cycle
    learn,s = made('erm', bias_lr=64, one_cycle=True)
    with learn.no_bar(), learn.no_logging(): train.schedule(learn, s)(1)
    assert learn.opt.hypers[0]['lr']==pytest.approx(64*learn.opt.hypers[1]['lr'])
    norms = [m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)]
    biases,rest = learn.opt.param_lists
    assert [id(p) for p in biases]==[id(m.bias) for m in norms] and len(biases)+len(rest)==len(list(learn.model.parameters()))

def test_alternating_flip():
    s = {**runs.run('smoke', 0, 'erm', tune=False, alternate=True), 'n_train':64, 'epochs':3}
    dls = train.loaders(s, 1)
    plain,seen = dls.train.data[0],[]
    class See(Callback):
        order = -10
        def before_batch(self):
            if self.training: seen[-1].append(self.x)
        def before_train(self): seen.append([])
    dls.train.after_batch = dls.train.after_batch.__class__([IntToFloatTensor()]) # no crops
    dls.train.shuffle = False
    learn = train.learner(s, dls)
    learn.add_cb(See())
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    a,b,c = (torch.cat(o) for o in seen)
    x = plain.float()/255
    flipped = torch.tensor([not torch.equal(i, j) for i,j in zip(a, x)])
    assert torch.equal(a, c) and torch.equal(b, a.flip(-1)) and 10<flipped.sum()<54
    assert torch.equal(a[~flipped], x[~flipped]) and torch.equal(a[flipped], x.flip(-1)[flipped])
    assert all(not f.flip for f in train.loaders(s, 1).train.after_batch.fs if isinstance(f, PadCrop))

def test_held_out_images_are_not_trained_on():
    s = dict(data='digits', bs=32, evaluate='held_out')
    dls = train.loaders(s, 1)
    a,b = (set(dl.dataset.items) for dl in dls.loaders)
    assert not a&b and len(b)==train.n_held_out['digits'] and len(a|b)==1437
    dls = train.loaders({**s, 'evaluate':'test', 'n_train':200}, 2, 50)
    y = dls.train.data[1]
    assert np.bincount(y.cpu()).tolist()==[20]*10 and len(dls.valid_ds)==50 and not set(dls.train_ds.items)&b
    x1,x2,y1,y2 = next(iter(dls.valid))
    order = y1.tolist()
    assert len(set(order))==10 and order!=sorted(order) and order[:10]!=[*range(10)] # mixed within a batch
    assert train.n_held_out==dict(digits=200, cifar10=5000)

def test_test_images_are_those_of_the_test_set():
    whole,dl = train.images('digits', 1).valid,train.loaders(dict(data='digits', bs=32, evaluate='test'), 1).valid
    place = {o:i for i,o in enumerate(whole.dataset.items)}
    assert place.keys()==set(dl.dataset.items)
    assert dl.data[0].equal(whole.data[0][[place[o] for o in dl.dataset.items]])

def test_held_out_images_are_judged_as_they_are():
    dl = train.loaders(dict(data='digits', bs=32, evaluate='held_out'), 1).valid
    seen = torch.cat([b[0] for b in dl]).as_subclass(torch.Tensor)
    assert seen.equal(dl.data[0].as_subclass(torch.Tensor).float()/255)

def test_calibration():
    p = tensor([[.8,.2],[.8,.2],[.3,.7],[.1,.9]])
    res = train.calibration(p, tensor([0,1,1,1]), bins=10)
    assert float(res['acc'])==.75
    assert float(res['ece'])==pytest.approx((2*abs(.5-.8) + .3 + .1)/4)
    assert float(res['brier'])==pytest.approx((.08 + 1.28 + .18 + .02)/4)

def test_confusion():
    y = tensor([[0,1],[0,1],[2,2],[1,0]])
    pred = (tensor([[1,1],[0,0],[2,2],[2,0]])[...,None]==tensor(range(3))).float()
    for f,want in ((train.Confused(0), [1,0,math.nan,0]), (train.Wrong(0), [1,0,math.nan,1]), (train.Confused(1), [0,1,math.nan,0])):
        assert f.score(pred, y).tolist()==pytest.approx(want, nan_ok=True) # nothing to confuse in the third
    assert train.Both().score(pred, y).tolist()==[0,0,1,0]

# Verdicts, on lines made up for the purpose
def made_up(claim, f, scale='cpu'): return {runs.key(s): dict(settings=s, figures=f(t)) for t,s in runs.claims[claim](scale)}

def verdict_of(claim, says, f, scale='cpu'):
    r = next(r for r in verdicts.rules if r['claim']==claim and r['says'].startswith(says))
    return verdicts.verdict(r, verdicts.frame(claim, scale, made_up(claim, f, scale)), scale)[0]

noise = lambda t: .002*(t['seed']-1)
@pytest.mark.parametrize('gain,want', [(.05,HOLDS), (-.05,FAILS), (.001,OPEN)])
def test_fine_tuning_verdict(gain, want):
    f = lambda t: dict(single_acc=.5, tuned_acc=.5+gain+noise(t))
    assert verdict_of('table1', 'Fine-tuning helps mixup-X', f)==want

def test_the_control_decides():
    f = lambda t: dict(single_acc=.5, tuned_acc=.55+noise(t)*(t['net']!='ERM')) # ERM gains as much
    assert verdict_of('table1', 'Fine-tuning helps mixup-X', f)==HOLDS
    assert verdict_of('table1', 'Fine-tuning helps mixup-X more', f)==OPEN
    worse = lambda t: dict(single_acc=.5, tuned_acc=.6 if t['net']=='ERM' else .55+noise(t))
    assert verdict_of('table1', 'Fine-tuning helps mixup-X more', worse)==FAILS

@pytest.mark.parametrize('loser,want', [(lambda i: .1,HOLDS), (lambda i: .5,FAILS), (lambda i: .1 if i<2 else .5,OPEN)])
def test_one_head_wins(loser, want):
    f = lambda t: {f"head_{t['seed']%2}":.6, f"head_{1-t['seed']%2}":loser(t['seed'])}
    assert verdict_of('fig5', 'λ on images', f)==want
    w = verdicts.winners(verdicts.frame('fig5', 'cpu', made_up('fig5', f)), 'images')
    assert [int(h) for h in w]==[i%2 if loser(i)<.15 else -1 for i in range(5)]

@pytest.mark.parametrize('loser,winner,n,want', [(.149,.31,5,HOLDS), (.151,.31,5,FAILS), (.1,.299,5,FAILS), (.1,.5,3,OPEN)])
def test_who_wins_and_in_how_many(loser, winner, n, want):
    def f(t): return dict(head_0=winner, head_1=loser if t['seed']<n else .4)
    assert verdict_of('fig5', 'λ on images', f)==want

def test_four_seeds_decide_nothing_about_winners():
    df = verdicts.frame('fig5', 'cpu', made_up('fig5', lambda t: dict(head_0=.5, head_1=.1)))
    assert verdicts.one_wins(df, 'images')[1]==HOLDS and verdicts.one_wins(df[df.seed<4], 'images')[1]==OPEN

@pytest.mark.parametrize('claim,says,f', [
    ('fig4', 'Both heads', lambda t,d: dict(head_0=.5, head_1=.5+d)), ('fig6', 'The head with', lambda t,d: dict(head_1=.1+d)),
    ('gradient', 'mixup-X and', lambda t,d: dict(single_acc=.5+d*(t['net']=='mixup-XL')))], ids=['heads','chance','gradient'])
def test_two_points_are_the_margin(claim, says, f):
    came = [verdict_of(claim, says, lambda t: f(t, d)) for d in (.019,-.019,.021,-.021)]
    assert came==[HOLDS,HOLDS,FAILS,FAILS]

@pytest.mark.parametrize('claim,says,f,holds,fails', [
    ('fig4', 'The two heads of a run', lambda t,d: dict(head_0=.5, head_1=.5+d*(-1)**t['seed']), .019, .021),
    ('fig4', 'There is little confusion', lambda t,d: dict(confused_0=d, confused_1=d, wrong_0=0, wrong_1=0), .049, .051),
    ('fig6', 'The other head', lambda t,d: dict(head_0=.5-d*(t['net']=='random labels')), .049, .051)], ids=['differ','confusion','harm'])
def test_margins(claim, says, f, holds, fails):
    assert [verdict_of(claim, says, lambda t: f(t, d)) for d in (holds,fails)]==[HOLDS,FAILS]

@pytest.mark.parametrize('slope,want', [(.5,HOLDS), (-.5,FAILS), (0,FAILS), (.02,OPEN)])
def test_growth_with_r(slope, want):
    f = lambda t: dict(train_top2=.4+slope*t['r']+3*noise(t)*t['r'])
    assert verdict_of('fig1', 'Training accuracy grows with R: mixup-X', f)==want

@pytest.mark.parametrize('confused,want', [(.03,HOLDS), (.3,FAILS), (.07,OPEN)])
def test_confusion_verdict(confused, want):
    spread = 10 if want==OPEN else 0
    f = lambda t: {**{f'confused_{i}':confused+spread*noise(t) for i in (0,1)}, 'wrong_0':.18, 'wrong_1':.18} # .02 by chance
    assert verdict_of('fig4', 'There is little confusion', f)==want

def test_measured():
    x = pd.Series([.01,.03], index=[0,1])
    assert report.measured(x)=='+2.0 ± 1.4 (2 seeds)' and report.measured(x[:1])=='+1.0 (1 seed)' and report.measured(x[:0])==''
    f = lambda t: {'head_0':.6, 'head_1':.1 if t['seed'] else .5}
    w = verdicts.winners(verdicts.frame('fig5', 'cpu', made_up('fig5', f)), 'images')
    assert report.measured(w)=='head 0 in 4, neither in 1'

def test_order():
    acc = {'mixup-X':.5, 'mixup-L':.6, 'mixup-C':.7}
    f = lambda t: dict(tuned_acc=acc.get(t['net'], .4) + noise(t)*(t['net']=='mixup-L'))
    assert verdict_of('table1', 'X below L below C, fine-tuned', f)==HOLDS
    acc['mixup-C'] = .55
    assert verdict_of('table1', 'X below L below C, fine-tuned', f)==FAILS
    acc.update({'mixup-X':.7, 'mixup-C':.601}) # either step is the smaller one of a seed
    shown = verdicts.ordered(verdicts.frame('table1', 'cpu', made_up('table1', f)), 'tuned_acc')
    assert shown.to_list()==pytest.approx([-.102,-.1,-.098])

def test_levels_are_for_the_paper_scale():
    f = lambda t: dict(head_0=.884+noise(t)/10, head_1=.886)
    assert [verdict_of('fig4', 'Test accuracy of the heads', f, sc) for sc in ('cpu','paper')]==[PAPER,HOLDS]
    assert verdict_of('fig4', 'Both heads are equally good', f, 'smoke')==OPEN

def of_networks(rates, singles, slots):
    "Made-up figures of a claim about `throughput`, by depth"
    def f(t):
        if t['net']=='timing': return {f'images_per_s_{nm}':r for nm,r in rates.items()}
        depth = int(t['net'].split(',')[0].removeprefix('ResNet-'))
        if t['n']==1: return dict(single_acc=singles.get(depth, .8)+noise(t))
        return dict(single_acc=.9, head_0=slots, head_1=slots)
    return f

@pytest.mark.parametrize('slots,want', [(.5,HOLDS), (.71,HOLDS), (.75,FAILS)])
def test_a_single_network_as_fast_as_two_slots(slots, want, monkeypatch):
    monkeypatch.setitem(runs.n_seeds1, 'mid', 3)
    rates = {nm: 1. for nm in runs._nets('mid')}
    rates |= {'ResNet-8':3., 'ResNet-14':1.9, 'ResNet-20, 2 slots':2.}
    f = of_networks(rates, {8:.7, 14:.9}, slots) # the better one is too slow
    says = 'A single network at least as fast as ResNet-20, 2 slots is'
    assert verdict_of('throughput', says, f, 'mid')==want
    faster = of_networks({**rates, 'ResNet-14':2.}, {14:.9}, slots)
    assert verdict_of('throughput', says, faster, 'mid')==HOLDS
    alone = of_networks({**rates, 'ResNet-8':1.}, {8:.9, 14:.9}, slots) # none is as fast: guessing
    assert verdict_of('throughput', says, alone, 'mid')==FAILS
    untimed = of_networks({}, {8:.9}, slots)
    assert verdict_of('throughput', says, untimed, 'mid')==NONE

def test_single_networks_are_compared_by_the_same_seeds(monkeypatch):
    monkeypatch.setitem(runs.n_seeds1, 'mid', 3)
    rates = {**{nm:1. for nm in runs._nets('mid')}, 'ResNet-8':3., 'ResNet-14':3., 'ResNet-20, 2 slots':2.}
    made = made_up('throughput', of_networks(rates, {8:.9, 14:.7}, .5), 'mid')
    done = {k:d for k,d in made.items() if d['settings'].get('depth')!=14 or d['settings']['seed']==0}
    assert list(verdicts.fast_single(verdicts.frame('throughput', 'mid', done), 'ResNet-20, 2 slots').index)==[0]

@pytest.mark.parametrize('gain,cheap,want', [(.2,.1,HOLDS), (.2,.04,FAILS), (-.1,.051,OPEN)])
def test_a_variant_of_at_most_twice_the_cost(gain, cheap, want, monkeypatch):
    monkeypatch.setitem(runs.n_seeds1, 'mid', 3)
    more = {'width 2':gain, 'same .3':cheap, 'ERM':.5}
    def f(t):
        gained = 2*more.get(t['net'], 0) + noise(t)*(t['net']!='mixup-C')
        return dict(head_0=.4, head_1=.6+gained)
    assert verdict_of('two_heads', 'A variant reaches 5 points', f, 'mid')==want
    helps = verdict_of('two_heads', 'It helps two heads: width 2', f, 'mid')
    assert helps==(HOLDS if gain>0 else FAILS)

def test_the_variant_is_chosen_by_its_first_seed(monkeypatch):
    "And judged by all seeds that it has, though another one is better with those"
    monkeypatch.setitem(runs.n_seeds1, 'mid', 3)
    def f(t): return dict(head_0=.4, head_1=.4 + {'same .3':(.2,.1,0), 'same .6':(.1,.3,.3), 'width 2':(.5,.5,.5)}.get(t['net'], (0,0,0))[t['seed']])
    done = made_up('two_heads', f, 'mid')
    def gains(done): return verdicts.best_gain(verdicts.frame('two_heads', 'mid', done)).round(6).to_dict()
    assert gains(done)=={0:.1, 1:.05, 2:0} # double width costs four times as much
    assert gains({k:d for k,d in done.items() if d['settings'].get('same')!=.3})=={0:.05, 1:.15, 2:.15}
    assert gains({k:d for k,d in done.items() if d['settings']['seed']})=={}

def test_what_the_advice_rests_on_has_three_seeds():
    seeds = {}
    for t,_ in runs.two_heads('mid')+runs.throughput('mid'): seeds.setdefault(t['net'], []).append(t['seed'])
    assert all(s==([0,1,2] if nm in runs.confirmed else [0]) for nm,s in seeds.items())
    assert set(runs.confirmed)<=set(seeds)

def test_all_are_timed_in_turn(monkeypatch):
    seen = []
    t = timing.interleaved([lambda: seen.append(0), lambda: seen.append(1)], 3, 1)
    assert seen==[0,1]*4 and t.shape==(3,2)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: seen.append('waited'))
    timing.seconds(noop, 'cuda')
    assert seen[-1]=='waited'

def test_each_network_is_timed_at_its_best_batch_size(monkeypatch):
    nets = [train.cifar_resnet(8, n_in=1, n_samples=n) for n in (1,2)]
    seconds = np.array([[1.,3.,1.,1.]]*3) # both networks in batches of 8 and of 16
    def timed(calls, device):
        assert [len(f()) for f in calls]==[8,16,8,16]
        return seconds
    monkeypatch.setattr(timing, 'interleaved', timed)
    rate,rows = timing.images_per_s(nets, [8,16], 1, 8)
    assert rows.tolist()==[8,16] and rate.tolist()==[[8.,32.]]*3

def test_accuracy_against_rate_is_drawn(smoke):
    done = results.read(smoke/'smoke.jsonl')
    table = report.table('throughput', 'smoke', done)
    assert list(table.net)==list(runs._nets('smoke')) and table['images/s'].astype(int).min()>0
    slots = report.table('two_heads', 'smoke', done)['accuracy per slot']
    assert slots.astype(float).between(0, 100).all()
    trainings = {k:d for k,d in done.items() if d['settings'].get('kind')!='speed'}
    assert set(report.table('throughput', 'smoke', trainings)['images/s'])=={NONE}
    plots.against_rate(trainings, 'smoke')
    assert not plots.plt.get_fignums()
    plots.against_rate(done, 'smoke')
    ax, = plots.plt.gcf().axes
    assert [len(l.get_xdata()) for l in ax.lines]==[1,2] and ax.texts[-1].get_text()=='8, width 2'
    plots.plt.close('all')

def test_chance_in_the_curves_of_confusion():
    todo = [s for _,s in runs.fig6('smoke')]
    one = dict(settings=todo[-1], figures=dict(single_acc=.5), curves=dict(train=dict(valid_wrong_0=[.9,.45], valid_confused_0=[.2,.1])))
    cols = dict(valid_confused_0='names the other slot, head 0', valid_chance_0='by chance, head 0')
    plots.over_epochs('fig6', {runs.key(todo[-1]):one}, 'smoke', 'net', cols, chance={}, top=12)
    ax, = plots.plt.gcf().axes # panels without runs are left out
    ours,by_chance = ax.lines
    assert ax.get_title()=='ERM' and ax.get_ylim()==(0,12)
    assert np.allclose(ours.get_ydata(), [20,10]) and np.allclose(by_chance.get_ydata(), [10,5])
    assert by_chance.get_linestyle()=='--' and ours.get_color()==by_chance.get_color()
    plots.plt.close('all')

def test_a_scale_that_decides_nothing_has_no_columns():
    f = lambda t: dict(head_0=.5, head_1=.1)
    cpu,mid = made_up('fig6', f),made_up('fig6', f, 'mid')
    erm = {k:d for k,d in mid.items() if d['settings']['method']=='erm'}
    def scales(mid, cpu): return [c[:-9] for c in report.judged('fig6', dict(mid=mid, cpu=cpu)) if c.endswith(': verdict')]
    assert scales(mid, cpu)==['mid','cpu'] and scales(erm, cpu)==['cpu'] and scales(erm, {})==['mid']

def test_the_paper_speaks_of_training_accuracy():
    ours = {r['says']:verdicts.of_the_paper(r) for r in verdicts.rules if r['claim']=='fig1'}
    assert all(of==says.startswith('Training') for says,of in ours.items())

def test_every_rule_says_not_run_without_runs():
    for r in verdicts.rules:
        for sc in runs.scales: assert verdicts.verdict(r, verdicts.frame(r['claim'], sc, {}), sc)[0]==NONE

def test_an_empty_report(tmp_path):
    cli.main(['report', '--results', str(tmp_path)])
    s = (tmp_path/'CLAIMS.md').read_text()
    assert all(t in s for t in report.titles.values()) and HOLDS not in s.split('##', 1)[1] and s.count(NONE)>=len(verdicts.rules)

def test_claims_are_in_step_with_the_results():
    assert (results.here/'CLAIMS.md').read_text()==report.text(results.here/'results')

@pytest.mark.parametrize('argv', [['fig3'], ['fig1','--scale','huge'], ['fig1','--jobs','0'], []])
def test_bad_arguments(argv, capsys):
    with pytest.raises(SystemExit) as e: cli.main(argv)
    err = capsys.readouterr().err
    assert e.value.code==2 and err.count('\n')==1 and err.startswith('fastmix-paper: error: ')

def test_a_diverged_run_is_written_down(tmp_path, monkeypatch):
    def diverge(*a): raise FloatingPointError('the loss is not finite')
    monkeypatch.setattr(train, 'train', diverge)
    cli.main(['fig4', '--results', str(tmp_path)])
    done = results.read(tmp_path/'smoke.jsonl')
    d, = done.values()
    assert d['failed']=='the loss is not finite' and d['figures']=={}
    assert report.table('fig4', 'smoke', done).runs[0]=='0 of 1, 1 diverged'
    assert report.judged('fig4', {'cpu':{}, 'smoke':done})['smoke: verdict'][0].endswith('(1 runs of this figure diverged)')

def test_a_diverged_recipe_is_not_chosen():
    done = {runs.key(s): dict(figures={}, failed='x') if t['net']!='mixup' else dict(figures=dict(single_acc=.1)) for t,s in runs.recipe('paper')}
    assert [t['net'] for t,_ in runs.recipe_test('paper', done)]==['mixup']*3+['ERM']*3

def test_a_run_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    def do(s, *args):
        if s['seed']==1: raise torch.OutOfMemoryError('too large')
        fake(s, *args)
    monkeypatch.setattr(cli, 'do', do)
    with pytest.raises(SystemExit, match='1 runs failed'): cli.work('fig4', 'cpu', tmp_path)
    assert len(results.read(tmp_path/'cpu.jsonl'))==2 and 'too large' in capsys.readouterr().err

def test_one_lambda_per_batch_in_training_alone(tmp_path):
    s = {**runs.heads('smoke', 0, tune=False, lam_x=.5, per='batch'), 'epochs':1}
    seen = {}
    class See(Callback):
        order = 50
        def after_pred(self): seen.setdefault(self.training, []).append(len({*self.learn.batch_mixup_c.mixed.w_x[:,0].tolist()}))
    learn = train.learner(s, train.loaders(s, 2))
    learn.add_cb(See())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        learn.validate()
    assert set(seen[True])=={1} and min(seen[False])>50

@pytest.mark.parametrize('ends,done,status', [((0,0),True,0), ((0,0),False,1), ((0,-9),True,1)], ids=['all','some_left','killed'])
def test_status_of_several_processes(tmp_path, monkeypatch, ends, done, status):
    ends = list(ends)
    class Process:
        def __init__(self, *_, **__): self.status = ends.pop()
        def wait(self): return self.status
    monkeypatch.setattr(cli.subprocess, 'Popen', Process)
    if done: [results.append(tmp_path/'smoke.jsonl', dict(key=k)) for k in runs.runs_of('fig4', 'smoke')]
    with pytest.raises(SystemExit) as e: cli.main(['fig4', '--jobs', '2', '--results', str(tmp_path)])
    assert e.value.code==status and not ends

def test_interrupt(tmp_path, monkeypatch, capsys):
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'do', stop)
    with pytest.raises(SystemExit) as e: cli.main(['fig4', '--results', str(tmp_path)])
    assert e.value.code==130 and capsys.readouterr().err.count('\n')==1

def test_the_findings_speak_of_these_verdicts():
    "When a verdict changes, the sentence about it in `report.findings` must change too"
    table,letter = report.summary(report.load()),{HOLDS:'+', FAILS:'-', OPEN:'?', NONE:'0', PAPER:'p'}
    assert len(table)==len(verdicts.rules) and set(report.findings)==set(runs.claims)
    came = {}
    for r,v in zip(verdicts.rules, table.verdict):
        came[r['claim']] = came.get(r['claim'], '') + letter[v]
    assert came==dict(table1='++?+++' '++?+++' '---?-+' '--' '---?--', fig4='??+pp', fig5='--', fig5_batch='--', fig2='?p', fig6='++',
                      fig1='+-+?' '+-++' '--?-', gradient='??', recipe='p+?',
                      throughput='+??0?', two_heads='????????0????????+?0')

@pytest.mark.parametrize('finding', [*report.findings.values(), backbone.finding], ids=[*report.findings, 'backbone'])
def test_a_finding_begins_with_two_sentences(finding):
    assert len(re.findall(r'\.( [A-Z]|$)', finding.split('\n\n')[0]))==2

def test_two_seeds_decide_nothing():
    f = lambda t: dict(single_acc=.5, tuned_acc=.6+noise(t))
    done = made_up('table1', f)
    two = {k:d for k,d in done.items() if d['settings']['seed']<2}
    says = 'Fine-tuning helps mixup-X'
    r = next(r for r in verdicts.rules if r['says']==says)
    assert [verdicts.verdict(r, verdicts.frame('table1', 'cpu', d), 'cpu')[0] for d in (done,two)]==[HOLDS,OPEN]

def test_a_statement_is_judged_at_the_largest_scale_with_all_its_seeds():
    f = lambda t: dict(single_acc=.5, tuned_acc=.6+noise(t))
    cpu,mid = made_up('table1', f, 'cpu'),made_up('table1', f, 'mid')
    erm = {k:d for k,d in mid.items() if d['settings']['method']=='erm'}
    x = {k:d for k,d in mid.items() if d['settings']['method']=='mixup_x'}
    def scales(mid, cpu):
        t = report.summary(dict(mid=mid, cpu=cpu)).set_index('claim').scale
        return [t[f'Fine-tuning helps mixup-{nm}'] for nm in 'XL']
    assert scales(mid, cpu)==['mid']*2 and scales(erm|x, cpu)==['mid','cpu'] and scales(x, {})==['mid','']
    one = dict(list(x.items())[:1])
    assert scales(one, cpu)==['cpu']*2 and scales(one, {})==['mid','']

def test_what_was_not_run_is_named_below_the_table():
    f = lambda t: dict(single_acc=.5, head_0=.4, head_1=.4)
    done = {k:d for k,d in made_up('slots', f).items() if d['settings'].get('n_samples', 1)<3}
    s = report.at_scale('slots', 'cpu', done)
    assert s.endswith('Not run yet: N = 3; N = 4.') and s.count('\n|')==4
    assert 'Not run' not in report.at_scale('slots', 'cpu', made_up('slots', f))

def test_claims_of_the_paper_are_counted_apart():
    t = report.counts(report.summary({sc:{} for sc in ('paper','mid','cpu')}))
    assert t.verdict.tolist()==[NONE]
    n_paper,n_ours = t.iloc[0,1:]
    assert n_paper+n_ours==len(verdicts.rules) and n_paper==sum(map(verdicts.of_the_paper, verdicts.rules))

def test_a_scale_with_all_its_runs_comes_first():
    def lines(scale, n): return {k:dict(figures={}) for k in list(runs.runs_of('table1', scale))[:n]}
    def order(mid, cpu): return list(report.begun('table1', dict(mid=lines('mid', mid), cpu=lines('cpu', cpu))))
    assert order(1, None)==['cpu','mid'] and order(None, None)==['mid','cpu']
    assert order(1, 1)==['mid','cpu'] and order(0, 0)==['cpu']

def test_the_table_of_a_pretrained_network(tmp_path):
    def line(method, seed, **figures):
        return dict(key=f'{method}{seed}', seed=seed, settings=dict(method=method), figures=figures)
    lines = [line('erm', i, single_acc=.8+.1*i, tuned_acc=.9) for i in (0,1)]
    lines.append(line('mixup_c', 0, single_acc=.5, tuned_acc=.6, head_0=.4, head_1=.6))
    t = backbone.table({d['key']:d for d in lines}).set_index('network')
    assert list(t.index)==['ERM','mixup-C, two slots'] and list(t.runs)==[2,1]
    assert t['single images']['ERM']=='85.0 ± 7.1' and t['pairs, per slot'].tolist()==['','50.0']
    assert t['fine-tuned minus ERM'].tolist()==['','-30.0'] and t.decided.tolist()==['','no']
    assert not len(backbone.table({})) and backbone.show(tmp_path/'none.jsonl').data=='Not run yet.'

def test_three_seeds_decide_about_a_pretrained_network():
    def decided(*gains):
        accs = dict(erm=[.7]*len(gains), mixup=[.7+g for g in gains])
        lines = [dict(seed=i, settings=dict(method=m), figures=dict(tuned_acc=a))
                 for m,values in accs.items() for i,a in enumerate(values)]
        return backbone.table(dict(enumerate(lines))).decided.tolist()
    assert decided(.02, .021, .019)==decided(-.02, -.021, -.019)==['','yes']
    assert decided(.02, .021)==decided(.02, -.02, .01)==['','no']

def test_a_trial_with_other_settings_is_not_shown(tmp_path):
    s = dict(next(iter(backbone.todo().values())), one_cycle=False)
    line = dict(key=runs.key(s), seed=0, settings=s, figures=dict(tuned_acc=.5))
    results.append(tmp_path/'runs.jsonl', line)
    assert backbone.show(tmp_path/'runs.jsonl').data=='Not run yet.'

def test_the_printed_advice_is_the_best_recipe():
    from fastmix.cli import advice
    (tag,s),*_ = runs.recipe_test('mid', results.read(results.here/'results'/'mid.jsonl'))
    assert tag['net']=='mixup or CutMix until .8, one cycle'
    given = advice.split()
    assert given[:3]==['--method',s['method'],'--one-cycle'] and s['one_cycle']
    assert float(given[given.index('--wd')+1])==s['wd'] and len(given)==5

def test_one_cycle_is_better_for_two_heads_with_each_seed():
    "What `fastmix-train --method mixup_c` prints"
    df = verdicts.frame('two_heads', 'mid', report.load()['mid'])
    gains = verdicts.slot_gain(df, 'one cycle')
    assert sorted(gains.index)==[0,1,2] and (gains>0).all()

def test_the_pretrained_network_is_judged_by_test_images(monkeypatch):
    digits,seen = fastmix.all.digits_dls(1, size=8),[]
    monkeypatch.setattr(backbone, 'cifar_dls', lambda n, cache: fastmix.all.digits_dls(n, size=8))
    monkeypatch.setattr(backbone, 'pretrained', lambda momentum: fastmix.all.cifar_resnet(8)) # of three channels, as `Normalize` makes them
    monkeypatch.setattr(backbone, 'single', lambda learn, dl: seen.append((learn, {*dl.dataset.items})) or {})
    backbone.train({**backbone.shared, 'method':'mixup_x', 'seed':0, 'size':8, 'n_train':64, 'n_test':360, 'epochs':1, 'ft_epochs':1})
    (mixed,a),(tuned,b) = seen
    assert a==b=={*digits.valid_ds.items} and mixed is not tuned
    assert hasattr(mixed, 'mixup_x') and not hasattr(tuned, 'mixup_x')

def test_the_panels_of_figure_1():
    "Each rule has its own; with R=0 all are the same"
    add = {nm:i/10 for i,nm in enumerate(runs.rules)}
    cols = dict(train_top2=.1, top2=.2, train_top2_all=.3, top2_all=.4)
    plots.over_r(made_up('fig1', lambda t: {c: k+add[t['net']] for c,k in cols.items()}), 'cpu')
    for i,ax in enumerate(plots.plt.gcf().axes):
        got = {c.get_label(): c.lines[0].get_ydata()[-1] for c in ax.containers}
        want = {'Top2, training':10, 'Top2, test':20, 'Top2All, training':30, 'Top2All, test':40}
        assert got==pytest.approx({k: v+10*i for k,v in want.items()})
    plots.plt.close('all')

@pytest.mark.parametrize('nb', ['21_slots','30_fig1','31_fig2','32_fig4','33_fig5','34_fig6','35_table1','36_beyond'])
def test_pages_show_the_present_figures(nb):
    "Findings and tables as they were stored are those of the results that are there"
    done,n = report.load(),0
    for c in json.loads((results.here.parent/f'nbs/{nb}.ipynb').read_text())['cells']:
        m = re.search(r"^report\.(show|figures|finding)\('(\w+)'", ''.join(c['source']), re.M)
        if not m: continue
        now = report.finding(m[2]) if m[1]=='finding' else getattr(report, m[1])(m[2], done)
        assert ''.join(c['outputs'][0]['data']['text/markdown'])==now.data, (m[1], m[2])
        n += 1
    assert n>=2
