"Data sets read once: larger than memory, in other processes, from pictures of unequal size, and what is refused"
import subprocess, sys
import pytest
from fastai.vision.all import *
from sklearn.datasets import load_sample_images
from fastmix.all import *
from fastmix import reading
from fastmix.reading import image_files

for o in [o for o in dir() if o.startswith('test')]: del globals()[o] # fastcore's, which pytest would take for tests

def elsewhere(code, *args):
    "What `code` prints in a process of its own"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, args)], capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    return res.stdout

@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    "Crops of scikit-learn's photographs, each of its own size, named as Oxford's pets are: capitals for cats"
    path,rng = tmp_path_factory.mktemp('pets'),np.random.default_rng(0)
    for im,nm in zip(load_sample_images().images, ('Abyssinian','beagle')):
        for i in range(16):
            (h,w),(t,l) = rng.integers(60, 160, 2),rng.integers(0, 200, 2)
            Image.fromarray(im[t:t+h,l:l+w]).save(path/f'{nm}_{i+1}.jpg')
    return path

def is_cat(nm): return nm[0].isupper()
def load(path, **kwargs):
    return MultiSampleDataLoaders.from_name_func(path, get_image_files(path).sorted(), is_cat, **{**dict(bs=8, seed=1, num_workers=0, device='cpu'), **kwargs})

def test_pictures_of_unequal_size(pets):
    with pytest.raises(ValueError, match=r'jpg.*: expected images of one size, they have .* add Resize to item_tfms'): load(pets)
    with pytest.raises(ValueError, match=r'jpg: comes out differently each time.*ResizeMethod.Squish'): in_memory(load(pets, item_tfms=Resize(32)))
    norm = Normalize.from_stats(*imagenet_stats, cuda=False)
    cropped = load(pets, item_tfms=Resize(32), batch_tfms=[PadCrop(2), norm]) # a place of its own in each epoch
    fast = in_memory(load(pets, item_tfms=Resize(32, ResizeMethod.Squish), batch_tfms=[PadCrop(2), norm]))
    for dls in (cropped, fast):
        assert dls.one_batch()[0].shape==(8,3,32,32) and dls.c==2 and list(dls.vocab)==[False,True]
        dls.show_batch(max_n=4)
        assert len(plt.gcf().axes)==4
        learn = mixup_c_learner(dls, arch=resnet20, lr=.01, precision='fp32')
        before = [p.clone() for p in learn.model.parameters()]
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        assert any(not torch.equal(a, b) for a,b in zip(before, learn.model.parameters()))
        assert len(learn.predict(tuple(get_image_files(pets)[:2]))[0])==2
        plt.close('all')

def test_validation_pairs_in_another_process(pets):
    code = '''
import sys
from fastai.vision.all import *
from fastmix.all import *
path = Path(sys.argv[1])
set_seed(int(sys.argv[2]))
def is_cat(nm): return nm[0].isupper()
dls = MultiSampleDataLoaders.from_name_func(path, get_image_files(path).sorted(), is_cat, bs=8, seed=1, num_workers=0, device='cpu', item_tfms=Resize(8))
for dl in (dls.valid, dls.valid, dls.test_dl(get_image_files(path).sorted())): print([round(i.sum().item(), 2) for b in dl for o in b[:2] for i in o])
'''
    a,b,t = elsewhere(code, pets, 5).splitlines()
    dls = load(pets, item_tfms=Resize(8))
    show = lambda dl: str([round(i.sum().item(), 2) for b in dl for o in b[:2] for i in o])
    assert a==b==show(dls.valid) and t==show(dls.test_dl(get_image_files(pets).sorted()))
    assert show(load(pets, item_tfms=Resize(8), pair_seed=1).valid)!=a

