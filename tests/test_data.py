"The multi-sample loaders and their in-memory form, on small files of their own"
import gc, pickle
import pytest
from fastai.vision.all import *
from fastmix.all import *
from fastmix.data import SlotPipeline, Slots, other_class_permutation, slot_dls
from fastmix import datasets, memory
from fastmix.distributed import RankTrainer, end_distributed, samples_digest
from fastmix.resuming import data_digest
from types import SimpleNamespace
from fastmix.reading import image_files, raw_labels

for o in [o for o in dir() if o.startswith('test')]: del globals()[o] # fastcore's, which pytest would take for tests

def write(path, n=24, size=(8,8), classes='abc', mode='RGB', seed=0):
    "Images of noise, the class in the red channel, a folder per class"
    rng = np.random.default_rng(seed)
    for i in range(n):
        c = i%len(classes)
        a = rng.integers(0, 256, (size[1],size[0],3), dtype=np.uint8)
        a[...,0] = 100*c
        (path/classes[c]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(a).convert(mode).save(path/classes[c]/f'{i:03}.png')
    return path

@pytest.fixture
def path(tmp_path): return write(tmp_path/'im')

def make(path, **kwargs):
    kwargs = {**dict(valid_pct=.25, seed=0, bs=4, num_workers=0, device='cpu'), **kwargs}
    return MultiSampleDataLoaders.from_folder(path, **kwargs)

def labels(dl): return torch.cat([torch.stack(b[len(b)//2:], 1) for b in dl]).as_subclass(Tensor)

@pytest.mark.parametrize('memory', [False, True])
@pytest.mark.parametrize('n', [1,2,3])
def test_batches(path, memory, n):
    dls = make(path, n_samples=n)
    if memory: dls = in_memory(dls)
    b = dls.one_batch()
    assert len(b)==2*n and dls.n_samples==n and dls.c==3 and list(dls.vocab)==['a','b','c'] and dls.n_inp==n
    for x,y in zip(b[:n], b[n:]):
        assert type(x) is TensorImage and type(y) is TensorCategory and x.shape==(4,3,8,8)
        assert torch.equal((x[:,0].mean((1,2))*255/100).round().long().as_subclass(Tensor), y.as_subclass(Tensor))

@pytest.mark.parametrize('memory', [False, True])
def test_pairs_of_training_and_validation(path, memory):
    dls = make(path, drop_last=False)
    same = labels(dls.valid)
    if memory: dls = in_memory(dls)
    assert torch.equal(labels(dls.valid), same)
    assert torch.equal(labels(dls.test_dl(dls.valid_ds.items, with_labels=True)), same)
    y = tensor([int(o[1]) for o in dls.train_ds])
    epochs = [labels(dls.train) for _ in range(4)]
    for e in epochs: assert torch.equal(e.sort(0).values, y.sort().values[:,None].expand(-1, 2)) # a permutation in each slot
    assert any(not torch.equal(epochs[0], e) for e in epochs[1:])
    assert sorted(map(tuple, labels(dls.valid.new(shuffle=True)).tolist()))==sorted(map(tuple, same.tolist()))

def test_workers_see_the_same_validation_pairs(path):
    assert torch.equal(labels(make(path).valid), labels(make(path, num_workers=2).valid))

def test_partners(path):
    y = labels(make(path, partner='other_class').train)
    assert (y[:,0]!=y[:,1]).all()
    y = torch.randint(5, (2000,))
    p = other_class_permutation(y)
    assert torch.equal(p.sort().values, torch.arange(2000)) and (y[p]!=y).all()
    dls = make(path, partner='other')
    dls.train.before_iter()
    assert (dls.train.pair_idx[0]!=dls.train.pair_idx[1]).all()

def test_multi_label_frame(path):
    df = pd.DataFrame({'name': [str(o.relative_to(path)) for o in get_image_files(path)], 'label': ['x;y','y','z']*8, 'valid': [False]*18+[True]*6})
    dls = MultiSampleDataLoaders.from_df(df, path, label_delim=';', valid_col='valid', bs=4, num_workers=0)
    for d in (dls, in_memory(dls)):
        x1,x2,y1,y2 = d.one_batch()
        assert type(y1) is TensorMultiCategory and y1.shape==(4,3) and d.c==3
        d.show_batch(max_n=2)
    df.loc[3,'label'] = None
    with pytest.raises(ValueError, match='expected a value in column'): MultiSampleDataLoaders.from_df(df, path, label_delim=';', valid_col='valid')

def test_grey(tmp_path):
    write(tmp_path/'g', mode='L')
    dls = make(tmp_path/'g', img_cls=PILImageBW)
    assert in_memory(dls).one_batch()[0].shape==(4,1,8,8)

def _pixels(mode):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8,6,3), dtype=np.uint8))
    if mode=='I;16': return Image.fromarray(np.arange(0, 48*90, 90, dtype=np.uint16).reshape(8, 6))
    if mode=='RGBA': rgb.putalpha(rgb.convert('L'))
    return rgb.convert('RGB' if mode=='EXIF' else mode)

@pytest.mark.parametrize('cls', [PILImage,PILImageBW])
@pytest.mark.parametrize('mode', ['RGB','L','LA','RGBA','P','1','I;16','CMYK','EXIF'])
def test_images_of_every_mode_are_those_of_fastai(tmp_path, mode, cls, capsys):
    exif = Image.Exif()
    exif[0x112] = 6 # turned by a quarter, which fastai ignores
    kw = {'P': dict(transparency=0), 'EXIF': dict(exif=exif)}.get(mode, {})
    for i in range(8):
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        suffix = '.jpg' if mode in ('CMYK','EXIF') else '.png'
        _pixels(mode).save((tmp_path/'ab'[i%2]/str(i)).with_suffix(suffix), **kw)
    dls = make(tmp_path, img_cls=cls, bs=2)
    said = capsys.readouterr().out
    assert ('.png (of 8): more than 8 bits per pixel' in said)==(mode=='I;16')
    theirs = ImageDataLoaders.from_folder(tmp_path, valid_pct=.25, seed=0, bs=2, num_workers=0, img_cls=cls, device='cpu')
    want = image2tensor(cls.create(dls.valid_ds.items[0])).float()/255
    for d in (dls, in_memory(dls), in_memory(theirs), theirs):
        x = d.valid.one_batch()[0].as_subclass(Tensor)
        assert torch.equal(x[0], want) and x.shape[2:]==(8,6)

class Tiny(Module):
    def __init__(self): self.lin = nn.Linear(6, 6)
    def forward(self, a, b): return self.lin(torch.cat([a.mean((2,3)),b.mean((2,3))], 1)).view(-1, 2, 3)

@pytest.mark.parametrize('memory', [False, True])
def test_with_a_learner(path, memory):
    dls = make(path)
    if memory: dls = in_memory(dls)
    learn = Learner(dls, Tiny(), loss_func=HeadsLoss(), metrics=[HeadAccuracy(0), Top2()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        fs = get_image_files(path)
        label,cls,probs = learn.predict(Slots((fs[0],fs[1])))
        assert len(label)==2 and probs.shape==(2,3)
        assert len(dls.test_dl(fs[:4]).one_batch())==2
        assert len(dls.test_dl([(fs[0],fs[1])], pairs=True, with_labels=True).one_batch())==4
        learn.show_results()
        interp = Interpretation.from_learner(learn)
        inps,_,targs,_,losses = interp[[1,0]]
        assert torch.equal(torch.stack(targs, 1).as_subclass(Tensor), labels(dls.valid)[[1,0]]) # the pairs whose losses these are
        interp.plot_top_losses(2)
    plt.close('all')

def test_in_memory_is_the_same_data(path):
    one = ImageDataLoaders.from_folder(path, valid_pct=.25, seed=0, bs=4, num_workers=0)
    for dls in (make(path), one):
        batches = list(zip(dls.valid, in_memory(dls).valid, strict=True))
        assert len(batches)==2
        for a,b in batches:
            for s,t in zip(a, b, strict=True): assert type(s) is type(t) and torch.equal(s, t)

def test_in_memory_holds_bytes_and_little_more(path):
    dls = in_memory(make(path))
    n,size = (sum(len(o.dataset) for o in dls.loaders),dls.one_batch()[0][0].numel())
    assert n*size <= sum(t.untyped_storage().nbytes() for dl in dls.loaders for t in dl.data) <= 1.1*n*size

@pytest.mark.parametrize('memory', [False,True])
def test_a_used_batch_is_freed_at_once(path, memory):
    dls = make(path, batch_tfms=[*aug_transforms(size=8), Normalize.from_stats(*imagenet_stats)])
    batches = iter((in_memory(dls) if memory else dls).train)
    # From Python 3.12 on, fastai's item transforms leave single images to the garbage collector
    counts = lambda o: type(o) is TensorImage and (o.ndim==4 or sys.version_info<(3,12))
    alive = lambda: sum(map(counts, gc.get_objects()))
    next(batches)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(3): next(batches)
        assert alive()<=before
    finally: gc.enable()

@pytest.mark.parametrize('kind,said', [('point',"expected transforms that leave labels alone"), ('targets','1 inputs and 2 targets'), ('inputs','2 inputs and 1 targets'),
                                       ('before_batch','before_batch='), ('create_batch','create_batch='), ('weighted','WeightedDL')])
def test_in_memory_refuses_what_it_would_not_repeat(path, kind, said):
    n = {'inputs': 2}.get(kind, 1)
    blocks = {'point': (ImageBlock,PointBlock), 'targets': (ImageBlock,CategoryBlock,RegressionBlock), 'inputs': (ImageBlock,ImageBlock,CategoryBlock)}
    get_y = {'point': lambda o: [[2,6]], 'targets': [parent_label,lambda o: 1.]}.get(kind, parent_label)
    block = DataBlock(blocks.get(kind, (ImageBlock,CategoryBlock)), n_inp=n, get_items=get_image_files, get_x=[noop]*n, get_y=get_y, splitter=IndexSplitter([0,1,2,12,13]))
    kw = dict(bs=4, num_workers=0, device='cpu', **({kind: lambda b: b} if kind in ('before_batch','create_batch') else {}))
    dls = block.weighted_dataloaders(path, wgts=[1]*24, **kw) if kind=='weighted' else block.dataloaders(path, **kw)
    with pytest.raises(ValueError, match=f'{said}.*use the ordinary loaders'): in_memory(dls)

def tensor_dls(path, load, tfms=None):
    "Loaders of images that are tensors already"
    block = DataBlock((TransformBlock,CategoryBlock), get_items=image_files, get_x=load, get_y=parent_label,
                      splitter=IndexSplitter(range(0, 24, 2)), item_tfms=tfms)
    return block.dataloaders(path, bs=4, num_workers=0, device='cpu')

def as_tensor(f): return TensorImage(image2tensor(PILImage.create(f)))

def test_a_transform_that_writes_into_its_item_is_done_once(path):
    dls = tensor_dls(path, lambda f: as_tensor(f).float(), IntToFloatTensor())
    images = lambda d: torch.stack(sorted(torch.cat([b[0] for b in d.train.new(shuffle=False, drop_last=False)]).as_subclass(Tensor), key=lambda o: o.tolist()))
    assert torch.equal(images(in_memory(dls)), images(dls)) and images(dls).max()>.5

def test_images_of_two_types_are_refused(path):
    def load(f): return as_tensor(f) if f.parent.name=='a' else as_tensor(f).float()/255
    with pytest.raises(ValueError, match='torch.float32 differs from torch.uint8: expected images of one type'): in_memory(tensor_dls(path, load))

def test_statistics_of_a_batch_in_rows_of_two(path):
    dls = make(path, partner='next', batch_tfms=Normalize())
    assert [dl.n for dl in dls.loaders]==[9,3] and abs(dls.one_batch()[0].mean())<1

def test_fewer_items_an_epoch(path):
    dls = in_memory(make(path, n=8))
    assert len(list(dls.train))==2

@pytest.mark.parametrize('memory', [False,True])
@pytest.mark.parametrize('partner', ['any','other','other_class'])
def test_a_part_of_the_data(path, memory, partner):
    "Partners come from the same part, which other numbers of slots keep"
    dls = make(path, n=9, partner=partner)
    if memory: dls = in_memory(dls)
    for _ in range(5):
        dls.train.before_iter()
        assert dls.train.pair_idx.shape==(2,9) and dls.train.pair_idx.max()==8
    single = slot_dls(dls, 1)
    assert [slot_dls(dls, 3).train.n, single.train.n, slot_dls(single, 2).train.n]==[9]*3
    assert sum(len(b[0]) for b in single.train.new(drop_last=False, n=single.train.n))==9

def test_items_of_a_training_loader_are_those_that_get_preds_sees(path):
    dls = make(path)
    list(dls.train) # which draws the pairs of an epoch
    ys = labels(dls.train.new(shuffle=False, drop_last=False))
    assert [[dls.vocab.o2i[f.parent.name] for f in row] for row in dls.train.items]==ys.tolist()

def test_a_function_where_partners_are_drawn(path):
    with pytest.raises(ValueError, match='before_iter=.*expected none'): make(path, before_iter=noop)
    assert len(make(path, n_samples=1, before_iter=noop).one_batch())==2

def test_fixed_pairs_follow_their_settings(path):
    dl = make(path).valid
    seen = []
    for seed in (0,3):
        dl.pair_seed = seed
        for l in (dl,dl.new()): list(l), seen.append(l.pair_idx)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])

def test_names_that_are_no_text(path):
    shutil.copy(path/'a'/'000.png', os.fsdecode(bytes(path/'a') + b'/caf\xe9.png'))
    for dls in (make(path),in_memory(make(path))):
        assert all(len(f(dl))==16 for f in (data_digest,samples_digest) for dl in dls.loaders)

@pytest.mark.parametrize('memory', [False,True])
def test_one_sample_again_and_again(path, memory):
    dls = make(path)
    (in_memory(dls) if memory else dls).train.show_batch(unique=True, max_n=4)
    plt.close('all')

def test_show_batch_of_other_blocks(path):
    "Whose several inputs are no slots"
    DataBlock((ImageBlock,RegressionBlock,CategoryBlock), n_inp=2, get_items=get_image_files, get_x=[noop,lambda o: 1.], get_y=parent_label).dataloaders(
        path, bs=4, num_workers=0, device='cpu').show_batch()
    plt.close('all')

def test_a_bad_first_file(path):
    files = get_image_files(path).sorted()
    block = MultiSampleDataBlock(get_items=lambda p: get_image_files(p).sorted(), get_y=parent_label, splitter=IndexSplitter(range(18, 24)))
    files[0].write_bytes(files[0].read_bytes()[:40])
    with pytest.raises(ValueError, match=f'{files[0].name}: expected an image'): block.dataloaders(path, num_workers=0)
    dls = block.dataloaders(path, skip_bad=True, num_workers=0)
    assert (len(dls.train_ds),len(dls.valid_ds))==(17,6)

def test_pairs_of_files_are_no_labelled_files(path):
    files = get_image_files(path).sorted()
    dls = MultiSampleDataLoaders.from_lists(path, files, [parent_label(f) for f in files], seed=0, bs=4, num_workers=0, device='cpu')
    for o in (dls, dls.new_empty()):
        a,b = o.test_dl([(files[0],files[9])], pairs=True).one_batch()
        assert not torch.equal(a, b)
        assert len(o.test_dl([(files[0],'a'),(files[9],'b')], with_labels=True).one_batch())==4
    with pytest.raises(ValueError, match='expected 2 files, one for each slot'):
        make(path).test_dl([tuple(files[:3])], pairs=True)
    assert len(make(path).test_dl(pd.Series(list(map(str, files)))[10:14]).dataset)==4

class Rare(Transform):
    order = 6
    def __init__(self, k): self.k = k
    def encodes(self, x:TensorImage): return x*0+255 if int(x[0,0,0])==self.k else x

def test_the_cache_knows_what_a_transform_was_made_with(path, tmp_path):
    for k in (0,100): assert torch.equal(in_memory(make(path, item_tfms=Rare(k)), cache=tmp_path/'c').train.data[0], in_memory(make(path, item_tfms=Rare(k))).train.data[0])
    assert len(list((tmp_path/'c').glob('*.npy')))==4

def test_the_cache_notices_other_code_of_a_transform(path, tmp_path):
    "Which has the same name and settings; some images are decoded again, and compared"
    def brightness(k):
        def shade(x:TensorImage): return x*0+k
        shade = Transform(shade)
        shade.order = 6
        return in_memory(make(path, item_tfms=shade), cache=tmp_path/'c').valid.data[0].unique().tolist()
    assert [brightness(k) for k in (3,5)]==[[3],[5]]

def test_partners_of_numbers(path):
    with pytest.raises(ValueError, match='have several, or numbers'): other_class_permutation(torch.rand(4))
    with pytest.raises(ValueError, match="partner='oter': expected one of"): MultiSampleDataBlock(partner='oter')

def test_pinned_loaders_in_memory(path):
    "What is on a GPU already cannot be pinned"
    assert in_memory(make(path, pin_memory=True)).train.pin_memory is False

def test_pickled_loaders_read_files_again(path):
    dls = in_memory(make(path))
    assert torch.equal(labels(pickle.loads(pickle.dumps(dls)).valid), labels(dls.valid))

@pytest.mark.parametrize('memory', [False, True])
def test_distributed(path, memory, monkeypatch):
    from fastai.distributed import DistributedDL
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    dls = make(path)
    if memory: dls = in_memory(dls)
    parts = [labels(DistributedDL(dls.valid, rank=r, world_size=2)) for r in (0,1)]
    assert torch.equal(torch.cat(parts), labels(dls.valid))

def test_an_image_is_not_left_out_by_one_process_alone(path):
    dls = make(path, skip_bad=True)
    trainer = SimpleNamespace(device=torch.device('cpu'), skipping=())
    assert dls.train.skip_bad and not RankTrainer._wrap_dl(trainer, dls.train).dl.skip_bad
    assert trainer.skipping==(dls.train,)
    learn = SimpleNamespace(model=nn.Linear(1, 1), dls=dls, distributed_trainer=trainer, detach_distributed=noop)
    end_distributed(learn)
    assert dls.train.skip_bad # of one process again

def test_files_that_the_system_keeps_count_as_free_memory(tmp_path, monkeypatch):
    container = dict(max='1000', current='900', stat='anon 100\nfile 750\ninactive_file 400\nactive_file 300\n')
    for k,v in container.items(): (tmp_path/f'memory.{k}').write_text(v)
    monkeypatch.setattr(memory, 'Path', lambda o: tmp_path/Path(o).name)
    assert next(memory._limits())==800

def test_pad_crop_places_are_uniform():
    x = TensorImage(torch.arange(1, 26, dtype=torch.uint8).reshape(1,1,5,5).expand(9000,1,5,5))
    out = PadCrop(1)(x, split_idx=0)
    _,count = out.unique(dim=0, return_counts=True)
    assert len(count)==18 and abs(count-500).max()<6*500**.5

def flip_a_bit(folder):
    "Of the second image of each cached set, which is not decoded again among the 18 of training"
    for f in folder.ls():
        b = bytearray(f.read_bytes())
        b[128+192+7] ^= 1
        f.write_bytes(b)

def test_cache(path, tmp_path, monkeypatch):
    dls,folder = make(path),tmp_path/'cache'
    want = [b[0] for b in in_memory(dls).valid]
    same = lambda d: all(torch.equal(a, b[0]) for a,b in zip(want, d.valid, strict=True))
    assert same(in_memory(dls, cache=folder))
    assert len(folder.ls())==2
    decoded = []
    orig = memory.decode_all
    def counted(*args):
        decoded.append(1)
        return orig(*args)
    monkeypatch.setattr(memory, 'decode_all', counted)
    assert same(in_memory(dls, cache=folder)) and not decoded
    for f in folder.ls(): f.write_bytes(f.read_bytes()[:-50])
    assert same(in_memory(dls, cache=folder)) and len(decoded)==2
    flip_a_bit(folder)
    assert same(in_memory(dls, cache=folder)) and len(decoded)==4
    crops = in_memory(make(path, batch_tfms=PadCrop(2)), cache=folder) # of a file that is mapped read-only
    assert all(torch.equal((x[:,0].amax((1,2))*255/100).round().long().as_subclass(Tensor), y.as_subclass(Tensor)) for x,_,y,_ in crops.train)
    fn = dls.valid_ds.items[0]
    Image.new('RGB', (8,8), 'green').save(fn)
    b = in_memory(dls, cache=folder).valid.one_batch()
    assert len(decoded)==5 and torch.equal(b[0][0], dls.valid.one_batch()[0][0])

@pytest.mark.parametrize('size', [(8,8), (12,8)])
def test_a_cache_draws_no_random_numbers(path, tmp_path, size):
    "The same seed gives the same training, whether the images were decoded now or before"
    write(path, size=size)
    def draws():
        set_seed(1)
        dls = in_memory(make(path, item_tfms=Resize(8, ResizeMethod.Squish)), cache=tmp_path/'cache')
        return torch.rand(2).tolist(),np.random.rand(),random.random(),labels(dls.train).tolist()
    assert draws()==draws()

def test_a_cache_without_images_that_are_wanted_now(path, tmp_path):
    class Once(Transform):
        "Fails for a moment"
        bad,order = True,-1
        def encodes(self, x:PILImage):
            if self.bad and np.array(x)[0,0,0]==200: raise OSError('not now')
            return x
    tfm = Once()
    few = in_memory(make(path, item_tfms=tfm, skip_bad=None), cache=tmp_path/'cache', skip_bad=True)
    assert len(few.train_ds)+len(few.valid_ds)<24
    Once.bad = False
    whole = in_memory(make(path, item_tfms=tfm), cache=tmp_path/'cache')
    assert len(whole.train_ds)+len(whole.valid_ds)==24

def test_other_item_transforms_of_loaders_in_memory(path):
    fast = in_memory(make(path, n_samples=1))
    other = fast.valid.new(after_item=[Resize(4), ToTensor()])
    assert other.one_batch()[0].shape[2:]==(4,4) and fast.valid.new(bs=2).one_batch()[0].shape==(2,3,8,8)

def test_loaders_of_other_data_sets_are_not_kept_in_memory():
    ds = [(torch.zeros(3,8,8),0)]*8
    with pytest.raises(ValueError, match="list: expected fastai's Datasets; use the ordinary loaders"): in_memory(DataLoaders.from_dsets(ds, ds, bs=4))

def test_a_device_that_is_not_there(path):
    with pytest.raises(ValueError, match="device='cuda:99': expected 'cpu'"): in_memory(make(path), device='cuda:99')

def test_items_that_a_splitter_leaves_out(path):
    "Nothing is asked of them; negative numbers count from the end, as in fastai"
    files = get_image_files(path).sorted()
    files[0].write_bytes(b'')
    Image.new('RGB', (9,9)).save(files[1])
    def label(o): return {f:f.parent.name for f in files[3:]}[o]
    block = MultiSampleDataBlock(get_items=lambda _: files, get_y=label, splitter=lambda _: (range(3, 20),[20,-1]))
    dls = block.dataloaders(path, bs=4, num_workers=0)
    assert list(dls.train_ds.items)==files[3:20] and list(dls.valid_ds.items)==[files[20],files[-1]]
    files[4].write_bytes(b'')
    with pytest.raises(ValueError, match=f'{files[4].name}: expected an image'): block.dataloaders(path, bs=4, num_workers=0)

def test_a_class_of_validation_alone_is_refused_by_name(path):
    "Whatever the size of its images: labels are looked at first"
    (path/'d').mkdir()
    Image.new('RGB', (9,9)).save(path/'d'/'1.png')
    block = MultiSampleDataBlock(get_items=get_image_files, get_y=parent_label, splitter=FuncSplitter(lambda o: o.name in ('1.png','003.png')))
    with pytest.raises(ValueError, match="d/1.png: Label 'd' was not included"): block.dataloaders(path, bs=4, num_workers=0)

def test_frames_that_get_items_changes(path):
    df = pd.DataFrame(dict(name=get_image_files(path).map(str), kind='x'))
    def items(df):
        df = df[df.kind.notna()].copy()
        df['label'] = [Path(o).parent.name for o in df.name]
        return df
    df.loc[0,'kind'] = None
    block = MultiSampleDataBlock(get_items=items, get_x=ColReader('name'), get_y=ColReader('label'), splitter=RandomSplitter(seed=0))
    dls = block.dataloaders(df, bs=4, num_workers=0)
    assert dls.c==3 and len(dls.train_ds)+len(dls.valid_ds)==23
    df = items(df)
    df['name'] = [str(Path(o).relative_to(path)) for o in df.name]
    assert MultiSampleDataLoaders.from_df(df, path, label_col=-1, num_workers=0).c==3

def test_random_item_transforms(path):
    with pytest.raises(ValueError, match='FlipItem in item_tfms is random'): in_memory(make(path, item_tfms=FlipItem()))
    assert in_memory(make(path, item_tfms=Resize(6))).one_batch()[0].shape==(4,3,6,6) # square: nothing to crop
    write(path, size=(24,8))
    with pytest.raises(ValueError, match=r'png: comes out differently each time'): in_memory(make(path, item_tfms=Resize(6)))
    assert in_memory(make(path, item_tfms=Resize(6, ResizeMethod.Squish))).one_batch()[0].shape==(4,3,6,6)

def test_too_large(path, monkeypatch):
    dls = make(path)
    monkeypatch.setattr(memory, 'free_bytes', lambda device, folder=None: 10**12 if folder else 1000)
    with pytest.raises(ValueError, match='24 images of 3x8x8 take 0.00 GB: expected at most 0.00 GB'): in_memory(dls)
    assert torch.equal(labels(in_memory(dls, cache=path.parent/'c').valid), labels(dls.valid))

def test_bad_files(path, capsys):
    fn = path/'a'/'000.png'
    fn.write_bytes(fn.read_bytes()[:60])
    (path/'b'/'no.jpg').write_text('not an image')
    with pytest.raises(ValueError, match='000.png|no.jpg'): make(path)
    assert len(make(path, skip_bad=True).train_ds)+len(make(path, skip_bad=True).valid_ds)==23
    assert 'left out 2 of 25 images' in capsys.readouterr().out
    one = ImageDataLoaders.from_folder(path, valid_pct=.25, seed=1, bs=4, num_workers=0)
    with pytest.raises(ValueError, match='000.png|no.jpg'): in_memory(one)
    fast = in_memory(one, skip_bad=True)
    assert len(fast.train_ds)+len(fast.valid_ds)==23
    with pytest.raises(ValueError, match='000.png|no.jpg'):
        for dl in make(path, skip_bad=None).loaders: list(dl.new(shuffle=False))

def damage(file):
    data = bytearray(file.read_bytes())
    data[60:90] = bytes(30)
    file.write_bytes(data)

@pytest.mark.parametrize('memory', [False,True])
@pytest.mark.parametrize('n', [1,2])
def test_a_file_damaged_in_its_middle(path, memory, n, capsys):
    "It looks whole until it is decoded, in the first pass"
    damage(path/'b'/'004.png')
    def count(skip_bad):
        dls = make(path, n_samples=n, skip_bad=skip_bad, drop_last=False)
        if memory: dls = in_memory(dls)
        return sum(len(b[0]) for dl in dls.loaders for b in dl)
    with pytest.raises(ValueError, match='004.png: expected an image'): count(False)
    lost = 24-count(True)
    assert lost==1 if memory or n==1 else 1<=lost<=n # its mixtures are left out, one for each slot
    assert '004.png' in capsys.readouterr().out

@pytest.mark.parametrize('cached', [False,True])
def test_labels_stay_with_their_images_where_one_is_left_out(path, tmp_path, cached):
    damage(path/'b'/'004.png')
    dls = make(path, n_samples=1, skip_bad=True, drop_last=False)
    for _ in range(1+cached): # decoded, and read again
        fast = in_memory(dls, cache=tmp_path/'cache' if cached else None)
        x,y = (torch.cat(o).as_subclass(Tensor) for o in zip(*[b for dl in fast.loaders for b in dl]))
        assert len(x)==23 and torch.equal((x[:,0].mean((1,2))*2.55).round().long(), y)
        assert [len(dl.dataset) for dl in fast.loaders]==[len(dl.data[0]) for dl in fast.loaders]

def test_chosen_numbers_where_an_image_is_left_out(path):
    damage(path/'b'/'004.png')
    dls = make(path, n_samples=1, skip_bad=True)
    for dl in dls.loaders: dl.get_idxs = partial(list, range(3))
    with pytest.raises(ValueError, match='get_idxs=.*expected none, as images are left out'): in_memory(dls)

def test_unequal_sizes(path):
    Image.new('RGB', (9,8)).save(path/'a'/'wide.png')
    with pytest.raises(ValueError, match='wide.png'): make(path)
    assert make(path, item_tfms=Resize(8)).one_batch()[0].shape==(4,3,8,8)

def test_splits_and_classes(tmp_path):
    write(tmp_path/'train', classes='ab')
    write(tmp_path/'test', classes='abz', n=6)
    with pytest.raises(ValueError, match="Label 'z' was not included"): make(tmp_path, train='train', valid='test', valid_pct=None)
    with pytest.raises(ValueError, match='validation set: expected at least one image'): make(tmp_path, train='train', valid='none', valid_pct=None)
    (tmp_path/'one'/'a').mkdir(parents=True)
    Image.new('RGB', (8,8)).save(tmp_path/'one'/'a'/'0.png')
    with pytest.raises(ValueError, match='set: expected at least'): make(tmp_path/'one', valid_pct=.5)

@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    "A file for each class whose pixels tell where they were: red the row, green the column, blue the class"
    path = tmp_path_factory.mktemp('numbered')
    for i in range(400):
        a = np.empty((8,8,3), np.uint8)
        a[...,0],a[...,1],a[...,2] = np.arange(8)[:,None]+100,np.arange(8)+100,[50,150,250][i%3]
        (path/'abc'[i%3]).mkdir(exist_ok=True)
        Image.fromarray(a).save(path/'abc'[i%3]/f'{i}.png')
    return path

def places(x, pad=2):
    "From whole batches `[n,3,8,8]` of bytes: row and column of the shift, flipped or not"
    r,c = (x[:,k,pad:-pad,pad:-pad].float()-100 for k in (0,1)) # which is never padding
    flip = c[:,0,0]>c[:,0,-1]
    col = torch.where(flip, c[:,0,-1], c[:,0,0])
    return (r[:,0,0]*(2*pad+1)+col)*2+flip

def drawn(dls, epochs, mean, std): # all images and labels of some epochs, as bytes
    bs = [b for _ in range(epochs) for b in dls.train]
    x = torch.stack([torch.cat([b[k] for b in bs]) for k in (0,1)]).as_subclass(Tensor)
    return ((x*std+mean)*255).round().to(torch.uint8),torch.stack([torch.cat([b[k] for b in bs]) for k in (2,3)]).as_subclass(Tensor)

def too_far(count): # chi-square of counts that should be equal, in standard deviations of its own
    e = count.sum()/len(count)
    return ((count-e)**2/e).sum().sub(len(count)-1)/(2*(len(count)-1))**.5

@pytest.mark.parametrize('memory', [False, True])
def test_what_batches_are_drawn_from(numbered, memory):
    set_seed(7)
    mean,std = tensor([.4,.5,.6]),tensor([.2,.3,.25])
    dls = make(numbered, bs=32, batch_tfms=[PadCrop(2), Normalize.from_stats(mean, std, cuda=False)], partner='other')
    if memory: dls = in_memory(dls)
    mean,std = (t[:,None,None] for t in (mean,std))
    x,y = drawn(dls, 12, mean, std)
    n = y.shape[1]
    assert n>3000
    at = torch.stack([places(o) for o in x]).long()
    for o in at: assert too_far(o.bincount(minlength=50).float())<5 # 25 places, flipped or not, in each slot
    both = (at[0]//2%5*5 + at[1]//2%5).bincount(minlength=25).float()
    assert too_far(both)<5 and too_far((at[0]%2*2+at[1]%2).bincount(minlength=4).float())<5 # slots on their own
    assert ((x[:,:,2]==0)==(x[:,:,0]==0)).all() and set(x[:,:,2].unique().tolist())=={0,50,150,250}
    shown = (x[:,:,2]>0).float().mean().item() # the rest is black: each of 8 columns and rows is out of the image now and then
    assert abs(shown-(1-1.2/8)**2)<.004
    assert (x[:,:,2].amax((2,3))==tensor([50,150,250])[y]).all() # labels go with their images
    share = (y[0]*3+y[1]).bincount(minlength=9)/n
    want = tensor([int(o[1]) for o in dls.train_ds]).bincount()/len(dls.train_ds)
    assert (share-(want[:,None]*want).flatten()).abs().max()<.03

@pytest.mark.parametrize('pad,flip', [(3,True),(0,True),(8,False)])
@pytest.mark.parametrize('dtype', [torch.uint8,torch.float32])
def test_all_crops_at_once_are_those_of_one_image_at_a_time(pad, flip, dtype):
    x = torch.randint(256, (40,3,9,7)).to(dtype)
    set_seed(1)
    crops = PadCrop(pad, flip).encodes(TensorImage(x))
    set_seed(1)
    i,j = torch.randint(2*pad+1, (2,40))
    flipped = torch.rand(40) < (.5 if flip else 0)
    assert type(crops) is TensorImage and crops.dtype==dtype
    for k in range(40):
        padded = F.pad(x[k].flip(-1) if flipped[k] else x[k], [pad]*4)
        assert torch.equal(crops[k].as_subclass(Tensor), padded[:,i[k]:i[k]+9,j[k]:j[k]+7])

@pytest.mark.parametrize('n', [1,2])
def test_one_pass_gives_what_the_stages_give(path, n):
    stats = Normalize.from_stats(*cifar_stats, cuda=False)
    fast = in_memory(make(path, n_samples=n, batch_tfms=[PadCrop(2), stats]))
    res = []
    for dl,by_hand in ((fast.train,False), (fast.train.new(),True)):
        set_seed(3)
        dl.rng = random.Random(5)
        if by_hand:
            dl.randomize()
            dl.before_iter()
            idxs = dl.get_idxs()
            torch.empty((), dtype=torch.int64).random_() # torch's own loader draws a seed for its workers
            res.append([dl.after_batch(b) for b in dl.create_batches(idxs)])
        else: res.append(list(dl))
    assert len(res[0])==4
    for a,b in zip(*res, strict=True):
        for s,t in zip(a, b, strict=True): assert type(s) is type(t) and torch.equal(s, t)
    x = fast.valid_ds[0][0]
    want = (tensor(x).permute(2,0,1)/255-tensor(cifar_stats[0])[:,None,None])/tensor(cifar_stats[1])[:,None,None]
    assert torch.allclose(first(fast.valid)[0][0].as_subclass(Tensor), want, atol=1e-6)

def test_a_pickled_loader_still_knows_its_classes(path):
    d = pickle.loads(pickle.dumps(in_memory(make(path, partner='other_class'))))
    y = labels(d.train)
    assert len(y) and (y[:,0]!=y[:,1]).all()

def test_partners_of_another_class_wherever_there_are_some(tmp_path):
    "In validation, of which no permutation is asked; and without labels, which tell nothing of classes"
    write(tmp_path/'train', classes='ab')
    write(tmp_path/'test', classes='aab', n=15)
    dls = make(tmp_path, train='train', valid='test', valid_pct=None, partner='other_class', pair_seed=3)
    y = labels(dls.valid)
    assert len(y)==15 and (y[:,0]!=y[:,1]).all() and torch.equal(labels(dls.valid.new(shuffle=False)), y)
    test = dls.test_dl(dls.valid_ds.items)
    assert len(test.one_batch())==2 and (test.pair_idx[0]!=test.pair_idx[1]).all()
    shutil.rmtree(tmp_path/'test'/'b')
    y = labels(make(tmp_path, train='train', valid='test', valid_pct=None, partner='other_class').valid)
    assert len(y)==10 and not y.any() # one class alone
    for fn in (tmp_path/'train'/'b').ls()[:-3]: fn.unlink()
    with pytest.raises(ValueError, match='expected no class with more than half of the 15 images, one has 12'):
        make(tmp_path, train='train', valid='test', valid_pct=None, partner='other_class').one_batch()

@pytest.mark.parametrize('n', [1,2])
def test_a_batch_larger_than_the_set_is_refused(path, n):
    for dls in (make(path, bs=19, n_samples=n), in_memory(make(path, bs=19, n_samples=n))):
        with pytest.raises(ValueError, match='bs=19: expected at most 18'): list(dls.train)
        assert len(list(dls.valid))==1

def test_no_list_of_files_to_predict(path):
    for items in ([], path, str(path)):
        with pytest.raises(ValueError, match='test_items=.*: expected a list of images or their files'): make(path).test_dl(items)

def test_one_of_many_is_shown(path):
    dl = make(path).train
    dl.show_batch(max_n=3, unique=True)
    assert len({ax.get_title() for ax in plt.gcf().axes})==1
    plt.close('all')

def test_a_damaged_cache_met_by_two(path, tmp_path, monkeypatch):
    "A file that another process has thrown away meanwhile, and one that was left by a killed process"
    dls,folder = make(path),tmp_path/'cache'
    want = in_memory(dls, cache=folder).valid.one_batch()[0]
    flip_a_bit(folder)
    old,new = [folder/f'{c*32}.{c*16}.tmp' for c in 'ab']
    user = folder/'notes.tmp'
    for f in (old,new,user): f.write_text('half')
    for f in (old,user): os.utime(f, (0,0))
    orig = memory.checksum
    seen = []
    def gone(f):
        seen.append(f.suffix)
        res = orig(f)
        if f.suffix=='.npy': f.unlink()
        return res
    monkeypatch.setattr(memory, 'checksum', gone)
    assert torch.equal(in_memory(dls, cache=folder).valid.one_batch()[0], want)
    assert [f.exists() for f in (old,new,user)]==[False,True,True] and seen.count('.npy')==1

def test_cifar_lists_its_files_alike_everywhere(tmp_path, monkeypatch):
    "In an order that does not depend on the disk, and in which no class is on its own"
    for o in ('train','test'): write(tmp_path/o, n=60)
    (tmp_path/'train'/'.ipynb_checkpoints').mkdir()
    res = []
    for order in (1,-1):
        monkeypatch.setattr('fastmix.datasets.get_image_files', lambda p, **kw: get_image_files(p, **kw).sorted()[::order])
        dls = cifar_dls(n_samples=1, bs=10, path=tmp_path, device='cpu', num_workers=0)
        res.append([o.relative_to(tmp_path) for o in dls.valid_ds.items])
        assert all(len(b[1].unique())>1 for b in dls.valid)
    assert res[0]==res[1] and len(set(res[0]))==60 and dls.c==3

def test_folders_without_a_split(path, capsys):
    a,b = [MultiSampleDataLoaders.from_folder(path, bs=4, num_workers=0, device='cpu') for _ in range(2)]
    assert len(a.valid_ds)==4 and a.valid_ds.items==b.valid_ds.items
    assert 'so a fifth is for validation (seed 42)' in capsys.readouterr().out

@pytest.mark.parametrize('there,used', [(('valid','val','test'),'valid'), (('val','test'),'val'), (('test',),'test')])
def test_the_folder_of_validation(tmp_path, there, used):
    for o in ('train',*there): write(tmp_path/o)
    dls = MultiSampleDataLoaders.from_folder(tmp_path, bs=4, num_workers=0, device='cpu')
    assert {o.parent.parent.name for o in dls.valid_ds.items}=={used}

def test_lists_of_unequal_length(path):
    files = get_image_files(path)
    with pytest.raises(ValueError, match='24 files, 3 labels: expected as many'):
        MultiSampleDataLoaders.from_lists(path, files, ['a','b','c'])

@pytest.mark.parametrize('kwargs,said', [(dict(partners='other'),"partners='other'.*such as partner"), (dict(bs=0),'bs=0: expected'),
    (dict(n_sample=3),'n_sample=3.*such as n_samples'), (dict(num_workers=-1),'num_workers=-1: expected'),
    (dict(device='gpu'),"device='gpu': expected a device")])
def test_misspelt_and_misplaced(path, kwargs, said):
    with pytest.raises(ValueError, match=said): make(path, **kwargs)

@pytest.mark.parametrize('get_y,block,said', [
    (lambda o: [o.parent.name], CategoryBlock, r"labels as \['.'\]: expected what their block takes, unhashable"),
    (lambda o: 1 if o.name=='003.png' else 'a', CategoryBlock, "labels as .*: expected what their block takes, '<' not supported"),
    (parent_label, RegressionBlock, "labels as '.': expected what their block takes"),
    (parent_label, CategoryBlock(vocab=['a','b']), "c/0...png: Label 'c' was not included"),
    (lambda o: float('inf'), RegressionBlock, 'png: expected a label, it is not finite: inf'),
    (lambda o: {}[o.name], CategoryBlock, 'png: expected a label, .*png')])
def test_labels_that_do_not_fit_their_block(path, get_y, block, said):
    block = MultiSampleDataBlock(blocks=(ImageBlock,block), get_items=get_image_files, get_y=get_y, splitter=IndexSplitter(range(18, 24))) # files are sorted
    with pytest.raises(ValueError, match=said): block.dataloaders(path, bs=4, num_workers=0)

def test_odd_frames_lists_and_splits(path):
    C,files = MultiSampleDataLoaders,get_image_files(path)
    df,kw = pd.DataFrame(dict(name=files.map(str), label=files.map(parent_label))),dict(num_workers=0, device='cpu')
    for col,said in (('zz',"column 'zz': expected one of \\['name', 'label'\\]"), (7,'column 7: expected one of \\[0, 1\\]')):
        with pytest.raises(ValueError, match=said): C.from_df(df, path, label_col=col, **kw)
    for labels in (None, [], ['a']):
        with pytest.raises(ValueError, match='24 files, . labels: expected as many, and at least two'): C.from_lists(path, files, labels, **kw)
    with pytest.raises(ValueError, match='0 files, 0 labels'): C.from_lists(path, [], [], **kw)
    assert C.from_lists(path, (f for f in files), map(parent_label, files), **kw).c==3
    with pytest.raises(ValueError, match='valid_pct=2: expected a number in 0..1'): make(path, valid_pct=2)
    with pytest.raises(ValueError, match='training set: expected images, it is empty'):
        C.from_lists(path, files, files.map(parent_label), valid_pct=2, **kw)
    with pytest.raises(ValueError, match='dls=None: expected DataLoaders'): in_memory(None)
    with pytest.raises(ValueError, match='max_n=0: expected a whole number of at least 1'): make(path, n_samples=1).show_batch(max_n=0)

def test_a_split_that_fails_is_no_matter_of_labels(path):
    with pytest.raises(ValueError, match='^splitter, of 24 items: invalid literal'): make(path, seed='x', valid_pct=.5)

def test_names_of_every_kind(tmp_path):
    names = [f'{o}.png' for o in ('-a','ü b','日','a.b.c','x#1','%20',"q'q",'(1)','[a]','$b','~t','*')]
    for i,nm in enumerate(names):
        folder = tmp_path/'d é'/('-x','ä ö','日本')[i%3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8,8), (10*i,0,0)).save(folder/nm)
    dls = make(tmp_path/'d é')
    assert sorted(dls.vocab)==sorted(('-x','ä ö','日本')) and len(dls.train_ds)+len(dls.valid_ds)==12
    for _ in range(2): fast = in_memory(dls, cache=tmp_path/'-ca che')
    assert torch.equal(fast.valid.one_batch()[0], dls.valid.one_batch()[0])

def test_a_folder_that_cannot_be_written_to(path):
    "No training needs to write where the images are"
    before = sorted((o, o.stat().st_mtime_ns) for o in path.rglob('*'))
    for o in (path, *path.iterdir()): o.chmod(0o555) # which does not stop root
    try: in_memory(make(path)).one_batch()
    finally:
        for o in (path, *path.iterdir()): o.chmod(0o755)
    assert sorted((o, o.stat().st_mtime_ns) for o in path.rglob('*'))==before

def test_a_folder_that_links_to_itself(path):
    (path/'again').symlink_to(path, target_is_directory=True)
    (path/'a'/'itself.png').symlink_to('itself.png')
    dls = MultiSampleDataLoaders.from_folder(path, bs=4, num_workers=0, device='cpu')
    found = [*dls.train_ds.items, *dls.valid_ds.items]
    assert len(found)==len(set(map(os.path.realpath, found)))==24

def test_a_folder_splits_by_itself_unless_told_otherwise(path, capsys):
    kw = dict(bs=4, num_workers=0, device='cpu')
    dls = MultiSampleDataLoaders.from_folder(path, seed=3, **kw)
    assert 'a fifth is for validation (seed 3)' in capsys.readouterr().out
    assert len(dls.valid_ds)==len(get_image_files(path))//5
    (path/'train').mkdir() # alone, it says nothing about what is for validation
    assert len(MultiSampleDataLoaders.from_folder(path, **kw).valid_ds)==len(dls.valid_ds)

@pytest.mark.parametrize('n', [2,3])
def test_every_image_stands_once_in_rows_of_next_in_memory(path, n):
    dls = make(path, n_samples=n, partner='next')
    fast = in_memory(dls)
    for a,b in zip(dls.loaders, fast.loaders):
        assert a.n==b.n==len(a.dataset)//n and len(a)==len(b)
    assert sum(len(b[0]) for b in fast.valid)==len(fast.valid_ds)//n

def test_another_class_needs_labels_that_can_be_read():
    dl = MultiSampleDL([(tensor(1.),tensor(1))]*20, 2, partner='other_class', bs=8, shuffle=True)
    with pytest.raises(ValueError, match="partner='other_class' on a list: expected fastai's Datasets"): dl.one_batch()

def test_a_path_with_two_dots_and_what_get_image_files_takes(path, monkeypatch):
    (path/'d').mkdir()
    n = len(get_image_files(path))
    for p in (path/'d'/'..', path/'..'/path.name): assert len(image_files(p))==n
    monkeypatch.chdir(path/'d')
    assert len(image_files(Path('..')))==len(image_files('..'))==n
    Image.new('RGB', (8,8)).save(path/'top.png')
    for kw in (dict(recurse=False), dict(folders=['a']), dict(folders='a'), dict(folders=['a','.']), dict(recurse=False, folders=['a'])):
        if kw.get('folders')=='a': assert len(image_files(path, **kw))==n//3 # fastai takes a list
        else: assert sorted(image_files(path, **kw))==sorted(get_image_files(path, **kw)), kw
    (path/'top.png').unlink()
    block = MultiSampleDataBlock(get_items=partial(get_image_files, recurse=True), get_y=parent_label)
    assert len(block.dataloaders(path, num_workers=0, bs=4).items) > 0

def open_npy(fn): return PILImage.create(np.load(fn))

def test_files_that_their_own_function_reads(tmp_path):
    "Arrays in files, and keys that are no files; what cannot be read is still named"
    path = tmp_path/'im'
    path.mkdir()
    fs = [path/f"{'ab'[i%2]}_{i}.npy" for i in range(8)]
    for i,f in enumerate(fs): np.save(f, np.full((8,8,3), 20*i, np.uint8))
    blocks,kw = (TransformBlock(type_tfms=open_npy, batch_tfms=IntToFloatTensor),CategoryBlock),dict(bs=2, num_workers=0, device='cpu')
    class_of = dict(blocks=blocks, get_items=partial(get_files, extensions=['.npy']), get_y=lambda o: o.name[0], splitter=RandomSplitter(.25, seed=0))
    dls = MultiSampleDataBlock(**class_of).dataloaders(path, **kw)
    assert len(dls.train_ds)==6 and len(in_memory(dls, cache=tmp_path/'c').train_ds)==6
    keys,store = [f'{c}-key' for c in 'abababab'],np.zeros((8,8,3), np.uint8)
    d = DataBlock((ImageBlock,CategoryBlock), get_x=lambda key: PILImage.create(store), get_y=lambda key: key[0], splitter=IndexSplitter([6,7]))
    dls = MultiSampleDataLoaders.from_dblock(d, keys, **kw)
    assert len(in_memory(dls).train_ds)==6
    with pytest.raises(ValueError, match='a-key: expected a file; leave out cache'): in_memory(dls, cache=tmp_path/'c')
    for f in fs: f.write_bytes(b'cut')
    with pytest.raises(ValueError, match='_[0-7].npy: expected an image, .*8 such files'): MultiSampleDataBlock(**class_of).dataloaders(path, **kw)

def test_a_label_function_of_several_steps(path):
    "One step may give what the next one replaces"
    df = pd.DataFrame({'fn': get_image_files(path).map(str), 'label': ['a','b',None]*8})
    block = DataBlock((ImageBlock,CategoryBlock), get_x=lambda r: r['fn'], splitter=RandomSplitter(.25, seed=0))
    block.getters[1] = Pipeline([lambda r: r['label'], lambda o: 'none' if pd.isna(o) else o])
    dls = MultiSampleDataLoaders.from_dblock(block, df, bs=4, num_workers=0)
    assert list(dls.vocab)==['a','b','none'] and in_memory(dls).train.data[1].bincount().sum()==18
    block.getters[1] = Pipeline([lambda r: r['label'], lambda o: o])
    with pytest.raises(ValueError, match='expected a label, it has none'): MultiSampleDataLoaders.from_dblock(block, df, bs=4, num_workers=0)

def test_predictions_are_not_left_out(tmp_path):
    "A file that opens, and fails when it is decoded: training skips it, a prediction names it"
    for part,n in (('train',12), ('valid',8)): write(tmp_path/part, n, classes='ab')
    path,bad = tmp_path,sorted(get_image_files(tmp_path/'valid'))[1]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64,64,3), dtype=np.uint8)).save(bad)
    b = bytearray(bad.read_bytes())
    b[3000:3400] = bytes(400) # in the middle; head and end are whole
    bad.write_bytes(b)
    dls = MultiSampleDataLoaders.from_folder(path, n_samples=1, skip_bad=True, bs=4, num_workers=0, device='cpu', item_tfms=Resize(8))
    learn = mixup_learner(dls, arch=partial(cifar_resnet, 8), precision='fp32')
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        with pytest.raises(ValueError, match=f'{bad.name}: expected an image'): learn.get_preds()

