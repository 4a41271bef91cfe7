"""Benchmarks, written to benchmarks/results/<machine>.json row by row

`python -m benchmarks [NAME…] [--quick]` runs all benchmarks, or those named.
`python -m benchmarks compare OLD.json NEW.json` names what fell by more than the noise.
"""
import argparse, sys, time, traceback
from . import results

def measure(benchmark, path, machine, quick):
    "Whether `benchmark` came to its end; its rows are kept as they come"
    start = time.perf_counter()
    try:
        for r in benchmark(quick):
            print(results.text(r), flush=True)
            results.write(path, machine, [r])
    except Exception: # the others are measured all the same
        traceback.print_exc()
        return False
    print(f'{benchmark.__name__}: {time.perf_counter()-start:.0f} s', flush=True)
    return True

def run(names, quick):
    from .suite import benchmarks, device # not needed to compare
    unknown = [n for n in names if n not in benchmarks]
    if unknown: sys.exit(f"{', '.join(unknown)}: expected some of {', '.join(benchmarks)}")
    m = results.machine(device)
    folder = results.folder/'quick' if quick else results.folder
    path = folder/f'{results.machine_name(m)}.json'
    failed = [name for name in names or benchmarks if not measure(benchmarks[name], path, m, quick)]
    if failed: sys.exit(f"failed: {', '.join(failed)}")

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help='benchmarks; none: all')
    p.add_argument('--quick', action='store_true',
                   help='few rounds, to see that it runs; written to results/quick/')
    a = p.parse_args()
    if a.names[:1]!=['compare']: return run(a.names, a.quick)
    if len(a.names)!=3: p.error('compare: expected two results files')
    fallen = results.compare(*a.names[1:])
    print('\n'.join(fallen) or 'nothing fell by more than the noise')
    if fallen: sys.exit(1)

if __name__=='__main__': main()
