"""The same tests on the other supported omegaconf: 2.4 has immutable tuples, 2.3 has none."""

import os
import subprocess
import sys
from pathlib import Path

import omegaconf
import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif("REC_OTHER_OMEGACONF" in os.environ, reason="this is the run on the other omegaconf")
def test_the_config_tests_pass_on_the_other_omegaconf(tmp_path):
    other = "2.3" if omegaconf.__version__.startswith("2.4") else "2.4"
    wanted = f"omegaconf=={other}.*"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), wanted],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"cannot install {wanted}: {installed.stderr.strip().splitlines()[-1]}")
    path = os.pathsep.join([str(tmp_path), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    code = f"import omegaconf, pytest, sys; assert omegaconf.__version__.startswith({other!r}); "
    code += "sys.exit(pytest.main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": path, "REC_OTHER_OMEGACONF": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", str(HERE)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
