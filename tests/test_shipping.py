"A network in a file, in the Hub's format and as ONNX: the same answers everywhere, and no code of a file is run"
import json, os, pickle
from types import SimpleNamespace
import pytest, torch, torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from fastai.vision.all import *
from fastmix.all import *
from fastmix.datasets import digit_image, digit_label
from fastmix.models import named_arch

tiny = partial(cifar_resnet, 8)
vocab = [str(i) for i in range(10)]

@pytest.fixture(scope='module', autouse=True)
def exact():
    "float32, also where bfloat16 is faster: answers are compared to the last digits"
    with pytest.MonkeyPatch.context() as m:
        m.setattr('fastmix.training.has_fast_bf16', lambda device: False)
        yield

def digits(path, n=2):
    "Loaders of 30 training digits, 8 pixels wide, and 10 others, in memory"
    db = DataBlock((ImageBlock(PILImageBW),CategoryBlock(vocab=vocab)), get_items=noop, get_x=digit_image,
                   get_y=digit_label, splitter=IndexSplitter(range(30, 40)))
    kw = dict(n_samples=n, bs=8, num_workers=0, path=path)
    return in_memory(MultiSampleDataLoaders.from_dblock(db, list(range(40)), **kw))

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def make(path, n=2, **kw):
    set_seed(0)
    kw = {'arch': tiny, 'n_samples': n, 'lr': .02, 'path': path, **kw}
    return quiet(mixup_c_learner(digits(path, n), **kw))

def single(path, **kw): return quiet(mixup_learner(digits(path, 1), path=path, **{'arch': tiny, **kw}))

def images(items): return torch.stack([tensor(digit_image(i)) for i in items])[:,None].float()/255
def by_hand(learn, *xs): # logits
    with torch.no_grad(): return learn.model.eval()(*xs)

def run_onnx(path, *xs):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert [o.name for o in session.get_inputs()]==[f'x{i+1}' for i in range(len(xs))]
    return tensor(session.run(None, {f'x{i+1}':to_np(x) for i,x in enumerate(xs)})[0])

def onnx_config(path):
    import onnx
    return {o.key:json.loads(o.value) for o in onnx.load(path).metadata_props}

# A learner in a file

class Unfit:
    def __reduce__(self): raise TypeError('no file')

def test_an_export_that_fails(tmp_path):
    "Learner and file stay as they were"
    learn = make(tmp_path)
    learn.fit(1)
    learn.export('sub/a.pkl')
    old,opt,n = (tmp_path/'sub/a.pkl').read_bytes(),learn.opt,len(learn.dls.train_ds)
    learn.unfit = Unfit()
    with pytest.raises(TypeError, match='no file'): learn.export('sub/a.pkl')
    assert learn.opt is opt and len(learn.dls.train_ds)==n and os.listdir(tmp_path/'sub')==['a.pkl']
    assert (tmp_path/'sub/a.pkl').read_bytes()==old
    del learn.unfit
    learn.fit(1)

# Weights in a file

@pytest.mark.parametrize('name', ['nothing','no/such/folder'])
def test_a_network_that_is_nowhere(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match=f'^{name}: expected a folder of save_pretrained, or a repository of the Hub, '): MultiSample.from_pretrained(name)

def test_weights_travel_without_pickle(tmp_path):
    learn = make(tmp_path, arch=resnet20)
    path = learn.save_weights('sub/w', seed=3)
    assert path==tmp_path/'sub/w.safetensors'
    m = load_weights(path)
    xs = torch.randn(2,3,1,8,8)
    assert torch.equal(m(*xs), by_hand(learn, *xs)) and not m.training
    assert (m.arch,m.vocab,m.settings) == ('fastmix/resnet20',vocab,{'seed':3})
    assert by_hand(mixup_c_learner(digits(tmp_path), arch=m), *xs).equal(m(*xs))

archs = [(tv.resnet18,'torchvision/resnet18'), ('test_resnet','timm/test_resnet'),
         (xresnet18,'fastai/xresnet18'), (tv.mnasnet0_5,'torchvision/mnasnet0_5'), (partial(resnet20, width=2),'fastmix/resnet20x2')]
