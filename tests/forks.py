"Processes that are forks of this one, so that fastai is imported once for all of them"
import os, signal, socket, sys, time, traceback

def free_port():
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]

def fork(f, log, **env):
    "Call `f` in a process of its own, what it prints added to the file `log`; its number"
    sys.stdout.flush() # else what waits there is printed twice
    pid = os.fork()
    if pid: return pid
    os.environ.update(env)
    fd = os.open(log, os.O_WRONLY|os.O_CREAT|os.O_APPEND)
    for o in (1,2): os.dup2(fd, o)
    sys.stdout = sys.stderr = os.fdopen(fd, 'w', buffering=1) # pytest has others there
    code = 0
    try: f()
    except SystemExit as e: code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)

def fork_ranks(f, log, world):
    "Call `f` in `world` processes that find one another, as `torchrun` starts them; their numbers"
    if world==1: return [fork(f, f'{log}-0.log')]
    meet = dict(WORLD_SIZE=str(world), MASTER_ADDR='localhost', MASTER_PORT=str(free_port()))
    return [fork(f, f'{log}-{i}.log', RANK=str(i), LOCAL_RANK=str(i), **meet) for i in range(world)]

def wait(pids, limit=240):
    "Exit status of each, 'hangs' where there is none in time"
    res,end = {},time.time()+limit
    while len(res)<len(pids) and time.time()<end:
        for p in set(pids)-set(res):
            done,status = os.waitpid(p, os.WNOHANG)
            if done: res[p] = os.waitstatus_to_exitcode(status)
        time.sleep(.02)
    for p in set(pids)-set(res):
        os.kill(p, signal.SIGKILL)
        os.waitpid(p, 0)
        res[p] = 'hangs'
    return [res[p] for p in pids]
