"Timing things side by side: a time by itself means nothing on a machine that does other work too"
import time
import numpy as np, torch

def seconds(
    f, # A function without arguments
    device='cpu' # Where it works
)->float:
    "How long `f()` takes"
    start = time.perf_counter()
    f()
    if torch.device(device).type=='cuda': torch.cuda.synchronize()
    return time.perf_counter()-start

def interleaved(
    calls, # Functions without arguments
    rounds:int=15, # How often each is timed
    warm_up:int=3, # How often each is called before
    device='cpu' # Where they work
)->np.ndarray: # Seconds `[rounds, len(calls)]`
    "Time all of `calls` in turn in every round, so that a disturbance meets all of them"
    for _ in range(warm_up):
        for f in calls: seconds(f, device)
    return np.array([[seconds(f, device) for f in calls] for _ in range(rounds)])