def test_weighted_loaders_have_no_slots(path):
    with pytest.raises(ValueError, match='weighted_dataloaders: expected a DataBlock'): MultiSampleDataBlock(get_items=get_image_files, get_y=parent_label).weighted_dataloaders(path, np.ones(18))

def test_targets_that_move_with_the_image_are_not_cropped(path):
    def mask(f): return PILMask.create(np.zeros((8,8), np.uint8))
    for block,get_y,name in ((MaskBlock(['x','y']),mask,'TensorMask'), (PointBlock,lambda f: [(1,1)],'TensorPoint')):
        dls = DataBlock((ImageBlock,block), get_items=get_image_files, get_y=get_y, batch_tfms=PadCrop(2)).dataloaders(path, bs=4, num_workers=0, device='cpu')
        with pytest.raises(ValueError, match=f'PadCrop with a {name}: expected targets that do not move'): dls.train.one_batch()
        dls.valid.one_batch() # which is not cropped

def test_random_transforms_of_the_data_set_itself(path):
    files = get_image_files(path).sorted()
    def load(splits): return Datasets(files, [[PILImage.create, FlipItem(.5), ToTensor], [parent_label, Categorize]], splits=splits)
    two = load([list(range(18)), list(range(18, 24))]).dataloaders(after_batch=IntToFloatTensor, bs=4, num_workers=0)
    with pytest.raises(ValueError, match='FlipItem in item_tfms is random: expected transforms with one result'): in_memory(two)
    parts = [Datasets(files, [[PILImage.create], [parent_label, Categorize]]) for _ in range(2)] # which know no split
    wide = DataLoaders.from_dsets(*parts, after_item=[RandomResizedCrop(8), ToTensor], after_batch=IntToFloatTensor, bs=4, num_workers=0)
    with pytest.raises(ValueError, match='RandomResizedCrop in item_tfms is random'): in_memory(wide)