@pytest.mark.parametrize('arch,name', archs, ids=[o[1] for o in archs])
def test_weights_of_other_libraries(arch, name, tmp_path):
    learn = single(tmp_path, arch=arch)
    m = load_weights(learn.save_weights())
    assert m.arch==name and torch.equal(m(images([1,2])), by_hand(learn, images([1,2])))

def own_net(): return nn.Sequential(nn.Conv2d(1,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,10))

def test_weights_of_a_network_without_a_name(tmp_path):
    learn = make(tmp_path, arch=own_net())
    path = learn.save_weights()
    remedy = 'arch=None: expected a network of fastmix, torchvision, timm or fastai'
    with pytest.raises(ValueError, match=remedy): load_weights(path)
    xs = torch.randn(2,3,1,8,8)
    assert torch.equal(load_weights(path, arch=own_net)(*xs), by_hand(learn, *xs))

def test_a_network_that_is_given_stays_as_it_is(tmp_path):
    learn = make(tmp_path, arch=own_net())
    path = learn.save_weights()
    with torch.no_grad(): [p.zero_() for p in learn.model.parameters()]
    loaded = load_weights(path, arch=learn.model)
    assert not any(p.any() for p in learn.model.parameters()) and all(p.any() for p in loaded.parameters() if p.ndim>1)

def test_names_with_a_dot_are_kept_apart(tmp_path):
    learn = make(tmp_path)
    a,b = [learn.save_weights(f'model.{v}') for v in ('v1','v2')]
    assert (a.name,b.name)==('model.v1.safetensors','model.v2.safetensors')
    assert learn.save_weights('m.safetensors').name=='m.safetensors'

def test_a_network_of_others_has_no_weights_to_save(tmp_path):
    learn = Learner(digits(tmp_path, 1), own_net(), path=tmp_path)
    with pytest.raises(ValueError, match='model is a Sequential: expected a network that make_model'): learn.to_single().save_weights('w')
    with pytest.raises(ValueError, match='model is a Sequential: expected a network that make_model'):
        learn.save_weights()

def test_a_file_of_version_0_1(tmp_path):
    "Its vocab and settings stood beside the config, and it knew no scale"
    m = resnet20(2, n_samples=2, n_in=1).eval()
    config = dict(arch='fastmix/resnet20', n_classes=2, n_samples=2, n_heads=2, n_in=1)
    meta = dict(fastmix=json.dumps(config), vocab='["a", "b"]', settings='{"seed": 3}')
    save_file(m.state_dict(), tmp_path/'w.safetensors', metadata=meta)
    new,xs = load_weights(tmp_path/'w.safetensors'),torch.randn(2,3,1,8,8)
    assert torch.equal(new(*xs), m(*xs)) and new.slot_scale is None
    assert (new.vocab,new.settings)==(['a','b'],{'seed':3})

# Files of strangers

def crafted(path, weights=None, **config):
    config = dict(dict(arch='timm/test_resnet', n_classes=2, n_samples=1, n_heads=1, n_in=3), **config)
    weights = {'weight': torch.zeros(2,3)} if weights is None else weights
    save_file(weights, path/'w.safetensors', metadata=dict(fastmix=json.dumps(config), vocab='[]', settings='{}'))
    return path/'w.safetensors'

@pytest.mark.parametrize('name', ['os/system','fastmix/to_single','fastai/xresnet18_deep.__class__','fastai/nn',
    'timm/hf-hub:someone/net','torchvision/../x','builtins/eval','fastmix/resnet99998','fastai/','',None,3])
def test_a_file_cannot_choose_what_is_called(name, tmp_path):
    with pytest.raises(ValueError, match='w.safetensors: arch=.*: expected a network of'):
        load_weights(crafted(tmp_path, arch=name))

def test_a_file_cannot_ask_for_a_download(tmp_path, monkeypatch):
    asked = []
    def make_model(arch, **kw): return asked.append(kw) or nn.Linear(3, 2, bias=False)
    monkeypatch.setattr('fastmix.shipping.make_model', make_model)
    load_weights(crafted(tmp_path, pretrained=True))
    assert asked==[dict(n_classes=2, n_samples=1, n_heads=1, n_in=3)]

