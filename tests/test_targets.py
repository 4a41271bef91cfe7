"Several labels per image, and numbers: everything that works for classes, with every default left alone"
from contextlib import suppress
import math, os, subprocess, sys
import pytest, torch
from sklearn.metrics import f1_score
from fastai.vision.all import *
from fastmix.all import *
from tests.names import plain

small = partial(cifar_resnet, 8)
images = [digit_image(i) for i in range(3)]
def labels(i): return [digit_label(i), 'odd' if int(digit_label(i))%2 else 'even']
def number(i): return int(digit_label(i))/10
blocks = dict(labels=(MultiCategoryBlock,labels), numbers=(RegressionBlock,number))

def make(kind, n, path):
    block,get_y = blocks[kind]
    db = DataBlock((ImageBlock(PILImageBW),block), get_x=digit_image, get_y=get_y,
                   splitter=IndexSplitter(range(60,80)))
    kw = dict(n_samples=n, bs=16, num_workers=0, path=path)
    dls = MultiSampleDataLoaders.from_dblock(db, list(range(80)), **kw)
    set_seed(0)
    learn = mixup_c_learner(dls, arch=small) if n>1 else mixup_learner(dls, Mixup(), arch=small)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

@pytest.fixture(scope='module', params=[(kind,n) for kind in blocks for n in (1,2)], ids=str)
def trained(request, tmp_path_factory):
    kind,n = request.param
    learn = make(kind, n, tmp_path_factory.mktemp('targets'))
    learn.fit(2)
    return kind,n,learn

def decoded(kind, probs, vocab):
    "By hand what fastai would say"
    if kind=='numbers': return tuple(probs.tolist())
    return [vocab[i] for i in (probs>.5).nonzero().flatten()]

def test_metrics_fit(trained):
    kind,n,learn = trained
    metric = dict(labels='accuracy_multi', numbers='rmse')[kind]
    names = learn.recorder.metric_names[3:-1]
    assert [nm.strip('_') for nm in names]==([metric] if n==1 else [f'{metric}_{i}' for i in range(n)])
    values = learn.validate()[1:]
    preds,ys = learn.get_preds()
    for i,v in enumerate(values):
        p,y = (preds,ys) if n==1 else (preds[:,i],ys[i])
        y = y.as_subclass(Tensor).reshape(p.shape)
        want = ((p>.5)==y.bool()).float().mean() if kind=='labels' else (p-y).pow(2).mean().sqrt()
        assert v==pytest.approx(float(want), abs=1e-5)

def test_predictions(trained):
    kind,n,learn = trained
    vocab = getattr(learn.dls, 'vocab', None)
    many = learn.predict_many(images)
    assert len(many)==3
    for said,answer,probs in many:
        assert type(said)(said)==said and list(said)==pytest.approx(list(decoded(kind, probs, vocab)))
        if kind=='labels': assert torch.equal(answer, probs>.5)
        else: assert torch.equal(answer, probs)
    if n==1:
        torch.testing.assert_close(learn.predict(images[0])[2], many[0][2])
        return
    said,answers,probs = learn.predict(tuple(images[:2]))
    torch.testing.assert_close(probs, torch.stack([many[0][2],many[1][2]]))
    assert len(said)==2 and answers.shape==probs.shape
    torch.testing.assert_close(learn.predict(images[0])[2], learn.predict_same(images[0])[2])

def test_pictures(trained):
    kind,n,learn = trained
    for draw in (learn.show_batch, learn.show_results, partial(learn.show_mixed, 2)):
        plt.close('all')
        draw()
        assert [ax for ax in plt.gcf().axes if ax.images]

def test_interpret_says_what_it_cannot(trained):
    kind,n,learn = trained
    if n==1: return
    with pytest.raises(ValueError, match=f'targets are {kind}: expected a class per image'): learn.interpret()

def test_shipping(trained):
    import onnxruntime
    kind,n,learn = trained
    xs = [torch.rand(2, 1, 8, 8) for _ in range(n)]
    with torch.no_grad(): want = learn.model.eval()(*xs)
    weights = load_weights(learn.save_weights('w'))
    torch.testing.assert_close(weights(*xs).detach(), want, atol=1e-5, rtol=1e-5) # their channels come first
    sess = onnxruntime.InferenceSession(learn.export_onnx('m'), providers=['CPUExecutionProvider'])
    out, = sess.run(None, {f'x{i+1}': x.numpy() for i,x in enumerate(xs)})
    torch.testing.assert_close(torch.tensor(out), want, atol=1e-4, rtol=1e-4)
    learn.export('learner.pkl')
    loaded = load_learner(learn.path/'learner.pkl') # for a CPU: fastai turns mixed precision off
    set_precision(learn, 'fp32')
    torch.testing.assert_close(loaded.predict_many(images)[2][2], learn.predict_many(images)[2][2])
    set_precision(learn)
    single = learn.to_single(precision='fp32')
    single.remove_cb(ProgressCallback)
    answer = single.predict(images[0])[2]
    assert answer.shape==learn.predict_many(images)[0][2].shape
    of_loaded = loaded.to_single() # whose loaders are empty
    with of_loaded.no_bar(): torch.testing.assert_close(of_loaded.predict(images[0])[2], answer)
    assert load_weights(of_loaded.save_weights('w1')).n_samples==1 and of_loaded.export_onnx('m1').exists()
    with learn.no_bar(): assert len(learn.tta(n=1)[0])==20

