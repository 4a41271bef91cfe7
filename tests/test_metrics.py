"Metrics on what was mixed: exact for uneven batches, over processes, and in the recorder's table"
import os, pytest, torch
from fastai.vision.all import *
from fastmix.distributed import RankDL
from fastmix.all import *
from tests.names import plain
from fastmix.callback import Mixed
from fastmix.core import keyed_rng
from fastmix.metrics import HeadMetric, MixMetric, head_metrics, order_labels, top2, top2_all

class Heads(nn.Module):
    "Two heads, or one softmax, on 8 numbers"
    def __init__(self, n, c=5):
        super().__init__()
        torch.manual_seed(0)
        self.lin,self.n = nn.Linear(8, n*c),n
    def forward(self, x): return self.lin(x).unflatten(1, (self.n,-1)).squeeze(1)

class Data(list): n_inp = 1

def pairs(n=21, n_valid=13, bs=4, slots=2, wrap=noop):
    g = torch.Generator().manual_seed(1)
    ds = [Data((torch.randn(8, generator=g), *torch.randint(5, (slots,), generator=g)) for _ in range(m)) for m in (n, n_valid)]
    return DataLoaders(*[wrap(TfmdDL(d, bs=bs, num_workers=0, device='cpu')) for d in ds], device='cpu')

class Keep(Callback):
    "What each batch came to: predictions, labels in the order that counts"
    def before_fit(self): self.kept = {True: [], False: []}
    def after_loss(self):
        m = self.learn.mixup.mixed if hasattr(self.learn, 'mixup') else None
        y = order_labels(m.labels, m.w_x) if m else torch.stack(self.yb, 1)
        self.kept[bool(self.training)].append((self.pred.detach(), y))

def learner(n_heads, cbs=None, **kw):
    learn = Learner(pairs(slots=n_heads, **kw), Heads(n_heads), HeadsLoss() if n_heads==2 else CrossEntropyLossFlat(), cbs=cbs,
        metrics=[Top2(), Top2All(), HeadAccuracy(0), HeadAccuracy(1)], opt_func=SGD, lr=0.)
    learn.remove_cb(ProgressCallback)
    learn.logger,learn.recorder.train_metrics = noop,True
    return learn

def fit(n_heads, **kw): # the recorder's figures, and what they are of
    keep = Keep()
    learn = learner(n_heads, [keep] if n_heads==2 else [Mixup(mix_valid=True, seed=0), keep], **kw)
    learn.fit(1)
    return dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1])),keep.kept

def whole(kept): # the same figures, over everything at once
    p,y = (torch.cat(t) for t in zip(*kept))
    named = p.argmax(-1) if p.ndim==3 else p.topk(2).indices
    return dict(top2=top2(p, y).mean(), top2_all=top2_all(p, y).mean(), head_0=(named==y)[:,0].float().mean(), head_1=(named==y)[:,1].float().mean())

def check(values, kept):
    for part,what in (('train',True), ('valid',False)):
        for k,v in whole(kept[what]).items(): assert abs(values[f'{part}_{k}']-v)<1e-6, (part, k)

class Odd(MixMetric):
    "How often a mixture whose first label is odd has an even second one"
    def score(self, pred, y): return torch.where(y[:,0]%2==1, (y[:,1]%2==0).float(), torch.nan)

@pytest.mark.parametrize('heads,y,want', [((3,5),(3,3),.5), ((5,3),(3,3),.5), ((3,3),(3,5),.5), ((3,3),(3,3),1), ((3,5),(5,3),1), ((1,2),(3,5),0)])
def test_a_label_is_named_once_by_each_head(heads, y, want):
    pred = F.one_hot(tensor([heads]), 10).float()
    assert top2_all(pred, tensor([y])).item()==want
    assert top2(pred, tensor([y])).item()==sum(a==b for a,b in zip(heads, y))/2

def test_the_sum_of_the_paper_as_a_metric():
    "Which counts two heads that name one class twice in both orders"
    values = []
    for m in (Top2All(), Top2All(paper=True)):
        m.reset()
        m.accumulate(SimpleNamespace(pred=F.one_hot(tensor([[3,3]]), 10).float(), yb=(tensor([3]),tensor([3])), to_detach=lambda t, **_: t))
        values.append(m.value)
    assert values==[1,2]

