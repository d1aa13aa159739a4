"""What is shipped: the wheel, and the wheel built from the sdist, installed outside the checkout."""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOMS = ["envs", "agents", "algorithms", "conf", "experiments"]
DATA_SUFFIXES = {".yaml", ".j2", ".css", ".js", ".typed"}

PROBE = """
import importlib, importlib.metadata, importlib.util, json, pkgutil, sys
import handrail
names = [module.name for module in pkgutil.walk_packages(handrail.__path__, "handrail.")]
for name in names:
    importlib.import_module(name)
import gymnasium
from handrail.envs.registration import register_envs
register_envs()
(script,) = importlib.metadata.distribution("handrail").entry_points.select(group="console_scripts")
print(json.dumps({
    "file": handrail.__file__,
    "names": names,
    "bare": [room for room in sys.argv[1:] if importlib.util.find_spec(room) is not None],
    "ids": [name for name in gymnasium.registry if name.startswith("handrail/")],
    "script": script.load()(["--version"]),
}))
"""


def tracked_files(checkout: Path) -> list[Path]:
    """Files of the checkout that would be committed; all but ignored ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    return [Path(line) for line in sorted(set(done.stdout.splitlines())) if (checkout / line).exists()]


def build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (product,) = out.iterdir()
    return product


@pytest.fixture(scope="module")
def source(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without anything a clean clone would not have."""
    if not (checkout / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the source is unknown")
    copy = tmp_path_factory.mktemp("source")
    for path in tracked_files(checkout):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / path, copy / path, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def wheel(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source tree or from the sdist."""
    root = source
    if request.param == "sdist":
        sdist = build("sdist", root, tmp_path_factory.mktemp("sdist"))
        unpacked = tmp_path_factory.mktemp("unpacked")
        shutil.unpack_archive(sdist, unpacked, filter="data")
        (root,) = unpacked.iterdir()
    return build("wheel", root, tmp_path_factory.mktemp("wheel"))


def shipped(source: Path) -> set[str]:
    """Files of the rooms and of `handrail/` that users need, by their name in the wheel."""
    names = set()
    for folder in [*ROOMS, "handrail"]:
        for path in (source / folder).rglob("*"):
            if path.suffix in {".py", *DATA_SUFFIXES}:
                name = path.relative_to(source)
                names.add(str(name if folder == "handrail" else Path("handrail", name)))
    return names


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(metadata_name))
    files = {name for name in names if ".dist-info/" not in name}
    assert files == shipped(source)
    assert any(name.endswith("conf/config.yaml") for name in files)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_imports_from_anywhere(wheel: Path, tmp_path: Path, source: Path) -> None:
    installed = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    # Third-party packages by path: a .pth file, as an editable install of this checkout has, is not followed there.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    bootstrap = f"import sys; sys.path += {sorted(libraries)!r}; sys.path.insert(0, {str(installed)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bootstrap + PROBE, *ROOMS],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *_, version, line = done.stdout.splitlines()
    seen = json.loads(line)
    assert Path(seen["file"]).is_relative_to(installed)
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in shipped(source)}
    modules = {name for name in modules if not name.endswith(tuple(DATA_SUFFIXES))} - {"handrail"}
    assert set(seen["names"]) == modules
    assert seen["bare"] == []
    assert "handrail/Replay-v0" in seen["ids"]
    assert (version, seen["script"]) == (f"handrail {wheel.name.split('-')[1]}", 0)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_tested_set_covers_every_dependency(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + [item for extra in project["optional-dependencies"].values() for item in extra]
    lines = [line for line in (checkout / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    pinned = {normal(line.split("==")[0]) for line in lines}
    names = {normal(item.split(">")[0].split("[")[0]) for item in declared}
    assert names - pinned == set()
    assert all(">=" in item for item in declared)
