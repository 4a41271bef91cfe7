"Finished runs: one JSON line each, appended whole or not at all"
import fcntl, json, os, platform, re
from contextlib import suppress
from pathlib import Path
from filelock import FileLock, Timeout

here = Path(__file__).resolve().parent
# A checkout; an installed copy has no results
source = here.name=='experiments' and (here.parent/'settings.ini').exists()
default_folder = here/'results' if source else Path('fastmix-paper')

def read(
    path # A file of JSON lines; it need not exist
)->dict: # Finished runs, by their keys
    "All whole lines of `path`; a run with a void figure is replaced by the same run, made again"
    path,done = Path(path),{}
    if not path.exists(): return done
    for line in path.read_text().splitlines():
        try: d = json.loads(line)
        except json.JSONDecodeError: continue # cut short by a full disk or a crash: it is run again
        if d['key'] not in done or 'void' in done[d['key']]: done[d['key']] = d
    return done

def finished(
    done:dict # From `read`
)->set: # Keys of runs
    "The runs that need not be made again: those of which no figure is void"
    return {k for k,d in done.items() if 'void' not in d}

def append(
    path, # A file of JSON lines
    d:dict # A finished run
):
    "Add a line to `path`, whole; a full disk raises an error"
    line = json.dumps(d).encode()+b'\n'
    with open(path, 'a+b') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        size = f.seek(0, 2)
        if size:
            f.seek(size-1)
            if f.read(1)!=b'\n': line = b'\n'+line # after a line that was cut short
        f.write(line)
        f.flush()
        os.fsync(f.fileno())

def processor():
    "The name of the processor"
    info = Path('/proc/cpuinfo')
    found = info.exists() and re.search(r'model name\s*: (.+)', info.read_text())
    return found[1].strip() if found else platform.processor() or platform.machine()

class Claim:
    "Whether this process may do a run: a lock that ends with the process, however it ends"
    def __init__(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(Path(folder)/'lock', timeout=0)
    def __enter__(self):
        with suppress(Timeout): self.lock.acquire()
        return self.lock.is_locked
    def __exit__(self, *_): self.lock.release()

def final_accuracy(
    line:dict # A finished run
)->float: # 0..1
    "Single-image accuracy, after fine-tuning if there was any; below every other if it diverged"
    f = line['figures']
    return f.get('tuned_acc', f.get('single_acc', -1.))
