"What N = 1, 2, 3, 4 slots gain and cost: images per second of one trunk, accuracy on the digits"
import argparse, sys
from fastai.vision.all import *
import fastmix.models
from fastmix.all import *
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1])) # where `experiments` lies
from experiments.timing import interleaved

def throughput(arch, ns, images, size, rounds, device):
    "Medians of images per second of each N, all timed in every round, and of the ratio to N = 1"
    calls = []
    for n in ns:
        net = arch(10, n_samples=n).eval().to(device)
        calls.append(partial(net, *torch.randn(n, images//n, 3, size, size, device=device)))
    with torch.no_grad(): seconds = tensor(interleaved(calls, rounds, device=device))
    rate = tensor([images//n*n for n in ns])/seconds # [rounds, len(ns)]
    return rate.median(0).values, (rate/rate[:,:1]).median(0).values

def accuracy_of(n, seed, epochs, depth, size):
    "Accuracy on 360 held-out digits: `n` different images at once, the same image in every slot"
    set_seed(seed, reproducible=True)
    dls,kw = digits_dls(n, size=size),dict(arch=partial(cifar_resnet, depth), precision='fp32')
    learn = mixup_c_learner(dls, **kw) if n>1 else mixup_learner(dls, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    items = dls.valid_ds.items
    truth = [digit_label(i) for i in items]
    def right(preds): return np.mean([p[0]==t for p,t in zip(preds, truth)])
    ims = [digit_image(i) for i in items]
    return right(learn.predict_many(ims)), right(learn.predict_many(ims, same=True))

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__)
    archs = ['resnet20','resnet32','resnet44','resnet56','resnet110']
    p.add_argument('--arch', default='resnet56', choices=archs)
    p.add_argument('--images', type=int, default=240, help='images in flight, shared by the slots')
    p.add_argument('--size', type=int, default=32)
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--device', default=str(default_device()))
    p.add_argument('--accuracy', action='store_true', help='train on the digits too')
    p.add_argument('--epochs', type=int, default=20)
    p.add_argument('--seeds', type=int, default=3)
    a = p.parse_args()
    ns,device = (1,2,3,4),torch.device(a.device)
    arch = getattr(fastmix.models, a.arch)
    per_s,ratio = throughput(arch, ns, a.images, a.size, a.rounds, device)
    print(f'{a.arch}, {a.size}x{a.size}, {a.images} images in flight, {device}, '
          f'{torch.get_num_threads()} threads, fp32, median of {a.rounds} rounds')
    for n,s,r in zip(ns, per_s, ratio): print(f'N={n}: {s:8.0f} images/s, {r:.2f} times N=1')
    if a.accuracy:
        print(f'digits, 8x8, cifar_resnet(8), {a.epochs} epochs, {a.seeds} seeds: '
              'mean (smallest..largest)')
        for n in ns:
            acc = np.array([accuracy_of(n, s, a.epochs, 8, 8) for s in range(a.seeds)])
            for what,x in zip(('different images','the same image'), acc.T, strict=True):
                print(f'N={n}: {what:16} {x.mean():.3f} ({x.min():.3f}..{x.max():.3f})')