def learners():
    "One of each kind"
    one,two = digits_dls(1, size=8),digits_dls(size=8)
    cutmix = MixChoice(MixupX(), CutMixup())
    return dict(pairs=mixup_c_learner(two, arch=small), filled=mixup_c_learner(one, arch=small),
                one_softmax=mixup_c_learner(two, arch=small, n_heads=1),
                erm=mixup_learner(one, arch=small), mixed=mixup_learner(one, cutmix, arch=small),
                plain=Learner(one, small(n_in=1), cbs=Mixup()),
                **{f'{kind}{n}': make(kind, n, '.') for kind in blocks for n in (1,2)})

elsewhere = """
import sys
from fastai.vision.all import *
from fastmix.all import *
from test_targets import answers, images, lacks_data

for f in sorted(Path(sys.argv[1]).glob('*.pkl')):
    learn = load_learner(f)
    print(f.stem, answers(learn), answers(learn.to_single()), lacks_data(learn))
"""

def answers(learn):
    with learn.no_bar():
        n = getattr(learn.model, 'n_samples', 1)
        many = learn.predict_many(images, same=n>getattr(learn.model, 'n_heads', 1))
        one = learn.predict(images[0] if n==1 else tuple(images[:n]))
    probs = [p for o in many for p in o[2].flatten().tolist()]
    return re.sub(r'(\.\d{4})\d*', r'\1', str([probs, str(many[0][0]), str(one[0])]))

def lacks_data(learn):
    "Which of these say that they need loaders"
    calls,found = dict(fit=lambda: learn.fit(1), validate=learn.validate, tta=learn.tta),[]
    for name,f in calls.items():
        with suppress(Exception), learn.no_bar(), learn.no_logging():
            try: f()
            except ValueError as e:
                if 'learn.dls = dls' in str(e): found.append(name)
    return found

def test_loaded_in_another_process(tmp_path):
    "Every kind answers as before, to_single too, and says what it lacks for training"
    made = learners()
    for name,learn in made.items():
        learn.path = tmp_path
        learn.export(f'{name}.pkl')
        if name!='plain': set_precision(learn, 'fp32') # so fastai loads learners for a CPU
    env = {**os.environ, 'PYTHONPATH': f'{Path(__file__).parent}:{Path(__file__).parents[1]}'}
    res = subprocess.run([sys.executable, '-W','ignore', '-c', elsewhere, str(tmp_path)],
                         capture_output=True, text=True, env=env)
    assert res.returncode==0, res.stderr
    lines = dict(o.split(' ', 1) for o in res.stdout.splitlines() if o.split(' ')[0] in made)
    assert set(lines)==set(made)
    for name,learn in made.items():
        data = [] if name=='plain' else ['fit','validate','tta']
        assert lines[name]==f"{answers(learn)} {answers(learn.to_single(precision='fp32'))} {data}", name

@pytest.mark.parametrize('metric', [accuracy, error_rate, F1Score(average='macro')])
def test_any_metric_of_fastai_is_averaged_over_the_heads(metric):
    learn = mixup_c_learner(digits_dls(size=8), arch=small, metrics=metric, precision='fp32')
    with learn.no_bar(): value = learn.validate()[1]
    with learn.no_bar(): preds,ys = learn.get_preds()
    heads = []
    for i in range(2):
        p,y = preds[:,i].argmax(1),ys[i].as_subclass(Tensor)
        right = (p==y).float().mean()
        if metric is accuracy: heads.append(right)
        elif metric is error_rate: heads.append(1-right)
        else: heads.append(f1_score(y, p, average='macro'))
    assert value==pytest.approx(float(sum(heads)/2), abs=1e-5)

def test_rate_of_other_networks():
    "The paper's rate for its own networks, Adam's for others; both can be set"
    dls = digits_dls(size=32)
    other = mixup_c_learner(dls, arch=models.resnet18)
    assert other.lr==.001 and other.opt_func is Adam
    assert mixup_c_learner(dls, arch=small).lr==.1
    mine = mixup_c_learner(dls, arch=models.resnet18, lr=.02, opt_func=nesterov_sgd)
    assert mine.lr==.02 and mine.opt_func is nesterov_sgd

