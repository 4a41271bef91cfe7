"Fail where `fastmix/` is not what nbdev exports from `nbs/`, where a notebook was not cleaned, or its outputs name a machine's paths"
import filecmp, shutil, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
tools = Path(sys.executable).parent
with tempfile.TemporaryDirectory() as tmp:
    tmp = Path(tmp)
    no_cache = shutil.ignore_patterns('__pycache__')
    for d in ('nbs','fastmix'): shutil.copytree(root/d, tmp/d, ignore=no_cache)
    shutil.copy(root/'pyproject.toml', tmp)
    for cmd in ('nbdev-export','nbdev-clean'): subprocess.run([tools/cmd], cwd=tmp, check=True)
    files = [p.relative_to(tmp) for d in ('nbs','fastmix') for p in (tmp/d).rglob('*')
             if p.suffix in ('.py','.ipynb')]
    _,changed,missing = filecmp.cmpfiles(root, tmp, sorted(files), shallow=False)
if changed or missing:
    names = ', '.join(map(str, sorted(changed+missing)))
    sys.exit(f'out of step: {names}; run nbdev-export and nbdev-clean')
named = [p.name for p in (root/'nbs').glob('*.ipynb') if 'site-packages' in p.read_text()]
if named: # a warning brought it there
    sys.exit(f'outputs name paths of a machine: {named}; run them again with PYTHONWARNINGS=ignore')
print('fastmix/ and nbs/: in step')
