# SPDX-License-Identifier: Apache-2.0
"""Medians of calls that take turns, and what a machine could reach."""

import statistics
import time

import torch

ROUNDS = 5
SECONDS_A_ROUND = 0.012
WARM_UP = 3
# More than an L2 holds, so that inputs come from memory.
ROTATED_BYTES = 200e6
MOST_SETS = 128


class Clock:
    """Times on one device: events on a GPU, the host's clock on a CPU."""

    def __init__(self, device):
        self.device = device

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def span(self, work):
        """Seconds that the device is busy with what `work` launches."""
        if self.device != "cuda":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3


class Loop:
    """A call over rotating inputs, as often as fills a round."""

    def __init__(self, clock, calls, graph):
        self.clock, self.calls = clock, calls
        self.next = 0
        self.graph = None
        for call in calls[:WARM_UP]:
            call()
        clock.wait()
        if graph and clock.device == "cuda":
            self.graph = captured(calls)
            self.per_run = len(calls)
        else:
            self.per_run = 1
        self.run()
        once = max(min(clock.span(self.run) for _ in range(2)), 1e-7)
        self.runs = max(1, round(SECONDS_A_ROUND / once))

    def run(self):
        if self.graph is not None:
            self.graph.replay()
            return
        self.calls[self.next % len(self.calls)]()
        self.next += 1

    def seconds(self):
        """Of one call, in one round."""
        def work():
            for _ in range(self.runs):
                self.run()
        return self.clock.span(work) / (self.runs * self.per_run)


def captured(calls):
    """A CUDA graph of all the calls, one after the other."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def medians(clock, calls_by_name, graph=False):
    """Seconds a call, by name; each round measures all of them, one after the other."""
    loops = {name: Loop(clock, calls, graph) for name, calls in calls_by_name.items()}
    rounds = [{name: loop.seconds() for name, loop in loops.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(taken[name] for taken in rounds) for name in loops}


def glance(clock, calls, graph=False):
    """Seconds a call, by one short look."""
    loop = Loop(clock, calls, graph)
    return min(loop.seconds() for _ in range(2))


def copies(clock, moved, count):
    """Calls that read and write `moved` bytes in all, from one of `count` tensors to another.

    By a kernel, as in a captured graph a copy is left to an engine that is slower at times.
    """
    source = torch.randn(count, max(1, int(moved) // 8), device=clock.device)
    target = torch.empty_like(source)
    return [lambda i=i: torch.neg(source[i], out=target[i]) for i in range(count)]


class Ceilings:
    """What this machine reaches at best: bytes a second of a copy, operations of a bf16 product."""

    def __init__(self, clock, small):
        count, side = (2**22, 256) if small else (2**28, 8192)
        source = torch.randn(count, device=clock.device)
        target = torch.empty_like(source)
        a, b = torch.randn(2, side, side, device=clock.device, dtype=torch.bfloat16)
        taken = medians(clock, {"copy": [lambda: target.copy_(source)], "product": [lambda: a @ b]})
        self.bytes_a_second = 2 * 4 * count / taken["copy"]
        self.flops = 2 * side**3 / taken["product"]

    def bytes_matter(self, case):
        """Whether a copy of a case's bytes could take longer than a product of its operations."""
        return case.bytes > 0 and 2 * case.bytes / self.bytes_a_second > case.flops / self.flops
