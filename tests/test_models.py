"The networks: He et al.'s, any other one with N slots and N heads, and the way back to one"
import copy, pytest, timm, torch, warnings, torchvision.models as tv
from functools import partial
from hypothesis import given, settings, strategies as st
from torch import nn, Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from fastai.vision.all import Normalize, create_vision_model, models, tensor, xresnet18
from fastmix.all import *
from fastmix.models import Heads, check_model, make_model, named_arch, slot_groups

def n_params(m): return sum(p.numel() for p in m.parameters())
tiny = partial(cifar_resnet, 8)

# The paper's network

@pytest.mark.parametrize('f,n', [(resnet20, 269_722), (resnet32, 464_154), (resnet44, 658_586), (resnet56, 853_018), (resnet110, 1_727_962)])
def test_parameters_of_he_et_al(f, n): assert n_params(f(10)) == n

@settings(max_examples=20, deadline=None)
@given(n=st.integers(1,4), c=st.integers(1,12), n_in=st.integers(1,4), one_head=st.booleans())
def test_slots_cost_their_stem_and_their_head(n, c, n_in, one_head):
    m = tiny(c, n_samples=n, n_heads=1 if one_head else None, n_in=n_in)
    heads = 1 if one_head else n
    assert n_params(m) - n_params(tiny(c)) == (n*n_in-3)*16*9 + (heads-1)*65*c

@settings(max_examples=15, deadline=None)
@given(b=st.integers(1,3), h=st.integers(4,40), w=st.integers(4,40), n=st.integers(1,3), n_in=st.integers(1,4))
def test_any_size_one_by_one_or_stacked(b, h, w, n, n_in):
    m,xs = tiny(5, n_samples=n, n_in=n_in).eval(),torch.randn(n,b,n_in,h,w).unbind()
    with torch.no_grad(): out = m(*xs)
    assert out.shape == ((b,n,5) if n>1 else (b,5))
    with torch.no_grad(): assert torch.equal(out, m(torch.cat(xs,1)))

def test_heads_are_linear_layers_on_one_feature():
    m,xs,feats = tiny(5, n_samples=3).eval(),torch.randn(3,2,3,8,8),[]
    m.net.pool.register_forward_hook(lambda m,i,o: feats.append(o))
    out,lin = m(*xs),m.net.head[0]
    for i in range(3):
        s = slice(5*i, 5*i+5)
        assert_close(out[:,i], feats[0]@lin.weight[s].T + lin.bias[s])

def test_gradient_of_a_head_reaches_all_slots_but_no_other_head():
    m = tiny(5, n_samples=2)
    m(*torch.randn(2,4,3,8,8))[:,1].sum().backward()
    g = m.net.head[0].weight.grad
    assert not g[:5].any() and g[5:].any()
    assert all(o.any() for o in m.net.stem[0].weight.grad.chunk(2, 1))

def test_the_network_of_he_et_al():
    "Sections 3.3 and 4.2 of their paper, with the initialisation of He et al. 2015 over the outputs"
    m = resnet56()
    assert [type(o) for o in m.net.stem]==[nn.Conv2d,nn.BatchNorm2d,nn.ReLU]
    assert isinstance(m.net.pool[0], nn.AdaptiveAvgPool2d)
    for c in (o for o in m.modules() if isinstance(o, nn.Conv2d)):
        assert c.bias is None and c.weight.std().item()==pytest.approx((2/(9*c.out_channels))**.5, rel=.15)

def small_net(bias): # a classifier that has a bias or none
    return nn.Sequential(nn.Conv2d(3,8,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,5,bias=bias))

@pytest.mark.parametrize('bias', [True,False])
@pytest.mark.parametrize('dtype', [torch.float32,torch.float64])
def test_heads_are_as_the_classifier_was(bias, dtype):
    m = multi_sample_model(small_net(bias).to(dtype), 2, 4)
    one,x = to_single(m),torch.randn(2,3,8,8, dtype=dtype)
    assert {p.dtype for o in (m,one) for p in o.parameters()}=={dtype}
    assert_close(one(x), m(x, x).mean(1))
    for o in (m,one): assert all((l.bias is not None)==bias for l in o.modules() if isinstance(l, nn.Linear))

def test_the_scale_of_the_slots_lies_where_the_network_does():
    m = resnet20(5, 2).to('meta')
    m.scale_slots(.5)
    assert m.slot_scale.device.type=='meta'

