"""Pairs a second of the usual four-block DataBlock and of `in_memory`, in turns in one process; training with the loader and with one
constant batch, in turns; the start from a warm cache. On few cores run it with OMP_NUM_THREADS=1 if anything else runs."""
import argparse, statistics, subprocess, sys, tempfile, time
from fastai.vision.all import *
from fastmix.all import *

def rate(dl, n):
    "Samples a second over `n` batches"
    t,done = time.perf_counter(),0
    for b in itertools.islice(itertools.chain.from_iterable(itertools.repeat(dl)), n): done += len(b[0])
    return done/(time.perf_counter()-t)

def four_blocks(path, **kwargs):
    files = get_image_files(path)
    return DataBlock((ImageBlock,ImageBlock,CategoryBlock,CategoryBlock), n_inp=2, get_items=lambda p: [[f, random.choice(files)] for f in files],
                     get_x=[itemgetter(0),itemgetter(1)], get_y=[compose(itemgetter(0),parent_label),compose(itemgetter(1),parent_label)],
                     batch_tfms=[PadCrop(4), Normalize.from_stats(*cifar_stats)]).dataloaders(path, bs=128, **kwargs)

def training(net, dl, n):
    "Seconds of a training step with the loader's next batch, and with a batch at hand; what of the first is the loader's; medians of `n`, in turns"
    opt,loss = nesterov_sgd(net.parameters(), lr=.01),HeadsLoss(n=2)
    it,at_hand = iter(dl),dl.one_batch()
    def step(get):
        t = time.perf_counter()
        b = get()
        waited = time.perf_counter()-t
        loss(net(*b[:2]), *b[2:]).backward()
        opt.step()
        opt.zero_grad()
        return time.perf_counter()-t,waited
    step(lambda: at_hand)
    rows = [(*step(lambda: next(it)), step(lambda: at_hand)[0]) for _ in range(n)]
    return [statistics.median(c) for c in zip(*rows)]

start = """import time; t = time.perf_counter()
from fastmix.all import *
a = time.perf_counter()
cifar_dls(bs=128, path={path!r}, device='cpu', cache={cache!r}).one_batch()
print(f'first batch, warm cache, new process: {{time.perf_counter()-a:.2f}} s, after {{a-t:.2f}} s of importing')"""

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--path', type=Path, default=None, help='folder with train/ and test/; default: untar_data(URLs.CIFAR)')
p.add_argument('--rounds', type=int, default=9)
p.add_argument('--steps', type=int, default=15, help='training steps of each kind')
a = p.parse_args()
path = a.path or untar_data(URLs.CIFAR)
train,tfms = path/'train',[PadCrop(4), Normalize.from_stats(*cifar_stats)]
kw = dict(num_workers=0, device='cpu')
print(f'torch threads: {torch.get_num_threads()}; load of the machine: {os.getloadavg()[0]:.1f}')
slow = four_blocks(train, **kw)
single = ImageDataLoaders.from_folder(train, valid_pct=.2, bs=128, batch_tfms=tfms, **kw)
pairs = MultiSampleDataLoaders.from_folder(train, valid_pct=.2, bs=128, batch_tfms=tfms, **kw)
fast = in_memory(pairs)
rows = [(rate(slow.train, 3), rate(single.train, 4), rate(pairs.train, 2), rate(fast.train, 100)) for _ in range(a.rounds)]
med = [statistics.median(c) for c in zip(*rows)]
print(f'four blocks {med[0]:,.0f} pairs/s; fastai, single {med[1]:,.0f} images/s; MultiSampleDL {med[2]:,.0f} pairs/s; in memory {med[3]:,.0f} pairs/s')
print(f'in memory / four blocks: {statistics.median(r[3]/r[0] for r in rows):.0f}')
print(f'MultiSampleDL / single, per decoded image: {statistics.median(2*r[2]/r[1] for r in rows):.2f}')
for arch in (resnet20,resnet56):
    t,waited,c = training(arch(10, n_samples=2), fast.train, a.steps)
    print(f'{arch.__name__}: {128/t:,.0f} pairs/s trained from the loader, {128/c:,.0f} from one constant batch: {c/t:.1%}; '
          f'{waited/t:.2%} of a step is the loader\'s')
with tempfile.TemporaryDirectory() as d:
    for what in ('cold','warm','warm'):
        t = time.perf_counter()
        cifar_dls(bs=128, path=path, device='cpu', cache=d).one_batch()
        print(f'first batch, {what} cache: {time.perf_counter()-t:.2f} s')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', start.format(path=str(path), cache=d)], check=True)