def test_an_empty_third_set(path):
    files = get_image_files(path).sorted()
    d = Datasets(files, [[PILImage.create], [parent_label, Categorize]], splits=[list(range(18)), list(range(18, 24)), []])
    with pytest.raises(ValueError, match='third set: expected at least one image, it is empty'): in_memory(d.dataloaders(after_item=ToTensor, after_batch=IntToFloatTensor, bs=4, num_workers=0))

@pytest.mark.parametrize('n', [1,2])
def test_top_losses_of_numbers(path, n):
    block = DataBlock((ImageBlock,RegressionBlock), get_items=get_image_files, get_y=lambda f: float(f.stem)/24, splitter=RandomSplitter(.25, seed=0))
    dls = MultiSampleDataLoaders.from_dblock(block, path, n_samples=n, bs=4, num_workers=0, device='cpu')
    make = mixup_learner if n==1 else mixup_c_learner
    learn = make(dls, arch=partial(cifar_resnet, 8), precision='fp32')
    with learn.no_bar(): Interpretation.from_learner(learn).plot_top_losses(3)
    assert len(plt.gcf().axes)>=3
    plt.close('all')

def test_a_split_does_not_depend_on_the_order_of_the_disk(path, tmp_path):
    "The same files, written in another order"
    other = tmp_path/'other'
    for f in sorted(get_image_files(path))[::-1]:
        (other/f.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, other/f.parent.name/f.name)
    a,b = [[o.name for o in make(p, valid_pct=.5).valid_ds.items] for p in (path, other)]
    assert a==b and image_files(path)==sorted(image_files(path))

