"Reads the metadata from settings.ini and the version from the package"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
cfg = ConfigParser(delimiters='=')
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
version = re.search(r'__version__ = "(.+)"', (here/'fastmix'/'__init__.py').read_text())[1]
classifiers = ['Intended Audience :: Developers', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
               'Topic :: Scientific/Engineering :: Artificial Intelligence']

setup(
    name=cfg['lib_name'], version=version, description=cfg['description'], keywords=cfg['keywords'], author=cfg['author'],
    license=cfg['license'], classifiers=classifiers, packages=find_packages(include=['fastmix', 'fastmix.*']) + ['fastmix_paper'],
    package_dir={'fastmix_paper': 'experiments'}, # a name of its own in site-packages; its results stay in the repository
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split()},
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown', url=cfg['git_url'] or None,
    entry_points={'console_scripts': ['fastmix-train=fastmix.cli:main', 'fastmix-paper=fastmix_paper.cli:main'],
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]}, # links between our own names in the documentation
)
