"The learners: what a fastai user does next, for N heads, against the same computed by hand"
import matplotlib; matplotlib.use('agg')
import pytest, torch, torchvision.models as tv
from concurrent.futures import ThreadPoolExecutor
from torch.testing import assert_close
from fastai.vision.all import *
from fastai.callback.mixup import MixUp
from fastai.callback.tensorboard import TensorBoardCallback
from fastmix.all import *
from fastmix.datasets import digit_image, digit_label
from fastmix.learner import HeadInterpretation, MultiSampleLearner, slot_groups
from fastmix.losses import unreduced
from fastmix.models import Heads
from fastmix.show import plot_pairs
from fastmix.training import LossWatch


tiny = partial(cifar_resnet, 8)
vocab = [str(i) for i in range(10)]
kinds = 'pairs','files','ordinary','plain'

@pytest.fixture(scope='module', autouse=True)
def exact():
    "float32, also where bfloat16 is faster: answers are compared to the last digits"
    with pytest.MonkeyPatch.context() as m:
        m.setattr('fastmix.training.has_fast_bf16', lambda device: False)
        yield

def colour_digit(i): return np.stack([digit_image(i)]*3, -1)

def tiny_dls(kind, path, n=2, items=range(40), img=PILImageBW, tfms=None):
    "30 training digits, 8 pixels wide, and 10 others: pairs in memory or read one by one, single in memory, fastai's own"
    get_x = digit_image if img is PILImageBW else colour_digit
    db = DataBlock((ImageBlock(img),CategoryBlock(vocab=vocab)), get_items=noop, get_x=get_x, get_y=digit_label,
                   splitter=IndexSplitter(range(len(items)-10,len(items))), batch_tfms=tfms)
    kw = dict(bs=8, num_workers=0, path=path)
    if kind=='plain': return db.dataloaders(list(items), **kw)
    if kind=='ordinary': n = 1
    dls = MultiSampleDataLoaders.from_dblock(db, list(items), n_samples=n, **kw)
    return dls if kind=='files' else in_memory(dls)

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def make(kind, path, n=2, **kw):
    set_seed(0)
    kw = {'arch': tiny, 'n_samples': n, 'cbs': MixupC(n, seed=0), 'lr': .02, 'path': path, **kw}
    return quiet(mixup_c_learner(tiny_dls(kind, path, n), **kw))

@pytest.fixture(scope='module', params=kinds)
def learn(request, tmp_path_factory):
    learn = make(request.param, tmp_path_factory.mktemp('learn'))
    learn.fit(1)
    return learn

@pytest.fixture
def pairs(tmp_path): return make('pairs', tmp_path)

def images(items): return torch.stack([tensor(digit_image(i)) for i in items])[:,None].float()/255
def by_hand(learn, *xs): # logits
    with torch.no_grad(): return learn.model.eval()(*xs)
def same(a, b): assert_close(a.as_subclass(Tensor), b.as_subclass(Tensor))
def ce(logits, ys):
    "Cross-entropies of the heads, added up"
    return sum(F.cross_entropy(logits[:,i], y, reduction='none') for i,y in enumerate(ys))

# The factories

def test_paper_training_is_the_default(tmp_path):
    set_seed(0)
    learn = quiet(mixup_c_learner(tiny_dls('pairs', tmp_path)))
    assert n_params(learn.model) == 853_018 + 16*9*(2-3) + 65*10 # resnet56, two gray slots, two heads
    rates = []
    class Rates(Callback):
        def after_batch(self): rates.extend([h['lr'] for h in self.opt.hypers] if self.training else [])
    learn.model = tiny(10, n_samples=2, n_in=1)
    learn.fit(10, cbs=Rates())
    groups = len(learn.opt.param_lists)
    per_epoch = rates[::groups*len(learn.dls.train)]
    assert_close(per_epoch, [.1]*4 + [.01]*2 + [.001]*2 + [1e-4]*2, atol=1e-9, rtol=0)
    o = learn.opt.hypers
    assert all((g['mom'],g['nesterov'],g['wd'],g['dampening']) == (.9,True,1e-4,0) for g in o)
    assert sum(map(len, learn.opt.param_lists)) == len(list(learn.model.parameters())) # decay on every parameter
    assert learn.recorder.metric_names[3:-1] == ['head_0','head_1','top2','top2_all']
    assert isinstance(learn.loss_func, HeadsLoss) and not learn.loss_func.mean

def n_params(m): return sum(p.numel() for p in m.parameters())

def test_every_keyword_of_learner(tmp_path):
    same = dict(wd=.1, wd_bn_bias=True, train_bn=False, moms=(.9,.8,.9), model_dir='m', splitter=trainable_params)
    kw = dict(**same, opt_func=Adam, metrics=[], loss_func=nn.CrossEntropyLoss())
    learn = make('pairs', tmp_path, **kw)
    assert {k:getattr(learn, k) for k in same}==same
    assert learn.path==tmp_path
    learn.fit(1)
    assert isinstance(learn.opt, Optimizer) and len(learn.opt.param_lists)==1
    single = mixup_learner(tiny_dls('ordinary', tmp_path), MixupX(), arch=tiny, **kw)
    assert single.wd==.1 and single.loss_func is kw['loss_func']

@pytest.mark.parametrize('arch,groups,size', [
    (tv.resnet18,3,32), (models.densenet121,3,32), (xresnet18,3,32), (tv.mobilenet_v3_small,2,32),
    ('test_convnext',2,32), ('test_resnet',2,32), (resnet20,2,8)])
def test_arch_with_fastai_parameter_groups(arch, groups, size, tmp_path):
    tfms = Resize(size, ResizeMethod.Squish) if size==8 else RatioResizeGPU(size)
    dls = tiny_dls('pairs', tmp_path, tfms=tfms)
    learn = quiet(mixup_c_learner(dls, arch=arch, lr=.01))
    learn.create_opt()
    ps = [p for g in learn.opt.param_lists for p in g]
    assert len(learn.opt.param_lists)==groups
    assert set(ps)==set(learn.model.parameters())
    assert len(ps)==len(set(ps))
    head = set(first(m for m in learn.model.modules() if isinstance(m, Heads)).parameters())
    assert head <= set(learn.opt.param_lists[-1])
    learn.freeze()
    frozen = {p for p in learn.model.parameters() if not p.requires_grad}
    assert frozen and not frozen & set(learn.opt.param_lists[-1])
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-5,1e-3)) # discriminative rates
    hs = [h['lr'] for h in learn.opt.hypers]
    assert len(set(hs))==groups and hs==sorted(hs)

class RatioResizeGPU(Transform):
    "To `size` pixels, on the batch"
    order = 20
    def __init__(self, size): self.size = size
    def encodes(self, x:TensorImage): return F.interpolate(x, size=(self.size,self.size))

def test_resnet_groups_are_those_of_fastai():
    ours = slot_groups(multi_sample_model(tv.resnet18(), 2, 10), tv.resnet18)
    net = create_vision_model(models.resnet18, 10, pretrained=False)
    theirs = model_meta[models.resnet18]['split'](net)
    def shapes(group): return [p.shape for p in group]
    assert shapes(ours[0][1:])==shapes(theirs[0][1:]) # but for the stem and the head
    assert shapes(ours[1])==shapes(theirs[1])

def test_pretrained_weights_are_asked_for_and_kept(tmp_path):
    asked = []
    def net(weights=None):
        asked.append(weights)
        torch.manual_seed(3)
        return tv.resnet18()
    dls = tiny_dls('ordinary', tmp_path, img=PILImage)
    learn = quiet(mixup_c_learner(dls, arch=net, pretrained=True))
    assert asked==['DEFAULT']
    assert torch.equal(learn.model.net.layer1[0].conv1.weight, net().layer1[0].conv1.weight)
    nrm = learn.dls.after_batch.fs.filter(risinstance(Normalize)) # as `vision_learner` does
    assert len(nrm)==1
    same(nrm[0].mean.flatten(), tensor(imagenet_stats[0]))
    with pytest.raises(ValueError, match='does not take images'):
        mixup_c_learner(tiny_dls('ordinary', tmp_path), arch='test_vit')

