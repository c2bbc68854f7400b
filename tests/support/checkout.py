"""The checkout, and code run in a fresh interpreter from it."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def run_python(code, *arguments, **environment):
    """Runs code in a fresh interpreter and returns what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=CHECKOUT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""
