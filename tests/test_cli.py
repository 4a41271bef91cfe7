"The command line, called in this process: what it refuses, what it leaves, how it ends"
import inspect, json, os, shutil, signal, subprocess, sys
from types import SimpleNamespace
import pytest
from fastai.vision.all import Image, NoneType, Path, PILImage, first, load_learner, noop, pd, torch
from fastmix.all import Mixup, MixupX, MixupL, MixupXL, SamplePairing, MixupC, MixChoice, digits_dls, load_weights
from fastmix import cli
from fastmix.datasets import digit_image
from fastmix.reading import image_files
from fastmix.resuming import RunLog
from tests.forks import fork, wait

tiny = ['--epochs','2', '--size','8', '--bs','256', '--arch','resnet20']

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

@pytest.fixture
def no_pictures(monkeypatch): # they take longer than the training
    for f in ('plot_pairs','plot_curves'): monkeypatch.setattr('fastmix.show.'+f, noop)

def status(*args):
    try: cli.main(list(map(str, args)))
    except SystemExit as e: return e.code
    return 0

def images(folder, *classes, n=4):
    for c in classes:
        (folder/c).mkdir(parents=True)
        for i in range(n): PILImage.create(digit_image(i)).save(folder/c/f'{i}.png')
    return folder

def refused(capsys, *args):
    "The one line that says why"
    assert status(*args)==2
    out = capsys.readouterr()
    assert len(out.err.splitlines())==1 and out.err.startswith('fastmix-train: error: ')
    assert not [p for p in Path().iterdir() if p.name in ('runs','out')]
    return out.err

@pytest.mark.parametrize('args,said', [
    (['--method','mixupx'], "method='mixupx': expected one of 'mixup_c', 'mixup'"),
    (['--arch','resnet21'], "arch='resnet21': expected one of 'resnet20'"),
    (['--arch','resnet65'], "did you mean 'resnet56'?"),
    (['--data','/nowhere'], "data='/nowhere': expected 'digits', 'cifar10' or a folder of images"),
    (['--epochs','0'], 'epochs=0: expected'), (['--epochs','two'], 'two'),
    (['--bs','0'], 'bs=0: expected'), (['--n-samples','0'], 'n_samples=0: expected'),
    (['--lr','-1'], 'lr=-1.0: expected'), (['--lr','inf'], 'lr=inf: expected'),
    (['--seed','-1'], 'seed=-1: expected'),
    (['--seed','4294967296'], 'expected a whole number in 0..4294967295'),
    (['--precision','fp8'], "precision='fp8': expected one of 'auto'"),
    (['--bs','2000','--size','8'], 'bs=2000: expected at most 1437'),
    (['--sync-bn'], 'sync_bn=True: expected several processes'),
    (['--size','0'], 'size=0: expected'), (['--nonsense'], '--nonsense')])
def test_bad_settings(capsys, args, said): assert said in refused(capsys, *args, '--out','out')

def test_resume_without_a_folder(capsys):
    assert 'resume=True: expected out' in refused(capsys, '--resume')

def test_bad_folders(capsys, tmp_path):
    Path('empty').mkdir()
    assert 'empty' in (msg := refused(capsys, '--data','empty','--out','out')) and 'images' in msg
    images(Path('one'), 'a', n=12)
    said = refused(capsys, '--data','one','--out','out','--bs',2,'--size',8)
    assert "classes ['a']: expected two or more, a folder for each" in said
    Path('full').mkdir()
    Path('full/x.txt').touch()
    assert "out='full': expected a new or an empty folder" in refused(capsys, '--out','full')
    said = refused(capsys, '--out','full/x.txt')
    assert "out='full/x.txt': expected a new or an empty folder" in said
    assert "out='full': expected the folder of a run" in refused(capsys, '--out','full','--resume')

def test_missing_package(capsys, monkeypatch):
    monkeypatch.setattr(cli, 'find_spec', lambda _: None)
    said = refused(capsys, '--wandb','--out','out')
    assert 'wandb=True: expected the package wandb to be installed' in said