# What a fastai user does next

def test_summary(learn):
    s = learn.summary()
    assert f'Total params: {n_params(learn.model):,}' in s
    assert 'Sum over 2 slots' in s

def test_lr_find_leaves_the_learner_as_it_was(learn):
    was = {k:v.clone() for k,v in learn.model.state_dict().items()}
    lf = learn.loss_func
    learn.lr_find(num_it=3, show_plot=False)
    assert learn.loss_func is lf
    assert all(torch.equal(v, was[k]) for k,v in learn.model.state_dict().items())

def test_get_preds(learn):
    xs,probs,ys,dec,losses = learn.get_preds(with_input=True, with_loss=True, with_decoded=True)
    logits = by_hand(learn, *[x.as_subclass(Tensor) for x in xs])
    same(probs, logits.softmax(-1))
    assert probs.shape==(10,2,10) and len(xs)==len(ys)==len(dec)==2
    for i in range(2): assert torch.equal(dec[i].as_subclass(Tensor), logits[:,i].argmax(-1))
    same(losses, ce(logits, [y.as_subclass(Tensor) for y in ys]))
    items = [int(i) for i in learn.dls.valid_ds.items] # the first slot is the sample itself, in order
    same(xs[0], images(items))
    assert [vocab[i] for i in ys[0]] == [digit_label(i) for i in items]
    for x,y in zip(xs[1], ys[1]): # the second slot is one of the others, with its own label
        j = int((images(items)-x.as_subclass(Tensor)).abs().flatten(1).sum(1).argmin())
        assert vocab[y]==digit_label(items[j])

def test_validate(learn):
    xs,probs,ys,losses = learn.get_preds(with_input=True, with_loss=True)
    acc = [(probs[:,i].argmax(-1)==ys[i]).float().mean() for i in range(2)]
    vals = learn.validate()
    assert_close(list(vals[:4]), [float(o) for o in (losses.mean(), *acc, sum(acc)/2)], atol=1e-5, rtol=1e-4)

def test_predict_of_a_tuple_and_of_one(learn):
    im = digit_image(3),digit_image(7)
    logits = by_hand(learn, *images([3,7])[:,None])
    labels,classes,probs = learn.predict(im)
    same(probs, logits[0].softmax(-1))
    assert classes.tolist()==logits[0].argmax(-1).tolist() and list(labels)==[vocab[i] for i in classes]
    shown,*rest = learn.predict(im, with_input=True)
    same(shown[1].float(), images([7])[0]*255)
    label,i,p = learn.predict(im[0])
    want = by_hand(learn, *images([3,3])[:,None]).softmax(-1).mean(1)[0]
    same(p, want)
    assert (label,int(i)) == (vocab[want.argmax()],int(want.argmax()))
    same(learn.predict_same(im[0])[2], want)
    assert learn.predict(im[0], with_input=True)[0].shape==(1,8,8)
    with pytest.raises(ValueError, match='got 3 images: expected n_samples=2, or one'):
        learn.predict((im[0],)*3)

@pytest.mark.parametrize('k', [1,2,5,33])
def test_predict_many(learn, k):
    items = [i%11 for i in range(k)]
    res = learn.predict_many([digit_image(i) for i in items])
    assert len(res)==k
    x = images(items)
    if k%2: x = torch.cat([x, x[:1]]) # the first image fills the last slot
    want = by_hand(learn, x[::2], x[1::2]).softmax(-1).flatten(0,1)[:k]
    same(torch.stack([o[2] for o in res]), want)
    assert [o[0] for o in res]==[vocab[i] for i in want.argmax(1)]
    alone = learn.predict_many([digit_image(i) for i in items], same=True)
    want = by_hand(learn, images(items), images(items)).softmax(-1).mean(1)
    same(torch.stack([o[2] for o in alone]), want)

def test_predict_many_refuses(pairs, tmp_path):
    with pytest.raises(ValueError, match=r'images=\[\]: expected at least one image'): pairs.predict_many([])
    one_softmax = make('pairs', tmp_path, n_heads=1, cbs=None)
    with pytest.raises(ValueError, match='one softmax cannot tell'):
        one_softmax.predict_many([digit_image(0)]*2)
    p = one_softmax.predict_same(digit_image(0))[2]
    half = .5*images([0,1])[:,None] # λ on the images is a half on average
    def unscaled(a, b): # what the trunk says of images as they come
        with torch.no_grad(): return one_softmax.model.eval().net(torch.cat([a, b], 1))
    same(p, unscaled(half[0], half[0]).softmax(-1)[0])
    labels,classes,probs = one_softmax.predict((digit_image(0),digit_image(1))) # without labels nothing is mixed
    same(probs, unscaled(*half).softmax(-1)[0])
    same(quiet(one_softmax.to_single()).predict(digit_image(0))[2], p)
    assert classes.tolist()==probs.topk(2).indices.tolist() and probs.shape==(10,)

def test_tta(learn):
    probs,ys = learn.tta(n=2) # nothing random in these loaders
    same(probs, learn.get_preds()[0])
    assert isinstance(ys, tuple) and len(ys)==2

def test_tta_keeps_the_pairs_of_the_training_set(pairs):
    probs,ys = pairs.tta(ds_idx=0, n=3, beta=0.)
    same(probs, pairs.get_preds(ds_idx=0)[0])

def test_tta_averages_over_augmented_images(tmp_path):
    class Times(RandTransform):
        split_idx,k = 0,0
        def encodes(self, x:TensorImage): return x*type(self).factors.pop(0)
    dls = tiny_dls('ordinary', tmp_path)
    learn = quiet(mixup_c_learner(dls, arch=tiny, cbs=MixupC(seed=0), path=tmp_path))
    learn.dls.add_tfms([Times(p=1.)], 'after_batch')
    xs,p,_ = learn.get_preds(with_input=True)
    Times.factors = [.5,.5,2.,2.] # two batches, twice
    got,_ = learn.tta(n=2, beta=.25)
    xs = [x.as_subclass(Tensor) for x in xs]
    aug = sum(by_hand(learn, *[x*f for x in xs]).softmax(-1) for f in (.5,2.))/2
    same(got, torch.lerp(aug, p.as_subclass(Tensor), .25))

def test_shows(learn):
    learn.show_batch()
    for f in (learn.show_results, partial(learn.show_results, ds_idx=0, max_n=3)):
        plt.close('all')
        f()
        words = [[(o.get_text(), o.get_color()) for o in ax.texts] for ax in plt.gcf().axes if ax.texts]
        assert words and [o[0] for o in words[0][4:]]==['predicted','true'] # a legend for the rows
        for (said0,color0),(said1,color1),(true0,_),(true1,_),*_ in words:
            assert color0==('green' if said0==true0 else 'red')
            assert color1==('green' if said1==true1 else 'red')
    plt.close('all')

def test_numbers_are_shown_short_and_without_a_verdict(tmp_path):
    block = DataBlock((ImageBlock(PILImageBW),RegressionBlock(n_out=2)), get_items=noop, get_x=digit_image, get_y=lambda i: [i/7,1/3], splitter=IndexSplitter(range(20, 40)))
    learn = quiet(mixup_c_learner(block.dataloaders(list(range(40)), bs=8, num_workers=0), arch=tiny, path=tmp_path))
    learn.show_results(max_n=2)
    words = [(o.get_text(), o.get_color()) for ax in plt.gcf().axes for o in ax.texts[:4]] # of each pair
    assert len(words)==8 and {c for _,c in words}=={'black'} and max(len(w) for w,_ in words)<20
    plt.close('all')

