"Properties of weights, partners and blending, over many sizes and distributions"
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Beta, Dirichlet, Uniform
from torchvision.transforms import v2
from fastmix.core import *

sizes,ns,seeds = st.integers(1, 257),st.integers(1, 4),st.integers(0, 2**31)
quick = settings(max_examples=40, deadline=None)
dists = st.one_of(st.floats(0, .5), st.floats(0, 1).map(Fixed), st.sampled_from([lambda s: torch.rand(s), lambda s: .3]))

@quick
@given(sizes, ns, seeds, dists)
def test_weights_are_in_range_and_sum_to_one(bs, n, seed, dist):
    w = draw_weights(dist, bs, n, keyed_rng(seed))
    assert w.shape==(bs,n) and w.dtype==torch.float32
    assert (w>=-1e-6).all() and (w<=1+1e-6).all()
    if n>1: assert torch.allclose(w.sum(1), torch.ones(bs), atol=1e-5)
    if isinstance(dist, float) and n==2: assert ((w-.5).abs()<=dist+1e-6).all()

@quick
@given(sizes, seeds)
def test_any_torch_distribution(bs, seed):
    for d in (Beta(.4,.4), Uniform(0.,1.)): assert draw_weights(d, bs, 3, keyed_rng(seed)).shape==(bs,3)
    assert torch.allclose(draw_weights(Dirichlet(torch.ones(3)), bs, 3, keyed_rng(seed)).sum(1), torch.ones(bs), atol=1e-5)

@pytest.mark.parametrize('n', [2,3,4])
@pytest.mark.parametrize('r', [.1,.3,.5])
def test_moments_are_those_of_the_formula(r, n):
    "w = (1-2r)/n + 2r d, d ~ Dirichlet(1): mean 1/n, variance 4r² (n-1)/(n²(n+1))"
    w = draw_weights(r, 200_000, n, keyed_rng(1)).double()
    assert torch.allclose(w.mean(0), torch.full((n,), 1/n, dtype=torch.double), atol=2e-3)
    assert torch.allclose(w.var(0), torch.full((n,), 4*r*r*(n-1)/(n*n*(n+1)), dtype=torch.double), rtol=2e-2)

@quick
@given(sizes, ns, seeds, st.sampled_from(how_partners))
def test_partners_are_members_of_the_batch(bs, n, seed, how):
    y = torch.arange(bs)%3
    idx = partners(bs, n, how, y, keyed_rng(seed))
    assert idx.shape==(n,bs) and (idx[0]==torch.arange(bs)).all() and (idx>=0).all() and (idx<bs).all()
    if how!='other_class': assert (idx.sort(1).values==torch.arange(bs)).all() # everybody is used once
    if how=='other' and bs>=n:
        for i in range(n):
            for j in range(i): assert (idx[i]!=idx[j]).all()
    if how=='other_class' and bs>1 and n>1: assert (y[idx[1:]]!=y).all()
    assert (idx==partners(bs, n, how, y, keyed_rng(seed))).all()

def test_another_class_is_drawn_evenly_from_all_of_the_others():
    y = torch.tensor([4,0,4,7,0,4])
    p = torch.stack([other_class(y, g) for g in [keyed_rng(0)] for _ in range(6000)])
    for i,c in enumerate(y):
        freq = torch.bincount(p[:,i], minlength=6)/6000
        assert torch.allclose(freq, (y!=c)/(y!=c).sum(), atol=.03)
    many = torch.arange(100_000)%10
    assert (many[other_class(many, keyed_rng(0))]!=many).all()
    alone = torch.stack([other_class(torch.zeros(3, dtype=torch.long), g) for g in [keyed_rng(0)] for _ in range(600)])
    assert torch.allclose(torch.bincount(alone[:,0], minlength=3)/600, torch.full((3,), 1/3), atol=.1) # any, where there is no other
    for none in (torch.eye(3), None):
        with pytest.raises(ValueError, match='expected one class per sample'): other_class(none, keyed_rng(0))

def test_partners_are_uniform():
    g = keyed_rng(0)
    for how in ('any','other'):
        got = torch.stack([partners(4, 2, how, g=g)[1] for _ in range(6000)]) # how often is 0..3 the partner of 0?
        p = torch.bincount(got[:,0], minlength=4)/6000
        want = torch.full((4,), .25) if how=='any' else torch.tensor([0,1/3,1/3,1/3])
        assert torch.allclose(p, want, atol=.03)

