"Two processes on this machine's CPU against one, and every way to start and to lose them"
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from fastai.vision.all import DataLoader, DataLoaders, Image, ImageDataLoaders, pd
from safetensors.torch import load_file
from fastmix.all import MultiSampleDataLoaders, in_memory
from fastmix.distributed import samples_digest
from fastmix.processes import join_processes, on_rank0
from tests.forks import fork_ranks, free_port, wait

here,exe = Path(__file__).parent,Path(sys.executable).parent
env = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': str(here.parent)}

def start(*args, cwd=here): return subprocess.Popen(list(map(str, args)), env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
def end(p, limit=240): # output, errors
    out,err = p.communicate(timeout=limit)
    return out,err

def torchrun(*args, nproc=2): return [exe/'torchrun', f'--nproc_per_node={nproc}', f'--master_port={free_port()}', *args]

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "What one process with batches of 8 came to, and two with batches of 4; what these printed"
    out = tmp_path_factory.mktemp('ranks')
    p = start(sys.executable, here/'ranks.py', out, cwd=out) # what it saves is kept there
    _,err = end(p)
    assert p.returncode==0, err
    load = lambda f: torch.load(out/f'{f}.pt', weights_only=False)
    said = ''.join((out/f'rank-{i}.log').read_text() for i in (0,1))
    return load('one'),[load(f'rank{i}') for i in (0,1)],said

kinds = [f'{k} {n}' for k in ('pairs','memory','ordinary','dropped') for n in (23,17)]

@pytest.mark.parametrize('kind', kinds)
def test_two_processes_train_as_one(ran, kind):
    "Without batch norm: the same losses and weights, metrics over the whole set, and predictions in its order"
    one,ranks,_ = ran
    a,bs = one[kind],[r[kind] for r in ranks]
    assert max(a['valid'][1:])>.1 # it learned something to compare
    for b in bs:
        assert torch.equal(b['weights'], bs[0]['weights']) and b['values']==bs[0]['values']
        for k in ('weights','losses','preds'): torch.testing.assert_close(b[k], a[k], rtol=1e-4, atol=1e-5)
        for v,w in zip([*b['values'],b['valid']], [*a['values'],a['valid']]): assert v==pytest.approx(w, rel=1e-4)

def test_each_process_draws_its_own(ran):
    a,b = (r['draws'] for r in ran[1])
    assert not torch.equal(a['lam'], b['lam']) and not torch.equal(a['crop'], b['crop'])

def test_all_draw_the_same_pairs(ran): # of which each takes its share
    a,b = (r['pairs'] for r in ran[1])
    assert torch.equal(a, b) and a.shape==(2,45)

def test_what_one_process_alone_would_get_wrong(ran):
    "A metric's plain number is that of all, a network can be loaded, and repeated rows are all there"
    a,b = (r['alone'] for r in ran[1])
    assert a==b and a['metrics'][0]==pytest.approx(a['metrics'][1]) and a['rows']==16
    assert a['lr_find'].endswith('lr_find on several processes: expected before distrib_ctx, in one')
    assert a['nested']=='distrib_ctx: expected no other around it' and a['outer']

def test_an_error_in_one_process_ends_a_prediction(tmp_path):
    "fastai ends `validate` with `after_epoch`, in which the process would wait for the others"
    script = tmp_path/'script.py'
    script.write_text('''from fastai.vision.all import *
from fastmix.all import *
class Fails(Callback):
    def before_batch(self):
        if rank_distrib(): raise ValueError('an image is damaged')
learn = mixup_learner(digits_dls(1, size=8), arch=resnet20, cbs=Fails())
with learn.distrib_ctx(): learn.get_preds()
''')
    p = start(*torchrun(script))
    _,err = end(p)
    assert p.returncode and 'an image is damaged' in err

def test_an_error_in_the_first_process_reaches_all(tmp_path):
    def fail():
        join_processes()
        try: on_rank0(lambda: 1/0)
        except ZeroDivisionError: sys.exit(7)
    assert wait(fork_ranks(fail, tmp_path/'rank', 2), 120)==[7,7]

def test_weights_that_differ_are_noticed(ran):
    for r in ran[1]: assert 'the weights of the processes differ after epoch 0' in r['spoiled']

def test_batches_that_are_too_large_for_all_together(ran):
    for r in ran[1]: assert r['too_large']=='bs=30: expected at most 22, the training samples for each of 2 processes'

def test_other_images_in_each_process_are_refused(ran):
    for r in ran[1]: assert r['other_split'].startswith('loaders: expected the same images in every process')

@pytest.mark.parametrize('kind', ['files','pairs','memory','table','names','tensors'])
def test_what_tells_other_samples(kind, tmp_path):
    "The same on a machine with another folder; another split or order differs, whatever the loaders are made of"
    def loaders(folder, seed):
        files = [folder/c/f'{i}.png' for c in 'ab' for i in range(10)]
        for f in files:
            f.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', (8,8)).save(f)
        kw = dict(valid_pct=.3, seed=seed, bs=2, num_workers=0)
        if kind=='table': return ImageDataLoaders.from_df(pd.DataFrame(dict(name=[f'{f.parent.name}/{f.name}' for f in files], label=['a','b']*10)), folder, **kw)
        if kind=='names': return ImageDataLoaders.from_lists(folder, list(map(str, files)), ['a','b']*10, **kw)
        if kind=='tensors': return DataLoaders(DataLoader(list(range(20)), bs=2), DataLoader(list(range(20 if seed else 19)), bs=2))
        dls = MultiSampleDataLoaders.from_folder(folder, n_samples=1 if kind=='files' else 2, **kw)
        return in_memory(dls) if kind=='memory' else dls
    def digests(name, seed): return [samples_digest(dl) for dl in loaders(tmp_path/name, seed).loaders]
    one = digests('here', 0)
    assert digests('there', 0)==one and digests('here', 1)!=one

def test_sync_bn_needs_gpus(ran):
    "Both processes end; one of them says why"
    (said,*res),other = (r['sync_bn'] for r in ran[1])
    assert 'sync_bn=True: expected GPUs' in said and res==[2,[]] and other==('',2,[])

def test_tensorboard_draws_in_one_process(ran):
    assert [r['drawn'] for r in ran[1]]==[True,False]

def test_said_once(ran):
    "The first process alone speaks, and says both batch sizes"
    out = ran[2].splitlines()
    contexts,learners = len(kinds)+8,len(kinds)+8 # some learners train more than once, two were refused
    assert out.count('2 processes with 4 samples each, 8 in every step; batch norm of each on its own')==contexts
    assert len(out)==contexts+learners

train = '--epochs 2 --bs 64 --size 8 --arch resnet20 --seed 1 --precision fp32'.split()

fastmix = ['-m','fastmix',*train,'--out']

def ended(*starts):
    "What each of these printed, all started at once"
    ps = [start(*args) for args in starts]
    said = [end(p) for p in ps]
    for p,(o,err) in zip(ps, said): assert p.returncode==0, o+err
    return [o for o,_ in said]

def check_run(folder, said):
    d = json.loads((folder/'run.json').read_text())
    assert (d['state'],d['epochs_done'],d['processes'])==('finished', 2, 2)
    assert len(re.findall('^run folder', said, re.M))==1
    assert len(re.findall(r'^ +[01] ', said, re.M))==2
    return load_file(folder/'model.safetensors'),(folder/'metrics.csv').read_text()

def check_same(one, other):
    assert one[1]==other[1]
    assert one[0] and all(torch.equal(v, other[0][k]) for k,v in one[0].items())

def test_launchers(tmp_path):
    "torchrun, and Accelerate: its word for several processes is multi_gpu, with GPUs or without"
    accelerate = exe/'accelerate','launch','--multi_gpu','--num_processes=2',f'--main_process_port={free_port()}'
    a,b = tmp_path/'a',tmp_path/'b'
    said = ended(torchrun(*fastmix, a), [*accelerate, *fastmix, b])
    check_same(*map(check_run, (a,b), said))

@pytest.mark.slow
def test_two_machines(tmp_path):
    "They meet over the network, and settle themselves which of them is first"
    node = [exe/'torchrun', '--nnodes=2', '--nproc_per_node=1', '--rdzv_backend=c10d',
            '--rdzv_id=1', f'--rdzv_endpoint=localhost:{free_port()}']
    a,b = tmp_path/'a',tmp_path/'b'
    one, = ended(torchrun(*fastmix, a))
    check_same(check_run(a, one), check_run(b, ''.join(ended(*[[*node, *fastmix, b]]*2))))

def children(pid): # processes that a process started
    return [int(o) for o in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]

@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_a_process_that_dies_ends_the_run(tmp_path):
    args = [*train, '--epochs', 500]
    p = start(*torchrun('-m', 'fastmix', *args, '--out', tmp_path/'a'))
    try:
        stop = time.time()+180
        while not list((tmp_path/'a').glob('checkpoint-*.pt')) and time.time()<stop: time.sleep(.1)
        second = next(c for c in children(p.pid) if b'RANK=1' in Path(f'/proc/{c}/environ').read_bytes().split(b'\0'))
        os.kill(second, signal.SIGKILL)
        t = time.time()
        out,err = end(p, 120) # no hang
    finally: p.kill()
    assert p.returncode!=0 and 'Signal 9' in err, err
    assert json.loads((tmp_path/'a'/'run.json').read_text())['epochs_done']>0 and list((tmp_path/'a').glob('checkpoint-*.pt'))