def test_pictures_of_sorted_files(tmp_path, monkeypatch):
    "Not of the first class alone, and the same each time"
    block = DataBlock((ImageBlock(PILImageBW),CategoryBlock), get_items=noop, get_x=digit_image, get_y=lambda i: f'{"first" if i<60 else "second"} {"name"*9}', splitter=IndexSplitter(range(0, 120, 2)))
    learn,state = quiet(mixup_c_learner(block.dataloaders(list(range(120)), bs=16, num_workers=0), arch=tiny, path=tmp_path)),random.getstate()
    drawn = []
    monkeypatch.setattr('fastmix.show.save_plot', lambda _: drawn.append([o.get_text() for ax in plt.gcf().axes for o in ax.texts]))
    for _ in range(2): plot_pairs(learn, 'pairs.png')
    assert random.getstate()==state and drawn[0]==drawn[1] and max(map(len, drawn[0]))<25
    for c in ('first','second'): assert any(w.startswith(c) and '…' in w for w in drawn[0])
    plt.close('all')

def test_interpretation_of_each_head(learn):
    xs,probs,ys,dec = learn.get_preds(with_input=True, with_decoded=True)
    logits = by_hand(learn, *[x.as_subclass(Tensor) for x in xs])
    for i in range(2):
        interp = learn.interpret(i)
        assert isinstance(interp, ClassificationInterpretation)
        cm = np.zeros((10,10), int)
        for t,d in zip(ys[i], dec[i]): cm[t,d] += 1
        assert (interp.confusion_matrix()==cm).all()
        losses = F.cross_entropy(logits[:,i], ys[i].as_subclass(Tensor), reduction='none')
        same(interp.losses, losses)
        vals,idx = interp.top_losses(3)
        inp,pred,targ,decoded,loss = interp[idx]
        same(inp, xs[i][idx])
        same(pred, logits[idx,i].softmax(-1))
        same(loss, losses[idx])
        assert decoded.tolist()==dec[i][idx].tolist() and targ.tolist()==ys[i][idx].tolist()
        if not learn.dls.train.n_inp==1: # a loader of pairs
            shown = [o[i] for o in L(learn.dls.valid.items)[idx.tolist()]]
            assert interp.top_losses(3, items=True)[2]==shown and shown==[30+int(k) for k in learn.dls.valid.pair_idx[i][idx]]
        elif i:
            with pytest.raises(ValueError, match='items=True: expected loaders of pairs'): interp.top_losses(3, items=True)
        else: assert interp.top_losses(3, items=True)[2]==[30+int(k) for k in idx]
        interp.plot_top_losses(3)
        interp.show_results([0,1])
        interp.plot_confusion_matrix()
        assert sum(o[2] for o in interp.most_confused()) == cm.sum()-np.trace(cm)
        plt.close('all')
    with pytest.raises(ValueError, match='i=2: expected a whole number in 0..1'): learn.interpret(2)

def test_fine_tune(learn):
    was = {k:v.clone() for k,v in learn.model.named_parameters()}
    learn.fine_tune(1, freeze_epochs=1)
    assert all(p.requires_grad for p in learn.model.parameters())
    assert all(not torch.equal(p, was[k]) for k,p in learn.model.named_parameters())

def test_freeze_trains_the_heads_alone(pairs):
    pairs.freeze()
    was = {k:v.clone() for k,v in pairs.model.named_parameters()}
    pairs.fit(1)
    changed = {k for k,p in pairs.model.named_parameters() if not torch.equal(p, was[k])}
    batch_norm = {k for k in was if 'bn' in k or 'stem.1' in k} # fastai trains it on, also where it is frozen
    assert changed-batch_norm=={'net.head.0.weight','net.head.0.bias'}

def test_save_model_and_early_stopping(pairs):
    stop = EarlyStoppingCallback(monitor='valid_loss', comp=np.less, min_delta=1e9, patience=1)
    pairs.fit(9, cbs=[SaveModelCallback(monitor='top2', fname='best'), stop])
    assert len(pairs.recorder.values)==2 # stopped by the second callback
    assert (pairs.path/'models/best.pth').exists()
    col = pairs.recorder.metric_names.index('top2')-1
    best = max(v[col] for v in pairs.recorder.values)
    assert_close(float(pairs.validate()[3]), float(best), atol=1e-6, rtol=0) # the best one is loaded again

def test_save_and_load(pairs):
    pairs.fit(1)
    want = pairs.get_preds()[0]
    mom = [v['momentum_buffer'].clone() for v in pairs.opt.opt.state.values()]
    pairs.save('here')
    pairs.fit(1)
    pairs.load('here')
    same(pairs.get_preds()[0], want)
    kept = [v['momentum_buffer'] for v in pairs.opt.opt.state.values()]
    assert mom and all(torch.equal(a, b) for a,b in zip(mom, kept, strict=True))

def test_export_and_load_learner(learn):
    learn.fit(1)
    learn.export()
    other = load_learner(learn.path/'export.pkl')
    assert isinstance(other, MultiSampleLearner)
    assert not len(other.dls.train_ds) and not other.opt
    found = tensors(other)
    assert not [o for o in found if o.shape[-2:]==(8,8)] # images
    assert not [o for o in found if o.shape[:1]==(8,) and o.dtype==torch.int64] # labels
    assert all(getattr(cb, 'mixed', None) is None for cb in other.cbs)
    assert (learn.path/'export.pkl').stat().st_size < 4*n_params(learn.model) + 100_000 # weights, and no images

    im = digit_image(3),digit_image(7)
    def answers(o): return [o.predict(im), o.predict(im[0]), o.predict_many(im)[1]]
    for a,b in zip(answers(learn), answers(other), strict=True):
        assert a[0]==b[0]
        same(a[2], b[2])

def tensors(o, seen=None): # all that can be reached from `o`
    seen = {} if seen is None else seen
    if id(o) in seen or isinstance(o, type): return []
    seen[id(o)] = o
    if isinstance(o, Tensor): return [o]
    if isinstance(o, dict): kids = list(o.values())
    elif isinstance(o, (list,tuple,set,L)): kids = list(o)
    else: kids = list(getattr(o, '__dict__', {}).values())
    return [t for k in kids for t in tensors(k, seen)]

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_exported_on_a_gpu_loaded_on_a_cpu(tmp_path):
    learn = quiet(mixup_c_learner(digits_dls(), arch=tiny, path=tmp_path))
    learn.fit(1)
    learn.export()
    other = load_learner(tmp_path/'export.pkl')
    assert {t.device.type for t in tensors(other)}=={'cpu'}
    a,b = (o.predict_many([digit_image(i) for i in range(5)]) for o in (learn,other))
    assert_close(torch.stack([o[2] for o in a]), torch.stack([o[2] for o in b]), atol=1e-3, rtol=0)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_loaded_before_the_first_fit(tmp_path):
    "Momentum and weights of a file come to the GPU, in a learner that never ran"
    make = lambda: quiet(mixup_c_learner(digits_dls(), arch=tiny, path=tmp_path))
    learn = make()
    learn.fit(1)
    learn.save('a')
    make().load('a').fit(1)

def test_the_loss_is_moved_to_the_device(tmp_path):
    "Class weights, for one: fastai moves those losses that it knows"
    class Moves(CrossEntropyLossFlat):
        def to(self, device): self.device = device
    loss = Moves()
    learn = quiet(mixup_c_learner(tiny_dls('pairs', tmp_path), arch=tiny, loss_func=loss))
    learn.fit(1)
    assert loss.device==learn.dls.device

# Loggers

def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    from fastai.callback.wandb import WandbCallback
    env = dict(WANDB_MODE='offline', WANDB_SILENT='true', WANDB_DIR=str(tmp_path))
    for k,v in env.items(): monkeypatch.setenv(k, v)
    learn = make('pairs', tmp_path)
    wandb.init(project='fastmix', dir=tmp_path)
    try:
        learn.fit(1, cbs=WandbCallback(log_preds=False))
        assert {'train_loss','valid_loss','head_1','top2'} <= set(wandb.run.summary.keys())
    finally: wandb.finish()
    learn.export()

