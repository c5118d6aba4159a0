"""Run a sweep, a cross-validation or a prediction as tasks on a Ray cluster.

    python experiments/cluster/tasks_ray.py --gpus 1 6 boneage sweep RECIPE --data M --out DIR …
    python experiments/cluster/tasks_ray.py 8 boneage predict RUN FOLDER --out answers.csv

Worth it if a Ray cluster is there and one machine would need days. 6 is the number of runs, which
the same command with `--table` shows. 8 is the number of parts to predict, which you choose. All
nodes must see the same folders and have boneage installed. If a node is lost, its task starts
again on another one. If this script is ended, call it again. Both continue what was done.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ray

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("tasks", type=int)
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each task")
parser.add_argument("--cpus", type=float, default=4, help="CPU cores of each task")
parser.add_argument("command", nargs=argparse.REMAINDER)
arguments = parser.parse_args()
here, is_prediction = Path.cwd(), "predict" in arguments.command


def run(*options: str) -> int:
    """Run the command with more options and return its exit code."""
    return subprocess.run([*arguments.command, *options], cwd=here, check=False).returncode


@ray.remote(num_gpus=arguments.gpus, num_cpus=arguments.cpus, max_retries=3)
def run_task(number: int) -> int:
    """Run one task, counted from 1, and return its exit code."""
    if is_prediction:
        return run("--shard", f"{number}/{arguments.tasks}")
    return run("--only", str(number))


ray.init()
codes = ray.get([run_task.remote(number) for number in range(1, arguments.tasks + 1)])
if is_prediction:
    sys.exit(run("--merge", str(arguments.tasks)))  # it refuses parts that are not finished
run("--table")
sys.exit(next((code for code in codes if code), 0))  # that of the first run which failed
