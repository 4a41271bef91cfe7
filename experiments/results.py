"Finished runs: one JSON line each, appended whole or not at all"
import fcntl, json, os
from pathlib import Path

here = Path(__file__).resolve().parent
# A checkout; an installed copy has no results
source = here.name=='experiments' and (here.parent/'settings.ini').exists()
default_folder = here/'results' if source else Path('fastmix-paper')

def read(
    path # A file of JSON lines; it need not exist
)->dict: # Finished runs, by their keys
    "All whole lines of `path`"
    path,done = Path(path),{}
    if not path.exists(): return done
    for line in path.read_text().splitlines():
        try: d = json.loads(line)
        except json.JSONDecodeError: continue # cut short by a full disk or a crash: it is run again
        done.setdefault(d['key'], d)
    return done

def append(
    path, # A file of JSON lines
    d:dict # A finished run
):
    "Add a line to `path`, in one write"
    line = json.dumps(d).encode()+b'\n'
    with open(path, 'a+b') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        size = f.seek(0, 2)
        if size:
            f.seek(size-1)
            if f.read(1)!=b'\n': line = b'\n'+line # after a line that was cut short
        os.write(f.fileno(), line)
        os.fsync(f.fileno())

class Claim:
    "Whether this process may do a run: a lock that ends with the process, however it ends"
    def __init__(self, folder): self.path = Path(folder)/'lock'
    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.f = self.path.open('a+')
        try: fcntl.flock(self.f, fcntl.LOCK_EX|fcntl.LOCK_NB)
        except BlockingIOError: return False
        self.f.truncate(0)
        self.f.write(f'{os.getpid()}\n') # for a reader; the lock itself does not need it
        self.f.flush()
        return True
    def __exit__(self, *_): self.f.close()

def final_accuracy(
    line:dict # A finished run
)->float: # 0..1
    "Single-image accuracy, after fine-tuning if there was any; below every other if it diverged"
    f = line['figures']
    return f.get('tuned_acc', f.get('single_acc', -1.))