def test_run_folder(capsys):
    assert status(*tiny)==0
    out,folder = capsys.readouterr().out.splitlines(),Path('runs/digits-mixup_c-1')
    assert sum(l.split()[:1] in (['0'],['1']) for l in out)==2 # a line per epoch
    assert out[-2].startswith('held out, 360 images: head_0 ') and out[-1]==f'run folder: {folder}'
    assert {p.name for p in folder.iterdir()}=={
        'metrics.csv','curves.png','pairs.png','run.json','model.safetensors','model.pkl',
        'checkpoint-00000.pt','checkpoint-00001.pt'}
    log = pd.read_csv(folder/'metrics.csv')
    columns = 'epoch,train_loss,valid_loss,head_0,head_1,top2,top2_all'
    assert list(log.columns)==columns.split(',')
    assert list(log.epoch)==[0,1]
    run = json.loads((folder/'run.json').read_text())
    assert (run['state'],run['epochs_done'],run['settings']['bs'])==('finished', 2, 256)
    assert run['seconds']>0
    assert run['figures']['top2']==pytest.approx(log.top2.iloc[-1])
    assert all(Image.open(folder/f).size[0]>300 for f in ('curves.png','pairs.png'))
    learn = load_learner(folder/'model.pkl')
    from safetensors.torch import load_file
    weights = load_file(folder/'model.safetensors')
    assert all((weights[k]==v).all() for k,v in learn.model.state_dict().items())
    assert learn.predict_many([digit_image(0)])[0][0] in learn.dls.vocab
    assert status(*tiny, '--quiet', '--epochs', 1)==0
    assert capsys.readouterr().out=='' and Path('runs/digits-mixup_c-2').is_dir()

@pytest.fixture(scope='module')
def digits(): return digits_dls(1, size=8)

@pytest.mark.parametrize('method,rule', dict(mixup=Mixup, mixup_x=MixupX, mixup_l=MixupL, mixup_xl=MixupXL, sample_pairing=SamplePairing,
                                             mixup_c=MixupC, mixup_cutmix=MixChoice, erm=NoneType).items())
def test_what_a_method_is(method, rule, digits):
    s = cli.Settings(method=method, n_samples=3, seed=7, size=8, precision='bf16', lr=.3, wd=.2)
    learn = cli.make_learner(s, digits)
    cb = first(learn.cbs, lambda o: hasattr(o, 'mix_valid'))
    assert type(cb) is rule
    if method!='erm': assert cb.seed==7 and {r.n_samples for r in getattr(cb, 'rules', [cb])}=={3}
    assert (learn.lr,learn.opt_func.keywords['weight_decay'])==(.3,.2)
    assert learn.mixed_precision.settings()==dict(amp_mode='bf16')

def test_the_training_of_the_paper(monkeypatch):
    asked = dict(arch='resnet56', epochs=100, bs=256, lr=.1, wd=1e-4)
    assert asked.items() <= vars(cli.Settings(data='cifar10')).items()
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert cli.Settings(data='cifar10').bs==128 # in each of two processes

def test_mixing_ends_before_the_training(digits):
    learn = cli.make_learner(cli.Settings(method='mixup_cutmix', size=8), digits)
    assert all(rule.when(79, 100) and not rule.when(80, 100) for rule in learn.mix_choice.rules)

def test_network_size_and_seed_are_those_asked_for():
    s = cli.Settings(method='erm', arch='resnet32', size=12)
    dls = cli.make_dls(s)
    assert dls.one_batch()[0].shape[-1]==12 and cli.make_learner(s, dls).model.arch=='fastmix/resnet32'
    mine = images(Path('mine'), 'a', 'b', n=12)
    s = cli.Settings(data=str(mine), method='erm', size=12, bs=4, seed=3)
    a,b = [cli.make_dls(o) for o in (s, cli.Settings(data=str(mine), method='erm', size=12, bs=4))]
    assert a.one_batch()[0].shape[-1]==12 and set(a.valid_ds.items)!=set(b.valid_ds.items)
    kw = dict(method='erm', epochs=1, size=4, bs=512, arch='resnet20', quiet=True)
    a,b = [next(cli.train(seed=i, **kw).model.parameters()) for i in (0,1)]
    assert not torch.equal(a, b)

