"""The lock files hold every package of pyproject.toml at exact versions, nothing of the machine they were made on."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from run_versions import REPOSITORY, TESTS, requirements

LOCK, LOWEST = REPOSITORY / "requirements.lock", REPOSITORY / "requirements-lowest.lock"
GIGABYTES = {"torch", "torchvision"}  # the same version in both environments


def declared(*left_out: str) -> dict[str, list[Requirement]]:
    """Package to what pyproject.toml asks of it, in its dependencies, extras and build requirements."""
    told = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [lines for name, lines in told["project"]["optional-dependencies"].items() if name not in left_out]
    found: dict[str, list[Requirement]] = {}
    for line in sum(extras, told["project"]["dependencies"] + told["build-system"]["requires"]):
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def versions(lock) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for requirement in requirements(lock):
        found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return found


@pytest.mark.parametrize("lock", [LOCK, LOWEST], ids=lambda path: path.name)
def test_lines_are_packages_with_exact_versions_and_name_no_host_path_or_option(lock):
    header, lines = lock.read_text(encoding="utf-8").splitlines()[:2], lock.read_text(encoding="utf-8").splitlines()[2:]
    assert [line.startswith("#") for line in header] == [True, True] and header[1].endswith("make lock")
    for line in header + lines:
        assert not re.search(r"//|/\w|\\|@|--|\.(org|com|net|io)\b", line), line
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*( ; [\w .'<>=!()]+)?", line), line


@pytest.mark.parametrize(("lock", "left_out"), [(LOCK, ()), (LOWEST, ("style",))], ids=["newest", "lowest"])
def test_every_package_of_the_project_is_locked_at_a_version_the_project_admits(lock, left_out):
    locked = versions(lock)
    for name, wanted in declared(*left_out).items():
        assert name in locked, f"{name}: run `make lock`"
        for version in locked[name]:
            for requirement in wanted:
                assert version.removeprefix("==") in requirement.specifier, f"{requirement}, {version}: run `make lock`"


def test_every_lower_bound_is_the_version_that_is_tested():
    locked = versions(LOWEST)
    for name, wanted in declared("style").items():
        bounds = [Version(part.version) for one in wanted for part in one.specifier if part.operator == ">="]
        tested = {Version(version.removeprefix("==")) for version in locked[name]}
        assert name in GIGABYTES or {max(bounds)} == tested, f"{name}: {bounds} in pyproject.toml, {tested} tested"


def test_both_environments_have_the_torch_that_the_readme_names():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    locked, lowest = versions(LOCK), versions(LOWEST)
    assert all(locked[name] == lowest[name] and len(locked[name]) == 1 for name in GIGABYTES)
    assert f"torch {next(iter(locked['torch'])).removeprefix('==')}" in readme


def test_the_tests_for_other_versions_exist():
    assert all((REPOSITORY / name).exists() for name in TESTS)