@pytest.mark.parametrize('kw', [dict(train='trian', valid='test'), dict(train='trian'), dict(valid='test')])
def test_a_misspelt_training_folder_is_not_replaced_by_a_split(tmp_path, kw):
    "Else the test images would be among the training images"
    for o in ('test','train' if 'train' in kw else 'tarin'): write(tmp_path/o)
    with pytest.raises(ValueError, match=f"train='{kw.get('train', 'train')}': expected a folder in .*, or valid_pct"):
        MultiSampleDataLoaders.from_folder(tmp_path, item_tfms=Resize(8), bs=4, **kw)

@pytest.mark.parametrize('pct', [-.2, 1.5, 'a'])
def test_shares_for_validation(path, pct):
    with pytest.raises(ValueError, match=f'valid_pct={pct!r}: expected a number in 0..1'): make(path, valid_pct=pct)

class Black(RandTransform):
    order = 20
    def encodes(self, x:TensorImage): return x*0

@pytest.mark.parametrize('memory', [False,True])
def test_a_batch_transform_is_done_as_often_as_it_says(path, memory):
    dls = make(path, n_samples=1, batch_tfms=Black(p=.2))
    if memory: dls = in_memory(dls)
    set_seed(0)
    share = np.mean([not b[0].any() for _ in range(50) for b in dls.train])
    assert abs(share-.2)<4*(.2*.8/200)**.5

