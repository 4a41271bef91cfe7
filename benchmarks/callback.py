"""What mixing costs: a ResNet-56 step with and without `MixupX`, and the callbacks' own work against fastai's `MixUp`

Measured side by side in one process, interleaved; prints medians as ratios. `python benchmarks/callback.py [rounds]`
"""
import sys
from time import perf_counter
from functools import partial
from fastai.vision.all import *
from fastmix.all import *

bs,rounds = 128,int(sys.argv[1]) if len(sys.argv)>1 else 7
x,y = torch.randn(bs,3,32,32),torch.randint(10, (bs,))
device = default_device()

def learner(cb=None):
    d = DataLoaders([(x,y)], [(x,y)])
    d._device,d.c = device,10
    learn = Learner(d, resnet56(), CrossEntropyLossFlat(), opt_func=nesterov_sgd, lr=.01, cbs=cb)
    learn.remove_cb(ProgressCallback)
    learn.model.to(device, memory_format=torch.channels_last)
    learn.create_opt()
    learn.n_epoch,learn.epoch,learn.n_iter,learn.training,learn.iter = 1,0,1,True,0
    return learn

def timed(f):
    if device.type=='cuda': torch.cuda.synchronize()
    start = perf_counter()
    f()
    if device.type=='cuda': torch.cuda.synchronize()
    return perf_counter()-start

def medians(fs, rounds): # one after the other in every round; the first round warms up
    ts = [[timed(f) for f in fs] for _ in range(rounds+1)][1:]
    return np.median(np.array(ts), 0)

def step(learn):
    learn.xb,learn.yb = (x.to(device),),(y.to(device),)
    for cb in learn.cbs.filter(lambda o: isinstance(o, (Mix,MixUp))): cb('before_batch')
    learn.pred = learn.model(*learn.xb)
    learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
    learn.loss = learn.loss_grad.clone()
    for cb in learn.cbs.filter(risinstance(Mix)): cb('after_loss')
    learn.loss_grad.backward()
    learn.opt.step()
    learn.opt.zero_grad()

plain,mixed = learner(),learner(MixupX(seed=0))
a,b = medians([partial(step, plain), partial(step, mixed)], rounds)
print(f'{device}: a training step of ResNet-56, batch {bs}, with MixupX: {b/a:.3f} times the step without (median of {rounds})')

def own_work(learn, pred=torch.randn(bs,10)):
    "Mixing and the loss, without the network"
    learn.xb,learn.yb,learn.pred = (x.to(device),),(y.to(device),),pred.to(device)
    for cb in learn.cbs.filter(lambda o: isinstance(o, (Mix,MixUp))): cb('before_batch')
    learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
    learn.loss = learn.loss_grad.clone()
    for cb in learn.cbs.filter(risinstance(Mix)): cb('after_loss')

ls = [learner(MixUp()), learner(Mixup(seed=0)), learner(MixupX(seed=0)), learner(MixupXL(seed=0))]
ls[0].mix_up.before_train() # swaps the loss, as fastai does for every epoch
ts = medians([partial(own_work, l) for l in ls], 40*rounds)
for l,t in zip(ls[1:], ts[1:]): print(f"{device}: mixing and loss of {next(c for c in l.cbs if isinstance(c, Mix))}: {t/ts[0]:.2f} times fastai's MixUp")