@pytest.mark.parametrize('config,said', [(dict(n_classes=10**12), 'expected the sizes of its weights'),
    (dict(n_samples=10**9), 'expected the sizes of its weights'), (dict(n_classes='2'), "n_classes='2': expected"),
    (dict(n_heads=None), 'n_heads=None: expected'), (dict(arch='fastmix/resnet20'), 'expected weights of fastmix/resnet20: Unexpected key'),
    (dict(n_classes=-2, n_heads=-1), 'n_classes=-2: expected')])
def test_a_config_that_does_not_fit_its_weights(config, said, tmp_path):
    with pytest.raises(ValueError, match=f'w.safetensors: .*{said}'): load_weights(crafted(tmp_path, **config))

@pytest.mark.parametrize('names,settings,said', [('5','{}','vocab=5: expected a list'), ('["a"]','{}',r"vocab=\['a'\]: expected 2 names"),
                                                 ('[]','[]',r'settings=\[\]: expected a dict')])
def test_names_and_settings_of_another_kind(names, settings, said, tmp_path):
    m = resnet20(2)
    meta = dict(fastmix=json.dumps(m.config), vocab=names, settings=settings)
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'w.safetensors', metadata=meta)
    with pytest.raises(ValueError, match=f'w.safetensors: {said}'): load_weights(tmp_path/'w.safetensors')

def test_weights_that_are_not_where_they_should(tmp_path):
    (tmp_path/'d.safetensors').mkdir()
    with pytest.raises(ValueError, match='d.safetensors: '): load_weights(tmp_path/'d.safetensors')
    m = resnet20(2)
    m.save_pretrained(tmp_path/'net')
    for config,said in (('[]', r'\[\]: expected a dict'), ('{}', 'n_classes=None: expected')):
        (tmp_path/'net/config.json').write_text(config)
        with pytest.raises(ValueError, match=f'config.json: {said}'): MultiSample.from_pretrained(tmp_path/'net')

def test_names_with_and_without_the_suffix(tmp_path):
    learn = make(tmp_path, arch=resnet20)
    learn.save_weights('model.v1')
    (tmp_path/'model.v1').mkdir() # as `save_pretrained` makes one
    for f in ('model.v1','model.v1.safetensors'): assert load_weights(tmp_path/f).vocab==vocab

def test_a_file_of_others_is_refused(tmp_path):
    save_file({'a': torch.zeros(1)}, tmp_path/'w.safetensors')
    with pytest.raises(ValueError, match='w.safetensors: expected a file that save_weights wrote'):
        load_weights(tmp_path/'w.safetensors')
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'evil'),))
    (tmp_path/'p.safetensors').write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match='p.safetensors: '): load_weights(tmp_path/'p.safetensors')
    assert not (tmp_path/'evil').exists()

@pytest.mark.parametrize('config', ['', '{', '[]', 'null', '3', '{"fastmix": 1}', '"a"', '['*100_000])
def test_damaged_metadata(config, tmp_path):
    save_file({'a': torch.zeros(1)}, tmp_path/'w.safetensors', metadata={'fastmix': config})
    with pytest.raises(ValueError, match='w.safetensors: ') as e: load_weights(tmp_path/'w.safetensors')
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('keep', [0, 7, 100, .5, .99])
def test_a_file_cut_off(keep, tmp_path):
    path = make(tmp_path).save_weights()
    data = path.read_bytes()
    path.write_bytes(data[:int(keep*len(data)) if keep<1 else keep])
    with pytest.raises(ValueError, match='model.safetensors: ') as e: load_weights(path)
    assert '\n' not in str(e.value)

# The Hub's format

def files(folder): return sorted(p.name for p in folder.iterdir())