def test_gray_images_with_statistics_of_colours(tmp_path):
    "They become images of three channels, as fastai's loaders make them"
    write(tmp_path/'g', mode='L')
    tfms = Normalize.from_stats(*imagenet_stats, cuda=False)
    dls = make(tmp_path/'g', img_cls=PILImageBW, n_samples=1, batch_tfms=tfms)
    theirs = ImageDataLoaders.from_folder(tmp_path/'g', valid_pct=.25, seed=0, bs=4, num_workers=0, img_cls=PILImageBW, batch_tfms=tfms, device='cpu')
    for a,b in ((theirs, in_memory(theirs)), (dls, in_memory(dls))):
        x,y = (d.valid.one_batch()[0] for d in (a,b))
        assert x.shape==(4,3,8,8) and torch.allclose(x, y, atol=1e-6)

def test_targets_of_any_shape_are_not_normalized():
    "Nor compared with the statistics of images"
    pipe = SlotPipeline([IntToFloatTensor(), Normalize.from_stats(*imagenet_stats, cuda=False)])
    y = torch.rand(4,5,6,7)
    x,same = pipe((TensorImage(torch.zeros(4,3,8,8, dtype=torch.uint8)),y))
    assert same is y and x.dtype==torch.float32

def test_single_images_in_memory_are_shuffled_anew(path):
    dls = in_memory(make(path, n_samples=1))
    a,b = [torch.cat([x.flatten(1) for x,_ in dls.train]) for _ in range(2)]
    assert not torch.equal(a, b)