def test_larger_than_memory(tmp_path, monkeypatch):
    monkeypatch.setenv('MALLOC_MMAP_THRESHOLD_', '100000') # batches freed go back to the system: malloc's own holes are not at issue
    code = '''
import resource, sys
from fastai.vision.all import *
from fastmix.all import *
import psutil
path,room = Path(sys.argv[1]),150*2**20
for i in range(165):
    (path/'im'/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (608,608), (i%256,100*(i%2),i//256)).save(path/'im'/'ab'[i%2]/f'{i}.png')
dls = MultiSampleDataLoaders.from_folder(path/'im', valid_pct=.1, seed=0, bs=1, num_workers=0, device='cpu')
resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data+room,)*2)
size = len(dls.train_ds)*3*608*608
assert size>room
try: torch.zeros(size, dtype=torch.uint8)
except RuntimeError: print('does not fit')
try: in_memory(dls)
except ValueError as e: print(e)
for _ in range(2):
    seen = [torch.stack([(255*x[:,0,0,0]).round()+256*(255*x[:,2,0,0]).round(), (x[:,1,0,0]>0)==y]) for b in in_memory(dls, cache=path/'cache').train for x,y in [b[::2]]]
    print(len(torch.cat(seen, 1)[0].unique()), bool(torch.cat(seen, 1)[1].all()))
'''
    fits,refused,*epochs = elsewhere(code, tmp_path).splitlines()
    assert fits=='does not fit'
    assert re.match(r'165 images of 3x608x608 take 0.18 GB: expected at most 0.\d\d GB, nine tenths of the free memory of cpu; '
                    r"use a smaller size, cache=True and device='cpu', which leave them on disk, then .cuda\(\), or the ordinary loaders", refused)
    assert epochs==['149 True']*2

def test_refusals(pets, tmp_path):
    one = tmp_path/'one'
    one.mkdir()
    for i in range(12): shutil.copy(pets/f'beagle_{i+1}.jpg', one)
    with pytest.raises(ValueError, match=r'classes \[False\]: expected two or more, a folder for each'): load(one, item_tfms=Resize(8))
    with pytest.raises(ValueError, match=r'classes \[False\]'):
        in_memory(ImageDataLoaders.from_name_func(one, get_image_files(one), is_cat, item_tfms=Resize(8, 'squish'), num_workers=0))
    block = MultiSampleDataBlock(blocks=ImageBlock, get_items=get_image_files, item_tfms=Resize(8))
    with pytest.raises(ValueError, match='data set without labels: expected a label for each image'): block.dataloaders(pets)
    cut = one/'cut.jpg'
    cut.write_bytes((pets/'beagle_1.jpg').read_bytes()[:900])
    (one/'text.jpg').write_text('no image')
    shutil.copy(pets/'Abyssinian_1.jpg', one)
    with pytest.raises(ValueError, match=r'(cut|text).jpg: expected an image, .* \(2 such files\): repair it, or leave it out with skip_bad=True'):
        load(one, item_tfms=Resize(8))

def test_tables_come_from_the_loaders_own_generator(pets):
    "So processes whose loaders have generators in the same state see the same pairs, whatever else they have drawn"
    res = []
    for seed in (1,2):
        set_seed(seed)
        dls = load(pets, item_tfms=Resize(8))
        dls.train.rng = random.Random(3)
        dls.train.before_iter()
        res.append(dls.train.pair_idx)
    assert torch.equal(*res)

def test_new_slots_bring_their_types(pets):
    dls = load(pets, item_tfms=Resize(8))
    for n in (1,3): assert list(dls.valid.new(n_samples=n)._types.values())==[[TensorImage]*n+[TensorCategory]*n]
    dls.valid.before_iter()
    assert list(dls.valid.new(n_samples=1).new(n_samples=2)._types.values())==[[TensorImage]*2+[TensorCategory]*2]

def test_every_factory_method_gives_pairs(pets):
    files,kw = get_image_files(pets).sorted(),dict(item_tfms=Resize(8), bs=4, num_workers=0, device='cpu')
    df = pd.DataFrame({'name': [o.name for o in files], 'label': [is_cat(o.name) for o in files]})
    df.to_csv(pets/'labels.csv', index=False)
    C,label = MultiSampleDataLoaders,lambda o: is_cat(Path(o).name)
    for dls in (C.from_name_func(pets, files, is_cat, **kw), C.from_path_func(pets, files, label, **kw), C.from_name_re(pets, files, r'^(\w+)_\d+.jpg$', **kw),
                C.from_path_re(pets, files, r'(\w+)_\d+.jpg$', **kw), C.from_df(df, pets, **kw), C.from_csv(pets, **kw),
                C.from_lists(pets, files, df.label.tolist(), **kw)):
        assert type(dls) is MultiSampleDataLoaders and len(dls.one_batch())==4 and len(dls.valid.one_batch())==4 and dls.c==2

def test_a_folder_of_a_run_is_known_by_both_of_its_files(tmp_path):
    for o in ('a','b','c'):
        (tmp_path/o).mkdir()
        Image.new('RGB', (4,4)).save(tmp_path/o/'1.png')
    for o in ('a/run.json','a/metrics.csv','b/run.json'): (tmp_path/o).touch()
    assert [o.parent.name for o in image_files(tmp_path)]==['b','c']
