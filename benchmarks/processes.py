"What is measured in processes of its own: start, memory, two processes together"
import json, os, subprocess, sys, tempfile, time
from pathlib import Path
from .common import device, np
from .results import missing, row

root = str(Path(__file__).resolve().parents[1])
env = {**os.environ, 'PYTHONPATH': root, 'PYTHONWARNINGS': 'ignore'}

def until(args, words):
    "Seconds until a new process of Python prints a line with `words`; it is ended then"
    start = time.perf_counter()
    with (tempfile.TemporaryDirectory() as folder,
          subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, text=True, env=env,
                           cwd=folder) as p):
        found = any(words in line for line in p.stdout)
        seconds = time.perf_counter()-start
        p.kill()
    if not found: raise RuntimeError(f'{args} ended without {words!r}')
    return seconds

def output(*args):
    "What a new process of Python prints"
    p = subprocess.run([sys.executable, *args], stdout=subprocess.PIPE, text=True, env=env,
                       check=True)
    return p.stdout

def start(quick):
    "From the shell to the first batch of `fastmix-train`: it heads its table right before it"
    train = ['-m','fastmix'],'train_loss'
    fastai = ['-c',"from fastai.vision.all import *; print('imported', flush=True)"],'imported'
    rounds = 1 if quick else 4
    ts = np.array([[until(*o) for o in (train,fastai)] for _ in range(rounds+1)])
    yield row('fastmix-train, from the shell to the first batch', "fastai's import", *ts[1:].T, 's',
              1.3, lower=True)

def peak(quick):
    "The most memory of a training from memory"
    n,rounds = (1000,1) if quick else (50_000,2)
    def mb(what): return float(output('-m','benchmarks.peak',what,str(n)).split()[-2])
    name = f'peak memory of a training on {n:,} images in memory, ResNet-56'
    against = 'a bare loop around the same network'
    if device.type!='cuda' and not Path('/proc/self/status').exists():
        yield missing(name, against, 'only Linux tells it')
    else:
        mbs = np.array([[mb(o) for o in ('fastmix','bare')] for _ in range(rounds)])
        yield row(name, against, *mbs.T, 'MB', 1.1, lower=True)

def two_processes(quick):
    "Two processes, a core each, against one on one core"
    name,against = 'two processes of one thread, ResNet-20','one process of one thread'
    if device.type!='cpu': yield missing(name, against, 'it is about the cores of a CPU')
    elif os.cpu_count()<2: yield missing(name, against, 'one core')
    else:
        n,rounds = (512,1) if quick else (2560,5)
        rates = output('-m','torch.distributed.run','--standalone','--nproc_per_node','2','-m',
                       'benchmarks.ranks',str(n),str(rounds))
        alone,together = np.array(json.loads(rates.splitlines()[-1])).T
        yield row(name, against, together, alone, 'pairs/s', 1.8)