def test_settings_of_a_block(path):
    block = MultiSampleDataBlock(partner='other_class', pair_seed=3, get_items=get_image_files, get_y=parent_label)
    dls = block.dataloaders(path, bs=4, num_workers=0)
    assert [(dl.partner,dl.pair_seed) for dl in dls.loaders]==[('other_class',3)]*2

def test_hidden_files_are_no_images(path):
    (path/'.ipynb_checkpoints').mkdir()
    shutil.copy(path/'a'/'000.png', path/'.ipynb_checkpoints')
    (path/'a'/'._000.png').touch() # as macOS leaves them
    assert len(image_files(path))==24 and make(path).vocab==['a','b','c']

def test_numbers_of_unequal_length_are_named(path):
    block = MultiSampleDataBlock(blocks=(ImageBlock,RegressionBlock), get_items=get_image_files, splitter=IndexSplitter(range(18, 24)),
                                 get_y=lambda f: [1.]*(1+(f.stem=='003')))
    with pytest.raises(ValueError, match='003.png.*expected labels of one shape'): in_memory(block.dataloaders(path, bs=4, num_workers=0))

def test_room_for_images_that_are_no_bytes():
    with pytest.raises(ValueError, match='1000000000 images of 3x8x8 take 768.00 GB'):
        memory.check_room(10**9, torch.zeros(3,8,8), torch.device('cpu'))

