"""Kill `fastmix-train` at random moments, resume it, and tell what came of it:
`kills.py OUT KILLS PROCESSES SEED`"""
import json, os, random, signal, sys, time
from pathlib import Path
os.environ['OMP_NUM_THREADS'] = '1' # threads do not survive a fork
import torch
import fastmix.all, fastmix.cli # once: the processes to be killed are forks of this one
from fastai.vision.all import *
from forks import fork_ranks, wait

args = '--arch resnet20 --epochs 4 --bs 128 --size 4 --seed 3 --precision fp32'.split()
fastmix.show.plot_pairs = fastmix.show.plot_curves = noop # pictures are not what is compared

def start(folder, world, *extra):
    return fork_ranks(lambda: fastmix.cli.main([*args, '--out', str(folder), *extra]), folder, world)

def left(folder): return [(folder/f).read_bytes() for f in ('model.safetensors','metrics.csv')]

def main(out, kills, world, seed):
    out,rng,report = Path(out),random.Random(seed),[]
    t = time.time()
    whole = wait(start(out/'whole', world))
    assert whole==[0]*world, (out/'whole-0.log').read_text()
    took = time.time()-t
    for i in range(kills):
        folder,moment,alone = out/f'run{i}',rng.uniform(0, took),world>1 and i%2==1
        pids = start(folder, world)
        while alone and not (folder/'run.json').exists(): time.sleep(.01) # until they have met
        time.sleep(moment/2 if alone else moment)
        for p in pids[-1:] if alone else pids: os.kill(p, signal.SIGKILL)
        killed = wait(pids)
        run = folder/'run.json'
        epochs = json.loads(run.read_text())['epochs_done'] if run.exists() else None
        extra = ['--resume'] if run.exists() else [] # else it had not begun
        again = wait(start(folder, world, *extra))
        same = again==[0]*world and left(folder)==left(out/'whole')
        report.append(dict(moment=round(moment/took, 3), alone=alone, killed=killed, epochs=epochs,
                           again=again, same=same))
    print(json.dumps(report))

if __name__=='__main__':
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:]))