def test_mixtures_that_do_not_count():
    m = Odd()
    m.reset()
    assert m.value is None
    for y in ([[1,2],[2,2]], [[3,3],[5,4]], [[2,1]]):
        m.accumulate(SimpleNamespace(pred=torch.zeros(len(y), 2, 10), yb=tuple(tensor(y).T), to_detach=lambda t, **_: t))
    assert m.value==2/3

@pytest.mark.parametrize('n_heads', [1,2])
@pytest.mark.parametrize('bs', [1,4,5,20])
def test_uneven_batches_count_by_their_samples(n_heads, bs): check(*fit(n_heads, bs=bs))

def _rank(rank, n, folder):
    torch.set_num_threads(1) # as a loader's workers: threads do not survive a fork
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(n), CUDA_VISIBLE_DEVICES='')
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=n)
    torch.save([fit(h, wrap=RankDL) for h in (1,2)], folder/f'{rank}.pth')
    torch.distributed.destroy_process_group()

def test_two_processes_give_the_figure_of_the_whole_set(tmp_path):
    "21 and 13 samples on two processes: validation counts each once, training the one more that it was trained on"
    torch.multiprocessing.start_processes(_rank, (2, tmp_path), nprocs=2, start_method='fork')
    ranks = [torch.load(tmp_path/f'{r}.pth', weights_only=False) for r in (0,1)]
    for (v0,k0),(v1,k1),n_heads in zip(*ranks, (1,2)):
        both = {t: k0[t] + k1[t] for t in k0}
        assert [sum(len(p) for p,_ in both[t]) for t in (True,False)]==[22,13]
        for v in (v0,v1): check(v, both)
        if n_heads==2: # nothing is drawn: it is what one process says, too
            one,_ = fit(2, bs=21)
            for k in one:
                if k.startswith('valid'): assert abs(one[k]-v0[k])<1e-6, k
        else: assert not torch.equal(k0[True][0][1], k1[True][0][1]) # other ranks, other draws