def test_a_folder_for_the_hub(tmp_path):
    learn = make(tmp_path, n_heads=1)
    learn.save_weights(seed=3)
    learn.model.save_pretrained(tmp_path/'net') # its classes came from the learner's loaders
    assert MultiSample.from_pretrained(tmp_path/'net').vocab==vocab
    assert files(tmp_path/'net')==['README.md','config.json','model.safetensors']
    m,xs = MultiSample.from_pretrained(tmp_path/'net'),torch.randn(2,3,1,8,8)
    assert torch.equal(m(*xs), by_hand(learn, *xs)) and not m.training
    assert m.config==json.loads((tmp_path/'net/config.json').read_text())==learn.model.config
    assert (m.vocab,m.settings,m.slot_scale)==(vocab,{'seed':3},tensor(.5))
    m.save_pretrained(tmp_path/'again') # what was loaded can be saved
    assert (tmp_path/'again/model.safetensors').read_bytes()==(tmp_path/'net/model.safetensors').read_bytes()

def test_what_is_pushed(tmp_path, monkeypatch):
    "The same files go to the Hub, without a network to go over here"
    pushed = []
    class Api:
        def __init__(self, token=None): pass
        def create_repo(self, repo_id, **kw): return SimpleNamespace(repo_id=repo_id)
        def upload_folder(self, folder_path, **kw): pushed.extend(files(folder_path))
    monkeypatch.setattr('huggingface_hub.hub_mixin.HfApi', Api)
    resnet20(10, n_samples=2).push_to_hub('someone/net')
    assert pushed==['README.md','config.json','model.safetensors']

def test_what_is_downloaded(tmp_path, monkeypatch):
    m = resnet20(10, n_samples=2).eval()
    m.save_pretrained(tmp_path/'net')
    asked = []
    def snapshot_download(name, **kw): return asked.append((name, kw)) or str(tmp_path/'net')
    monkeypatch.setattr('fastmix.shipping.snapshot_download', snapshot_download)
    new,xs = MultiSample.from_pretrained('someone/net', revision='v1'),torch.randn(2,3,3,8,8)
    assert torch.equal(new(*xs), m(*xs))
    assert asked==[('someone/net', dict(allow_patterns=('config.json','model.safetensors'), revision='v1'))]

@pytest.mark.parametrize('name,data', [('config.json',b'{'), ('config.json',b'\xff'), ('model.safetensors',b'x'),
                                       ('model.safetensors',b'')])
def test_damaged_folder(name, data, tmp_path):
    resnet20(10).save_pretrained(tmp_path)
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=f'{name}: '): MultiSample.from_pretrained(tmp_path)

def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.safetensors'): load_weights(tmp_path/'nothing.safetensors')
    with pytest.raises(FileNotFoundError, match='config.json'): MultiSample.from_pretrained(tmp_path)

# ONNX

@pytest.mark.parametrize('n', [1,2,3])
def test_onnx(n, tmp_path):
    learn = make(tmp_path, n) if n>1 else quiet(make(tmp_path).to_single())
    learn.fit(1)
    path = learn.export_onnx('m')
    for b in (1,2,5):
        xs = torch.rand(n,b,1,8,8)
        assert_close(run_onnx(path, *xs), by_hand(learn, *xs), atol=1e-4, rtol=1e-4)
    learn.fit(1) # the learner goes on

def test_onnx_says_what_it_is(tmp_path):
    learn = make(tmp_path)
    learn.save_weights(seed=3)
    a,b = [learn.export_onnx(f'model.{v}') for v in ('v1','v2')]
    assert (a.name,b.name)==('model.v1.onnx','model.v2.onnx') and files(tmp_path).count('model.v1.onnx')==1
    want = dict(arch='fastmix/resnet8', vocab=vocab, n_samples=2, n_heads=2, settings={'seed':3}, slot_scale=None)
    config = onnx_config(a)
    assert {k:config[k] for k in want}==want

def test_onnx_of_a_learner_of_fastai(tmp_path):
    dls = digits(tmp_path, 1)
    learn = vision_learner(dls, models.resnet18, n_in=1, pretrained=False, normalize=False, path=tmp_path)
    x = torch.rand(3,1,8,8)
    assert_close(run_onnx(learn.export_onnx('v'), x), by_hand(learn, x), atol=1e-4, rtol=1e-4)
    assert onnx_config(tmp_path/'v.onnx')==dict(n_samples=1, vocab=vocab)