def test_the_digits():
    dls = digits_dls(1)
    crop = first(dls.train.after_batch.fs, risinstance(PadCrop))
    train,valid = (dl.data[1].bincount() for dl in dls.loaders)
    assert (crop.pad,crop.flip)==(1,False) # a mirrored digit is none
    assert ((train+valid)/5-valid).abs().max()<1 # a fifth of each class
    assert datasets.digit_image(0).max()>230

def test_what_cifar_images_go_through(tmp_path):
    for o in ('train','test'): write(tmp_path/o)
    dls = cifar_dls(1, bs=2, path=tmp_path, cache=tmp_path/'c', num_workers=0, device='cpu')
    crop,norm = [first(dls.train.after_batch.fs, risinstance(t)) for t in (PadCrop,Normalize)]
    assert (crop.pad,crop.flip)==(4,True) and len((tmp_path/'c').ls())==2
    for mine,theirs in zip((norm.mean,norm.std), cifar_stats): assert torch.allclose(mine.flatten(), tensor(theirs))

def test_images_alone_go_through_the_batch_transforms(path):
    "As fastai's loaders take them"
    tfms = Normalize.from_stats(*imagenet_stats, cuda=False)
    dls = make(path, n_samples=1, batch_tfms=tfms)
    x = TensorImage(torch.randint(256, (4,3,8,8), dtype=torch.uint8))
    out = dls.valid.after_batch(x)
    assert type(out) is TensorImage
    assert torch.allclose(out, dls.valid.after_batch((x,))[0], atol=1e-6)

