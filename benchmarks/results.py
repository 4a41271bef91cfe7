"Rows of a results file, the machine they come from, and what fell from one file to another"
import json, os, platform, re
from datetime import date
from importlib.metadata import version
from pathlib import Path
import numpy as np, torch
from experiments.results import processor

folder = Path(__file__).parent/'results'
libraries = 'torch','torchvision','fastai','timm','torch-uncertainty','ffcv'

def row(
    name:str, # What is measured
    against:str, # What it is compared with
    ours, # A figure of each round
    theirs, # The same of the other side
    unit:str, # Of both
    asked:float=None, # The ratio to reach; `None`: none
    lower:bool=False # Whether a lower ratio is better: a cost, not a speed
)->dict:
    "Medians of both sides, and median and middle half of the rounds' ratios"
    ours,theirs = np.asarray(ours),np.asarray(theirs)
    low,mid,high = np.quantile(ours/theirs, (.25,.5,.75)).tolist()
    return dict(name=name, against=against, ours=float(np.median(ours)),
                theirs=float(np.median(theirs)), unit=unit, ratio=mid, low=low, high=high,
                rounds=len(ours), asked=asked, lower=lower)

def missing(
    name:str, # What would be measured
    against:str, # What it would be compared with
    why:str # Why it is not
)->dict: return dict(name=name, against=against, missing=f'not measured: {why}')

def text(
    r:dict # A row
)->str: # One line
    "Both sides and their ratio in words"
    head = f"{r['name']}, against {r['against']}: "
    if 'missing' in r: return head + r['missing']
    sides = f"{r['ours']:,.4g} and {r['theirs']:,.4g} {r['unit']}"
    return f"{head}{sides}: {r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]{_asked(r)}"

def _asked(r):
    if r['asked'] is None: return ''
    return f", asked at {'most' if r['lower'] else 'least'} {r['asked']}"

def reached(
    r:dict # A row
): # `None` where nothing is asked or measured
    "Whether the ratio is what was asked"
    if r.get('asked') is None: return None
    return r['ratio']<=r['asked'] if r['lower'] else r['ratio']>=r['asked']

def machine(
    device # Where the networks work
)->dict:
    "What the figures depend on; no name of a host, no path"
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type=='cuda' else None
    return dict(processor=processor(), cores=os.cpu_count(), device=gpu or 'CPU',
                threads=torch.get_num_threads(), python=platform.python_version(),
                libraries={k:_version(k) for k in libraries}, date=str(date.today()))

def _version(library):
    try: return version(library)
    except ModuleNotFoundError: return None

def machine_name(
    m:dict # What `machine` says
)->str: # A file's name
    "A name made of processor, cores and GPU"
    words = [m['processor'], f"{m['cores']} cores"]
    if m['device']!='CPU': words.append(m['device'])
    return re.sub(r'[^a-z0-9]+', '-', ' '.join(words).lower()).strip('-')

def key(r): return r['name'],r['against']

def read(path): return json.loads(Path(path).read_text())

def write(
    path, # Results file
    m:dict, # What `machine` says
    rows:list # New rows; the file's others are kept, and those of the same name replaced
):
    "Write the file whole, or not at all"
    from fastmix.processes import write_json # not needed to compare
    path = Path(path)
    old = read(path)['rows'] if path.exists() else []
    new = [dict(r, date=m['date']) for r in rows] # the kept ones are older than what `m` says
    merged = {key(r): r for r in [*old, *new]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(machine=m, rows=list(merged.values())))

def fell(
    old:dict, # One row
    new:dict # The same row of another file
)->bool:
    "Whether the better end of the new middle half is worse than the worse end of the old one"
    if 'missing' in old: return False
    if 'missing' in new: return True
    return new['low']>old['high'] if new['lower'] else new['high']<old['low']

def compare(
    old, # Results file
    new # Results file
)->list: # Lines of text, one for each row that fell or is gone
    "What fell from one file to the other by more than the noise"
    was,now = ({key(r): r for r in read(p)['rows']} for p in (old, new))
    gone = missing('', '', 'not in the second file')
    return [f'{text(was[k])}\n  now {text({**now.get(k, gone), "name": k[0], "against": k[1]})}'
            for k in was if fell(was[k], now.get(k, gone))]
