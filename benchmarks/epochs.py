"Whole epochs: against a bare PyTorch loop and the usual fastai way; more data, checkpoints"
import tempfile
from fastai.vision.all import *
from fastmix.all import *
from . import bare
from .common import *
from .loading import four_blocks
from .results import row

def bare_data(n):
    "Images and classes as tensors, bytes `[n,3,32,32]` and `[n]`"
    x = torch.from_numpy(np.stack(crops(n))).permute(0, 3, 1, 2).contiguous()
    return x.to(device),(torch.arange(n)%10).to(device)

class BareLoop:
    "Epochs of training and validation in plain PyTorch, in the memory format and precision of ours"
    def __init__(self, net, n_train, n_valid, n_samples=2):
        self.net = net.to(device, memory_format=torch.channels_last)
        self.opt,self.kw = bare.sgd(net),dict(n_samples=n_samples, bs=bs, bf16=bf16)
        x,y = bare_data(n_train+n_valid)
        self.train,self.valid = (x[:n_train],y[:n_train]),(x[n_train:],y[n_train:])

    def fit(self, epochs):
        bare.train(self.net, self.opt, *self.train, **self.kw)
        self.validate()

    def validate(self): bare.validate(self.net, *self.valid, **self.kw)

def usual_loss(pred, y1, y2):
    return F.cross_entropy(pred[:,0], y1) + F.cross_entropy(pred[:,1], y2)

def usual_learner(arch, n_train, n_valid, workers):
    "Pairs as fastai's users make them, float32, the channels first"
    def first_right(pred, y1, y2): return (pred[:,0].argmax(-1)==y1).float().mean()
    def second_right(pred, y1, y2): return (pred[:,1].argmax(-1)==y2).float().mean()
    dls = four_blocks(n_train, n_valid, num_workers=workers)
    return quiet(Learner(dls, arch(n_samples=2), usual_loss, nesterov_sgd, lr,
                         metrics=[first_right,second_right]))

def epoch_seconds(learners, rounds): # `[len(learners), rounds]`
    return times([partial(o.fit, 1) for o in learners], rounds)

def epochs(quick):
    "Whole epochs of `mixup_c_learner`, validation included"
    sizes = dict(n_train=256, n_valid=128) if quick else dict(n_train=1280, n_valid=256)
    for arch in (resnet20,) if quick else (resnet20,resnet56):
        name = f'epochs of mixup_c_learner, {arch.__name__}'
        others = {'a bare PyTorch loop': BareLoop(arch(n_samples=2), **sizes)}
        others |= {f'the usual fastai way, {k} workers': usual_learner(arch, **sizes, workers=k)
                   for k in (0,2)}
        learners = [ours(memory_loaders(**sizes), arch), *others.values()]
        rate = sizes['n_train']/epoch_seconds(learners, 2 if quick else 5)
        asked = [.97 if device.type=='cpu' else .95, 3.5, 3.5]
        for (against,_),theirs,least in zip(others.items(), rate[1:], asked):
            yield row(name, against, rate[0], theirs, 'pairs/s', least)

def scaling_data(quick):
    "The time of an epoch with more data"
    n = 128 if quick else 512
    ks = [1,2,4,8]
    learners = [ours(memory_loaders(n*k, 64*k), resnet20) for k in ks]
    ts = epoch_seconds(learners, 2 if quick else 9)*1e3
    for k,t in zip(ks[1:], ts[1:]):
        yield row(f'an epoch with {k} times the data, for each time', 'an epoch with it once',
                  t/k, ts[0], 'ms', 1.05, lower=True)

def scaling_slots(quick):
    "The time of an epoch with more slots"
    n = 128 if quick else 1024
    ns = [1,2,4,8]
    learners = [ours(memory_loaders(n, 256, n_samples=k), resnet20) for k in ns]
    ts = epoch_seconds(learners, 2 if quick else 9)*1e3
    for k,t in zip(ns[1:-1], ts[1:-1]):
        line = ts[0] + (ts[-1]-ts[0])*(k-1)/(ns[-1]-1)
        yield row(f'an epoch with N = {k} slots', 'the straight line from N = 1 to 8',
                  t, line, 'ms', 1.05, lower=True)
    yield row('an epoch with N = 8 slots', 'an epoch with N = 1', ts[-1], ts[0], 'ms', lower=True)

class Checkpointed:
    "A learner whose epochs end with a checkpoint"
    def __init__(self, learn, folder): self.learn,self.folder = learn,folder
    def fit(self, epochs):
        cb = Checkpoint(Path(self.folder)/'run', resume=False)
        self.learn.fit(epochs, cbs=cb)
        for f in cb.folder.ls(): f.unlink()

def checkpoint(quick):
    "An epoch with a checkpoint, against one without"
    n = 256 if quick else 4480
    def learner(): return ours(memory_loaders(n, 256), resnet20)
    with tempfile.TemporaryDirectory() as folder:
        learners = [Checkpointed(learner(), folder), learner()]
        with_,without = epoch_seconds(learners, 2 if quick else 9)
    yield row(f'an epoch of {n:,} images, ResNet-20, with a checkpoint', 'without', with_, without,
              's', 1.01, lower=True)
