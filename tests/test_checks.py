"The checks of `make test` themselves: each finds what it is for"
import importlib.util, shutil, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]

@pytest.fixture
def copy(tmp_path):
    "What the checks look at, in a place of its own"
    for d in ('.ci','nbs','fastmix'): shutil.copytree(root/d, tmp_path/d, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(root/'pyproject.toml', tmp_path)
    return tmp_path

def check(copy, name):
    res = subprocess.run([sys.executable, copy/'.ci'/name], capture_output=True, text=True)
    return res.returncode,res.stderr

def add(path, line): path.write_text(path.read_text() + f'\n{line}\n')

def test_a_module_out_of_step_is_named(copy):
    add(copy/'fastmix'/'core.py', 'x = 1')
    assert check(copy, 'in_step.py')==(1, 'out of step: fastmix/core.py; run nbdev-export and nbdev-clean\n')

@pytest.mark.parametrize('line,said', [('# '+'x'*101,None), ('x = '+'1'*97,'widest'), ('x = 1; y = 2','core.py:'),
                                       ('\n'.join(f'x{i} = {i}' for i in range(260)),'room')], ids=['comment','wide','two','room'])
def test_a_module_too_large_is_named(copy, line, said):
    path = copy/'fastmix'/'core.py'
    add(path, line)
    status,err = check(copy, 'house.py')
    assert status==bool(said) and (not said or f'too large: {said}' in err)

def test_a_page_out_of_step_is_named(monkeypatch):
    spec = importlib.util.spec_from_file_location('docs_check', root/'.ci'/'docs.py')
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    def build(out):
        shutil.copytree(root/'docs', out/'docs')
        (out/'README.md').write_text('other')
    monkeypatch.setattr(docs, 'build', build)
    with pytest.raises(SystemExit) as e: docs.check()
    assert e.value.code.splitlines()[1:]==['README.md']