@pytest.mark.parametrize('kind', ['pairs','ordinary','single','compiled'])
def test_tensorboard(kind, tmp_path):
    from fastmix.tensorboard import SlotsTensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    if kind in ('pairs','ordinary'): learn = make(kind, tmp_path)
    else: learn = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), MixupX(), arch=tiny))
    if kind=='compiled': learn.model.compile(backend='eager')
    learn.fit(2, cbs=SlotsTensorBoardCallback(tmp_path/'tb'))
    log = EventAccumulator(str(tmp_path/'tb')).Reload()
    tags,names = log.Tags(),learn.recorder.metric_names[2:-1]
    assert tags['graph'] and tags['images']==['Sample results']
    assert {'train_loss','lr_0','mom_0',*names} <= set(tags['scalars'])
    for i,nm in enumerate(names, 1):
        recorded = [float(v[i]) for v in learn.recorder.values]
        assert_close([o.value for o in log.Scalars(nm)], recorded, atol=1e-6, rtol=1e-5)
    assert len(log.Scalars('train_loss')) == 2*len(learn.dls.train)

def test_tensorboard_with_what_is_no_number(tmp_path, monkeypatch):
    "Metrics that are `None` or arrays are left out, `validate` writes nothing, and PyTorch's loss has its answers"
    from fastmix.tensorboard import SlotsTensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    shown = []
    metrics = [accuracy,Top2(),F1Score(average=None)] # of unmixed images; a number for each class
    learn = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), Mixup(), arch=tiny, loss_func=nn.CrossEntropyLoss(),
                                metrics=metrics, cbs=SlotsTensorBoardCallback(tmp_path/'tb')))
    monkeypatch.setattr(TfmdDL, 'show_results', lambda self, b, out, **kw: shown.append((out, learn.pred)))
    learn.fit(1)
    (answers,),pred = shown[0]
    same(answers, pred.argmax(1))
    learn.validate()
    log = EventAccumulator(str(tmp_path/'tb')).Reload()
    scalars = set(log.Tags()['scalars'])
    assert {'valid_loss','accuracy'} <= scalars and not {'top2','f1_score'} & scalars
    assert len(log.Scalars('valid_loss'))==1

def test_loggers_see_the_loss_before_the_progress_bar():
    assert TensorBoardCallback.order < LossWatch.order < ProgressCallback.order

# Back to one

def test_to_single_and_fine_tune_single(learn):
    single = quiet(learn.to_single())
    im = digit_image(3)
    want = by_hand(learn, *images([3,3])[:,None]).mean(1).softmax(-1)[0] # the logits averaged
    same(single.predict(im)[2], want)
    assert (single.model.n_samples,single.model.n_heads) == (1,1)
    assert len(single.dls.one_batch())==2
    rates = []
    class Rates(Callback):
        def after_train(self): rates.append(self.opt.hypers[0]['lr'])
    was = {k:v.clone() for k,v in single.model.named_parameters()}
    single.fine_tune_single(5, cbs=Rates())
    assert all(not torch.equal(p, was[k]) for k,p in single.model.named_parameters())
    assert_close(rates, [.002]*2 + [2e-4,2e-5,2e-6], atol=1e-12, rtol=0) # a tenth of the learner's .02
    single.show_results()
    assert len(ClassificationInterpretation.from_learner(single).top_losses(3)[0])==3
    assert len(learn.dls.one_batch()) in (2,4) # the old one is as it was
    assert learn.model.n_samples==2

def test_before_training_one_head_answers_as_predict_same(tmp_path):
    m = tiny(10, n_samples=2, n_in=1)
    with torch.no_grad(): # equal heads: then averaging logits and averaging probabilities is the same
        for p in m.net.head[0].parameters(): p[10:] = p[:10]
    learn = make('pairs', tmp_path, arch=m)
    same(quiet(learn.to_single()).predict(digit_image(5))[2], learn.predict_same(digit_image(5))[2])

@pytest.mark.parametrize('mix', [Mixup, MixupX, MixupL, MixupXL, SamplePairing])
def test_fine_tune_single_switches_mixing_off(mix, tmp_path):
    learn = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), mix(), arch=tiny, path=tmp_path))
    learn.fit(1)
    changed = []
    class Watch(Callback):
        order = -5
        def before_batch(self): self.was = self.x
        def after_loss(self): changed.append(self.training and not torch.equal(self.x, self.was))
    learn.fit(1, cbs=Watch())
    assert any(changed)
    changed.clear()
    learn.fine_tune_single(1, cbs=Watch())
    assert changed and not any(changed) and not any(isinstance(cb, mix) for cb in learn.cbs)
    with pytest.raises(ValueError, match='epochs=0'): learn.fine_tune_single(0)

def test_to_single_keeps_a_network_of_the_users_own(tmp_path):
    dls = tiny_dls('plain', tmp_path)
    net = nn.Sequential(nn.Conv2d(1,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,10))
    learn = quiet(Learner(dls, net, cbs=MixupX(), path=tmp_path))
    single = quiet(learn.to_single())
    same(single.predict(digit_image(1))[2], by_hand(learn, images([1])).softmax(-1)[0])
    assert len(learn.predict_many([digit_image(1)]*3))==3

def test_to_single_trains_as_the_learner_did(tmp_path):
    "With its optimizer, rate, weight decay and parameter groups, loaded or not"
    kept = dict(lr=3e-4, wd=.1, wd_bn_bias=True, train_bn=False, moms=(.9,.8,.9), model_dir='m')
    learn = make('pairs', tmp_path, arch=resnet18, opt_func=RMSProp, **kept)
    learn.export('one.pkl')
    for single in (learn.to_single(), load_learner(tmp_path/'one.pkl').to_single()):
        assert single.opt_func is RMSProp and {k:getattr(single, k) for k in kept}==kept
        assert [len(g) for g in single.splitter(single.model)]==[len(g) for g in learn.splitter(learn.model)]
    single = learn.to_single(opt_func=Adam, lr=1.)
    assert single.opt_func is Adam and single.lr==1
    with pytest.raises(ValueError, match='mix=1: expected a keyword of to_single'): load_learner(tmp_path/'one.pkl').to_single(mix=1)

@pytest.mark.parametrize('precision', ['fp32','bf16','fp16'])
def test_to_single_keeps_the_precision(tmp_path, precision, monkeypatch):
    monkeypatch.setattr('fastmix.training.has_fast_bf16', lambda device: precision!='bf16')
    half = getattr(make('pairs', tmp_path, precision=precision).to_single(), 'mixed_precision', None)
    assert (half.settings()['amp_mode'] if half else 'fp32')==precision

class ByDim(nn.CrossEntropyLoss):
    "A user's own, written for `[b,c]`"
    def activation(self, x): return x.softmax(dim=1)
    def decodes(self, x): return x.argmax(dim=1)

@pytest.mark.parametrize('loss', [ByDim(), F.cross_entropy, partial(F.cross_entropy, label_smoothing=.1)])
def test_predictions_under_a_loss_of_ones_own(tmp_path, loss):
    "Head by head; and the same where the losses are asked for"
    learn,plain = make('pairs', tmp_path, loss_func=loss),make('pairs', tmp_path)
    expect,_,decoded = plain.get_preds(with_decoded=True)
    for kw in ({}, dict(with_loss=True)):
        probs,ys,answers,*losses = learn.get_preds(with_decoded=True, **kw)
        assert_close(probs, expect)
        assert all(map(torch.equal, answers, decoded))
    logs = [learn.model(*b[:2]) for b in learn.dls.valid]
    by_hand = sum(unreduced(loss)(torch.cat(logs)[:,i], ys[i]) for i in (0,1))
    assert_close(losses[0], by_hand.detach())
    assert learn.validate()[0]==pytest.approx(by_hand.mean().item())
    same(learn.predict_same(digit_image(1))[2], plain.predict_same(digit_image(1))[2])
    for i in (0,1): assert_close(learn.interpret(i)[[0,3]][1], expect[[0,3],i])

def cross_entropy_of_ones_own(pred, y, reduction='mean'): return F.cross_entropy(pred, y, reduction=reduction)

