"What N = 1, 2, 3, 4 slots gain and cost: images per second of one trunk, accuracy on the digits"
import argparse, sys
from fastai.vision.all import *
import fastmix.models
from fastmix.all import *
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1])) # where `experiments` lies
from experiments.timing import images_per_s

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
    p.add_argument('--batch-sizes', type=int, nargs='+', default=[30,60,120,240,480,960],
                   help='each N is timed at all of them, and its fastest counts')
    p.add_argument('--size', type=int, default=32)
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--device', default=str(default_device()))
    p.add_argument('--accuracy', action='store_true', help='train on the digits too')
    p.add_argument('--epochs', type=int, default=20)
    p.add_argument('--seeds', type=int, default=3)
    a = p.parse_args()
    ns,device = (1,2,3,4),torch.device(a.device)
    arch = getattr(fastmix.models, a.arch)
    nets = [arch(10, n_samples=n).to(device) for n in ns]
    rate,rows = images_per_s(nets, a.batch_sizes, size=a.size, rounds=a.rounds)
    print(f'{a.arch}, {a.size}x{a.size}, {device}, {torch.get_num_threads()} threads, fp32, '
          f'median of {a.rounds} rounds')
    ratio = rate/rate[:,:1]
    for n,s,r,b in zip(ns, np.median(rate, 0), np.median(ratio, 0), rows):
        print(f'N={n}: {s:8.0f} images/s, {r:.2f} times N=1, in batches of {b}')
    if a.accuracy:
        print(f'digits, 8x8, cifar_resnet(8), {a.epochs} epochs, {a.seeds} seeds: '
              'mean (smallest..largest)')
        for n in ns:
            acc = np.array([accuracy_of(n, s, a.epochs, 8, 8) for s in range(a.seeds)])
            for what,x in zip(('different images','the same image'), acc.T, strict=True):
                print(f'N={n}: {what:16} {x.mean():.3f} ({x.min():.3f}..{x.max():.3f})')