# What is odd works like the rest, or is refused before the first batch

def odd_dls(block, get_y, n):
    db = DataBlock((ImageBlock(PILImageBW),block), get_x=digit_image, get_y=get_y,
                   splitter=IndexSplitter(range(60,80)))
    return MultiSampleDataLoaders.from_dblock(db, list(range(80)), n_samples=n, bs=16, num_workers=0)

def odd_learner(dls, path, **kw):
    make = mixup_c_learner if dls.n_samples>1 else partial(mixup_learner, mix=Mixup())
    learn = make(dls, arch=small, path=path, **kw)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

@pytest.mark.parametrize('n', [1,2])
@pytest.mark.parametrize('block,get_y,loss', [
    (MultiCategoryBlock, lambda i: ['a'] if i%2 else [], None), # one label, which some images lack
    (MultiCategoryBlock, lambda i: ['ab'[i%2]] if i%3 else [], BCEWithLogitsLossFlat()),
    (MultiCategoryBlock, labels, nn.BCEWithLogitsLoss()),
    (RegressionBlock(n_out=2), lambda i: [i/80,1-i/80], MSELossFlat()),
    (RegressionBlock(n_out=2), lambda i: [i/80,1-i/80], nn.L1Loss())],
    ids=['one label','lists without labels','loss of PyTorch','two numbers','two numbers, L1'])
def test_odd_targets_work(block, get_y, loss, n, tmp_path):
    learn = odd_learner(odd_dls(block, get_y, n), tmp_path, loss_func=loss)
    learn.fit(1)
    values = learn.validate()
    assert len(values)==1+n and all(map(math.isfinite, values))
    assert learn.predict(images[0])[2].shape==(learn.dls.c,)
    assert [len(probs) for _,_,probs in learn.predict_many(images)]==[learn.dls.c]*3

def log_cosh(pred, y, reduction='mean'):
    each = (pred-y).cosh().log()
    return each if reduction=='none' else each.mean()

@pytest.mark.parametrize('n', [1,2])
def test_what_predictions_mean_under_other_losses(n, tmp_path):
    "The loaders tell whether they are numbers or labels"
    numbers = odd_learner(odd_dls(RegressionBlock, lambda i: i/80, n), tmp_path, loss_func=log_cosh)
    labelled = odd_learner(odd_dls(MultiCategoryBlock, labels, n), tmp_path, loss_func=nn.MultiLabelSoftMarginLoss())
    for (number,raw,p),(names,_,q) in zip(numbers.predict_many(images), labelled.predict_many(images)):
        assert number[0]==raw[0]==p[0] and 0<abs(p[0])<10
        assert list(names)==[o for o,prob in zip(labelled.dls.vocab, q) if prob>.5] and 0<=q.min()<q.max()<=1

@pytest.mark.parametrize('block,get_y,came', [
    (RegressionBlock(n_out=2), lambda i: (i/80,1-i/80), 'tuple'), (PointBlock, lambda i: [[1.,2.]], 'TensorPoint of shape'),
    (MaskBlock, lambda i: PILMask.create(np.zeros((8,8), np.uint8)), 'PILMask'), (ImageBlock(PILImageBW), digit_image, 'PILImageBW'),
    (TransformBlock, digit_label, 'str')], ids=['tuple','points','mask','image','text'])
@pytest.mark.parametrize('ours', [True,False])
def test_odd_targets_are_named(block, get_y, came, ours):
    says = f'target is a {came}.*: expected a class, a list of labels or a list of numbers'
    db = DataBlock((ImageBlock(PILImageBW),block), get_x=digit_image, get_y=get_y, splitter=IndexSplitter([0,1,2]))
    if ours:
        with pytest.raises(ValueError, match=says): odd_dls(block, get_y, 2)
    else:
        train,valid = map(db.datasets(list(range(9))).subset, range(2))
        dls = DataLoaders(TfmdDL(train, bs=4, after_item=ToTensor, do_setup=False), TfmdDL(valid, bs=4, do_setup=False))
        with pytest.raises(ValueError, match=says): mixup_learner(dls, arch=small)

def test_images_without_any_label():
    with pytest.raises(ValueError, match=r'classes \[\]: expected one or more, a label of an image'):
        odd_dls(MultiCategoryBlock, lambda i: [], 1)

@pytest.mark.parametrize('n', [1,2])
@pytest.mark.parametrize('kind,loss,fits', [('classes',BCEWithLogitsLossFlat(),'CrossEntropy'), ('classes',MSELossFlat(),'CrossEntropy'),
    ('labels',CrossEntropyLossFlat(),'BCEWithLogits'), ('numbers',CrossEntropyLossFlat(),'MSE'), ('numbers',nn.MSELoss(),'MSE')], ids=str)
