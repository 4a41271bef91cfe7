"Importing fastmix adds names to fastai, and replaces none"
import inspect, os, re, subprocess, sys
import pytest, torch
from fastai.vision.all import FilteredBase, Image, Learner, Path, partial
import fastmix.all
from fastmix.all import cifar_dls, digits_dls, resnet56
from fastmix.processes import take_own_gpu

spy = '''
import torch, sys
torch.cuda.is_available,torch.cuda.device_count = lambda: True,lambda: 2
torch.cuda.set_device = lambda *a: sys.exit(f'set_device{a}')
'''

code = '''
import inspect, sys
import fastai.vision.all, fastai.distributed, fastai.callback.all, fastcore.all, fasttransform, accelerate
libs = 'fastai','fastcore','fasttransform','accelerate','plum','torch.optim','torch.nn.modules'

def parts(o):
    "What makes a function what it is"
    f = getattr(o, '__func__', o)
    return [getattr(f, k, None) for k in ('__code__','__defaults__','__kwdefaults__')]

def seen():
    "Every function and class of these libraries, and what each class holds, by where it is found"
    found = {}
    for name,module in list(sys.modules.items()):
        if module is None or not name.startswith(libs): continue
        for k,o in list(vars(module).items()):
            if not (inspect.isclass(o) or callable(o)): continue
            found[name,k] = [o, *parts(o)]
            if not inspect.isclass(o) or not o.__module__.startswith(libs): continue
            for attr,v in list(vars(o).items()): found[name,k,attr] = [v, *parts(v)]
    return found

ours = '__doc__','__annotations__','__abstractmethods__','_abc_impl','__annotations_cache__'
before = seen()
import fastmix.all, fastmix.cli, fastmix.tensorboard
after = seen()
gone = [k for k in before if k not in after]
changed = [k for k,v in before.items() if k in after and k[-1] not in ours and any(a is not b for a,b in zip(v, after[k]))]
assert ('fastai.learner','Learner','fit') in before and len(before)>5000
print(len(before), gone, changed)
'''

def test_nothing_is_replaced():
    "Under `torchrun`, which gives each process a GPU, importing only imports, too"
    env = {**os.environ, 'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_RANK': '1'}
    cmd = [sys.executable, '-W','ignore', '-c', spy+code]
    res = subprocess.run(cmd, capture_output=True, text=True, env=env)
    assert res.returncode==0, res.stderr
    count,_,rest = res.stdout.strip().splitlines()[-1].partition(' ')
    assert int(count)>5000 and rest=='[] []'

def test_loaders_take_the_gpu_of_their_process(monkeypatch, tmp_path):
    "Before fastai chooses the device: in a script under a launcher all would be on GPU 0 else"
    order,dataloaders = [],FilteredBase.dataloaders
    for room in ('data','memory','datasets'):
        monkeypatch.setattr(f'fastmix.{room}.take_own_gpu', partial(order.append, f'own GPU, {room}'))
    def recorded(self, *args, **kwargs):
        order.append('loaders')
        return dataloaders(self, *args, **kwargs)
    monkeypatch.setattr(FilteredBase, 'dataloaders', recorded)
    digits_dls(1, size=8)
    assert order==['own GPU, data','loaders','own GPU, memory']
    order.clear()
    for o in ('train/a','train/b','test/a','test/b'):
        (tmp_path/o).mkdir(parents=True)
        for i in range(2): Image.new('RGB', (4,4)).save(tmp_path/o/f'{i}.png')
    cifar_dls(1, bs=2, path=tmp_path, num_workers=0)
    assert order==['own GPU, datasets','loaders','own GPU, memory']

def test_the_gpu_of_a_process(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    take_own_gpu() # alone it is left as it is
    for k,v in dict(RANK=3, WORLD_SIZE=4, LOCAL_RANK=3).items(): monkeypatch.setenv(k, str(v))
    take_own_gpu()
    assert chosen==[1]

promised = dict(Mixup=dict(r=.5), MixupX=dict(r_x=.5), MixupL=dict(r_l=.5), MixupXL=dict(r_x=.5, r_l=.5), CutMixup=dict(r=.5),
    SamplePairing=dict(on=8, off=2, per='sample', mix_valid=False, seed=None),
    MixupC=dict(n_samples=2, lam_x=None, lam_l=None, random_label=None, same=0, repeats=1),
    digits_dls=dict(n_samples=2), cifar_dls=dict(n_samples=2, bs=256), in_memory=dict(device=None),
    resnet56=dict(n_classes=10, n_samples=1, n_heads=None, n_in=3, width=1), multi_sample_model=dict(n_heads=None),
    mixup_c_learner=dict(arch=resnet56, precision='auto'), mixup_learner=dict(mix=None, arch=resnet56, precision='auto'),
    Top2All=dict(paper=False), top2_ceiling=dict(bs=None), StepDecay=dict(at=(.4,.6,.8), factor=.1), CalibrationError=dict(bins=15),
    until=dict(end=.9), fade=dict(start=.8))

@pytest.mark.parametrize('name', promised)
def test_names_and_defaults_that_users_rely_on(name):
    ps = inspect.signature(getattr(fastmix.all, name)).parameters
    assert {k: ps[k].default for k in promised[name]}==promised[name]

def test_fine_tuning_takes_twenty_epochs():
    assert inspect.signature(Learner.fine_tune_single).parameters['epochs'].default==20

def test_rooms_are_layered():
    "Each imports only from rooms that a reader has met before, whose notebooks have lower numbers"
    root = Path(__file__).resolve().parents[1]
    texts = {f.stem: f.read_text() for f in (root/'fastmix').glob('*.py')}
    met = {k: int(m[1]) for k,t in texts.items() if (m := re.search(r'nbs/(\d+)_', t))}
    uses = [(k, o) for k in met for o in re.findall(r'from (?:\.|fastmix\.)(\w+) import', texts[k])]
    assert len(met)==19 and len(uses)>50 and not [(k, o) for k,o in uses if met[o]>=met[k]]
    assert not [k for k,t in texts.items() if re.search(r'(import|from) (experiments|benchmarks)', t)]
