"Pairs a second of the usual four-block DataBlock and of `in_memory`, in turns in one process; then the start from a warm cache"
import argparse, statistics, tempfile, time
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

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--path', type=Path, default=None, help='folder with train/ and test/; default: untar_data(URLs.CIFAR)')
p.add_argument('--rounds', type=int, default=5)
a = p.parse_args()
path = a.path or untar_data(URLs.CIFAR)
train,tfms = path/'train',[PadCrop(4), Normalize.from_stats(*cifar_stats)]
slow = four_blocks(train, num_workers=0, device='cpu')
single = ImageDataLoaders.from_folder(train, valid_pct=.2, bs=128, batch_tfms=tfms, num_workers=0, device='cpu')
pairs = MultiSampleDataLoaders.from_folder(train, valid_pct=.2, bs=128, batch_tfms=tfms, num_workers=0, device='cpu')
fast = in_memory(pairs)
rows = [(rate(slow.train, 2), rate(single.train, 2), rate(pairs.train, 2), rate(fast.train, 60)) for _ in range(a.rounds)]
med = [statistics.median(c) for c in zip(*rows)]
print(f'four blocks {med[0]:,.0f} pairs/s; fastai, single {med[1]:,.0f} images/s; MultiSampleDL {med[2]:,.0f} pairs/s; in memory {med[3]:,.0f} pairs/s')
print(f'in memory / four blocks: {statistics.median(r[3]/r[0] for r in rows):.0f}')
print(f'MultiSampleDL / single, per decoded image: {statistics.median(2*r[2]/r[1] for r in rows):.2f}')
with tempfile.TemporaryDirectory() as d:
    for what in ('cold','warm','warm'):
        t = time.perf_counter()
        cifar_dls(bs=128, path=path, device='cpu', cache=d).one_batch()
        print(f'first batch, {what} cache: {time.perf_counter()-t:.2f} s')
