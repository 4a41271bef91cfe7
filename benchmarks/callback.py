"""What mixing costs: what a callback adds to a batch, against others; a step with and without

The first is found with a network that has nothing to do: the time of a batch with the callback,
less the time of one without. It holds the mixing, what it adds to the loss, and to its gradient.
"""
from fastai.vision.all import *
from torchvision.transforms import v2
from fastmix.all import *
from .common import *
from .results import row

class Nothing(Module):
    "A network without work: its prediction is its only parameter"
    def __init__(self, bs): self.pred = nn.Parameter(torch.randn(bs,10))
    def forward(self, x): return self.pred

class Transformed(Callback):
    "Mix with a transform that gives every class a weight, as those of torchvision and timm do"
    def __init__(self, tfm): self.tfm = tfm
    def before_batch(self):
        x,y = self.tfm(self.x.as_subclass(Tensor), self.y.as_subclass(Tensor))
        self.learn.xb,self.learn.yb = (x,),(y,)

def images(bs, size): # a batch as a loader gives it
    x,y = torch.randn(bs, 3, size, size),torch.randint(10, (bs,))
    return to_device((TensorImage(x),TensorCategory(y)), device)

def batch_of(batch, model, cb=None, loss=None):
    "A function that trains one batch, all callbacks included"
    dls = DataLoaders([batch], [batch])
    dls._device,dls.c = device,10
    learn = quiet(Learner(dls, model.to(device, memory_format=torch.channels_last),
                          ifnone(loss, CrossEntropyLossFlat()), nesterov_sgd, lr, cbs=cb))
    return partial(in_epoch(learn).one_batch, 0, batch)

def others():
    "Mixing callbacks that ours are compared with: ours, and the loss of both"
    flat,plain = CrossEntropyLossFlat,nn.CrossEntropyLoss # fastai's callbacks take fastai's losses
    yield "fastai's MixUp",Mixup,MixUp(),flat
    yield "fastai's CutMix",CutMixup,CutMix(),flat
    yield "torchvision's v2.MixUp",Mixup,Transformed(v2.MixUp(num_classes=10)),plain
    yield "torchvision's v2.CutMix",CutMixup,Transformed(v2.CutMix(num_classes=10)),plain
    if not find_spec('timm'): return
    from timm.data import Mixup as TimmMixup # ours has its name
    yield "timm's Mixup",Mixup,Transformed(TimmMixup(num_classes=10, label_smoothing=0)),plain

def added(size, bs, rounds, tries):
    "Rows for a batch of `bs` images"
    batch = images(bs, size)
    def call(cb, loss): return batch_of(apply(torch.clone, batch), Nothing(bs), cb, loss())
    for against,rule,cb,loss in others():
        calls = [call(None, loss), call(rule(seed=0), loss), call(cb, loss)]
        ts = times(calls, rounds*tries, 3).reshape(3, rounds, tries)
        none,ours,theirs = np.median(ts, -1)*1e3
        yield row(f'{rule.__name__}, {bs} images of {size}x{size}: what it adds to a batch',
                  against, ours-none, theirs-none, 'ms', 1, lower=True)
    if not find_spec('timm'):
        yield from not_installed(f'Mixup, {bs} images of {size}x{size}: what it adds to a batch',
                                 "timm's Mixup", 'timm')

def callback(quick):
    "A callback's own time, against that of others"
    yield from added(32, 128, *(2,5) if quick else (21,20))
    yield from added(224, 64, *(2,2) if quick else (15,4))

def mixing(quick):
    "A training step with mixing, against one without"
    batch,arch = images(bs, 32),resnet20 if quick else resnet56
    calls = [batch_of(batch, arch(), MixupX(seed=0)), batch_of(batch, arch())]
    ours,theirs = times(calls, 2 if quick else 31, 2)*1e3
    yield row(f'a step of {arch.__name__} with MixupX', 'without', ours, theirs, 'ms', 1.02,
              lower=True)
