"""A training step of ResNet-56 in each memory format and precision, and compiled, against float32
with its channels first

Measured side by side in one process, one after the other in every round: medians of the ratios
within a round, of the time on the wall and of processor time, which other work disturbs less.
`python benchmarks/training.py [rounds] [batch size]`
"""
import sys
from time import perf_counter, process_time
from fastai.vision.all import *
from fastmix.all import *
from fastmix.training import compile_model

rounds = int(sys.argv[1]) if len(sys.argv)>1 else 7
bs = int(sys.argv[2]) if len(sys.argv)>2 else 128
device = default_device()
ways = { # precision, whether channels come last, whether compiled
    ('fp32',False,False): 'fp32, channels first',
    ('fp32',True,False): 'fp32, channels last',
    ('bf16',False,False): 'bf16, channels first',
    ('bf16',True,False): 'bf16, channels last',
    ('bf16',True,True): 'bf16, channels last, compiled'}

class NoValidation(Callback):
    def before_validate(self): raise CancelValidException

def learner(precision, channels_last, compiled, n=2):
    b = to_device((torch.randn(bs,3,32,32), torch.randint(10, (bs,))), device)
    dls = DataLoaders(DataLoader([b]*n, bs=None), DataLoader([b], bs=None), device=device)
    learn = Learner(dls, resnet56(), CrossEntropyLossFlat(), opt_func=nesterov_sgd, lr=.01,
                    cbs=NoValidation())
    learn.remove_cbs([ProgressCallback, Recorder])
    set_precision(learn, precision)
    if not channels_last: learn.remove_cb(ChannelsLast)
    if compiled: compile_model(learn.model, device)
    return learn

def timed(learn): # wall and processor
    if device.type=='cuda': torch.cuda.synchronize()
    w,p = perf_counter(),process_time()
    learn.fit(1)
    if device.type=='cuda': torch.cuda.synchronize()
    return perf_counter()-w,process_time()-p

learners = [learner(*way) for way in ways]
def one_round(): return [timed(learn) for learn in learners]
ts = np.array([one_round() for _ in range(rounds+1)]) # [round, way, clock]
ts = ts[1:] # the first round warms up
ratio = np.median(ts[:,:1]/ts, 0)
print(f'{device}, {torch.get_num_threads()} threads, ResNet-56, batch {bs}, '
      f'median of {rounds} rounds')
for nm,t,(w,p) in zip(ways.values(), np.median(ts, 0), ratio):
    print(f'{nm:30} {2*bs/t[0]:6.0f} images/s; {w:.2f} times as fast as the first on the wall, '
          f'{p:.2f} times in processor time')
