"""What every process of a distributed test runs, and one process to compare with: `ranks.py OUT`
makes `one.pt`, `rank0.pt` and `rank1.pt` there"""
import os
os.environ['OMP_NUM_THREADS'] = '1' # threads do not survive a fork
import sys, tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from fastai.vision.all import *
from fastmix.all import *
from fastmix import cli
from forks import fork, fork_ranks, wait
from fastmix.datasets import digit_image, digit_label

def dblock(n_valid, **kwargs):
    return dict(blocks=(ImageBlock(PILImageBW), CategoryBlock), get_items=lambda _: list(range(45+n_valid)), get_x=digit_image,
                get_y=digit_label, splitter=IndexSplitter(list(range(45, 45+n_valid))), item_tfms=Resize(8, ResizeMethod.Squish))

def loaders(kind, bs, n_valid):
    "45 training digits, and a number of validation digits that two processes cannot share evenly"
    kw = dict(bs=bs, num_workers=0, val_drop_last=kind=='dropped') # what fills no step of all processes
    if kind in ('ordinary','dropped'): return DataBlock(**dblock(n_valid)).dataloaders(None, **kw)
    dls = MultiSampleDataBlock(**dblock(n_valid)).dataloaders(None, bs=bs, num_workers=1 if kind=='pairs' else 0)
    return in_memory(dls) if kind=='memory' else dls

def network(n): # without batch norm, which sees the processes' batches one by one
    net = nn.Sequential(nn.Conv2d(n, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, n*10), *([nn.Unflatten(1, (n,10))] if n>1 else []))
    return MultiSample(net, n, n, 1)

def train(kind, bs, n_valid):
    set_seed(0)
    dls = loaders(kind, bs, n_valid)
    n = getattr(dls, 'n_samples', 1)
    kw = dict(arch=network(n), precision='fp32', opt_func=nesterov_sgd)
    if n>1: learn = mixup_c_learner(dls, **kw)
    else: learn = mixup_learner(dls, metrics=[accuracy, F1Score(average='macro')], **kw)
    learn.remove_cb(ProgressCallback)
    learn.recorder.train_metrics = True
    with learn.no_logging(), learn.distrib_ctx():
        learn.fit(6, lr=.1)
        values,losses = learn.recorder.values,torch.stack(learn.recorder.losses) # validation empties the recorder
        valid,preds = learn.validate(),learn.get_preds()[0]
    return dict(weights=torch.cat([p.detach().flatten() for p in learn.model.parameters()]), preds=preds,
                losses=losses, values=[list(v) for v in values], valid=list(valid))

class Draws(Callback):
    "Keep the first batch's λ and crops"
    order = 1
    def before_fit(self): self.lam = self.crop = None
    def before_batch(self):
        if self.lam is None and self.training: self.lam,self.crop = self.learn.mixup.mixed.w_x,torch.rand(3)

def draws(bs):
    set_seed(0)
    learn = mixup_learner(in_memory(loaders('ordinary', bs, 17)), Mixup(seed=0), arch=network(1), cbs=Draws())
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(), learn.distrib_ctx(): learn.fit(1)
    return dict(lam=learn.draws.lam, crop=learn.draws.crop)

def pairs(bs):
    "Who is whose partner, where every process starts with another seed"
    set_seed(rank_distrib())
    learn = mixup_c_learner(loaders('pairs', bs, 17), arch=network(2))
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(), learn.distrib_ctx(): learn.fit(1)
    return learn.dls.train.pair_idx

def as_float(pred, y): return float(accuracy(pred, y))

