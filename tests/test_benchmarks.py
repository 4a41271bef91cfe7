"Results files, what fell from one to another, and that both sides of a comparison do the same work; nothing is timed here"
import json, sys
import numpy as np, pytest, torch
from functools import partial
from benchmarks import __main__ as main, common, epochs, loading, network, page, results
from fastmix.all import cifar_resnet
from fastai.vision.all import tuplify

fast = results.row('pairs', 'a loop', [100,110,120,130], [10,10,10,10], 'pairs/s', 9)
cost = results.row('a step', 'without', [2.,2.,2.], [2.,2.,2.], 'ms', 1.02, lower=True)
absent = results.missing('pairs', 'FFCV', 'ffcv is not installed')

def times(row, factor): return {**row, **{k: row[k]*factor for k in ('ratio','low','high')}}

@pytest.fixture
def file(tmp_path):
    def write(name, *rows):
        m = results.machine('cpu')
        for r in rows: results.write(tmp_path/name, m, [r])
        return tmp_path/name
    return write

def test_a_row_holds_medians_and_the_middle_half():
    assert (fast['ours'],fast['theirs'],fast['ratio']) == (115,10,11.5)
    assert (fast['low'],fast['high'],fast['rounds']) == (10.75,12.25,4)
    figures = '115 and 10 pairs/s: 11.500 [10.750, 12.250], asked at least 9'
    assert results.text(fast)==f'pairs, against a loop: {figures}'
    assert results.text(absent)=='pairs, against FFCV: not measured: ffcv is not installed'

def test_reached():
    assert results.reached(fast) and not results.reached({**fast, 'asked': 12})
    assert results.reached(cost) and not results.reached(times(cost, 1.1))
    assert results.reached({**fast, 'asked': None}) is None and results.reached(absent) is None

def test_rows_are_added_and_replaced(file):
    path = file('a.json', fast, absent)
    d = results.read(path)
    d['rows'] = [dict(r, date='2026-01-01') for r in d['rows']]
    path.write_text(json.dumps(d))
    file('a.json', times(fast, 2))
    new,kept = results.read(path)['rows']
    assert (new,kept)==(dict(times(fast, 2), date=str(results.date.today())),dict(absent, date='2026-01-01'))
    assert not list(path.parent.glob('*.tmp'))

def test_a_machine_is_named_by_what_it_is():
    m = dict(results.machine('cpu'), processor='AMD EPYC (7R13)', cores=2)
    assert results.machine_name(m)=='amd-epyc-7r13-2-cores'
    assert results.machine_name({**m, 'device': 'NVIDIA H100'})=='amd-epyc-7r13-2-cores-nvidia-h100'
    words = json.dumps(m).split('"')
    assert results.platform.node() not in words and str(results.Path.home()) not in words

def test_only_what_falls_by_more_than_the_noise_is_named(file):
    old = file('old.json', fast, cost, absent)
    assert results.compare(old, file('same.json', fast, cost, absent))==[]
    assert results.compare(old, file('noise.json', times(fast, .9), cost, absent))==[]
    assert results.compare(old, file('better.json', times(fast, 2), times(cost, .5)))==[]
    slower, = results.compare(old, file('slower.json', times(fast, .8), cost))
    assert slower.startswith('pairs, against a loop') and 'now pairs' in slower
    dearer, = results.compare(old, file('dearer.json', fast, times(cost, 1.1)))
    assert dearer.startswith('a step, against without')
    gone, = results.compare(old, file('gone.json', fast))
    assert gone.endswith('not measured: not in the second file')

def test_compare_from_the_shell(file, monkeypatch, capsys):
    old,new = str(file('old.json', fast)),str(file('new.json', times(fast, .5)))
    monkeypatch.setattr(sys, 'argv', ['benchmarks','compare',old,old])
    main.main()
    assert capsys.readouterr().out=='nothing fell by more than the noise\n'
    monkeypatch.setattr(sys, 'argv', ['benchmarks','compare',old,new])
    with pytest.raises(SystemExit) as e: main.main()
    assert e.value.code==1

def test_rows_before_a_failure_are_kept(tmp_path, capsys):
    def breaks(quick):
        yield fast
        raise OSError('no room')
    path = tmp_path/'a.json'
    assert not main.measure(breaks, path, results.machine('cpu'), True)
    row, = results.read(path)['rows']
    assert {**row, **fast}==row and 'no room' in capsys.readouterr().err

def test_the_page_without_and_with_results(file, tmp_path):
    assert page.load(tmp_path/'nothing')==[] and page.tables([]).data=='not measured yet'
    d = results.read(file('a.json', fast, times({**cost, 'asked': None}, 2), absent))
    t = page.table(d)
    assert list(t['asked'])==['at least 9: yes','','']
    assert t['ratio'][0]=='11.5 (10.8 to 12.2)'
    assert t['ratio'][2]=='not measured: ffcv is not installed'
    text = page.tables([d]).data
    assert '*pairs*' in text and '| a loop |' in text and 'GPU: not measured' in text
    page.bars(d)
    assert len(page.plt.gca().patches)==2
    page.plt.close()

# The same work on both sides

@pytest.fixture
def few(monkeypatch):
    "Few files in place of 5,000"
    files = common.image_files.__wrapped__(384)
    monkeypatch.setattr(common, 'image_files', lambda: files)

def test_rates_are_of_all_samples_that_were_seen(monkeypatch):
    monkeypatch.setattr(loading, 'times', lambda calls, rounds: np.ones((len(calls), rounds)))
    assert loading.rates([[],[]], [256,300], 1, [20,1]).tolist()==[[5120],[256]] # whole batches of 128

def test_passes_are_of_as_many_images(monkeypatch):
    def timed(calls, *_):
        answers = [sum(p.shape[:-1].numel() for p in tuplify(f())) for f in calls]
        assert len(answers)==3 and len(set(answers))==1
        return np.ones((len(calls), 2))
    monkeypatch.setattr(network, 'times', timed)
    assert len(list(network.one_pass(True)))==4

def test_the_bare_prediction_is_that_of_predict_many(few, monkeypatch):
    learn = common.ours(common.memory_loaders(256, 128), partial(cifar_resnet, 8), precision='fp32')
    ims = common.crops(30)
    monkeypatch.setattr(network, 'bf16', False)
    theirs = network.bare_predict(learn.model, ims, learn.dls.vocab, 2)
    for a,b in zip(learn.predict_many(ims), theirs, strict=True):
        assert a[0]==b[0] and int(a[1])==b[1] and torch.allclose(a[2], b[2], atol=1e-4)

def test_the_bare_loop_does_the_work_of_a_learner(few):
    arch = partial(cifar_resnet, 8)
    def work(o, net):
        seen,before = [],[p.clone() for p in net.parameters()]
        hook = net.register_forward_hook(lambda m, xs, pred: seen.append((m.training, len(pred))))
        o.fit(1)
        hook.remove()
        return seen,[not torch.equal(p, q) for p,q in zip(before, net.parameters())]
    loop,learn = epochs.BareLoop(arch(n_samples=2), 256, 128),common.ours(common.memory_loaders(256, 128), arch)
    seen,changed = work(loop, loop.net)
    assert seen==[(True,128)]*2+[(False,128)] and all(changed)
    assert work(learn, learn.model)==(seen,changed)
