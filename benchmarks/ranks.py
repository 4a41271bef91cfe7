"""What each of two processes runs, a core for each

`torchrun --nproc_per_node 2 -m benchmarks.ranks IMAGES ROUNDS`. In every round the first process
trains an epoch alone, while the other waits, then both train one together. The first one prints
images a second of both ways, a JSON list `[rounds, 2]`.
"""
import json, sys, time
from unittest import mock
from fastai.vision.all import *
from fastmix.all import *
from .common import memory_loaders, ours

def timed(learn, n, together):
    "Training images a second of an epoch"
    torch.distributed.barrier()
    start = time.perf_counter()
    if together:
        with redirect_stdout(io.StringIO()), learn.distrib_ctx(): learn.fit(1)
    elif rank_distrib()==0:
        with mock.patch.dict(os.environ, WORLD_SIZE='0'): learn.fit(1) # or fastai meets the others
    torch.distributed.barrier()
    return n/(time.perf_counter()-start)

def main(n, rounds):
    from accelerate import PartialState
    PartialState(cpu=True) # connects the processes
    torch.set_num_threads(1)
    dls = memory_loaders(n, 128)
    learners = ours(dls, resnet20),ours(dls, resnet20) # what trained alone no longer fits the other
    rates = [[timed(learn, n, i>0) for i,learn in enumerate(learners)] for _ in range(rounds+1)]
    if rank_distrib()==0: print(json.dumps(rates[1:])) # the first round warms up

if __name__=='__main__': main(*map(int, sys.argv[1:]))