def test_pretrained_weights_are_asked_of_timm_and_fastai(monkeypatch):
    asked = []
    def create_model(name, **kw):
        asked.append((name, kw))
        return small_net(True)
    monkeypatch.setattr(timm, 'create_model', create_model)
    make_model('resnet18', 5, pretrained=True)
    assert [nm for nm,_ in asked]==['resnet18'] and asked[0][1].items()>=dict(pretrained=True, in_chans=3).items()
    def xresnet50(pretrained=False, n_out=1000):
        asked.append(pretrained)
        return small_net(True)
    for o in (True,False): make_model(xresnet50, 5, pretrained=o)
    assert asked[1:]==[True,False]

def test_one_block_by_hand(): # option A: every second pixel, channels padded with zeros
    from fastmix.models import BasicBlock
    b,x = BasicBlock(4,8,2).eval(),torch.rand(2,4,6,6)
    nn.init.zeros_(b.bn2.weight)
    want = torch.zeros(2,8,3,3)
    want[:,2:6] = x[:,:,::2,::2]
    assert torch.equal(b(x), want)

@pytest.mark.parametrize('kw,msg', [(dict(n_samples=0), 'n_samples=0: expected a whole number of at least 1'),
    (dict(n_samples=1.5), 'n_samples=1.5: expected a whole number'), (dict(n_samples=2, n_heads=3), 'n_heads=3: expected 1 or n_samples=2'),
    (dict(n_samples=2, n_heads=2.), 'n_heads=2.0: expected a whole number'), (dict(n_heads=True), 'n_heads=True: expected a whole number'),
    (dict(n_classes=0), 'n_classes=0'), (dict(n_in=0), 'n_in=0')])
def test_refused_settings(kw, msg):
    with pytest.raises(ValueError, match=msg): resnet20(**kw)
    if 'n_in' not in kw:
        with pytest.raises(ValueError, match=msg): multi_sample_model(tv.resnet18(), **{'n_samples': 2, 'n_classes': 3, **kw})

@pytest.mark.parametrize('f', [resnet20, resnet32, resnet44, resnet56, resnet110])
def test_arguments_by_position(f):
    depth = int(f.__name__[6:])
    a,b = f(7, 2, 1, 4, 2),cifar_resnet(depth, n_classes=7, n_samples=2, n_heads=1, n_in=4, width=2)
    assert str(a)==str(b) and a.config==b.config and a.arch==f'fastmix/resnet{depth}x2'

def test_refused_depth_and_images():
    with pytest.raises(ValueError, match=r'depth=21: expected 6m\+2'): cifar_resnet(21)
    m = tiny(5, n_samples=2)
    with pytest.raises(ValueError, match='got 3 images: expected n_samples=2'): m(*torch.randn(3,1,3,8,8))
    with pytest.raises(ValueError, match=r'got images of 2 channels in all: expected n_samples \* n_in = 2 \* 3'): m(*torch.randn(2,1,1,8,8))

# Any network

def small_vit(): return tv.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
def fastai_net(): return create_vision_model(models.resnet18, 10, pretrained=False)
def small_timm(name): return partial(timm.create_model, name)

nets = dict(resnet18=(tv.resnet18,32), mobilenet_v3=(tv.mobilenet_v3_small,32), small_vit=(small_vit,32), xresnet18=(xresnet18,32), fastai=(fastai_net,64),
            timm_resnet=(small_timm('test_resnet'),32), timm_convnext=(small_timm('test_convnext'),32), timm_vit=(small_timm('test_vit'),160),
            timm_efficientnet=(small_timm('test_efficientnet'),32), timm_tf_efficientnet=(small_timm('tf_efficientnet_b0'),32))
big = dict(resnet50=(tv.resnet50,32), densenet121=(tv.densenet121,32), efficientnet_b0=(tv.efficientnet_b0,32), mobilenet_v3_large=(tv.mobilenet_v3_large,32),
           timm_resnet18=(small_timm('resnet18'),32), convnext_tiny=(small_timm('convnext_tiny'),32), timm_efficientnet_b0=(small_timm('efficientnet_b0'),32))
slow = dict(vit_b_16=(tv.vit_b_16,224), timm_vit_tiny=(small_timm('vit_tiny_patch16_224'),224))
every = [pytest.param(*v, id=k) for k,v in {**nets, **big}.items()] + [pytest.param(*v, id=k, marks=pytest.mark.slow) for k,v in slow.items()]

