"""Which optimizer and rate suit networks that are not the paper's

`python benchmarks/rates.py [--epochs 5] [--size 64]` trains each network on both data sets with
every candidate, one seed, fp32, and prints the accuracy on held-out images: that of the slots on
average for two slots, of single images for `MixupX`. CIFAR-10 comes from fastai's data folder."""
import argparse, itertools, json, time
import torchvision.models as tv
from fastai.vision.all import *
from fastmix.all import *

candidates = {f'SGD {lr}': (nesterov_sgd,lr) for lr in (.1,.03,.01)}
candidates |= {f'Adam {lr}': (Adam,lr) for lr in (3e-3,1e-3,3e-4)}
nets = dict(resnet18=tv.resnet18, mobilenet_v3_small=tv.mobilenet_v3_small, xresnet18=xresnet18)

def digits(size, n, n_samples):
    def colour_image(i): return np.stack([digit_image(i)]*3, -1)
    db = DataBlock((ImageBlock,CategoryBlock), get_x=colour_image, get_y=digit_label,
                   splitter=IndexSplitter(range(n, n+400)),
                   item_tfms=Resize(size, ResizeMethod.Squish),
                   batch_tfms=PadCrop(size//8, flip=False))
    items = list(range(n+400))
    return in_memory(MultiSampleDataLoaders.from_dblock(db, items, n_samples=n_samples, bs=32))

def cifar(size, n, n_samples):
    files = sorted(get_image_files(untar_data(URLs.CIFAR)/'train'), key=str)
    files = random.Random(0).sample(files, n+400)
    normalize = Normalize.from_stats(*imagenet_stats)
    db = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label,
                   splitter=IndexSplitter(range(n, n+400)),
                   item_tfms=Resize(size), batch_tfms=[PadCrop(size//8), normalize])
    return in_memory(MultiSampleDataLoaders.from_dblock(db, files, n_samples=n_samples, bs=32))

def score(data, net, slots, opt, lr, size, n, epochs):
    set_seed(0)
    dls = data(size, n, slots)
    kw = dict(arch=nets[net], opt_func=opt, lr=lr, precision='fp32')
    if slots>1: learn = mixup_c_learner(dls, metrics=[Top2()], **kw)
    else: learn = mixup_learner(dls, MixupX(), **kw)
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    except FloatingPointError: return None
    return float(learn.recorder.values[-1][2])

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--size', type=int, default=64)
    p.add_argument('--images', type=int, default=800)
    a = p.parse_args()
    for data,net,slots in itertools.product((digits,cifar), nets, (2,1)):
        for nm,(opt,lr) in candidates.items():
            start = time.time()
            acc = score(data, net, slots, opt, lr, a.size, a.images, a.epochs)
            line = dict(data=data.__name__, net=net, slots=slots, candidate=nm, accuracy=acc,
                        seconds=round(time.time()-start))
            print(json.dumps(line), flush=True)
