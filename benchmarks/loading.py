"How fast batches come: from memory, and from files"
from fastai.vision.all import *
from torch.utils import data
from torchvision.transforms import v2
from fastmix.all import *
from .common import *
from .results import row

def four_blocks(n_train, n_valid, **kwargs):
    "The usual way to pairs in fastai: two image blocks and two category blocks"
    files = image_files()[:n_train+n_valid]
    def pairs(files): return [[f, random.choice(files)] for f in files]
    def label(i): return compose(itemgetter(i), parent_label)
    dblock = DataBlock((ImageBlock,ImageBlock,CategoryBlock,CategoryBlock), n_inp=2,
                       get_items=pairs, get_x=[itemgetter(0),itemgetter(1)],
                       get_y=[label(0),label(1)], batch_tfms=tfms,
                       splitter=IndexSplitter(range(n_train, len(files))))
    return dblock.dataloaders(files, **dict(bs=bs, device=device, num_workers=0) | kwargs)

class PairSet(data.Dataset):
    "The usual way to pairs in torchvision"
    def __init__(self, files):
        self.files = [str(f) for f in files]
        self.labels = [int(f.parent.name) for f in files]
        self.tfm = v2.Compose([
            v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(*cifar_stats)])

    def __len__(self): return len(self.files)
    def image(self, i): return self.tfm(Image.open(self.files[i]).convert('RGB'))
    def __getitem__(self, i):
        j = int(torch.randint(len(self), ()))
        return self.image(i),self.image(j),self.labels[i],self.labels[j]

def torchvision_loader(n, workers):
    return data.DataLoader(PairSet(image_files()[:n]), batch_size=bs, shuffle=True, drop_last=True,
                           num_workers=workers, persistent_workers=workers>0)

def ffcv_loader(n):
    "Single images, two for each pair, from FFCV's file of raw ones; compiled code crops and flips"
    import ffcv.transforms as tf
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.writer import DatasetWriter
    files = image_files()[:n]
    file = str(files[0].parents[1]/f'{n}.beton')
    images = [(np.array(Image.open(f)), int(f.parent.name)) for f in files]*2
    fields = dict(image=RGBImageField(write_mode='raw'), label=IntField())
    DatasetWriter(file, fields, num_workers=1).from_indexed_dataset(images)
    mean,std = (np.array(o)*255 for o in cifar_stats)
    image = [SimpleRGBImageDecoder(), tf.RandomHorizontalFlip(), tf.RandomTranslate(4),
             tf.NormalizeImage(mean, std, np.float32), tf.ToTensor(), tf.ToTorchImage()]
    return Loader(file, batch_size=2*bs, num_workers=os.cpu_count(), order=OrderOption.RANDOM,
                  drop_last=True, pipelines=dict(image=image, label=[IntDecoder(), tf.ToTensor()]))

def go_through(dl, epochs=1):
    "Take all batches"
    for _ in range(epochs):
        for b in dl: to_device(b[0], device)

def rates(loaders, ns, rounds, epochs=None):
    "Samples a second `[len(loaders), rounds]` of whole epochs of `ns` samples"
    epochs = epochs or [1]*len(loaders)
    ts = times([partial(go_through, dl, k) for dl,k in zip(loaders, epochs)], rounds)
    return np.array([n//bs*bs*k for n,k in zip(ns, epochs)])[:,None]/ts

def memory(quick):
    "Pairs from memory against the usual ways to pairs"
    n,workers = (512,(0,)) if quick else (2560,(0,2))
    many = 2 if quick else 20 # epochs from memory, which take milliseconds
    name = 'pairs from memory'
    # A loader, how often it is gone through, and the ratio to reach
    others = {f"fastai's four-block DataBlock, {k} workers":
              (four_blocks(n, 1, num_workers=k).train, 1, 80) for k in workers}
    others |= {f'torchvision v2 and a torch DataLoader, {k} workers':
               (torchvision_loader(n, k), 1, 20) for k in workers}
    if find_spec('ffcv'): others['FFCV'] = ffcv_loader(n),many,1
    dls,epochs,asked = zip((memory_loaders(n, 1).train, many, None), *others.values())
    rate = rates(dls, [n]*len(dls), 2 if quick else 7, epochs)
    for against,theirs,least in zip(others, rate[1:], asked[1:]):
        yield row(name, against, rate[0], theirs, 'pairs/s', least)
    yield from not_installed(name, 'FFCV', 'ffcv')

def ordinary(quick):
    "The loader of files against fastai's, for each image that is decoded"
    n = 512 if quick else 2560
    files = image_files()[:n+1]
    single = ImageDataLoaders.from_lists(
        '.', files, files.map(parent_label), valid_pct=1/(n+1), bs=bs, batch_tfms=tfms,
        device=device, num_workers=0)
    pairs = file_loaders(n, 1)
    rate = rates([pairs.train, single.train], [n,n], 2 if quick else 9)
    yield row('images decoded from files for pairs', "fastai's ImageDataLoaders",
              2*rate[0], rate[1], 'images/s', .95)