def test_interpretation_under_a_loss_of_ones_own(tmp_path):
    "Which says nothing about what its predictions mean: the targets do"
    learn,plain = make('pairs', tmp_path, loss_func=cross_entropy_of_ones_own),make('pairs', tmp_path)
    for a,b in zip(learn.interpret(1)[[0,3]], plain.interpret(1)[[0,3]]): assert_close(a, b)

def test_items_of_a_data_frame(tmp_path):
    "As fastai returns them: the rows"
    df = pd.DataFrame(dict(i=range(40), label=[digit_label(i) for i in range(40)]))
    block = DataBlock((ImageBlock(PILImageBW),CategoryBlock(vocab=vocab)), get_x=lambda row: digit_image(row.i), get_y=ColReader('label'), splitter=IndexSplitter(range(30,40)))
    learn = quiet(mixup_learner(block.dataloaders(df, bs=8, num_workers=0, path=tmp_path), arch=tiny))
    _,idx,rows = learn.interpret().top_losses(3, items=True)
    assert isinstance(rows, pd.DataFrame) and rows.i.tolist()==[30+int(k) for k in idx]

def test_a_shuffled_loader_is_judged_in_order(tmp_path):
    "The losses are those of the pairs that are shown, and all passes see the same pairs"
    learn = make('pairs', tmp_path)
    dl = learn.dls.train.new(drop_last=False)
    interp = learn.interpret(1, dl=dl)
    _,probs,ys,_,losses = interp[list(range(30))]
    assert_close(losses, -probs[range(30),ys].log(), rtol=1e-4, atol=1e-4)
    a,b = [learn.tta(dl=l, n=2)[0] for l in (dl,dl.new(shuffle=False))]
    assert_close(a, b)

def test_predictions_in_threads(tmp_path):
    "As a web server asks for them"
    learn = make('pairs', tmp_path)
    learn.add_cb(ProgressCallback())
    digits = list(map(digit_image, range(24)))
    with ThreadPoolExecutor(8) as pool: answers = list(pool.map(learn.predict_same, digits))
    for a,im in zip(answers, digits): same(a[2], learn.predict_same(im)[2])
    assert len(learn.cbs.filter(risinstance(ProgressCallback)))==1

def test_fine_tune_single_switches_fastais_mixing_off(tmp_path):
    learn = quiet(Learner(tiny_dls('plain', tmp_path), tiny(10, n_in=1), CrossEntropyLossFlat(), cbs=MixUp(), path=tmp_path))
    learn.fine_tune_single(1)
    assert not learn.cbs.filter(risinstance(MixUp)) and type(learn.loss_func) is CrossEntropyLossFlat

@pytest.mark.parametrize('loss', [nn.CrossEntropyLoss(), F.cross_entropy, nn.CrossEntropyLoss(weight=torch.arange(1.,11))], ids=['module','function','weights'])
def test_answers_under_a_loss_of_pytorch(tmp_path, loss):
    "As under fastai's loss, which knows what predictions mean"
    ims = [digit_image(i) for i in range(4)]
    def answers(loss):
        learn = make('pairs', tmp_path, loss_func=loss)
        single,head = quiet(learn.to_single()),learn.interpret(1)
        single.show_results(max_n=2)
        titles = [ax.get_title() for ax in plt.gcf().axes]
        plt.close('all')
        said = [*learn.predict_many(ims), learn.predict_same(ims[0]), *single.predict_many(ims), *map(single.predict, ims)]
        return L(said).itemgot(2),L(said).itemgot(0),head.confusion_matrix(),titles
    (probs,labels,matrix,titles),(probs2,*others) = answers(loss),answers(CrossEntropyLossFlat())
    for p,q in zip(probs, probs2): same(p, q)
    assert labels==others[0] and (matrix==others[1]).all()
    assert len(titles)==2 and [o.split() for o in titles]==[o.split() for o in others[2]] and len(titles[0].split())==2

def test_labels_under_a_loss_of_pytorch(tmp_path):
    block = DataBlock((ImageBlock(PILImageBW),MultiCategoryBlock(vocab=vocab)), get_x=digit_image, get_y=lambda i: [digit_label(i)], splitter=IndexSplitter(range(30, 40)))
    dls = MultiSampleDataLoaders.from_dblock(block, list(range(40)), n_samples=1, bs=8, num_workers=0, path=tmp_path)
    learn = quiet(mixup_learner(dls, arch=tiny, loss_func=nn.BCEWithLogitsLoss()))
    for labels,_,p in (*learn.predict_many([digit_image(3)]), learn.predict(digit_image(3))):
        same(p, by_hand(learn, images([3]))[0].sigmoid())
        assert list(labels)==[o for o,q in zip(vocab, p) if q>.5]

def test_a_loss_that_decodes_in_its_own_way(tmp_path):
    class Careful(CrossEntropyLossFlat):
        def decodes(self, x): return (x[:,1]>2).long() # never
    learn = make('pairs', tmp_path, loss_func=Careful())
    single = quiet(learn.to_single())
    for o in (*learn.predict_many([digit_image(1)]*2), learn.predict_same(digit_image(1)), single.predict(digit_image(1))): assert o[:2]==('0',0)

def test_label_smoothing_with_class_weights_is_interpreted(tmp_path):
    loss = LabelSmoothingCrossEntropyFlat(weight=torch.linspace(1, 2, 10))
    learn = make('pairs', tmp_path, loss_func=loss)
    head = learn.interpret(1)
    each = deepcopy(loss)
    each.func.reduction = 'none'
    logits,ys = learn.get_preds(act=noop)
    same(head.losses, each(logits[:,1], ys[1]))

def test_a_segmentation_in_a_learner_of_ours(tmp_path):
    "Predictions of more than two dimensions are of one head, whatever their second one is"
    def mask(i): return PILMask.create((digit_image(i)>128).astype(np.uint8))
    db = DataBlock((ImageBlock(PILImageBW),MaskBlock(['off','on'])), get_x=digit_image, get_y=mask, splitter=IndexSplitter(range(30,40)))
    dls = db.dataloaders(list(range(40)), bs=8, num_workers=0, path=tmp_path)
    learn = quiet(MixupLearner(dls, nn.Conv2d(1, 2, 3, padding=1), CrossEntropyLossFlat(axis=1), cbs=Mixup()))
    learn.fit(1)
    _,classes,probs = learn.predict(digit_image(3))
    same(classes, probs.argmax(0))
    assert classes.shape==(8,8)
    learn.show_results(max_n=2)
    assert learn.show_mixed(2) is None and '[8, 8]' in plt.gcf().axes[0].get_title()

def test_loaders_of_pairs_that_fastai_made(tmp_path):
    db = DataBlock((ImageBlock(PILImageBW),CategoryBlock(vocab=vocab)), get_x=digit_image, get_y=digit_label, splitter=IndexSplitter(range(30,40)))
    dls = db.dataloaders(list(range(40)), dl_type=MultiSampleDL, n_samples=2, bs=8, num_workers=0, path=tmp_path)
    assert type(dls) is DataLoaders
    learn = quiet(mixup_c_learner(dls, arch=tiny))
    same(torch.stack([p for _,_,p in learn.predict_many([digit_image(i) for i in range(4)])]),
         torch.cat([by_hand(learn, images([i]), images([i+1]))[0].softmax(-1) for i in (0,2)]))

