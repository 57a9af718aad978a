# SPDX-License-Identifier: Apache-2.0
"""mamba_ssm and causal_conv1d out of .peers/ (tools/fetch_peers), tuned as they tune themselves.

mamba_ssm's kernels try some ten variants each at their first call. Here the variants are compiled
ahead on all processors, and the choices are kept in .peers/tuned.json for the next run on the same
kind of device.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import pathlib
import sys
import traceback
import zlib

import torch

FOLDER = pathlib.Path(__file__).resolve().parents[2] / ".peers"
TUNED = FOLDER / "tuned.json"
# Milliseconds of a trial of a variant; Triton's own are 25 and 100.
TRIAL_WARM_UP, TRIAL = 3, 12

if FOLDER.is_dir():
    sys.path.insert(0, str(FOLDER))


@functools.cache
def has(package):
    """Whether a peer can run: it is there, and Triton finds a GPU or is told to interpret."""
    try:
        if package == "causal_conv1d":
            importlib.import_module(package)
            return device_is_there()
        module("ssd_combined")
        return device_is_there() or os.environ.get("TRITON_INTERPRET") == "1"
    except (ImportError, OSError):
        return False


def device_is_there():
    # Asks NVML where it can, and so does not start the driver: processes are forked after this.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return torch.cuda.is_available()


def module(name):
    return importlib.import_module(f"mamba_ssm.ops.triton.{name}")


def tuners():
    """All self-tuning kernels of the modules that are loaded, by name."""
    from triton.runtime.autotuner import Autotuner
    loaded = [m for name, m in sys.modules.items() if name.startswith("mamba_ssm.ops.triton.")]
    return {value.base_fn.__name__: value for m in loaded for value in vars(m).values()
            if isinstance(value, Autotuner)}


def describe(config):
    return str(config)


def load_choices(device):
    """Takes the choices of an earlier run on this kind of device."""
    if not TUNED.exists():
        return
    kept = json.loads(TUNED.read_text())
    if kept["device"] != device:
        return
    for name, tuner in tuners().items():
        by_text = {describe(config): config for config in tuner.configs}
        for key, text in kept["choices"].get(name, []):
            if text in by_text:
                tuner.cache[tuple(key)] = by_text[text]


def save_choices(device):
    choices = {name: [[list(key), describe(config)] for key, config in tuner.cache.items()]
               for name, tuner in tuners().items() if tuner.cache}
    if choices:
        TUNED.write_text(json.dumps({"device": device, "choices": choices}, indent=1))


def keep_variants():
    """Leaves each of the peers' kernels the variants that were an earlier run's choice for any size."""
    if not TUNED.exists():
        return
    kept = json.loads(TUNED.read_text())["choices"]
    module("ssd_combined")
    for name, tuner in tuners().items():
        texts = {text for _, text in kept.get(name, [])}
        tuner.configs = [c for c in tuner.configs if describe(c) in texts] or tuner.configs


def shorten_trials():
    import triton.testing
    for tuner in tuners().values():
        tuner.do_bench = lambda call, quantiles: triton.testing.do_bench(
            call, warmup=TRIAL_WARM_UP, rep=TRIAL, quantiles=quantiles)


class NoDevice:
    """Stands in for Triton's driver where kernels are compiled only."""

    def __init__(self, capability):
        from triton.backends.compiler import GPUTarget
        self.target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("meta")


def compile_share(works, properties, share, shares):
    """Calls peers on tensors without memory, and compiles one in `shares` of what they launch."""
    import triton.compiler.compiler
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    class Compiled:
        def __init__(self, *arguments):
            pass

    jit_run = JITFunction.run

    def compile_only(kernel, *arguments, grid=None, warmup=None, **options):
        jit_run(kernel, *arguments, grid=grid, warmup=True, **options)

    def is_of_another_share(key, fn, **_):
        return zlib.crc32(f"{fn.name} {key}".encode()) % shares != share

    def every_variant(tuner, *arguments, **options):
        tuner.nargs = dict(zip(tuner.arg_names, arguments))
        chosen = list(dict.fromkeys(tuner.cache.values())) or tuner.prune_configs(options)
        tuner.best_config = chosen[0]
        for config in chosen:
            tuner.fn.run(*arguments, **options, **config.all_kwargs())

    driver.set_active(NoDevice(properties.capability))
    triton.compiler.compiler.CompiledKernel = Compiled
    knobs.runtime.jit_cache_hook = is_of_another_share
    JITFunction.run, Autotuner.run = compile_only, every_variant
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *_: properties
    # Compiled already, and with nothing to say about tensors without memory.
    combined = module("ssd_combined")
    combined.causal_conv1d_fwd_function = lambda x, *_: torch.empty_like(x)
    combined.causal_conv1d_bwd_function = lambda x, weight, bias, *_: (
        torch.empty_like(x), weight, bias, None)
    for work in works:
        work()


class Properties:
    """What peers ask of a device, in a form that travels between processes."""

    def __init__(self, name, capability, multi_processor_count):
        self.name, self.capability = name, capability
        self.multi_processor_count = multi_processor_count
        self.major, self.minor = capability


def ask_device(answers):
    try:
        found = torch.cuda.get_device_properties(0)
        answer = Properties(found.name, (found.major, found.minor), found.multi_processor_count)
    except RuntimeError:
        traceback.print_exc()
        answer = None
    answers.put(answer)


def share_of(works, properties, share, shares):
    try:
        compile_share(works, properties, share, shares)
    except Exception:  # Whatever it was, it will show itself when the peer runs.
        traceback.print_exc()


def compile_ahead(works):
    """Fills Triton's cache for these calls; returns the device's name, or None if it did not tell.

    Must run before this process starts the driver, which a forked process cannot start again.
    """
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    asker = fork.Process(target=ask_device, args=(answers,))
    asker.start()
    properties = answers.get()
    asker.join()
    shorten_trials()
    if properties is None:
        return None
    load_choices(properties.name)
    shares = os.cpu_count()
    processes = [fork.Process(target=share_of, args=(works, properties, share, shares))
                 for share in range(shares)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return properties.name
