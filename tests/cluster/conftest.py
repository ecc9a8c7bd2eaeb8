"""A Slurm cluster of one node on this machine, with its own ports and keys in a temporary folder."""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "workflow"))  # the copy of the project

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# no control groups, which a container may not have: memory is measured, and jobs with too much are killed
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end_with_the_tests() -> None:
    """End the daemons with the tests, even if these are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Slurm:
    """The commands of the running Slurm; with ``environment``, any other command uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        configuration = folder / "slurm.conf"
        # inside a job, Snakemake calls srun without the variables of Slurm
        srun = folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        path = os.pathsep.join([str(srun.parent), os.environ["PATH"]])
        self.environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": path}

    def call(self, *command: str) -> str:
        """Output of a command, such as ``squeue``."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def logs(self) -> str:
        """What the daemons wrote."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm on this machine ({', '.join(missing)}); tests/cluster/install.sh installs it")
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("slurm")))
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 100  # MB
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            host=host,
            user=user,
            ports=_free_ports(2),
            cores=os.cpu_count() or 1,
            memory=memory,
        )
    )
    slurm = Slurm(folder)
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    daemons = [munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(daemons):
            with (folder / f"daemon{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        command,
                        env=slurm.environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        preexec_fn=_end_with_the_tests,
                    )
                )
            if number == 0:
                while not (folder / "munge.socket").exists() and running[0].poll() is None:
                    time.sleep(0.05)
        deadline = time.monotonic() + 60
        while True:
            try:
                if "idle" in slurm.call("sinfo", "--noheader", "--format=%T"):
                    break
            except subprocess.CalledProcessError:
                pass
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in running):
                pytest.fail(f"Slurm does not start\n{slurm.logs()}")
            time.sleep(0.5)
        yield slurm
    finally:
        subprocess.run(["scancel", "--user", user], env=slurm.environment, check=False, timeout=60)
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