@pytest.mark.parametrize('method', [m for m in cli.choices['method'] if m!='mixup_c'])
def test_methods(method, no_pictures, capsys):
    assert status(*tiny, '--epochs', 1, '--method', method, '--n-samples', 3, '--out', 'out')==0
    assert pd.read_csv('out/metrics.csv').accuracy.between(0, 1).all()

def test_one_sample(no_pictures):
    "Nothing is mixed then, whatever the method: all come to the same network"
    methods,nets = cli.choices['method'],[]
    for o in methods:
        assert status(*tiny, '--epochs', 1, '--method', o, '--n-samples', 1, '--out', o)==0
        nets.append(load_weights(f'{o}/model').state_dict())
    for o,net in zip(methods, nets):
        assert net.keys()==nets[0].keys() and all(torch.equal(v, nets[0][k]) for k,v in net.items()), o

def test_advice(no_pictures, capsys):
    "What a long training is told can be typed, and is not told again"
    long = '--epochs',20,'--size',8,'--bs',1024,'--arch','resnet20','--method','erm'
    assert status(*long, '--out','long')==0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f': {cli.advice}')
    assert status(*long, *cli.advice.split(), '--out','advised')==0
    assert cli.advice not in capsys.readouterr().out
    learn = SimpleNamespace(dls=SimpleNamespace(valid_ds=[]), path='out')
    def told(**kw):
        cli._print_result(learn, cli.Settings(epochs=20, **kw), SimpleNamespace(figures={}))
        return capsys.readouterr().out.splitlines()[-1]
    assert told(n_samples=2).endswith(': --one-cycle')
    assert 'one-cycle' not in told(n_samples=3)+told(one_cycle=True)
    learn = load_learner('advised/model.pkl')
    assert learn.opt_func.keywords['weight_decay']==5e-4
    assert [type(rule).__name__ for rule in learn.mix_choice.rules]==['Mixup','CutMixup']

def test_classes_with_dollars(capsys):
    "matplotlib would read a formula; and the model is saved before any picture"
    mine = images(Path('mine'), '$10_$20', '$5', n=12)
    assert status('--data',mine,'--epochs',1,'--bs',4,'--size',8,'--out','out')==0, capsys.readouterr().err
    assert {'model.safetensors','model.pkl','pairs.png'} <= {p.name for p in Path('out').iterdir()}

def test_runs_beside_the_data(capsys):
    "Pictures of a run are no images of the next one, which may also go on"
    images(Path(), 'a', 'b', n=6)
    args = ['--data','.', '--bs',4, '--size',8, '--arch','resnet20']
    for _ in range(2): assert status(*args, '--epochs',1)==0, capsys.readouterr().err
    assert [load_learner(f).dls.vocab for f in Path().glob('runs/*/model.pkl')]==[['a','b']]*2
    assert len(image_files('.'))==12 and len(image_files(first(Path('runs').iterdir())))==2
    for o in Path('runs').glob('*/checkpoint-00000.pt'): o.unlink()
    assert status('--out', first(Path('runs').iterdir()), '--resume')==0, capsys.readouterr().err

def test_a_closed_terminal(monkeypatch):
    monkeypatch.setattr('sys.stdout', None)
    assert status(*tiny, '--epochs', 1, '--out', 'out')==0

def test_a_model_outlives_its_pictures(monkeypatch):
    def fail(*_): raise OSError('no space left')
    monkeypatch.setattr('fastmix.show.plot_pairs', fail)
    assert status(*tiny, '--epochs', 1, '--out', 'out')==1
    assert len(load_learner('out/model.pkl').predict_many([digit_image(0)]))==1 and Path('out/model.safetensors').exists()

def test_runs_that_leads_nowhere(capsys):
    Path('runs').symlink_to('nowhere')
    assert status(*tiny)==1
    assert "fastmix-train: stopped: " in (err := capsys.readouterr().err) and "'runs'" in err

