import matplotlib
matplotlib.use('agg')

def pytest_pycollect_makeitem(collector, name, obj):
    "fastai's star import brings fastcore's own `test_…` helpers, which are no tests"
    if (getattr(obj, '__module__', None) or '').startswith(('fastcore','fastai')): return []