def alone(bs):
    "Metrics that are plain numbers, weights that are loaded, rows that are repeated, and calls that are refused"
    kw = dict(arch=network(1), path=Path('.'))
    learn = mixup_learner(loaders('ordinary', bs, 17), metrics=[accuracy, as_float], **kw)
    learn.remove_cb(ProgressCallback)
    def refused(f):
        try: f()
        except ValueError as e: return str(e)
    with learn.no_logging():
        with learn.distrib_ctx():
            learn.fit(1)
            res = dict(metrics=list(learn.recorder.values[-1][2:]), lr_find=refused(partial(learn.lr_find, show_plot=False)))
            learn.save('loaded')
            learn.load('loaded')
        learn.load('loaded')
        learn.remove_cb(Recorder)
        with learn.distrib_ctx(): learn.fit(1)
        with learn.distrib_ctx(): # which goes on after the one within it was refused
            res['nested'],res['outer'] = refused(lambda: learn.distrib_ctx().__enter__()),hasattr(learn, 'distributed_trainer')
    many = mixup_c_learner(loaders('ordinary', bs, 17), n_samples=2, arch=network(2), cbs=[MixupC(repeats=2), Rows()])
    many.remove_cb(ProgressCallback)
    with many.no_logging(), many.distrib_ctx(): many.fit(1)
    return dict(res, rows=many.rows.n)

class Rows(Callback):
    "How many rows of predictions a gathered training batch has"
    def after_batch(self):
        if self.training: self.n = len(self.learn.to_detach(self.pred))

class Differ(Callback):
    "Spoil the weights of one process"
    def after_train(self):
        if rank_distrib(): next(self.model.parameters()).data += 1

def spoiled(bs):
    learn = mixup_learner(loaders('ordinary', bs, 17), arch=network(1), cbs=Differ())
    learn.remove_cb(ProgressCallback)
    try:
        with learn.no_logging(), learn.distrib_ctx(): learn.fit(1)
    except RuntimeError as e: return str(e)

def drawn(bs):
    "The first process draws, without waiting for the others; whether this one did"
    from fastmix.tensorboard import SlotsTensorBoardCallback
    folder = Path(tempfile.mkdtemp())
    learn = mixup_c_learner(loaders('pairs', bs, 17), arch=network(2))
    learn.remove_cb(ProgressCallback)
    with learn.no_logging(), learn.distrib_ctx(): learn.fit(1, cbs=SlotsTensorBoardCallback(folder))
    return len(folder.ls())>0

def too_large(bs):
    learn = mixup_learner(loaders('ordinary', 30, 17), arch=network(1)) # 60 in all, of 45
    try:
        with learn.distrib_ctx(): pass
    except ValueError as e: return str(e)

def other_split(bs):
    "Training images of one process are validation images of the other"
    block = DataBlock(**{**dblock(17), 'splitter': RandomSplitter(seed=rank_distrib())})
    learn = mixup_learner(block.dataloaders(None, bs=bs, num_workers=0), arch=network(1))
    try:
        with learn.distrib_ctx(): pass
    except ValueError as e: return str(e)

def sync_bn(bs):
    "What the command line says of it without GPUs"
    args = ['--epochs','1', '--bs',str(bs), '--size','8', '--arch','resnet20', '--sync-bn']
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try: cli.main([*args, '--out', f'no_folder_{rank_distrib()}'])
        except SystemExit as e: return said.getvalue(),e.code,list(Path().glob('no_folder_*'))

def everything(bs):
    res = {f'{k} {n}': train(k, bs, n) for k in ('pairs','memory','ordinary','dropped') for n in (23,17)}
    if num_distrib()<2: return res
    made = dict(draws=draws, alone=alone, pairs=pairs, spoiled=spoiled, drawn=drawn, too_large=too_large,
                other_split=other_split)
    res.update({k: f(bs) for k,f in made.items()})
    return res | dict(sync_bn=sync_bn(bs)) # last, as it ends with the processes apart

def rank(out):
    path = out/f'rank{rank_distrib()}.pt' # now: afterwards they are apart
    torch.save(everything(4), path)

def main(out):
    out = Path(out)
    os.environ['ACCELERATE_MIXED_PRECISION'] = 'bf16' # of a launcher; the learner's own counts
    alone = fork(lambda: torch.save(everything(8), out/'one.pt'), out/'one.log')
    ranks = fork_ranks(lambda: rank(out), out/'rank', 2)
    for log,status in zip(('one','rank-0','rank-1'), wait([alone,*ranks])):
        if status!=0: sys.exit(f'{log}: {status}\n'+(out/f'{log}.log').read_text())

if __name__=='__main__':
    torch.set_num_threads(1)
    main(sys.argv[1])
