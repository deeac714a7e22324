"""What tox.ini cannot say by itself: where packages lie, and which Pythons have a torch build.

Every environment gets four keys to use in ``tox.ini``. Three hold packages to install, one a line:
``named`` (those that the environment's name names), ``everything`` and ``without_qpth``; and
``named_tests`` holds the tests of the named one. Packages are found by folder.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from tox.config.sets import EnvConfigSet
from tox.plugin import impl
from tox.session.state import State
from tox.tox_env.api import ToxEnv
from tox.tox_env.errors import Skip
from tox.tox_env.installer import InstallArguments

ROOT = Path(__file__).parent
DOWNLOAD = "FOLDCORE_DOWNLOAD_TORCH"


def packages() -> list[Path]:
    """Return the folders of all packages beside the core, relative to the repository."""
    found = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("contrib/*/pyproject.toml")]
    return sorted(path.parent.relative_to(ROOT) for path in found)


def named(env_name: str) -> list[Path]:
    """Return the folders of the packages named in an environment's name, once each.

    A name that is no package is left out: ``iterate`` ships with the core.
    """
    names = env_name.split("-")[1:]
    return [
        p for p in packages() if any((ROOT / p / f"foldcore_{name}").is_dir() for name in names)
    ]


@impl
def tox_add_env_config(env_conf: EnvConfigSet, state: State) -> None:
    """Offer the lists of packages, and the named one's tests, to ``tox.ini``."""
    here = named(env_conf.name or "")
    lists = {
        "named": here,
        "everything": packages(),
        "without_qpth": [
            path
            for path in packages()
            if "foldcore-qpth" not in (ROOT / path / "pyproject.toml").read_text()
        ],
    }
    for key, paths in lists.items():
        lines = "\n".join(f"-e ./{path.as_posix()}" for path in paths)
        env_conf.add_constant([key], f"packages to install: {key}", lines)
    tests = f"{here[0].as_posix()}/tests" if here else ""
    env_conf.add_constant(["named_tests"], "tests of the named package", tests)


@impl
def tox_on_install(
    tox_env: ToxEnv, arguments: InstallArguments, section: str, of_type: str
) -> None:
    """Skip a Python for which no torch build lies here: an index would send GBs of CUDA libraries.

    A build is here for the Python that tox itself runs on, where a find-links folder has a wheel,
    and where ``FOLDCORE_DOWNLOAD_TORCH=1`` allows the download.

    Raises:
        Skip: Without a build. tox reports the environment as skipped, with this reason.
    """
    asked = re.match(r"py3(\d+)-", tox_env.conf.name)
    if asked is None or os.environ.get(DOWNLOAD) or int(asked[1]) == sys.version_info.minor:
        return
    version = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    wheel = f"torch-{version[1] if version else ''}*-cp3{asked[1]}-*.whl"
    links = f"{os.environ.get('UV_FIND_LINKS', '')} {os.environ.get('PIP_FIND_LINKS', '')}"
    if not any(list(Path(folder).glob(wheel)) for folder in re.split(r"[,\s]+", links) if folder):
        raise Skip(f"no {wheel} in PIP_FIND_LINKS; {DOWNLOAD}=1 takes it from the index")