def test_two_targets(tmp_path):
    "The validation and the pictures are of the first one"
    db = DataBlock((ImageBlock(PILImageBW),CategoryBlock,CategoryBlock), n_inp=1, get_x=digit_image,
                   get_y=[digit_label,lambda i: 'odd' if int(digit_label(i))%2 else 'even'], splitter=IndexSplitter(range(30,40)))
    dls = db.dataloaders(list(range(40)), bs=10, num_workers=0, path=tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    def loss(p, a, b, reduction='mean'): return F.cross_entropy(p[:,:10], a, reduction=reduction)+F.cross_entropy(p[:,10:], b, reduction=reduction)
    learn = quiet(MixupLearner(dls, net, loss, cbs=Mixup(mix_valid=True)))
    learn.fit(1)
    learn.show_mixed(3)
    assert {ax.get_title().split()[0] for ax in plt.gcf().axes} <= set(vocab)

def test_the_title_is_of_the_rule(tmp_path, capsys):
    learn = mixup_learner(tiny_dls('ordinary', tmp_path), arch=tiny, cbs=Mixup(mix_valid=True))
    assert capsys.readouterr().out.startswith('Mixup:') and 'top2' in learn.metrics.attrgot('name')

def test_a_rate_that_is_a_slice(tmp_path):
    learn = quiet(vision_learner(tiny_dls('ordinary', tmp_path), tv.resnet18, n_in=1, pretrained=False, lr=slice(1e-5,1e-3), cbs=Mixup()))
    with pytest.raises(ValueError, match=r'lr=None: expected a rate, as the learner has slice'): learn.fine_tune_single(1)
    assert hasattr(learn, 'mixup') # nothing was changed
    with pytest.raises(ValueError, match='lr=-1: expected a number of at least 0'): learn.fine_tune_single(1, lr=-1)
    assert hasattr(learn, 'mixup')
    learn.fine_tune_single(1, lr=slice(1e-5,1e-4))
    assert not hasattr(learn, 'mixup')
    for opt_func in (nesterov_sgd, partial(OptimWrapper, opt=torch.optim.Adam)): # PyTorch's take one rate
        with pytest.raises(ValueError, match='lr=slice.*: expected a number of at least 0'): mixup_learner(tiny_dls('ordinary', tmp_path), arch=tiny, lr=slice(1e-3,.1), opt_func=opt_func)
    one = learn.to_single(opt_func=Adam)
    assert one.lr==learn.lr==slice(1e-5,1e-3)
    quiet(one).fit(1)
    assert one.opt.hypers[0]['lr']<one.opt.hypers[-1]['lr']

class Stream(torch.utils.data.IterableDataset):
    def __iter__(self): return iter([(torch.ones(4),tensor(i%2)) for i in range(8)])

def test_a_stream_has_no_length(tmp_path):
    dl = DataLoader(Stream(), bs=4, n=8, num_workers=0)
    learn = quiet(MixupLearner(DataLoaders(dl, dl, path=tmp_path), nn.Linear(4, 2), CrossEntropyLossFlat(), cbs=Mixup()))
    learn.fit(1)
    assert len(learn.recorder.losses)==2

def test_positional_arguments_as_in_fastai(tmp_path):
    learn = make('pairs', tmp_path)
    block = MultiSampleDataBlock(blocks=(ImageBlock(PILImageBW),CategoryBlock), get_x=digit_image, get_y=digit_label)
    assert block.dataloaders(list(range(20)), tmp_path, bs=4, num_workers=0).path==tmp_path
    assert len(learn.dls.test_dl(list(range(6)), None, True).one_batch())==4 # with labels
    same(learn.tta(1, learn.dls.valid, 1, beta=1)[0], learn.get_preds()[0])

def test_a_loss_of_all_slots_given_later(pairs):
    def total(pred, *ys): return sum(F.cross_entropy(pred[:,i], y) for i,y in enumerate(ys))
    pairs.loss_func = total
    labels,classes,_ = pairs.predict((digit_image(1),digit_image(2)))
    assert classes.tolist()==by_hand(pairs, images([1]), images([2]))[0].argmax(-1).tolist() and labels==tuple(map(str, classes.tolist()))

def test_settings_of_the_scaler(pairs):
    pairs.to_fp16(init_scale=8.).fit(1, cbs=[cb := Scale()])
    assert cb.seen[0]==8

class Scale(Callback):
    def before_epoch(self): self.seen = [self.learn.scaler.get_scale()]

def test_classes_in_another_order_are_refused(tmp_path):
    "The network's answers would get wrong names"
    learn = make('ordinary', tmp_path)
    net = load_weights(learn.save_weights())
    dls = learn.dls
    mixup_c_learner(dls, arch=net)
    dls.train_ds.tls[-1].tfms.fs[-1].vocab = CategoryMap(vocab[::-1], sort=False)
    with pytest.raises(ValueError, match="a network of vocab=.'0', '1', .*: expected .'9', .*, the order of the loaders"): mixup_c_learner(dls, arch=net)
    net.vocab = [f'class {o}' for o in vocab] # another task
    mixup_c_learner(dls, arch=net)

def test_a_network_without_heads_is_not_saved(tmp_path):
    net = MultiSample(nn.Sequential(nn.Conv2d(1,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,10)), 1, 1, 1)
    learn = mixup_learner(tiny_dls('ordinary', tmp_path), arch=net, path=tmp_path)
    with pytest.raises(ValueError, match='model is a Sequential: expected a network that make_model'): learn.save_weights('own')
    assert not (tmp_path/'own.safetensors').exists()

def test_fine_tune_single_needs_one_sample(pairs):
    with pytest.raises(ValueError, match=r'a network of n_samples=2: expected 1, call to_single\(\) first'):
        pairs.fine_tune_single(1)

# Bad input

@pytest.mark.parametrize('kind,kw,msg', [
    ('pairs', dict(n_samples=0), 'n_samples=0: expected a whole number of at least 1'),
    ('pairs', dict(n_samples=2.), 'n_samples=2.0: expected a whole number'),
    ('pairs', dict(n_samples=3), 'n_samples=3: expected 2, as the loaders have'),
    ('pairs', dict(arch=tiny(10, n_samples=3, n_in=1)), 'a network of n_samples=3: expected 2'),
    ('pairs', dict(arch=tiny(10, n_samples=2)), 'a network of n_in=3: expected 1'),
    ('pairs', dict(arch=tiny(7, n_samples=2, n_in=1)), r'fastmix/resnet8 answers an image with \(2, 7\): expected \(2, 10\)'),
    ('pairs', dict(n_heads=3), 'n_heads=3: expected 1 or n_samples=2'),
    ('pairs', dict(lr=-1), 'lr=-1: expected a number of at least 0'),
    ('pairs', dict(opt_func=3), 'opt_func=3: expected one such as Adam'),
    ('pairs', dict(cbs=3), 'cbs=3: expected a callback'),
    ('pairs', dict(loss_func=3), 'loss_func=.*3: expected a loss for targets that are classes'),
    ('pairs', dict(arch=lambda: 3), 'model=3: expected a network'),
    ('pairs', dict(pretrained=True), 'pretrained=True: expected a network of timm, torchvision or fastai'),
    ('pairs', dict(cbs=MixupC(3)), r'MixupC\(n_samples=3\) on a network of n_samples=2: expected 3'),
    ('pairs', dict(arch=nn.Flatten()), 'Flatten cannot be adapted'),
    ('pairs', dict(arch=tv.squeezenet1_1), 'SqueezeNet cannot be adapted'),
    ('pairs', dict(arch=tv.alexnet), r'torchvision/alexnet does not take images of \(1, 8, 8\)'),
    ('ordinary', dict(arch=tiny(10, n_samples=3, n_in=1)), 'a network of n_samples=3: expected 2')])
def test_refused(kind, kw, msg, tmp_path):
    with pytest.raises(ValueError, match=msg):
        mixup_c_learner(tiny_dls(kind, tmp_path), **{'arch': tiny, **kw})

@pytest.mark.parametrize('kind,mix,arch,msg', [
    ('pairs', None, tiny, 'loaders of 2 slots: expected 1'),
    ('ordinary', 3, tiny, 'mix=3: expected a mixing callback'),
    ('ordinary', MixupC(), tiny, 'mix=MixupC: expected a mixing callback'),
    ('ordinary', None, tiny(10, n_samples=2, n_in=1), 'a network of n_samples=2: expected 1')])
def test_mixup_learner_refuses(kind, mix, arch, msg, tmp_path):
    with pytest.raises(ValueError, match=msg): mixup_learner(tiny_dls(kind, tmp_path), mix, arch=arch)

@pytest.mark.parametrize('f,kind', [(mixup_c_learner,'pairs'), (mixup_learner,'ordinary')])
def test_keywords_of_learners(f, kind, tmp_path):
    dls = tiny_dls(kind, tmp_path)
    for kw,said in ((dict(precison='fp32'), 'precison=.fp32.: .* such as precision'), (dict(metric=accuracy), 'such as metrics'), (dict(n_sample=2), f'n_sample=2: expected a keyword of {f.__name__}')):
        with pytest.raises(ValueError, match=said): f(dls, arch=tiny, **kw)
    with pytest.raises(ValueError, match='n_samples=3: expected'): f(dls, arch=tiny, n_samples=3, n_heads=3) if kind=='pairs' else f(dls, arch=tiny, n_samples=3)
    for loss in (nn.CrossEntropyLoss, CrossEntropyLossFlat):
        with pytest.raises(ValueError, match=rf'loss_func={loss.__name__}: expected a loss such as CrossEntropyLossFlat\(\), not its class'): f(dls, arch=tiny, loss_func=loss)
    with pytest.raises(ValueError, match="arch='resnet56': expected a network of timm, as 'resnet50', or a function without quotes, as resnet56"): f(dls, arch='resnet56')
    with pytest.raises(ValueError, match="or a function without quotes, as resnet20$"): f(dls, arch='resnet20')

def test_mixup_learner_takes_a_choice_of_rules(tmp_path):
    learn = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), MixChoice(MixupX(), None), arch=tiny))
    learn.fit(1)
    assert learn.mix_choice.count==len(learn.dls.train)