def features(model, cls, *xs): # what comes to the last layer of a class
    got = []
    h = [m for m in model.modules() if isinstance(m, cls)][-1].register_forward_pre_hook(lambda m,i: got.append(i[0]))
    with torch.no_grad(): model.eval()(*xs)
    h.remove()
    return got[-1]

@pytest.mark.parametrize('f,size', every)
def test_backbone(f, size):
    torch.manual_seed(0)
    one,n = f(),3
    m,x = multi_sample_model(one, n, 4),torch.randn(2,3,size,size)
    assert m(*[x]*n).shape == (2,n,4)

    kept = m.net.state_dict() # every weight but the stem's and the classifier's is the old one
    new = [k for k,v in one.state_dict().items() if k not in kept or kept[k].shape!=v.shape or (not torch.equal(kept[k],v) and 'running' not in k and 'batches' not in k)]
    assert 2 <= len(new) <= 3

    m = multi_sample_model(one, n, 4) # `m` has seen a batch in training
    was,now = features(one, nn.Linear, x),features(m, Heads, *[x]*n)
    assert_close(now, was, atol=1e-3*float(was.abs().max()), rtol=0)

    single = to_single(m).eval()
    with torch.no_grad(): assert_close(single(x), m.eval()(*[x]*n).mean(1), atol=1e-4, rtol=1e-3)
    assert_close(features(single, Heads, x), was, atol=1e-3*float(was.abs().max()), rtol=0)

@pytest.mark.parametrize('f,size', every)
def test_backbone_learns(f, size):
    torch.manual_seed(0)
    m = multi_sample_model(f(), 2, 4).train()
    bs = 8 if size<200 else 2
    xs,ys = torch.randn(2,bs,3,size,size),torch.randint(4, (2,bs))
    opt,losses = torch.optim.Adam(m.parameters(), 1e-3),[]
    for _ in range(6):
        of_heads = torch.stack([F.cross_entropy(p, y) for p,y in zip(m(*xs).unbind(1), ys)])
        opt.zero_grad()
        of_heads.sum().backward()
        opt.step()
        losses.append(of_heads.detach())
    assert (losses[-1] < .9*losses[0]).all(), losses

def test_the_model_given_is_left_alone():
    one = tv.resnet18()
    before = {k:v.clone() for k,v in one.state_dict().items()}
    multi_sample_model(one, 2, 4)
    assert all(torch.equal(v, before[k]) for k,v in one.state_dict().items()) and one.conv1.in_channels==3

def test_gray_images_through_a_colour_network():
    one = tv.resnet18().eval()
    g = torch.randn(2,1,32,32)
    m = multi_sample_model(one, 2, 4, n_in=1).eval()
    assert_close(features(m, Heads, g, g), features(one, nn.Linear, g.expand(-1,3,-1,-1)), atol=1e-3, rtol=0)

def headless():
    m = tv.resnet18()
    m.fc = nn.Identity()
    return m
def parametrized():
    m = nn.Sequential(nn.Conv2d(3,8,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,3))
    nn.utils.parametrizations.weight_norm(m[0])
    return m
def grouped(): return nn.Sequential(nn.Conv2d(4,8,3,groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,3))

@pytest.mark.parametrize('m,name,found', [(headless(),'ResNet','layer4.1.bn2: BatchNorm2d'), (grouped(),'Sequential','0: Conv2d'),
    (tv.squeezenet1_1(),'SqueezeNet','classifier.1: Conv2d'), (timm.create_model('test_vit', num_classes=0),'VisionTransformer','norm: LayerNorm'),
    (timm.create_model('test_nfnet'),'NormFreeNet','ScaledStdConv2d'), (parametrized(),'Sequential','ParametrizedConv2d'),
    (nn.Linear(3,3),'Linear','itself: Linear'), (nn.ReLU(),'ReLU','itself: ReLU')])
def test_networks_that_cannot_be_adapted_are_refused_by_name(m, name, found):
    with pytest.raises(ValueError, match=f'{name} cannot be adapted: expected a convolution .* and a linear classifier .* found .*{found}'):
        multi_sample_model(m, 2, 4)

# Back to one

