# SPDX-License-Identifier: Apache-2.0
"""The embedding, the loss with its gradients, the optimizer, and the norm of gradients."""

import functools

import torch
from torch.nn import functional

from .case import Case, leaves, randn

ops = torch.ops.baton
LR, BETA1, BETA2, ADAM_EPS, DECAY = 1e-3, 0.9, 0.95, 1e-8, 0.1


@functools.cache
def embedding_cases(tokens, width, vocabulary, small=None):
    def make(device):
        return {"weight": randn(device, vocabulary, width),
                "tokens": torch.randint(0, vocabulary, (tokens,), device=device),
                "dout": randn(device, tokens, width)}

    def peer_backward(i):
        weight, = leaves(i, ("weight",))
        rows = functional.embedding(i["tokens"], weight)
        return lambda: torch.autograd.grad(rows, weight, i["dout"], retain_graph=True)

    smalls = embedding_cases(*small) if small else (None, None)
    name = f"{tokens} tokens, {width} x {vocabulary}"
    read = 2 * tokens * width
    return (
        Case(f"embedding, {name}", ("embedding",), make,
             lambda i: lambda: (ops.embedding(i["weight"], i["tokens"]),),
             {"torch": lambda i: lambda: (functional.embedding(i["tokens"], i["weight"]),)},
             2 * read, small=smalls[0]),
        Case(f"embedding backward, {name}", ("embedding_backward",), make,
             lambda i: lambda: (ops.embedding_backward(i["dout"], i["tokens"], vocabulary),),
             {"torch": peer_backward}, read + 2 * width * vocabulary, small=smalls[1]),
    )


@functools.cache
def cross_entropy_case(tokens, width, vocabulary, small=None):
    def make(device):
        return {"hidden": randn(device, tokens, width),
                "weight": randn(device, vocabulary, width, scale=width**-0.5),
                "labels": torch.randint(0, vocabulary, (tokens,), device=device)}

    def ours(i):
        def call():
            loss, _, dhidden, dweight = ops.cross_entropy_with_grads(
                i["hidden"], i["weight"], i["labels"])
            return loss, dhidden, dweight
        return call

    def peer(i):
        wanted = leaves(i, ("hidden", "weight"))

        def call():
            logits = functional.linear(*wanted).float()
            loss = functional.cross_entropy(logits, i["labels"], reduction="sum")
            return loss, *torch.autograd.grad(loss, wanted)
        return call

    # Between products, fp32 logits are read and their gradients written in bf16.
    return Case(f"cross_entropy with gradients, {tokens} tokens, {width} x {vocabulary}",
                ("cross_entropy_with_grads",), make, ours, {"torch": peer},
                2 * 2 * width * (tokens + vocabulary), 6 * tokens * width * vocabulary,
                between=(4 + 2) * tokens * vocabulary,
                small=cross_entropy_case(*small) if small else None)


@functools.cache
def adamw_case(count, dtype, small=None):
    """fp32 throughout, or a bf16 parameter with fp32 moments and master."""
    def make(device):
        fp32 = torch.float32
        parameter = randn(device, count, dtype=fp32)
        return {"parameter": parameter.to(dtype), "grad": randn(device, count, dtype=dtype),
                "exp_avg": randn(device, count, dtype=fp32, scale=0.1),
                "exp_avg_sq": randn(device, count, dtype=fp32).square_(),
                "master": None if dtype == fp32 else parameter}

    def ours(i):
        def call():
            ops.adamw_(i["parameter"], i["grad"], i["exp_avg"], i["exp_avg_sq"], i["master"], LR,
                       BETA1, BETA2, ADAM_EPS, DECAY, 10)
            return i["parameter"], i["exp_avg"], i["exp_avg_sq"]
        return call

    def peer(i):
        step = torch.full((), 10.0, device=i["parameter"].device)

        def call():
            torch._fused_adamw_(
                [i["parameter"]], [i["grad"]], [i["exp_avg"]], [i["exp_avg_sq"]], [], [step], lr=LR,
                beta1=BETA1, beta2=BETA2, weight_decay=DECAY, eps=ADAM_EPS, amsgrad=False,
                maximize=False)
            return i["parameter"], i["exp_avg"], i["exp_avg_sq"]
        return call

    kind = "fp32" if dtype == torch.float32 else "bf16, fp32 master and moments"
    return Case(f"adamw_, {count:,} parameters, {kind}", ("adamw_",), make, ours,
                {"torch, fused": peer} if dtype == torch.float32 else {}, 28 * count,
                small=adamw_case(*small) if small else None)


@functools.cache
def sum_squares_case(count, small=None):
    return Case(f"sum_squares, {count:,} values, bf16", ("sum_squares",),
                lambda device: {"x": randn(device, count)},
                lambda i: lambda: (ops.sum_squares(i["x"]),),
                {"torch": lambda i: lambda: (torch.linalg.vector_norm(
                    i["x"], dtype=torch.float32).square(),)}, 2 * count,
                small=sum_squares_case(*small) if small else None)


def cases(small):
    small_loss = (100, 64, 1000)
    yield from embedding_cases(*(small_loss if small else (8192, 2048, 131072)), small_loss)
    for size in ((small_loss,) if small else ((8192, 2048, 131072), (16384, 1024, 32000))):
        yield cross_entropy_case(*size, small_loss)
    fp32, bf16 = torch.float32, torch.bfloat16
    count = 10000 if small else 100_000_000
    yield adamw_case(count, fp32, (10000, fp32))
    yield adamw_case(count, bf16)
    yield sum_squares_case(count, (10000,))