def test_own_folder(no_pictures):
    mine = images(Path('mine'), 'a', 'b', n=12)
    assert status('--data',mine,'--epochs',1,'--bs',4,'--size',8,'--out','out')==0
    assert len(load_learner('out/model.pkl').dls.vocab)==2

@pytest.mark.parametrize('valid', ['valid','val'])
def test_validation_folder(valid, no_pictures, capsys):
    "The test images are left for a test"
    mine = Path('mine')
    for part,n in (('train',12), (valid,4), ('test',7)): images(mine/part, 'a', 'b', n=n)
    args = '--data',mine,'--epochs',1,'--bs',4,'--size',8,'--out','out'
    assert status(*args)==0
    assert 'held out, 8 images' in capsys.readouterr().out

def test_test_folder_alone(no_pictures, capsys):
    for part,n in (('train',12), ('test',7)): images(Path('mine')/part, 'a', 'b', n=n)
    assert status('--data','mine','--epochs',1,'--bs',4,'--size',8,'--out','out')==0
    assert 'held out, 14 images' in capsys.readouterr().out

def test_bad_image(no_pictures, capsys):
    (images(Path('mine'), 'a', 'b', n=12)/'a'/'x.png').write_text('no image')
    args = '--data','mine','--epochs',1,'--bs',4,'--size',8,'--out','out'
    said = refused(capsys, *args)
    assert 'mine/a/x.png: expected an image' in said and 'skip_bad=True' in said
    assert status(*args, '--skip-bad')==0 and 'left out 1 of 25 images' in capsys.readouterr().out

def ctrl_c(monkeypatch, epoch):
    "Press Ctrl-C after `epoch` epochs"
    old = RunLog.after_epoch
    def after_epoch(self):
        old(self)
        if self.epochs_done!=epoch: return
        signal.signal(signal.SIGINT, signal.default_int_handler) # in the background it is ignored
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(RunLog, 'after_epoch', after_epoch)

def test_training_again_after_the_processes_have_parted(monkeypatch):
    monkeypatch.setenv('ROLE_WORLD_SIZE', '2') # as a launcher leaves it
    with pytest.raises(RuntimeError, match='train once more: expected a new launch'): cli.train(epochs=1)

def test_interrupt_and_resume(monkeypatch, capsys):
    with monkeypatch.context() as m:
        ctrl_c(m, 2)
        assert status(*tiny, '--epochs', 3, '--out', 'out')==130
    err = capsys.readouterr().err.strip().splitlines()
    assert err==['interrupted after 2 of 3 epochs; see out', 'fastmix-train: interrupted']
    run = json.loads(Path('out/run.json').read_text())
    assert (run['state'],run['epochs_done'])==('interrupted', 2) and Path('out/curves.png').exists()
    before = {p:p.read_bytes() for p in Path('out').iterdir()}
    other = "method='erm' (was 'mixup_c'), epochs=9 (was 3)"
    for args,said in (([], 'expected a new or an empty folder'),
                      (['--resume','--lr','.2'], 'lr=0.2 (was 0.1)'),
                      (['--resume','--epochs','9','--method','erm'], other)):
        assert status('--out','out',*args)==2
        assert said in capsys.readouterr().err
    assert before=={p:p.read_bytes() for p in Path('out').iterdir()} # nothing was touched
    assert status('--resume','--quiet','--out','out')==0
    assert json.loads(Path('out/run.json').read_text())['state']=='finished'
    assert len(pd.read_csv('out/metrics.csv'))==3

def test_one_cycle(monkeypatch, no_pictures):
    "Its rate rises and falls within the epochs, in a run that was interrupted too"
    args = *tiny,'--epochs',3,'--one-cycle'
    assert status(*args, '--out','whole')==0
    assert status(*tiny, '--epochs',3,'--out','steps')==0
    with monkeypatch.context() as m:
        ctrl_c(m, 2)
        assert status(*args, '--out','parts')==130
    assert status('--resume','--out','parts')==0
    whole,steps,parts = [Path(o,'model.safetensors').read_bytes() for o in ('whole','steps','parts')]
    assert whole==parts!=steps
    assert json.loads(Path('whole/run.json').read_text())['settings']['one_cycle'] is True