@pytest.mark.parametrize('n,n_heads', [(1,None), (2,None), (3,None), (2,1)])
def test_to_single(n, n_heads):
    m,x = tiny(5, n_samples=n, n_heads=n_heads),torch.randn(2,3,8,8)
    m(*torch.randn(n,4,3,8,8)) # batch statistics of its own
    m.eval()
    s = to_single(m)
    out = m(*[x]*n)
    assert_close(s(x), out.mean(1) if out.ndim>2 else out, atol=1e-5, rtol=1e-4)
    assert_close(s.net.stem[0].weight, sum(m.net.stem[0].weight.chunk(n,1)))
    heads = m.net.head[0].weight.unflatten(0, (m.n_heads,5))
    assert_close(s.net.head[0].weight, heads.mean(0))
    assert (s.n_samples,s.n_heads) == (1,1) and n_params(s)==n_params(tiny(5))
    assert all(p.requires_grad for p in s.parameters())

def test_to_single_refuses_other_networks():
    with pytest.raises(ValueError, match='model is a ResNet: expected a MultiSample network'): to_single(tv.resnet18())

@pytest.mark.parametrize('f,size', [(tv.googlenet,32), (tv.inception_v3,80)])
def test_auxiliary_heads_are_left_out(f, size):
    m,x = multi_sample_model(f(init_weights=False), 2, 4),torch.randn(2,3,size,size)
    assert m.train()(x, x).shape==m.eval()(x, x).shape==(2,2,4) and not [k for k in m.state_dict() if 'aux' in k.lower()]

# Networks whose layers have parts of their own

class PaddedConv(nn.Conv2d):
    "A convolution that pads by a module of its own, as those of EfficientNet-Lite do"
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d(1)
    def forward(self, x): return super().forward(self.static_padding(x))

