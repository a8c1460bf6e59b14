"""Programs named as Slurm's that run jobs on this machine: what submitit calls, no more."""

from __future__ import annotations

from pathlib import Path

# A line of $FAKE_SLURM/refuse is the state in which the next job ends before it has begun.
SBATCH = """#!/bin/bash
number=$(($(ls "$FAKE_SLURM" | grep -c 'sh$') + 1))
cp "$1" "$FAKE_SLURM/$number.sh"
echo RUNNING > "$FAKE_SLURM/$number.state"
export SLURM_JOB_ID=$number SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
if [ -s "$FAKE_SLURM/refuse" ]; then
    head -n 1 "$FAKE_SLURM/refuse" > "$FAKE_SLURM/$number.state"
    sed -i 1d "$FAKE_SLURM/refuse"
else
    setsid bash -c 'bash "$1"; echo COMPLETED > "$2"' - "$1" "$FAKE_SLURM/$number.state" > /dev/null 2>&1 &
fi
echo "Submitted batch job $number"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
    [[ $1 == --unbuffered ]] || shift
    shift
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    [[ $1 == -j ]] && echo "$2|$(cat "$FAKE_SLURM/$2.state")|here"
    shift
done
"""


def install_slurm(folder: Path) -> Path:
    """Write the programs into ``folder/bin``; the folder of their jobs, for ``FAKE_SLURM``."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        program = folder / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    jobs = folder / "jobs"
    jobs.mkdir()
    return jobs