def test_losses_of_other_targets(kind, loss, fits, n):
    block,get_y = dict(blocks, classes=(CategoryBlock,digit_label))[kind]
    dls = odd_dls(block, get_y, n)
    with pytest.raises(ValueError, match=rf'loss_func=.*: expected a loss for targets that are {kind}, as {fits}LossFlat\(\)'):
        odd_learner(dls, None, loss_func=loss)

@pytest.mark.parametrize('n', [1,2])
@pytest.mark.parametrize('kind,metric,name', [('classes',accuracy_multi,'accuracy_multi'), ('classes',rmse,'_?rmse'), ('labels',accuracy,'accuracy'),
    ('labels',F1Score(),'f1_score'), ('labels',CalibrationError(),'calibration_error'), ('numbers',error_rate,'error_rate'),
    ('numbers',F1Score(),'f1_score'), ('numbers',accuracy_multi,'accuracy_multi'), ('classes',HeadMetric(accuracy, 2),'accuracy_2'),
    ('classes','accuracy','')], ids=plain)
def test_metrics_of_other_targets(kind, metric, name, n):
    block,get_y = dict(blocks, classes=(CategoryBlock,digit_label))[kind]
    dls = odd_dls(block, get_y, n)
    with pytest.raises(ValueError, match=f'metric {name}: expected one for targets that are {kind}, as '):
        odd_learner(dls, None, metrics=[metric])

def test_heads_and_classes_that_are_not_there():
    dls = odd_dls(CategoryBlock, digit_label, 2)
    with pytest.raises(ValueError, match=r'HeadAccuracy\(2\): expected a head in 0..1'): odd_learner(dls, None, metrics=HeadAccuracy(2))
    for metric in (Top2(), HeadAccuracy(0)):
        with pytest.raises(ValueError, match='expected one class per sample'):
            odd_learner(odd_dls(RegressionBlock, number, 2), None, metrics=metric)
    with pytest.raises(ValueError, match=r'heads=\(\): expected the number of a head'): HeadMetric(accuracy)

@pytest.mark.parametrize('n', [1,2])
def test_metrics_that_fit_are_taken(n):
    "Also those that need every class"
    fit = [accuracy, error_rate, RocAuc(), MatthewsCorrCoef(), Perplexity(), CalibrationError(), Brier(), partial(top_k_accuracy, k=3)]
    learn = odd_learner(odd_dls(CategoryBlock, digit_label, n), None, metrics=fit)
    assert len(learn.validate())==1+len(fit)
    for kind,metrics in dict(labels=[accuracy_multi,F1ScoreMulti(),RocAucMulti()], numbers=[mse,mae,rmse,R2Score(),PearsonCorrCoef()]).items():
        learn = odd_learner(odd_dls(*blocks[kind], n), None, metrics=metrics)
        assert len(learn.validate())==1+len(metrics)

@pytest.mark.parametrize('cb', [MixupXL(), CutMixup()], ids=plain)
def test_a_plain_learner_of_fastai(cb, tmp_path):
    learn = Learner(digits_dls(1, size=8), small(10, n_in=1), cbs=cb, metrics=accuracy, path=tmp_path)
    net = vision_learner(digits_dls(1, size=8), models.resnet18, pretrained=False, n_in=1, cbs=cb, path=tmp_path)
    for l in (learn, net):
        l.remove_cb(ProgressCallback)
        torch.testing.assert_close(l.tta(n=1, beta=1)[0], l.get_preds()[0]) # of the images as they are
        torch.testing.assert_close(l.tta(n=1)[0].sum(1), torch.ones(len(l.dls.valid_ds))) # with crops
        l.export('l.pkl')
        single = load_learner(tmp_path/'l.pkl').to_single()
        single.remove_cb(ProgressCallback)
        torch.testing.assert_close(single.predict(images[0])[2], l.predict(images[0])[2])

def test_keywords_of_to_single_without_data(tmp_path):
    learn = mixup_c_learner(digits_dls(size=8), arch=partial(cifar_resnet, 8), path=tmp_path)
    learn.export('l.pkl')
    loaded = load_learner(tmp_path/'l.pkl')
    single = loaded.to_single(precision='bf16', compile=True, lr=.02)
    assert single.mixed_precision.settings()==dict(amp_mode='bf16') and single.lr==.02
    assert single.model._compiled_call_impl is not None
    assert not hasattr(loaded.to_single(), 'mixed_precision')
    with pytest.raises(ValueError, match="precison='bf16': expected a keyword of to_single, such as precision"):
        loaded.to_single(precison='bf16')