def padded(): return nn.Sequential(PaddedConv(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

def test_a_convolution_with_parts():
    one = padded().eval()
    m,x = multi_sample_model(one, 3, 4).eval(),torch.randn(2,3,8,8)
    assert isinstance(m.net[0], PaddedConv) and m(x,x,x).shape==(2,3,4)
    assert_close(features(m, Heads, x, x, x), features(one, nn.Linear, x))
    assert_close(to_single(m)(x), m(x,x,x).mean(1))

@pytest.mark.parametrize('frozen', [False,True])
def test_a_frozen_stem_stays_frozen(frozen):
    one = padded().requires_grad_(not frozen)
    m = multi_sample_model(one, 2, 4)
    assert m.net[0].weight.requires_grad is not frozen and to_single(m).net[0].weight.requires_grad is not frozen

@pytest.mark.parametrize('n,n_old', [(1,1), (2,1), (1,2), (3,2)])
def test_a_network_of_ours_for_other_classes(n, n_old):
    "It keeps what it has learned but for the head, and knows its classes and slots"
    old,x = tiny(10, n_samples=n_old).eval(),torch.randn(2,3,8,8)
    m = multi_sample_model(old, n, 5).eval()
    assert m(*[x]*n).shape==((2,n,5) if n>1 else (2,5)) and m.config['n_classes']==5 and len([o for o in m.modules() if isinstance(o, Heads)])==1
    assert_close(features(m, Heads, *[x]*n), features(to_single(old).eval(), Heads, x), atol=1e-5, rtol=1e-4)
    assert len(slot_groups(m))==2 and sum(map(len, slot_groups(m)))==len(list(m.parameters()))

def test_networks_without_heads_are_told():
    own = MultiSample(nn.Sequential(nn.Conv2d(6,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4,5)), 2, 1)
    for f in (to_single, lambda m: multi_sample_model(m, 1, 5)):
        with pytest.raises(ValueError, match='Sequential without Heads: expected a network that multi_sample_model or cifar_resnet made'): f(own)

def test_more_channels_have_the_same_colours():
    "Images that come twice, with six channels, give the features of three"
    net,x = padded(),torch.randn(2,3,8,8)
    for n in (1,2): assert_close(features(multi_sample_model(net, n, 4, n_in=6), Heads, *[torch.cat([x,x], 1)]*n), features(net, nn.Linear, x))

def test_groups_of_a_network_that_fastai_cut():
    "Its new head trains while the body is frozen, as `vision_learner` has it"
    net = create_vision_model(models.resnet18, 10, pretrained=False)
    m = multi_sample_model(net, 2, 5)
    body,head = slot_groups(m)
    assert list(map(id, body))==list(map(id, m.net[0].parameters())) and list(map(id, head))==list(map(id, m.net[1].parameters()))

@pytest.mark.parametrize('net', [nn.Sequential(nn.Identity(), padded()), nn.Sequential(padded(), nn.Identity())], ids=['before','behind'])
def test_groups_of_a_wrapped_network(net):
    "A step without weights before or behind it is no group: the heads alone train while the rest is frozen"
    m = multi_sample_model(net, 2, 5)
    body,*heads = slot_groups(m)
    own = [p for o in m.modules() if isinstance(o, Heads) for p in o.parameters()]
    assert body and len(heads)==1 and list(map(id, heads[0]))==list(map(id, own))

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = padded()
    def forward(self, x): return self.net(x),x

class PairInTraining(Pair):
    def forward(self, x): return super().forward(x) if self.training else self.net(x)

@pytest.mark.parametrize('net', [Pair,PairInTraining])
def test_an_answer_that_is_no_tensor(net):
    "In training too; nothing is drawn or changed by looking"
    m,state = multi_sample_model(net(), 1, 4),torch.get_rng_state()
    before = copy.deepcopy(m.state_dict())
    with pytest.raises(ValueError, match=f'{net.__name__} answers with a tuple'): check_model(m, (torch.randn(1,3,8,8, generator=torch.Generator()),), 1, 4)
    assert torch.equal(torch.get_rng_state(), state) and m.training
    for k,v in m.state_dict().items(): assert torch.equal(v, before[k])

def test_layers_without_a_size():
    lazy = nn.Sequential(nn.LazyConv2d(8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    with pytest.raises(ValueError, match='Sequential: expected layers that have seen a batch'): multi_sample_model(lazy, 2, 10)
    lazy(torch.randn(2,3,8,8))
    assert multi_sample_model(lazy, 2, 10)(torch.randn(2,6,8,8)).shape==(2,2,10)

class Normalizes(nn.Module):
    "A network with its own statistics of the images, which a scale in its weights would not reach"
    def __init__(self):
        super().__init__()
        self.net = padded()
    def forward(self, x): return self.net((x-.5)/.25)

def test_a_single_network_keeps_the_scale_of_the_slots():
    m,x = multi_sample_model(Normalizes(), 2, 4).eval(),torch.rand(3,3,8,8)
    m.scale_slots(.5)
    one = to_single(m)
    with torch.no_grad(): assert_close(one(x), m(x,x).mean(1), atol=1e-5, rtol=1e-4)
    again = tiny(10)
    again.scale_slots(.5)
    with torch.no_grad(): assert_close(features(again.eval(), Heads, x), features(multi_sample_model(again, 1, 5).eval(), Heads, x), atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('arch,said', [(tv.resnet18(), 'pretrained=True: expected a name or a function, not a network'), (tiny(10), 'not a network'),
                                       (xresnet18, 'pretrained=True: fastai has no weights of xresnet18')], ids=['network','ours','xresnet18'])
def test_weights_that_do_not_exist(arch, said):
    with pytest.raises(ValueError, match=said): make_model(arch, 10, 1, pretrained=True)

def test_statistics_of_torchvisions_weights(monkeypatch):
    monkeypatch.setattr(tv.WeightsEnum, 'get_state_dict', lambda self, **kw: tv.resnet18().state_dict())
    assert make_model(tv.resnet18, 10, 1, pretrained=True).net.default_cfg==dict(mean=[.485,.456,.406], std=[.229,.224,.225])

def test_loaders_of_another_normalization():
    from fastmix.data import normalize_as
    net,dls = nn.Identity(),digits_dls(1, size=8)
    dls.add_tfms([Normalize.from_stats([.5]*3, [.5]*3)], 'after_batch')
    net.default_cfg = dict(mean=[.5]*3, std=[.5]*3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        normalize_as(dls, net)
    net.default_cfg = {} # ImageNet's
    with pytest.warns(UserWarning, match=r'the loaders normalize by std=\[0.5, 0.5, 0.5\], this network expects .*: make new loaders'): normalize_as(dls, net)
    assert len(dls.after_batch.fs.filter(lambda o: isinstance(o, Normalize)))==1

@pytest.mark.parametrize('last,ok', [(nn.LogSoftmax(1),False), (nn.Softmax(1),False), (nn.Dropout(.5),True), (nn.Identity(),True)])
def test_a_softmax_behind_the_heads_is_refused(last, ok):
    "It would be over the heads"
    net,x = nn.Sequential(*padded(), last),torch.randn(2,3,8,8)
    m = multi_sample_model(net, 2, 4)
    if ok: return check_model(m, (x,x), 2, 4)
    with pytest.raises(ValueError, match='Sequential changes what its heads answer: expected the classifier as its last step'): check_model(m, (x,x), 2, 4)
    check_model(multi_sample_model(net, 1, 4), (x,), 1, 4) # of one head it is over the classes

# Names

@pytest.mark.parametrize('arch,said', [('resnet_18', "arch='resnet_18': expected a network of timm, as 'resnet18', or a function"),
    ('efficientnet_b00', "as 'efficientnet_b0'"), ('', "arch='': expected a network of timm"), (3, 'arch=3: expected a function, a name or a network')])
def test_networks_that_do_not_exist(arch, said):
    with pytest.raises(ValueError, match=said): make_model(arch, 10, 2)

def test_pretrained_weights_that_do_not_come(monkeypatch):
    from urllib.error import URLError
    def offline(*args, **kwargs): raise URLError('no route to host')
    monkeypatch.setattr('torchvision._internally_replaced_utils.load_state_dict_from_url', offline)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(OSError, match='did not come .URLError.: connect to the network once, or pass pretrained=False') as e:
        make_model(tv.resnet18, 10, 2, pretrained=True)
    assert '\n' not in str(e.value)

@given(st.integers(1,4), st.integers(1,3))
@settings(max_examples=10, deadline=None)
def test_width(width, n):
    "`width` times the channels: its square times the weights between them; named so that it can be built again"
    one,wide = cifar_resnet(8, n_samples=n),cifar_resnet(8, n_samples=n, width=width)
    for a,b in zip(one.net.body, wide.net.body): assert b.conv2.weight.numel()==width**2*a.conv2.weight.numel()
    again = named_arch(wide.arch)(10, n_samples=n)
    assert [p.shape for p in again.parameters()]==[p.shape for p in wide.parameters()]
    assert wide(torch.randn(2,3*n,8,8)).shape==((2,n,10) if n>1 else (2,10))

def test_no_width():
    with pytest.raises(ValueError, match='width=0: expected a whole number of at least 1'): resnet20(width=0)

# The scale of the slots' images

def test_weights_bring_their_scale_along():
    a,b = tiny(5, n_samples=2).eval(),tiny(5, n_samples=2).eval()
    xs = torch.randn(2,4,3,8,8)
    plain = a.state_dict()
    assert 'slot_scale' not in plain
    a.scale_slots(.5)
    b.load_state_dict(a.state_dict())
    assert_close(b(*xs), a(*xs))
    assert b.slot_scale==.5
    b.load_state_dict(plain) # weights without a scale leave the network's own
    assert_close(b(*xs), a(*xs))
    with torch.no_grad(): assert_close(to_single(a)(xs[0]), a(xs[0], xs[0]).mean(1), atol=1e-5, rtol=1e-4)

def test_a_network_that_normalizes_its_input_again(tmp_path):
    "torchvision's flag comes with the pretrained weights alone, so a network that is read again would lack it"
    net = tv.googlenet(weights=None, init_weights=False, transform_input=True, aux_logits=False)
    m = multi_sample_model(net, 1, 10)
    m.arch = 'torchvision/googlenet'
    for o in m.modules(): # its random weights make features of 10^8, which say nothing
        if isinstance(o, nn.BatchNorm2d): o.momentum = 1.
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        m.train()(x)
        m.save_pretrained(tmp_path)
        assert torch.equal(m.eval()(x), MultiSample.from_pretrained(tmp_path).eval()(x))
        assert multi_sample_model(net, 2, 10).eval()(x, x).shape==(4,2,10)
    assert net.transform_input and m.net.default_cfg==dict(mean=[.5]*3, std=[.5]*3)

@pytest.mark.parametrize('depth,width', [(8,1), (20,10), (152,1), (1202,2)])
def test_names_of_our_networks(depth, width):
    "Every network that `cifar_resnet` builds can be read again"
    name = f'resnet{depth}' + (f'x{width}' if width>1 else '')
    f = named_arch(f'fastmix/{name}')
    assert (f.args,f.keywords)==((depth,),dict(width=width))
    if depth<20: assert f(10).arch==f'fastmix/{name}'

def test_a_network_of_ours_keeps_its_name():
    assert multi_sample_model(resnet20(10), 2, 5).arch==resnet20(10).arch is not None

def test_the_number_of_slots_by_position():
    assert resnet20(5, 3)(*torch.rand(3, 1,3,8,8)).shape==(1,3,5)