def test_the_cache_leaves_links_and_folders_alone(path, tmp_path):
    "Under names that it looks for; they are neither followed nor removed"
    folder,target = tmp_path/'cache',tmp_path/'target'
    want,key = in_memory(make(path), cache=folder).valid.one_batch()[0],sorted(folder.ls())[0].name[:32]
    target.write_bytes(b'of somebody')
    os.utime(target, (0,0))
    link,tmp,inner = [folder/o for o in (f'{key}-link.npy', f"{key}.{'a'*16}.tmp", f'{key}-folder.npy')]
    for f in (link, tmp): f.symlink_to(target)
    inner.mkdir()
    for f in folder.glob('*.npy'):
        if f.is_file() and not f.is_symlink(): f.unlink() # so that all names are tried
    assert torch.equal(in_memory(make(path), cache=folder).valid.one_batch()[0], want)
    assert target.read_bytes()==b'of somebody' and link.is_symlink() and tmp.is_symlink() and inner.is_dir()

def test_other_folders_of_cifar_are_left_alone(tmp_path):
    for o in ('train','test','valid'): write(tmp_path/o)
    shutil.copy(get_image_files(tmp_path)[0], tmp_path/'preview.png')
    dls = cifar_dls(1, bs=2, path=tmp_path, num_workers=0, device='cpu')
    assert {o.parts[-3] for o in dls.train_ds.items}=={'train'} and {o.parts[-3] for o in dls.valid_ds.items}=={'test'}

def test_items_follow_the_seed_of_the_pairs(path):
    dl = make(path).valid
    was = dl.items
    dl.pair_seed = 1
    list(dl)
    items = L(dl.dataset.items)
    assert dl.items!=was and [tuple(o) for o in dl.items]==[(items[i],items[j]) for i,j in dl.pair_idx.T.tolist()]

def test_labels_without_transforms():
    "As the items themselves are labels"
    ds = Datasets(list(range(4)), [[noop],[]])
    assert list(raw_labels(ds))==[0,1,2,3]