@pytest.mark.parametrize('bs', [None,8])
def test_the_ceiling_is_what_an_oracle_reaches(bs):
    "It names the two classes in order, and any second one where both are the same"
    n,c = 80_000,10
    y1 = torch.randint(c, (n//(bs or n), bs or n), generator=torch.Generator().manual_seed(0))
    g = keyed_rng(0)
    y2 = torch.stack([o[torch.randperm(len(o), generator=g)] for o in y1]) if bs else torch.randint(c, y1.shape, generator=g)
    y = torch.stack([y1.flatten(), y2.flatten()], 1)
    second = torch.where(y[:,0]==y[:,1], (y[:,1]+1)%c, y[:,1])
    pred = 2*F.one_hot(y[:,0], c) + F.one_hot(second, c)
    assert abs(top2(pred, y).mean()-top2_ceiling(c, bs))<.003 and top2_all(pred, y).mean()==1

def test_they_reach_the_log_on_disk(tmp_path):
    learn = learner(1, [Mixup(seed=0), CSVLogger()])
    learn.path = tmp_path
    learn.fit(2)
    log = pd.read_csv(tmp_path/'history.csv')
    assert log.train_top2.between(0,1).all() and log.valid_top2.isna().all() and len(log)==2 # validation is not mixed
    assert abs(log.train_top2.iloc[-1]-learn.recorder.values[-1][1])<1e-6

# ---------- metrics of others, and other targets

def targets(kind, n=9, slots=2):
    g = torch.Generator().manual_seed(2)
    if kind=='classes': return torch.randint(5, (slots,n), generator=g)
    if kind=='labels': return (torch.rand(slots, n, 5, generator=g)>.5).float()
    return torch.randn(slots, n, 1, generator=g)

def head_learner(kind, metrics, n_heads=2, cbs=None):
    loss = dict(classes=CrossEntropyLossFlat, labels=BCEWithLogitsLossFlat, numbers=MSELossFlat)[kind]()
    ds = Data((torch.randn(8, generator=torch.Generator().manual_seed(i)), *y) for i,y in enumerate(zip(*targets(kind))))
    d = DataLoaders(*[TfmdDL(ds, bs=4, num_workers=0, device='cpu') for _ in range(2)], device='cpu')
    learn = Learner(d, Heads(n_heads, 1 if kind=='numbers' else 5), HeadsLoss(loss), metrics=metrics, opt_func=SGD, lr=0., cbs=cbs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

@pytest.mark.parametrize('kind,metric', [('classes',accuracy), ('classes',error_rate), ('classes',F1Score(average='macro')),
    ('classes',top_k_accuracy), ('labels',accuracy_multi), ('labels',F1ScoreMulti()), ('numbers',rmse), ('numbers',mae)], ids=plain)
@pytest.mark.parametrize('n_heads', [1,2])
def test_metrics_of_fastai_are_averaged_over_the_heads(kind, metric, n_heads):
    "Against fastai's own learner of one head, whose targets are those of one slot"
    if n_heads==1 and kind=='numbers': n_heads = 2
    learn = head_learner(kind, head_metrics(metric, 2) + [HeadMetric(metric, 0), HeadMetric(metric, 1)], n_heads)
    _,mean,a,b = learn.validate()
    assert abs(mean-(a+b)/2)<1e-6
    for i,value in enumerate((a, b)):
        one = head_learner(kind, metric, n_heads)
        class Slot(Callback):
            def after_pred(self): self.learn.pred,self.learn.yb = self.pred[:,i] if n_heads>1 else self.pred,(self.yb[i],)
        one.loss_func = one.loss_func.func
        one.add_cb(Slot())
        assert abs(one.validate()[1]-value)<1e-6

class Parts(nn.CrossEntropyLoss):
    def forward(self, p, y):
        self.ce,self.size = super().forward(p, y),p.pow(2).mean()
        return self.ce + .01*self.size

def test_parts_of_a_loss_are_those_of_each_head():
    learn = head_learner('classes', [*head_metrics(LossMetrics('ce,size'), 2), HeadMetric(LossMetric('size'), 0)])
    learn.loss_func = HeadsLoss(Parts())
    _,ce,size,size_0 = learn.validate()
    preds,ys = learn.get_preds()
    assert ce==pytest.approx(float(sum(F.cross_entropy(preds[:,i], ys[i]) for i in (0,1))/2))
    assert size==pytest.approx(float(preds.pow(2).mean())) and size_0==pytest.approx(float(preds[:,0].pow(2).mean()))

def test_names_of_the_columns():
    own = [Top2(), HeadAccuracy(1), HeadMetric(rmse, 0)]
    names = [m.name for m in head_metrics([accuracy, F1Score(), rmse, *own], 3)]
    assert names==['accuracy','f1_score','rmse','top2','head_1','rmse_0']
    assert head_metrics(accuracy, 1)==[accuracy]
    kept = [Top2, Top2All, ValueMetric(lambda: 1., 'one')] # classes too, and what is no figure of a batch
    assert head_metrics(kept, 3)==kept

def test_figures_of_a_callback(tmp_path):
    class Count(Callback):
        def before_validate(self): self.n = 0
        def after_batch(self): self.n += not self.training
        def score(self): return 1/self.n # in a training alone
    cb = Count()
    learn = mixup_c_learner(digits_dls(size=8), arch=partial(cifar_resnet, 8), cbs=cb, metrics=[Top2, ValueMetric(cb.score, 'score')])
    learn.remove_cb(ProgressCallback)
    assert learn.validate()[2]==1/6

@pytest.mark.parametrize('metric', [Top2(), Top2All(), HeadAccuracy(0)], ids=plain)
@pytest.mark.parametrize('kind', ['labels','numbers'])
def test_targets_that_a_metric_cannot_judge(metric, kind):
    with pytest.raises(ValueError, match=f'{metric.name} on targets .*: expected one class per sample; HeadMetric'):
        head_learner(kind, metric).validate()
    with pytest.raises(ValueError, match='expected one class per sample'): metric.check(targets(kind))
    metric.check(targets('classes'))

@pytest.mark.parametrize('loss,activation,decoded', [
    (nn.CrossEntropyLoss(), partial(torch.softmax, dim=-1), lambda p: p.argmax(-1)), (F.cross_entropy, partial(torch.softmax, dim=-1), lambda p: p.argmax(-1)),
    (partial(F.cross_entropy, label_smoothing=.1), partial(torch.softmax, dim=-1), lambda p: p.argmax(-1)),
    (nn.BCEWithLogitsLoss(), torch.sigmoid, lambda p: p>.5), (F.binary_cross_entropy_with_logits, torch.sigmoid, lambda p: p>.5),
    (BCEWithLogitsLossFlat(thresh=.2), torch.sigmoid, lambda p: p>.2), (nn.MSELoss(), noop, noop), (nn.SmoothL1Loss(), noop, noop), (F.huber_loss, noop, noop),
    (MSELossFlat(), noop, noop), (nn.MultiMarginLoss(), noop, lambda p: p.argmax(-1))], ids=plain)
def test_predictions_are_decoded_as_their_loss_means_them(loss, activation, decoded):
    loss,pred = HeadsLoss(loss, 2),torch.randn(4,2,3)
    p = loss.activation(pred)
    assert torch.allclose(p, activation(pred)) and all(torch.equal(*o) for o in zip(loss.decodes(p), decoded(p).unbind(1)))
    one = loss.decodes(p[:,0]) # one softmax, or one set of labels or numbers, of both slots
    want = p[:,0].topk(2).indices.unbind(1) if decoded(p).ndim==2 else [decoded(p[:,0])]*2
    assert all(torch.equal(*o) for o in zip(one, want)) and len(one)==2

@pytest.mark.parametrize('n', [1,2])
def test_calibration_of_each_head(n):
    "As the definitions say, over batches of uneven size, averaged over the heads"
    g = torch.Generator().manual_seed(0)
    pred,y = 3*torch.randn(50,n,4, generator=g),torch.randint(4, (n,50), generator=g)
    for metric,lo in ((CalibrationError(bins=10),0),(Brier(),0)):
        metric = HeadMetric(metric, *range(n)) if n>1 else metric
        metric.reset()
        for part in (slice(0,33), slice(33,50)):
            ys = tuple(o[part] for o in y)
            p = pred[part] if n>1 else pred[part,0]
            metric.accumulate(SimpleNamespace(pred=p, y=ys[0], yb=ys, to_detach=to_detach))
        want = []
        for i in range(n):
            p = pred[:,i].softmax(-1)
            conf,named = p.max(1)
            right = (named==y[i]).float()
            if 'brier' in metric.name: want.append((p-F.one_hot(y[i], 4)).pow(2).sum(1).mean())
            else: want.append(sum((right-conf)[(conf*10).long().clamp(max=9)==k].sum().abs() for k in range(10))/50)
        assert abs(metric.value - sum(want)/n) < 1e-5
    with pytest.raises(ValueError, match='bins=0: expected a whole number'): CalibrationError(bins=0)

def test_a_metric_of_the_loss_of_one_head():
    learn = mixup_c_learner(digits_dls(2, size=8), arch=partial(cifar_resnet, 8), precision='fp32',
                            metrics=[HeadMetric(Perplexity(), 0), HeadMetric(Perplexity(), 1), Perplexity()])
    with learn.no_bar():
        first,second,mean = learn.validate()[1:]
        preds,ys = learn.get_preds(act=noop)
    want = [float(F.cross_entropy(preds[:,i], ys[i]).exp()) for i in (0,1)]
    assert (first,second)==pytest.approx(want, rel=1e-4) and mean==pytest.approx(sum(want)/2, rel=1e-4)

def test_fewer_classes_than_slots():
    with pytest.raises(ValueError, match='classes=2: expected a whole number of at least 3'): top2(torch.rand(8,2), torch.zeros(8,3).long())

def test_the_stronger_image_is_first_whatever_its_label_weighs():
    "Of one softmax; heads have places of their own"
    mixed = Mixed([(tensor([3]),),(tensor([5]),)], w_x=tensor([[.3,.7]]), w_l=tensor([[.8,.2]]))
    five_three = (2*F.one_hot(tensor([5]), 10) + F.one_hot(tensor([3]), 10)).float()
    heads = F.one_hot(tensor([[3,5]]), 10).float()
    for pred in (five_three, heads):
        m = Top2()
        m.reset()
        m.accumulate(SimpleNamespace(cbs=[SimpleNamespace(mixed=mixed)], pred=pred, yb=(tensor([3]),), to_detach=lambda t, **_: t))
        assert m.value==1