def test_callbacks_given_as_classes(tmp_path):
    learn = quiet(mixup_c_learner(tiny_dls('pairs', tmp_path), arch=tiny, cbs=MixupC))
    learn.fit(1)
    assert len(learn.cbs.filter(risinstance(MixupC)))==1

@pytest.mark.parametrize('mode', ['RGB','RGBA','P','LA','I;16'])
def test_images_as_pil_opens_them(pairs, mode, tmp_path):
    "Not read from their files yet, and of other modes than the loaders' images; they stay as they are"
    one = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), arch=tiny, path=tmp_path))
    gray = Image.fromarray(digit_image(0))
    (gray if mode=='I;16' else gray.convert('RGB')).convert(mode).save(tmp_path/'a.png')
    for learn in (pairs,one):
        a,b = Image.open(tmp_path/'a.png'),PILImageBW.create(tmp_path/'a.png')
        same(learn.predict(a)[2], learn.predict(b)[2])
        same(learn.predict_many([a,a,b])[1][2], learn.predict_many([b,b,b])[1][2])
        assert a.mode==mode and not isinstance(a, PILImageBW)
    same(pairs.predict((a,b))[2], pairs.predict((b,b))[2])

def test_images_for_a_network_that_is_no_multisample(tmp_path):
    "Gray or in colour as its first convolution is"
    dls = tiny_dls('ordinary', tmp_path)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    im = Image.fromarray(digit_image(0))
    for cls in (Learner, MixupLearner):
        learn = quiet(cls(dls, net, loss_func=CrossEntropyLossFlat()))
        probs = [o[2] for o in learn.predict_many([im, im.convert('RGB'), im.convert('RGBA')])]
        for p in (*probs, learn.predict(im)[2]): assert_close(p, probs[0])

def test_single_images_are_fine_tuned_with_all_layers(pairs):
    pairs.freeze()
    single = quiet(pairs.to_single())
    single.freeze()
    single.fine_tune_single(1)
    assert all(p.requires_grad for p in single.model.parameters())
    pairs.export('pairs.pkl') # which brings no data to make a learner of
    assert load_learner(pairs.path/'pairs.pkl').to_single().cbs.filter(risinstance(StepDecay))

def test_interpretation_of_other_images(pairs):
    train,three = pairs.interpret(ds_idx=0),pairs.dls.test_dl(list(range(3)), with_labels=True)
    assert train.confusion_matrix().sum()==len(pairs.dls.train_ds)
    assert pairs.interpret(dl=three).confusion_matrix().sum()==3

@pytest.mark.parametrize('cb,graphs', [(None,True), (GradientAccumulation(8),False)], ids=['none','accumulation'])
def test_cuda_graphs_do_not_keep_gradients(cb, graphs, monkeypatch):
    seen = []
    monkeypatch.setattr('fastmix.learner.compile_model', lambda model, device, graphs: seen.append(graphs))
    mixup_learner(digits_dls(1, size=8), arch=tiny, compile=True, cbs=cb)
    assert seen==[graphs]

@pytest.mark.parametrize('opt_func', [torch.optim.Adam, partial(torch.optim.Adam, eps=1e-7)])
def test_optimizers_of_pytorch(opt_func, tmp_path):
    dls = tiny_dls('ordinary', tmp_path)
    with pytest.raises(ValueError, match=r'opt_func=Adam of PyTorch: .*partial\(OptimWrapper, opt=torch.optim.Adam\)'): mixup_learner(dls, arch=tiny, opt_func=opt_func)
    quiet(mixup_learner(dls, arch=tiny, opt_func=partial(OptimWrapper, opt=opt_func))).fit(1)

def test_what_is_no_image_or_no_name(pairs, tmp_path):
    one = quiet(mixup_learner(tiny_dls('ordinary', tmp_path), arch=tiny, path=tmp_path))
    for learn in (pairs, one):
        for ask in (learn.predict, learn.predict_same):
            with pytest.raises(ValueError, match="expected images or their files, but got <class 'NoneType'>"): ask(None)
        for fname in ('', None):
            for write in (learn.save_weights, learn.export_onnx):
                with pytest.raises(ValueError, match=f'fname={fname!r}: expected the name of a file'): write(fname)
    with pytest.raises(ValueError, match='lr=-1: expected a number of at least 0'): one.fine_tune_single(1, lr=-1)

@pytest.mark.parametrize('make_one', [mixup_learner, partial(mixup_c_learner, n_samples=1)])
def test_interpretation_of_one_image(make_one, tmp_path):
    learn = quiet(make_one(tiny_dls('ordinary', tmp_path), arch=tiny))
    preds,ys = learn.get_preds()
    want = torch.zeros(10, 10, dtype=torch.int)
    for y,p in zip(ys, preds.argmax(1)): want[y,p] += 1
    assert (learn.interpret().confusion_matrix()==want.numpy()).all()
    with pytest.raises(ValueError, match='i=1: expected a whole number in 0..0'): learn.interpret(1)

def test_image_of_other_channels_is_refused_by_the_network(pairs):
    msg = r'got images of 6 channels in all: expected n_samples \* n_in = 2 \* 1'
    with pytest.raises(ValueError, match=msg): pairs.model(*torch.randn(2,1,3,8,8))

def test_tta_keeps_the_pairs_of_other_classes():
    learn = quiet(mixup_c_learner(digits_dls(2, bs=64, size=8, partner='other_class'), arch=tiny))
    dl = learn.dls.valid.new(shuffle=False)
    with learn.no_bar():
        _,plain = learn.get_preds(dl=dl)
        _,several = learn.tta(n=2)
    for a,b in zip(plain, several): assert torch.equal(a, b)
    a,b = several
    assert (a!=b).float().mean()>.98

def test_one_class_may_prevail_in_tta():
    "As at validation: a permutation into other classes does not exist"
    dls = digits_dls(2, bs=8, size=8, partner='other_class')
    many = [i for i in range(200) if digit_label(i)=='1'] + [0,2,3]
    learn = quiet(mixup_c_learner(dls, arch=tiny))
    with learn.no_bar(): learn.tta(dl=dls.valid.new(dls.test_dl(many, with_labels=True).dataset, shuffle=False), n=1)

def test_unlabelled_images_for_partners_of_another_class():
    dls = digits_dls(1, bs=64, size=8)
    learn = quiet(mixup_c_learner(dls, 2, arch=tiny, cbs=MixupC(2, partner='other_class')))
    with learn.no_bar(): assert learn.get_preds(dl=dls.test_dl(list(range(10))))[0].shape==(10,2,10)
    assert 'Trainable' in str(learn.summary())

