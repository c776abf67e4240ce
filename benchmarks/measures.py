"""What more than one benchmark measures with."""

import time
import tracemalloc


def seconds(work) -> float:
    """Processor time of all threads: what else the machine does meanwhile doesn't count."""
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_mib(work) -> float:
    """Most memory allocated at once while something runs."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20
