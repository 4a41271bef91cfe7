"The command `fastmix-paper`"
import argparse, gc, os, shutil, subprocess, sys, time, traceback, warnings
from datetime import datetime, timezone
from pathlib import Path
from . import results, runs

def do(
    s:dict, # Settings of a run
    key:str, # From `runs.key`
    scale:str,
    folder:Path, # Of the results
    compile:bool=False # Whether `torch.compile` makes it faster
):
    "Do one run and write it down"
    from . import train
    work_folder = folder/'unfinished'/key
    made_by = train.provenance()
    try:
        if s.get('kind')=='speed': res = train.speed(s)
        else: res = train.train(s, work_folder, compile)
    except FloatingPointError as e: # it diverged, which is a result too
        res = dict(figures={}, curves={}, seconds={}, failed=str(e))
    finally: gc.collect() # learners and loaders are cycles that hold the data, on a GPU too
    d = dict(key=key, scale=scale, settings=s, seed=s.get('seed'), **res, **made_by)
    d['finished'] = datetime.now(timezone.utc).isoformat(timespec='seconds')
    results.append(folder/f'{scale}.jsonl', d)
    for o in work_folder.iterdir():
        if o.is_dir(): shutil.rmtree(o)

def work(
    claim:str, # One of `runs.claims`, or 'all'
    scale:str, # One of `runs.scales`
    folder:Path, # Of the results
    compile:bool=False # Whether `torch.compile` makes the runs faster
)->int: # Number of runs that another process is busy with
    "Do every run of the claim that is not there and that nobody else is doing"
    file,busy,failed = folder/f'{scale}.jsonl',set(),[]
    while True:
        done = results.read(file)
        all_runs = runs.runs_of(claim, scale, done)
        finished = results.finished(done)
        todo = [k for k in all_runs if k not in finished]
        # Timings come last, and not beside a training of the claim that another process is busy with
        trainings = [k for k in todo if all_runs[k].get('kind')!='speed']
        free = next((k for k in trainings or todo if k not in busy), None)
        if free is None: break
        with results.Claim(folder/'unfinished'/free) as mine:
            if not mine: busy.add(free)
            elif free not in results.finished(results.read(file)):
                start,s = time.time(),all_runs[free]
                n_done = len(all_runs)-len(todo)
                print(f'{n_done} of {len(all_runs)} runs done; now {free}:', s, flush=True)
                try: do(s, free, scale, folder, compile)
                except Exception: # such as too little memory; the others may go on
                    traceback.print_exc()
                    busy.add(free)
                    failed.append(free)
                print(f'{free}: {time.time()-start:.0f} s', flush=True)
    if not todo: print(f'{len(all_runs)} of {len(all_runs)} runs done: {file}', flush=True)
    elif failed:
        sys.exit(f"fastmix-paper: {len(failed)} runs failed: {', '.join(failed)}; "
                 'the same command tries them again')
    else: print(f'{len(todo)} runs are with another process', flush=True)
    return len(todo)

def several(n, args):
    "The same command in `n` processes at once"
    env = {**os.environ,
           'OMP_NUM_THREADS': str(max(1, os.cpu_count()//n)),
           'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    cmd = [sys.executable, '-m', __package__, args.claim,
           '--scale', args.scale, '--results', str(args.results)]
    if args.compile: cmd.append('--compile')
    if args.scale!='smoke': # unpacked and decoded once, not by all of them at the same time
        from . import train
        train.images(runs.scales[args.scale]['data'], 1)
    ps = [subprocess.Popen(cmd, env=env) for _ in range(n)]
    done = [p.wait() for p in ps]
    made = results.read(args.results/f'{args.scale}.jsonl')
    left = set(runs.runs_of(args.claim, args.scale, made)) - results.finished(made)
    return int(any(done) or bool(left))

def main(
    argv=None # Arguments; `None`: those of the command line
):
    "Status 0, 2 for a bad argument, 130 after Ctrl-C"
    warnings.filterwarnings('ignore', category=FutureWarning, module='torch')
    p = argparse.ArgumentParser('fastmix-paper',
                                description='The runs behind a figure or table of the '
                                'paper; what is there already is not run again.')
    p.error = lambda msg: p.exit(2, f'fastmix-paper: error: {msg}\n')
    p.add_argument('claim', choices=[*runs.claims, 'all', 'report'], metavar='CLAIM',
                   help=f"one of {', '.join(runs.claims)}; 'all'; "
                   "or 'report': write CLAIMS.md anew")
    p.add_argument('--scale', choices=list(runs.scales), default='smoke',
                   help='smoke: digits, seconds; cpu: CIFAR-10, hours; mid: the same for 100 '
                   'epochs, days; paper: the full training, for a GPU')
    p.add_argument('--jobs', type=int, default=1,
                   help='processes at once, for a GPU that one run does not fill')
    p.add_argument('--compile', action='store_true',
                   help='let torch.compile make the networks faster, '
                   'which pays where runs are long')
    p.add_argument('--results', type=Path, default=results.default_folder,
                   help='folder of the JSON lines')
    args = p.parse_args(argv)
    if args.jobs<1: p.error(f'jobs={args.jobs}: expected at least 1')
    try:
        if args.claim=='report':
            from . import report
            return report.write(args.results)
        args.results.mkdir(parents=True, exist_ok=True)
        if args.jobs>1: sys.exit(several(args.jobs, args))
        work(args.claim, args.scale, args.results, args.compile)
    except KeyboardInterrupt: p.exit(130, 'fastmix-paper: interrupted; the same command goes on\n')