def test_onnx_that_cannot_be(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = own_net()
        def forward(self, x): return self.net(x) if x.sum()>0 else self.net(-x)
    learn = Learner(digits(tmp_path, 1), Odd(), path=tmp_path)
    with pytest.raises(ValueError, match='odd.onnx: ') as e: learn.export_onnx('odd')
    assert '\n' not in str(e.value) and not (tmp_path/'odd.onnx').exists()
    assert 'data-dependent' in str(e.value) # why

# A learner that was loaded

@pytest.mark.parametrize('n_heads', [None,1])
def test_a_loaded_learner_ships_as_well(n_heads, tmp_path):
    "Its loaders are empty, so there is no batch to look at"
    learn = make(tmp_path, n_heads=n_heads)
    learn.export(tmp_path/'l.pkl')
    other,x = load_learner(tmp_path/'l.pkl'),torch.rand(2,3,1,8,8)
    other.path = tmp_path
    want = by_hand(learn, *x)
    assert_close(by_hand(other, *x), want)
    m = load_weights(other.save_weights('w', seed=3))
    assert torch.equal(m(*x), want) and (m.vocab,m.settings)==(vocab,{'seed':3})
    assert_close(run_onnx(other.export_onnx('m'), *x), want, atol=1e-4, rtol=1e-4)
    assert run_onnx(tmp_path/'m.onnx', *torch.rand(2,1,1,20,12)).shape==want[:1].shape # of any size
    same = by_hand(learn, x[0], x[0])
    with torch.no_grad(): one = to_single(other.model)(x[0])
    assert_close(one, same.mean(1) if n_heads is None else same, atol=1e-5, rtol=1e-4)

# One softmax, whose slots are scaled (section 4.1)

def test_everybody_knows_the_scale_of_one_softmax(tmp_path):
    learn = make(tmp_path, n_heads=1)
    learn.fit(1)
    x = images([3,7])
    want = by_hand(learn, x, x)
    with torch.no_grad(): assert_close(learn.model.net(torch.cat([x/2,x/2], 1)), want) # λ is a half on average
    assert_close(load_weights(learn.save_weights(), arch=tiny)(x, x), want)
    assert_close(run_onnx(learn.export_onnx(), x, x), want, atol=1e-4, rtol=1e-4)
    assert_close(by_hand(learn.to_single(), x), want, atol=1e-5, rtol=1e-4)
    probs = torch.stack([o[2] for o in learn.predict_many([digit_image(i) for i in (3,7)], same=True)])
    assert_close(probs.as_subclass(Tensor), want.softmax(1), atol=1e-5, rtol=1e-4)
    learn.save('here')
    other = make(tmp_path, n_heads=1, cbs=MixupC(mix_valid=True)) # one that weighs nothing
    assert_close(by_hand(other.load('here'), x, x), want)

def test_what_the_network_sees_is_the_weighed_image(tmp_path):
    "Images of ones, so that what comes to the first layer are the weights"
    seen = []
    class See(Callback):
        order = -1
        def before_batch(self): self.learn.xb = tuple(torch.ones_like(x) for x in self.xb)
        def after_pred(self): seen.append((self.training, self.mixup_c.mixed.w_x, inputs.pop()[:,:,0,0]))
    learn = make(tmp_path, n_heads=1, cbs=[MixupC(2, lam_x=.5, lam_l='x', seed=0), See()])
    inputs = []
    learn.model.net.register_forward_pre_hook(lambda m,xs: inputs.append(xs[0]))
    learn.fit(1)
    for training,w,x in seen: assert_close(x, w if training else torch.full_like(x, .5))
    assert {o[0] for o in seen}=={True,False} and ((seen[0][1]-.5).abs()>.01).any()

def test_onnx_of_a_network_with_a_config_of_its_own(tmp_path):
    "As those of Hugging Face have one, which is no dict"
    learn = single(tmp_path)
    net = nn.Sequential(nn.Conv2d(1,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,10))
    net.config = SimpleNamespace(hidden_size=4)
    learn.model = net
    config = onnx_config(learn.export_onnx('own'))
    assert config['n_samples']==1 and config['vocab']==vocab