@pytest.mark.parametrize('leave', [
    noop, lambda: Path('runs1').mkdir(), lambda: Path('runs1').touch(), lambda: os.mkfifo('runs1'),
    lambda: images(Path('runs1'), 'a')], ids=['nothing','empty','file','pipe','images'])
def test_resume_needs_a_run(leave, capsys):
    "A misspelt folder begins no other training"
    leave()
    before = sorted(Path().rglob('*'))
    said = refused(capsys, *tiny, '--out','runs1','--resume')
    assert "out='runs1': expected the folder of a run" in said
    assert sorted(Path().rglob('*'))==before

def test_resume_with_the_same_command(no_pictures, capsys):
    args = *tiny,'--precision','auto','--out','out'
    assert status(*args)==0
    assert status(*args, '--resume')==0 # though it says 'auto'

def test_killed_before_run_json(no_pictures):
    "What is left of a file that was not complete is no run, and in nobody's way"
    Path('out').mkdir()
    for f in ('.lock.tmp','.run.json.01234567.tmp'): Path('out',f).touch()
    assert status(*tiny, '--out','out','--resume')==2
    assert status(*tiny, '--out','out')==0

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as m:
        for f in ('plot_pairs','plot_curves'): m.setattr('fastmix.show.'+f, noop)
        assert status(*tiny, '--out', folder/'out')==0
    return folder/'out'

@pytest.mark.parametrize('change', [
    lambda d: '', lambda d: '{"settings": {', lambda d: '['*100000, lambda d: [], lambda d: {}, lambda d: {'settings': 5},
    lambda d: {'settings': {}}, lambda d: {'settings': {**d['settings'], 'epochs': '2'}},
    lambda d: {'settings': {**d['settings'], 'epochs': -5}},
    lambda d: {'settings': {**d['settings'], 'data': 5}},
    lambda d: {'settings': {**d['settings'], 'method': ['erm']}},
    lambda d: {'settings': {k:v for k,v in d['settings'].items() if k!='lr'}}], ids=range(12))
def test_crafted_run_json(finished, change, capsys):
    shutil.copytree(finished, 'mine')
    file = Path('mine/run.json')
    new = change(json.loads(file.read_text()))
    file.write_text(new if isinstance(new, str) else json.dumps(new))
    assert 'mine/run.json' in refused(capsys, '--resume','--out','mine')

def test_crafted_checkpoint(finished, capsys):
    shutil.copytree(finished, 'mine')
    file = Path('mine/checkpoint-00001.pt')
    d = torch.load(file)
    d['state']['epoch'] = -5
    torch.save(d, file)
    assert f'{file}: epoch=-5: expected' in refused(capsys, '--resume','--out','mine')

def test_settings_hold_absolute_paths(no_pictures, monkeypatch, tmp_path):
    args = '--data',images(Path('mine'), 'a', 'b', n=12),'--epochs',1,'--bs',4,'--size',8
    assert status(*args, '--out','out')==0
    assert json.loads(Path('out/run.json').read_text())['settings']['data']==str(tmp_path/'mine')
    Path('elsewhere').mkdir()
    monkeypatch.chdir('elsewhere')
    assert status('--resume', '--out', tmp_path/'out')==0

def test_links_are_not_followed(finished, capsys):
    "Files of a run folder that became links are replaced, what they point to stays as it is"
    shutil.copytree(finished, 'mine')
    target = Path('target')
    target.write_text('of somebody')
    names = 'run.json.tmp','metrics.csv','curves.png','pairs.png','model.pkl','model.safetensors'
    for f in names:
        Path('mine',f).unlink(missing_ok=True)
        Path('mine',f).symlink_to(target.resolve())
    assert status('--resume','--out','mine')==0
    assert target.read_text()=='of somebody'
    assert [f for f in names if Path('mine',f).is_symlink()]==['run.json.tmp']

