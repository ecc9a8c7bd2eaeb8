"""How the processes of the workflow handle their main memory."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**30), "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30)}
"""Environment variables with which the memory of a finished operation stays in the process. glibc returns
every large block to the system, and to allocate it again takes a fifth of the time of a prediction on the
CPU."""
