"""What mixing costs: a ResNet-56 step with and without `MixupX`, and the callbacks' own work
against that of fastai's `MixUp`

`python benchmarks/callback.py [rounds]`. Whole batches of a `Learner`, all its callbacks included,
side by side in one process: every round runs each learner once, in turning order, and learners are
compared within a round. On a CPU one thread works, and its processor time counts, not what it waits
for others. Printed are the median of the rounds' ratios and, in brackets, their middle half.
"""
import sys
from time import perf_counter, process_time
from fastai.vision.all import *
from fastmix.all import *

bs = 128
rounds = int(sys.argv[1]) if len(sys.argv)>1 else 21
device = default_device()
cuda = device.type=='cuda'
torch.set_num_threads(1)
x = torch.randn(bs, 3, 32, 32, device=device)
y = torch.randint(10, (bs,), device=device)
batch = TensorImage(x),TensorCategory(y) # as a loader's

class Nothing(Module):
    "A network without work: its prediction is its only parameter"
    def __init__(self): self.pred = nn.Parameter(torch.randn(bs,10))
    def forward(self, x): return self.pred

def learner(cb=None, model=Nothing):
    "A learner in the middle of an epoch"
    d = DataLoaders([batch], [batch])
    d._device,d.c = device,10
    learn = Learner(d, model(), CrossEntropyLossFlat(), opt_func=nesterov_sgd, lr=.01, cbs=cb)
    learn.remove_cb(ProgressCallback)
    learn.model.to(device, memory_format=torch.channels_last)
    learn.create_opt()
    learn.n_epoch,learn.epoch,learn.dl,learn.n_iter = 1,0,d.train,1
    for e in ('before_fit','before_epoch','before_train'): learn(e)
    return learn

def timed(learn):
    clock = perf_counter if cuda else process_time
    if cuda: torch.cuda.synchronize()
    start = clock()
    learn.one_batch(0, batch)
    if cuda: torch.cuda.synchronize()
    return clock()-start

def times(learns, rounds): # seconds `[rounds, learners]`; two rounds warm up
    ts = np.zeros((rounds+2, len(learns)))
    for i in range(len(ts)):
        for j in np.roll(range(len(learns)), i): ts[i,j] = timed(learns[j])
    return ts[2:]

def show(what, ratio):
    lo,mid,hi = np.quantile(ratio, (.25,.5,.75))
    print(f'{device}: {what}: {mid:.3f} [{lo:.3f}, {hi:.3f}]')

ts = times([learner(model=resnet56), learner(MixupX(seed=0), resnet56)], rounds)
show(f'a ResNet-56 step, batch {bs}, with MixupX, in steps without', ts[:,1]/ts[:,0])

rules = [Mixup, MixupX, MixupL, MixupXL, SamplePairing]
ts = times([learner(), learner(MixUp()), *[learner(rule(seed=0)) for rule in rules]], 40*rounds)
added = ts[:,1:] - ts[:,:1] # mixing, and what it adds to the loss and to its gradient
print(f"{device}: fastai's MixUp adds {np.median(added[:,0])*1e3:.2f} ms to a batch")
for rule,t in zip(rules, added[:,1:].T, strict=True):
    show(f"what {rule.__name__} adds, in what fastai's MixUp adds", t/added[:,0])
