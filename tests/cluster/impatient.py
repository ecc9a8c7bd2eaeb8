"""``python impatient.py ...``: Snakemake, which asks an executor every second how its jobs stand.

Its executor for Slurm waits ten seconds longer each time that no job has ended well; no option changes that.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _a_second(_: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = _a_second
    sys.exit(main())