@quick
@given(sizes, ns, seeds, st.sampled_from([torch.float16,torch.bfloat16,torch.float32,torch.float64]), st.integers(1,4))
def test_mix_is_the_formula_and_writes_nothing(bs, n, seed, dtype, c):
    g = keyed_rng(seed)
    x = torch.randn(bs, c, 3, 2, generator=g).to(dtype)
    before,idx,w = x.clone(),partners(bs, n, g=g),draw_weights(.5, bs, n, g)
    got = mix(x, idx, w)
    want = sum(w[:,k].double()[:,None,None,None]*x[idx[k]].double() for k in range(n))
    tol = {torch.float16: 4e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-5)
    assert got.dtype==dtype and torch.allclose(got.double(), want, atol=tol, rtol=tol) and torch.equal(x, before)

def test_equal_to_torchvision():
    "v2.MixUp rolls the batch by one and draws one λ; here with the same partners and λ"
    x,y = torch.rand(5,3,4,4),torch.randint(10, (5,))
    torch.manual_seed(0)
    xt,yt = v2.MixUp(num_classes=10)(x, y)
    torch.manual_seed(0)
    lam = float(torch.distributions.Beta(1.,1.).sample(()))
    idx,w = torch.stack([torch.arange(5), torch.arange(5).roll(1)]),torch.tensor([[lam,1-lam]])
    assert torch.allclose(mix(x, idx, w), xt, atol=1e-6)
    assert torch.allclose(mix(torch.eye(10)[y], idx, w), yt, atol=1e-6)

@pytest.mark.parametrize('bs,n', [(2,3),(3,5),(4,9)])
def test_others_where_slots_are_more_than_samples(bs, n):
    idx = partners(bs, n, 'other')
    assert (idx[1:]!=idx[0]).all()

@pytest.mark.parametrize('dist,said', [
    (lambda shape: torch.full(shape, -95.), r'-95..-95: expected 0..1'), (Uniform(0.,2.), r'0\.\d+..1\.\d+: expected 0..1'),
    (lambda shape: torch.full(shape, float('nan')), 'nan..nan: expected 0..1'), (lambda shape: 1.5, '1.5..1.5: expected 0..1'),
    (lambda shape: torch.ones(7), r'of \(7,\): expected \(99,\) or \(99, 2\)'),
    (lambda shape: torch.ones(*shape, 1), r'of \(99, 1\): expected'), (Dirichlet(torch.ones(3)), r'\(99, 3\): expected'),
    (lambda shape: torch.ones(*shape, 2), 'that sum to 2: expected 1')])
def test_weights_that_are_none(dist, said):
    with pytest.raises(ValueError, match='gave weights.*'+said): draw_weights(dist, 99)

def test_bad_values_are_refused_by_the_functions_too():
    with pytest.raises(ValueError, match="dist=0.8: expected a number in 0..0.5"): draw_weights(.8, 5)
    with pytest.raises(ValueError, match="how='othr': expected"): partners(6, how='othr')
    with pytest.raises(ValueError, match="partner='other_class': expected one class per sample"): partners(6, how='other_class', y=torch.rand(6))

@pytest.mark.parametrize('how', how_partners)
def test_every_partner_is_drawn_for_itself(how):
    idx = partners(1000, 3, how, torch.arange(1000), keyed_rng(0))
    assert (idx[1]==idx[2]).sum()<10 # one in a thousand is the same by chance

@pytest.mark.parametrize('dist', [Beta(.4,.4), Uniform(0.,1.), Dirichlet(torch.ones(2)), lambda shape: torch.rand(shape)], ids=['beta','uniform','dirichlet','function'])
def test_a_distribution_draws_from_its_generator_alone(dist):
    "The same weights for the same seed, and PyTorch's own generator is left as it was"
    before = torch.get_rng_state()
    a,b,c = [draw_weights(dist, 5, g=keyed_rng(seed)) for seed in (1,1,2)]
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)

def test_weights_that_are_too_small_in_all():
    with pytest.raises(ValueError, match='sum to 0.5'): draw_weights(lambda s: torch.full((*s,2), .25), 9)

def test_weights_of_a_distribution_in_float64():
    d = torch.tensor(.4).double()
    assert draw_weights(Beta(d, d), 4).dtype==torch.float32

def test_without_a_generator_every_call_draws_anew():
    assert not torch.equal(draw_weights(.5, 9), draw_weights(.5, 9))
    assert not torch.equal(partners(99), partners(99))

def test_when_mixing_ends_to_the_epoch():
    assert [until(e, 100) for e in (89,90)]==[True,False] and [until(e, 100, .55) for e in (54,55)]==[True,False]
    assert fade(79, 100)==1 and 0<fade(90, 100)<1 and fade(9, 10, 1.)==1
