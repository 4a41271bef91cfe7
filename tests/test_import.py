"Importing fastmix adds names to fastai, and replaces none"
import os, subprocess, sys
import torch
from fastai.vision.all import FilteredBase, Image, partial
from fastmix.all import cifar_dls, digits_dls
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
