"""Train each run of a sweep, or each fold of a cross-validation, as one task on a Ray cluster.

    python experiments/cluster/sweep_ray.py --gpus 1 6 boneage sweep RECIPE --data M --out DIR …

6 is the number of runs. The same command with `--table` shows it. All nodes must see the same
folders and have boneage installed. If a node is lost, another one continues from the checkpoint.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ray

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("runs", type=int)
parser.add_argument("--gpus", type=float, default=1)
parser.add_argument("--cpus", type=float, default=8)
parser.add_argument("command", nargs=argparse.REMAINDER)
arguments = parser.parse_args()
here = Path.cwd()


@ray.remote(num_gpus=arguments.gpus, num_cpus=arguments.cpus, max_retries=3)
def run(number: int) -> int:
    """Train one run and return its exit code."""
    command = [*arguments.command, "--only", str(number)]
    return subprocess.run(command, cwd=here, check=False).returncode


ray.init()
statuses = ray.get([run.remote(number) for number in range(1, arguments.runs + 1)])
subprocess.run([*arguments.command, "--table"], check=False)
sys.exit(max(statuses))