def test_two_runs_with_one_folder(monkeypatch, no_pictures, capsys):
    others = []
    after_epoch = RunLog.after_epoch
    def other(self):
        after_epoch(self)
        if others: return
        others.extend(wait([fork(lambda: cli.main([*tiny, '--out','out', '--resume']), 'other')]))
    monkeypatch.setattr(RunLog, 'after_epoch', other)
    assert status(*tiny, '--out', 'out')==0
    assert others==[2]
    assert 'expected a folder that no other process is busy with' in Path('other').read_text()
    assert json.loads(Path('out/run.json').read_text())['state']=='finished'
    assert len(pd.read_csv('out/metrics.csv'))==2

@pytest.mark.parametrize('rank,e,said', [
    (1, ValueError('a broken picture'), 'process 1: a broken picture\n'),
    (1, KeyboardInterrupt(), ''), (1, RuntimeError('gloo: connection closed'), '')],
    ids=['error','ctrl-c','gone'])
def test_a_process_that_failed_says_why(monkeypatch, capsys, rank, e, said):
    "Not only the first one, which knows no more than that another is gone"
    monkeypatch.setenv('RANK', str(rank))
    log = RunLog('out', {})
    with pytest.raises(type(e)), cli._note_the_end(None, None, log): raise e
    assert capsys.readouterr().err=='' # before the training all say the same, and the first is heard
    log.state = 'running'
    with pytest.raises(type(e)), cli._note_the_end(None, None, log): raise e
    assert capsys.readouterr().err==said

def test_train_in_python(no_pictures, capsys):
    "A resumed run has its own settings there too"
    cli.train(epochs=2, size=8, bs=256, arch='resnet20', out='out')
    learn = cli.train(resume=True, out='out')
    assert len(learn.recorder.values)==2
    with pytest.raises(ValueError, match='epochs=3 .was 2.'): cli.train(resume=True, out='out', epochs=3)

def test_size_of_cifar10(capsys):
    assert 'size=64: expected 32' in refused(capsys, '--data','cifar10','--size','64')

def test_loss_that_is_not_finite(no_pictures, capsys):
    assert status(*tiny, '--lr', '1e30', '--out', 'out')==1
    err = capsys.readouterr().err.strip().splitlines()
    assert 'failed after 0 of 2 epochs' in err[0]
    assert 'the loss is not finite since epoch 0, batch 1, learning rate 1e+30' in err[-1]
    assert json.loads(Path('out/run.json').read_text())['state']=='failed'

def test_tensorboard(no_pictures):
    pytest.importorskip('tensorboard')
    assert status(*tiny, '--tensorboard', '--out', 'out')==0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    log = EventAccumulator('out/tensorboard').Reload()
    assert {'train_loss','valid_loss','top2'} <= set(log.Tags()['scalars'])

def test_wandb_without_a_key(capsys, monkeypatch):
    wandb = pytest.importorskip('wandb')
    def init(**kw): raise wandb.errors.UsageError('No API key configured. Use `wandb login`') # as it does without a terminal
    monkeypatch.setattr(wandb, 'init', init)
    assert 'error: wandb=True: No API key configured' in refused(capsys, *tiny, '--wandb','--out','out')

def test_wandb(no_pictures, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    try:
        assert status(*tiny, '--wandb', '--out', 'out')==0
        assert {'train_loss','valid_loss','top2','epoch'} <= set(wandb.run.summary.keys())
        assert wandb.run.config['method']=='mixup_c'
    finally: wandb.finish()
    assert list(Path('out/wandb').glob('offline-run-*/*.wandb'))
    assert load_learner('out/model.pkl').dls.vocab
    assert status('--resume', '--out', 'out')==0 # without it

def test_help():
    "`--help` explains every option, without loading anything heavy"
    cmd = [sys.executable, '-X','importtime', '-m','fastmix', '--help']
    res = subprocess.run(cmd, capture_output=True, text=True)
    assert res.returncode==0 and 'torch' not in res.stderr
    text = ' '.join(res.stdout.split())
    for k in inspect.signature(cli.train).parameters: assert f"--{k.replace('_','-')}" in text
