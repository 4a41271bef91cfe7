import os, random, sys
import pytest
import matplotlib
matplotlib.use('agg')

os.environ.setdefault('TORCH_WARM_POOL', '0') # a compiler's process for GPUs, started by any `torch.compile`

def pytest_pycollect_makeitem(collector, name, obj):
    "fastai's star import brings fastcore's own `test_…` helpers, which are no tests"
    if (getattr(obj, '__module__', None) or '').startswith(('fastcore','fastai')): return []

@pytest.fixture(scope='session', autouse=True)
def each_digit_is_decoded_once():
    "The digits of a size are kept from one test to the next: hundreds of tests load them"
    memory = sys.modules.get('fastmix.memory') # tests of the site alone import nothing
    if memory is None:
        yield
        return
    import numpy as np, torch
    decode,kept = memory.decoded,{}
    def decoded(d, device, folder=None, skip_bad=False):
        own = d.dataset.tls[0]
        fs = [*own.tfms.fs, *d.after_item.fs]
        if folder or len(d.dataset)<300 or fs[0].name!='digit_image': return decode(d, device, folder, skip_bad)
        key = (str(device), d.dataset.split_idx, tuple(own.items), *map(memory._settings, fs))
        if key not in kept:
            was = random.getstate(),np.random.get_state(),torch.get_rng_state() # else the first one would draw more
            kept[key] = decode(d, device, folder, skip_bad)
            for f,state in zip((random.setstate,np.random.set_state,torch.set_rng_state), was): f(state)
        images,left_out = kept[key]
        return images.clone(),left_out
    with pytest.MonkeyPatch.context() as m:
        m.setattr(memory, 'decoded', decoded)
        yield
