"Timing things side by side: a time by itself means nothing on a machine that does other work too"
import time
from functools import partial
import numpy as np, torch
from fastmix.memory import keep_memory

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

@torch.no_grad()
def images_per_s(
    nets, # Networks, each of any number of slots
    batch_sizes, # Rows of a batch; a row has an image for each slot
    n_in:int=3, # Channels of an image
    size:int=32, # Height and width, in pixels
    **kwargs
)->tuple: # Images per second `[rounds, len(nets)]`, and the batch size at which each network is fastest
    "How many images a forward pass answers for, at the best batch size of each network"
    keep_memory() # or glibc takes it from the system in every pass, for up to a third of the time
    device = next(nets[0].parameters()).device
    calls = [partial(net.eval(), *torch.randn(net.n_samples, b, n_in, size, size, device=device))
             for net in nets for b in batch_sizes]
    images = np.outer([net.n_samples for net in nets], batch_sizes)
    rate = images/interleaved(calls, device=device, **kwargs).reshape(-1, *images.shape)
    best = np.median(rate, 0).argmax(1)
    return rate[:,range(len(nets)),best],np.array(batch_sizes)[best]
