"Data, learners and clocks that several benchmarks share"
import tempfile
from fastai.vision.all import *
from fastmix.all import *
from fastmix.training import pick_precision
from functools import cache
from importlib.util import find_spec
from sklearn.datasets import load_sample_images
from experiments.timing import interleaved
from .results import missing, row

device = default_device()
bf16 = pick_precision('auto', device)=='bf16'
bs = 128
lr = .01 # small, as nothing is to be learnt
tfms = [PadCrop(4), Normalize.from_stats(*cifar_stats)]
_folder = tempfile.TemporaryDirectory()

def crops(
    n:int, # How many
    size:int=32
)->list: # Arrays `[size,size,3]` of bytes
    "Squares out of scikit-learn's two photographs, the same on every machine"
    photos,rng = load_sample_images().images,random.Random(0)
    def crop(photo):
        i,j = (rng.randrange(o-size) for o in photo.shape[:2])
        return photo[i:i+size,j:j+size]
    return [crop(photos[i%2]) for i in range(n)]

@cache
def image_files(n:int=5000)->L: # A folder for each of ten classes, as CIFAR-10 has
    "Files of images of 32x32"
    path = Path(_folder.name)
    for c in range(10): (path/str(c)).mkdir(exist_ok=True)
    files = L(path/str(i%10)/f'{i}.png' for i in range(n))
    for file,image in zip(files, crops(n)): PILImage.create(image).save(file)
    return files

def file_loaders(n_train, n_valid, n_samples=2, **kwargs):
    "Loaders that read a file whenever its image is wanted"
    def is_valid(f): return int(f.stem)>=n_train
    dblock = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, batch_tfms=tfms,
                       splitter=FuncSplitter(is_valid))
    kwargs = dict(n_samples=n_samples, bs=bs, device=device, num_workers=0) | kwargs
    files = image_files()[:n_train+n_valid]
    return MultiSampleDataLoaders.from_dblock(dblock, files, **kwargs)

def memory_loaders(n_train=1280, n_valid=256, n_samples=2, **kwargs):
    return in_memory(file_loaders(n_train, n_valid, n_samples, **kwargs), device)

def quiet(learn):
    "The learner without progress bar and printed lines"
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def ours(dls, arch, **kwargs):
    "`mixup_c_learner`, or `mixup_learner` for loaders of single images"
    make = mixup_c_learner if dls.n_samples>1 else mixup_learner
    with redirect_stdout(io.StringIO()): return quiet(make(dls, arch=arch, lr=lr, **kwargs))

def in_epoch(learn):
    "Bring a learner into the middle of an epoch, for `one_batch`"
    learn.create_opt()
    learn.n_epoch,learn.epoch,learn.dl = 1,0,learn.dls.train
    learn.n_iter = max(1, len(learn.dl))
    for e in ('before_fit','before_epoch','before_train'): learn(e)
    return learn

def times(
    calls, # Functions without arguments
    rounds:int,
    warm_up:int=1 # How often each is called before
)->np.ndarray: # Seconds `[len(calls), rounds]`
    "Time `calls` in turn in every round"
    return interleaved(calls, rounds, warm_up, device).T

def not_installed(
    name:str, # What would be measured
    against:str, # What it would be compared with
    package:str # What has to be imported for it
): # A row, or none
    "Say that a library is missing, if it is"
    if not find_spec(package): yield missing(name, against, f'{package} is not installed')