def test_a_ready_network_says_how_many_heads():
    one = partial(cifar_resnet, 8, 10, 2, n_heads=1, n_in=1)
    learns = [mixup_c_learner(digits_dls(2, size=8), arch=a, **kw) for a,kw in ((one(),{}), (one(),dict(n_heads=1)), (tiny,dict(n_heads=1)))]
    for l in learns:
        assert l.model.n_heads==1 and l.mixup_c.lam_l=='x' and l.mixup_c.mix_valid and float(l.model.slot_scale)==.5
    with pytest.raises(ValueError, match='n_heads=1: expected 2, as this network has'):
        mixup_c_learner(digits_dls(2, size=8), arch=cifar_resnet(8, 10, 2, n_in=1), n_heads=1)

def test_loaders_that_are_refused():
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(20,1,8,8), torch.zeros(20).long()), batch_size=8)
    foreign = DataLoaders(dl, dl)
    foreign.c = 3
    with pytest.raises(ValueError, match='loaders: DataLoader: expected those of fastai'): mixup_learner(foreign)
    unknown = DataLoaders.from_dsets(*[torch.utils.data.TensorDataset(torch.rand(20,1,8,8), torch.zeros(20).long())]*2, bs=8, num_workers=0)
    with pytest.raises(ValueError, match='dls.c: expected the number of classes'): mixup_learner(unknown, arch=tiny, metrics=accuracy)
    for make_one in (mixup_learner, mixup_c_learner):
        with pytest.raises(ValueError, match='dls=3: expected'): make_one(3, metrics=accuracy)
    alone = MultiSampleDataLoaders(digits_dls(1, size=8).train)
    with pytest.raises(ValueError, match='validation set: expected at least one image'): mixup_learner(alone)

def test_precision_has_one_callback():
    with pytest.raises(ValueError, match="cbs: MixedPrecision: expected precision='fp16'"): mixup_learner(digits_dls(1, size=8), cbs=MixedPrecision())
    learn = mixup_learner(digits_dls(1, size=8), arch=tiny, precision='bf16')
    assert learn.to_fp16() is learn
    cb, = learn.cbs.filter(risinstance(MixedPrecision))
    assert cb.settings()==dict(amp_mode='fp16') and learn.to_bf16().mixed_precision.settings()==dict(amp_mode='bf16')
    assert not learn.to_fp32().cbs.filter(risinstance(MixedPrecision))

@pytest.mark.parametrize('opt,lr', [(nesterov_sgd,.1), (partial(nesterov_sgd, momentum=.8),.1), (Adam,.001), (partial(Adam, mom=.8),.001),
                                    (partial(OptimWrapper, opt=torch.optim.SGD),.001)], ids=['ours','changed','adam','changed_adam','plain_sgd'])
def test_the_rate_of_an_optimizer(opt, lr): assert mixup_learner(digits_dls(1, size=8), arch=tiny, opt_func=opt).lr==lr

# Losses of a user's own

class OwnLoss(nn.Module):
    "Cross-entropy without a `reduction`"
    def forward(self, pred, y): return F.cross_entropy(pred, y)

def own_loss(pred, y): return F.cross_entropy(pred, y)

@pytest.mark.parametrize('loss', [OwnLoss(), own_loss], ids=['module','function'])
def test_a_loss_without_reduction_says_so_and_mixes_by_batch(loss, tmp_path):
    dls = tiny_dls('ordinary', tmp_path)
    def fit(mix): quiet(mixup_learner(dls, mix, arch=tiny, loss_func=loss)).fit(1)
    with pytest.raises(TypeError, match="has no `reduction`.*per='batch'"): fit(Mixup())
    fit(Mixup(per='batch'))

class Sharp(nn.CrossEntropyLoss):
    def activation(self, x): return (50*x).softmax(-1)

@pytest.mark.parametrize('n', [1,2])
def test_an_activation_of_ones_own(n):
    learn = quiet((mixup_c_learner if n>1 else mixup_learner)(digits_dls(n), arch=tiny, loss_func=Sharp()))
    logits,_ = learn.get_preds(act=noop)
    same(learn.get_preds()[0], (50*logits).softmax(-1))
    _,number,probs = learn.predict_many(learn.dls.valid_ds.items[:1]*n)[0]
    assert int(number)==probs.argmax() and probs.sum()==pytest.approx(1)

def test_a_learner_without_recorder_trains(pairs):
    learn = quiet(mixup_c_learner(pairs.dls, arch=tiny))
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.remove_cb(Recorder)
    learn.fit(1)
    assert not all(map(torch.equal, before, learn.model.parameters()))

@pytest.mark.parametrize('loss', [OwnLoss(), own_loss], ids=['module','function'])
@pytest.mark.parametrize('kw', [dict(lam_l=.5), dict(lam_l=Fixed(.7)), dict(lam_x=.5, lam_l='x')], ids=['lam_l','fixed','x'])
def test_weights_of_the_slots_by_batch_need_no_reduction(loss, kw, pairs):
    def losses(loss):
        set_seed(0)
        pairs.dls.train.rng.seed(0) # the same pairs in the same order
        by_batch = MixupC(2, seed=0, per='batch', **kw)
        learn = quiet(mixup_c_learner(pairs.dls, arch=tiny, loss_func=loss, cbs=by_batch, lr=0))
        learn.fit(1)
        return torch.stack(list(learn.recorder.losses))
    same(losses(loss), losses(None))
    x,ys,w = torch.randn(6, 2, 10),[torch.arange(6)]*2,tensor([[.3,.7]])
    one = HeadsLoss(own_loss)(x, *ys, w=w)
    same(one, HeadsLoss()(x, *ys, w=w.expand(6, -1)))

def test_the_mean_of_the_heads_losses(pairs):
    loss = HeadsLoss(mean=True)
    learn = quiet(mixup_c_learner(pairs.dls, arch=tiny, loss_func=loss))
    assert learn.loss_func is loss
    learn.fit(1)
    x,y = torch.randn(6, 10),torch.arange(6)
    one_softmax = [HeadsLoss(mean=m)(x, y, y, w=w) for m in (True,False) for w in (None,torch.full((6,2), .5))]
    for o in one_softmax: same(o, F.cross_entropy(x, y)) # the weights are a mean already
    two = torch.stack([x,x], 1)
    same(HeadsLoss(mean=True)(two, y, y), F.cross_entropy(x, y))
    same(HeadsLoss()(two, y, y), 2*F.cross_entropy(x, y))

def test_a_metric_of_several_numbers(pairs):
    learn = quiet(mixup_c_learner(pairs.dls, arch=tiny, metrics=F1Score(labels=range(10), average=None)))
    assert learn.validate()[1].shape==(10,)

@pytest.mark.parametrize('scale', [0, -1, float('nan')])
def test_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match='scale='): resnet20(10, n_samples=2).scale_slots(scale)

def test_predictions_in_the_middle_of_a_fit(tmp_path):
    "fastai's `FetchPredsCallback`, for which fastai takes the recorder away"
    for learn in (make('ordinary', tmp_path), quiet(mixup_learner(tiny_dls('ordinary', tmp_path), Mixup(), arch=tiny))):
        cb = FetchPredsCallback()
        learn.fit(1, cbs=cb)
        assert len(cb.preds[0])==10
        assert len(learn.recorder.values)==1

def test_without_fastais_callbacks(tmp_path):
    "A learner without a recorder trains, as fastai's own does"
    learn = mixup_learner(tiny_dls('ordinary', tmp_path), Mixup(), arch=tiny, default_cbs=False, cbs=[TrainEvalCallback(), CastToTensor()])
    before = params_of(learn)
    learn.fit(1)
    assert not torch.equal(before, params_of(learn))

def params_of(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

@pytest.mark.parametrize('kind,other', [('ordinary','pairs'), ('pairs','ordinary')])
def test_results_of_loaders_with_other_slots(tmp_path, kind, other):
    learn,dl = make(kind, tmp_path),tiny_dls(other, tmp_path).valid
    learn.show_results(dl=dl, max_n=2)
    assert len(plt.gcf().axes)==2
    plt.close('all')
