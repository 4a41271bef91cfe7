"Forward passes and steps of a network: N images in one pass, prediction, the limit of convolutions"
from fastai.vision.all import *
from fastmix.all import *
from fastmix.training import compile_model
from . import bare
from .callback import batch_of, images
from .common import *
from .epochs import BareLoop
from .results import row

def forward(net, *xs):
    with torch.no_grad(), bare.precision(device, bf16): return net(*xs)

def ready(net): return net.to(device, memory_format=torch.channels_last).eval()

def one_pass(quick):
    "N images in one forward pass, against N passes, and against a batch of them all"
    arch,b,rounds = (resnet20,16,2) if quick else (resnet56,64,21)
    single = ready(arch())
    for n in (2,4):
        net = ready(arch(n_samples=n))
        xs = torch.randn(n, b, 3, 32, 32, device=device)
        stacked = xs.flatten(0, 1)
        def passes(*xs): return [single(x) for x in xs] # in one context: bf16 converts the weights once
        calls = [partial(forward, net, *xs), partial(forward, passes, *xs), partial(forward, single, stacked)]
        rate = n*b/times(calls, rounds, 3)
        asked = {2: 1.9, 4: 3.6}[n]
        for against,theirs in zip((f'{n} passes', f'a batch of {n} times as many'), rate[1:]):
            yield row(f'{n} images in one pass, {arch.__name__}', against, rate[0], theirs,
                      'images/s', asked)

def bare_predict(net, ims, vocab, n):
    "Label, class number and probabilities of each image, as `predict_many` gives them"
    net.eval()
    res = []
    for i in range(0, len(ims), n*bs):
        x = torch.from_numpy(np.stack(ims[i:i+n*bs])).to(device).permute(0, 3, 1, 2)
        pred = forward(net, *bare.normalize(x).unflatten(0, (-1,n)).unbind(1))
        probs = pred.float().softmax(-1).flatten(0, 1).cpu()
        res += [(vocab[c],c,p) for c,p in zip(probs.argmax(1).tolist(), probs)]
    return res

def predict(quick):
    "`predict_many` and `validate`, against bare loops"
    arch,n = (resnet20,256) if quick else (resnet56,1024)
    rounds = 2 if quick else 9
    learn = ours(memory_loaders(256, n), arch)
    net,ims = learn.model,crops(n)
    calls = [partial(learn.predict_many, ims),
             partial(bare_predict, net, ims, learn.dls.vocab, learn.dls.n_samples)]
    rate = n/times(calls, rounds)
    yield row(f'predict_many of arrays, {arch.__name__}', 'a bare loop', *rate, 'images/s', .95)
    loop = BareLoop(net, 0, n)
    rate = n/times([learn.validate, loop.validate], rounds)
    yield row(f'validate, {arch.__name__}', 'a bare loop', *rate, 'pairs/s', .95)

def bare_step(net, xs, y):
    "A function that does one step of plain PyTorch, of our networks or of torch-uncertainty's"
    net = net.to(device, memory_format=torch.channels_last).train()
    opt = bare.sgd(net)
    def step():
        with bare.precision(device, bf16): pred = net(*xs)
        loss = bare.heads_loss(pred, y) if pred.ndim==3 else F.cross_entropy(pred, y.flatten())
        loss.backward()
        opt.step()
        opt.zero_grad()
    return step

def mimo(quick):
    "A step of a network of two slots, against torch-uncertainty's"
    depth,b = (20,16) if quick else (56,bs)
    name,against = f'a step of resnet{depth}, two slots',"torch-uncertainty's mimo_resnet"
    yield from not_installed(name, against, 'torch_uncertainty')
    if not find_spec('torch_uncertainty'): return
    from torch_uncertainty.models import mimo_resnet
    theirs = mimo_resnet(3, 10, arch=depth, num_estimators=2, conv_bias=False, style='cifar')
    xs,y = torch.randn(2, b, 3, 32, 32, device=device),torch.randint(10, (2,b), device=device)
    calls = [bare_step(cifar_resnet(depth, n_samples=2), xs, y),
             bare_step(theirs, [xs.flatten(0, 1)], y)]
    rate = b/times(calls, 2 if quick else 21, 2)
    yield row(name, against, *rate, 'pairs/s', 1)

def convolutions(net, x):
    "Functions that do what one step asks of each convolution, forward and backward"
    calls = []
    def call(conv, x, g):
        y = conv(x)
        wanted = [o for o in (x, conv.weight) if o.requires_grad]
        torch.autograd.grad(y, wanted, g)
    def hook(conv, args, y):
        x = args[0].detach().clone().requires_grad_(bool(calls)) # no gradient of the images
        calls.append(partial(call, conv, x, torch.randn_like(y)))
    hooks = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with bare.precision(device, bf16): net(x) # their inputs are of the type that they have in a step
    for h in hooks: h.remove()
    def run():
        with bare.precision(device, bf16):
            for f in calls: f()
    return run

def limit(quick):
    "A whole step of training, against its convolutions alone"
    arch,b = (resnet20,32) if quick else (resnet56,bs)
    batch,net,compiled = images(b, 32),arch(),arch()
    compile_model(compiled, device)
    def step(net): return batch_of(batch, net, DevicePrecision(amp_mode='bf16') if bf16 else None)
    x = batch[0].as_subclass(Tensor).to(memory_format=torch.channels_last)
    calls = [step(net), step(compiled), convolutions(net, x)]
    *steps,alone = times(calls, 2 if quick else 21, 2)*1e3
    for ts,how in zip(steps, ('',', compiled')):
        yield row(f'a training step, {arch.__name__}{how}', 'its convolutions alone', ts, alone, 'ms',
                  1.35, lower=True)
