"""The most memory that a training takes, in a process of its own

`python -m benchmarks.peak fastmix 50000` trains some steps of a ResNet-56 on as many images in
memory and prints MB; `bare` in place of `fastmix` does so with a bare loop around the same network.
"""
import re, sys
from fastai.vision.all import *
from fastmix.all import *
from fastmix.memory import loader_of
from . import bare
from .common import bf16, bs, device, ours, tfms

steps = 5 # of training, and two of validation at most

def random_data(n): # images `[n,3,32,32]` of bytes, and their classes
    g = np.random.default_rng(0)
    x = torch.from_numpy(g.integers(256, size=(n,3,32,32), dtype=np.uint8))
    return x.to(device),(torch.arange(n)%10).to(device)

def random_image(i): return np.random.default_rng(i).integers(256, size=(32,32,3), dtype=np.uint8)

def train_ours(n):
    "The loaders are those of `in_memory`, without the time that decoding takes"
    n_valid = n//5 # as CIFAR-10 has it
    dblock = DataBlock((ImageBlock,CategoryBlock(vocab=range(10))), get_x=random_image,
                       get_y=lambda i: i%10, splitter=IndexSplitter(range(n, n+n_valid)),
                       batch_tfms=tfms)
    items = list(range(n+n_valid))
    dls = MultiSampleDataLoaders.from_dblock(dblock, items, bs=bs, device=device)
    x,y = random_data(n+n_valid)
    parts = (x[:n],y[:n]),(x[n:],y[n:])
    loaders = [loader_of(dl, TensorImage(x), TensorCategory(y), [])
               for dl,(x,y) in zip(dls.loaders, parts)]
    dls = MultiSampleDataLoaders(*loaders, device=device)
    few = ShortEpochCallback(pct=steps*bs/n)
    ours(dls, resnet56, cbs=few).fit(1)

def train_bare(n):
    x,y = random_data(n+n//5)
    net = resnet56(n_samples=2).to(device, memory_format=torch.channels_last)
    bare.train(net, bare.sgd(net), x[:steps*bs], y[:steps*bs], bs=bs, bf16=bf16)
    bare.validate(net, x[-bs:], y[-bs:], bs=bs, bf16=bf16)

def peak_mb():
    "Of the GPU, or what was ever resident; `getrusage` would count the parent's at the start too"
    if device.type=='cuda': return torch.cuda.max_memory_allocated()/2**20
    return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])/2**10

if __name__=='__main__':
    {'fastmix': train_ours, 'bare': train_bare}[sys.argv[1]](int(sys.argv[2]))
    print(f'{peak_mb():.1f} MB')
