# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/golden.safetensors: ten training steps of tiny hybrid models in fp64.

Written from the equations alone, in plain PyTorch, one token after the other where the model is
recurrent; it shares no code with Baton, so that the two check each other. Two models are run:

squared_relu  pattern M-M*-, D per head, no limits on dt, squared ReLU in the MLPs
swiglu        the same pattern, D per channel, dt within limits, SwiGLU in the MLPs

    python tests/golden/make_golden.py           writes the file
    python tests/golden/make_golden.py --check   compares a new run with the file
"""

import argparse
import json
import math
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

COMMAND = "python tests/golden/make_golden.py"
FILE = pathlib.Path(__file__).with_name("golden.safetensors")

PATTERN = "M-M*-"
WIDTH, VOCABULARY, NORM_EPS = 24, 29, 1e-5
HEADS, HEAD_DIM, GROUPS, STATE, TAPS = 4, 8, 2, 6, 4
INNER = HEADS * HEAD_DIM
QUERY_HEADS, KEY_HEADS, ATTENTION_DIM = 4, 2, 6
# 256 ** (-2 i / 4) is 1 and 1/16: exact in every floating type.
ROTARY_CHANNELS, ROTARY_BASE = 4, 256.0
MLP_HIDDEN = 40

STEPS, TOKENS, SEQUENCES = 10, 40, 5
# The norms of the gradients lie on both sides of this clip.
LR, BETA1, BETA2, EPS, WEIGHT_DECAY, CLIP_NORM = 1e-2, 0.9, 0.95, 1e-8, 0.1, 2.0
IGNORED = -100

MODELS = {
    "squared_relu": dict(swiglu=False, d_per_channel=False, dt_min=0.0, dt_max=math.inf),
    "swiglu": dict(swiglu=True, d_per_channel=True, dt_min=0.1, dt_max=0.6),
}
# Repeated runs differ by the rounding of other instructions at most.
CHECK_TOLERANCE = 1e-11


# ---------------------------------------------------------------------------------- start values


def wave(shape, phase, scale, offset=0.0):
    """Values of a sine over the row-major index; any program can compute them."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (offset + scale * torch.sin(0.7 * index + 0.1 * index**2 % 3 + phase)).reshape(shape)


def mixer_start(prefix, layer, d_per_channel):
    channels = INNER + 2 * GROUPS * STATE
    d_shape = (HEADS, HEAD_DIM) if d_per_channel else (HEADS,)
    return {
        f"{prefix}.mixer.in_proj.weight": wave((INNER + channels + HEADS, WIDTH), layer, 0.3),
        f"{prefix}.mixer.conv1d.weight": wave((channels, TAPS), layer + 1, 0.5),
        f"{prefix}.mixer.conv1d.bias": wave((channels,), layer + 2, 0.2),
        f"{prefix}.mixer.dt_bias": wave((HEADS,), layer + 3, 1.0, -1.0),
        f"{prefix}.mixer.A_log": wave((HEADS,), layer + 4, 0.8, 0.2),
        f"{prefix}.mixer.D": wave(d_shape, layer + 5, 0.5, 1.0),
        f"{prefix}.mixer.norm.weight": wave((INNER,), layer + 6, 0.3, 1.0),
        f"{prefix}.mixer.out_proj.weight": wave((WIDTH, INNER), layer + 7, 0.3),
    }


def attention_start(prefix, layer):
    query, key = QUERY_HEADS * ATTENTION_DIM, KEY_HEADS * ATTENTION_DIM
    return {
        f"{prefix}.attention.q_proj.weight": wave((query, WIDTH), layer, 0.4),
        f"{prefix}.attention.k_proj.weight": wave((key, WIDTH), layer + 1, 0.4),
        f"{prefix}.attention.v_proj.weight": wave((key, WIDTH), layer + 2, 0.4),
        f"{prefix}.attention.o_proj.weight": wave((WIDTH, query), layer + 3, 0.3),
    }


def mlp_start(prefix, layer, swiglu):
    rows = 2 * MLP_HIDDEN if swiglu else MLP_HIDDEN
    return {
        f"{prefix}.mlp.up_proj.weight": wave((rows, WIDTH), layer, 0.3),
        f"{prefix}.mlp.down_proj.weight": wave((WIDTH, MLP_HIDDEN), layer + 1, 0.2),
    }


def start_values(model):
    values = {"embedding.weight": wave((VOCABULARY, WIDTH), 0.5, 0.7)}
    for layer, kind in enumerate(PATTERN):
        prefix = f"layers.{layer}"
        values[f"{prefix}.norm.weight"] = wave((WIDTH,), layer + 0.3, 0.2, 1.0)
        if kind == "M":
            values |= mixer_start(prefix, layer, model["d_per_channel"])
        elif kind == "*":
            values |= attention_start(prefix, layer)
        else:
            values |= mlp_start(prefix, layer, model["swiglu"])
    values["final_norm.weight"] = wave((WIDTH,), 9.3, 0.2, 1.0)
    values["lm_head.weight"] = wave((VOCABULARY, WIDTH), 10.5, 0.3)
    return values


def batch(step):
    """Tokens, labels, starts and first positions of one step: five sequences, one of them empty."""
    starts = [0, 3 + step, 4 + step, 4 + step, 29 + step % 4, TOKENS]
    tokens = [(7 * t * t + 3 * t + 5 * step + t // 3) % VOCABULARY for t in range(TOKENS)]
    labels = tokens[1:] + [IGNORED]
    for end in starts[1:]:
        labels[end - 1] = IGNORED
    return tokens, labels, starts, [0, 7, 0, 11, 0]


# ----------------------------------------------------------------------------------------- model


def rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + NORM_EPS) * weight


def silu(x):
    return x / (1 + torch.exp(-x))


def convolution(x, weight, bias):
    """y[t, c] = silu(bias[c] + sum over k of weight[c, k] * x[t - (K - 1) + k, c])."""
    padded = torch.cat([x.new_zeros(TAPS - 1, x.shape[1]), x])
    y = bias + sum(weight[:, k] * padded[k : k + x.shape[0]] for k in range(TAPS))
    return silu(y)


def scan(x, dt, a, b, c, d):
    """h = exp(dt a) h + dt b x; y = c . h + d x; x is [L, H, P], b and c are [L, G, N]."""
    group = torch.arange(HEADS) // (HEADS // GROUPS)
    state = x.new_zeros(HEADS, HEAD_DIM, STATE)
    rows = []
    for t in range(x.shape[0]):
        decay = torch.exp(dt[t] * a)[:, None, None]
        new = dt[t][:, None, None] * x[t][:, :, None] * b[t][group][:, None, :]
        state = decay * state + new
        rows.append((state * c[t][group][:, None, :]).sum(-1) + d * x[t])
    return torch.stack(rows)


def mixer(values, prefix, hidden, model):
    part = lambda name: values[f"{prefix}.mixer.{name}"]
    projected = hidden @ part("in_proj.weight").T
    z, xbc, dt = projected.split([INNER, INNER + 2 * GROUPS * STATE, HEADS], dim=-1)
    xbc = convolution(xbc, part("conv1d.weight"), part("conv1d.bias"))
    x, b, c = xbc.split([INNER, GROUPS * STATE, GROUPS * STATE], dim=-1)
    length = hidden.shape[0]
    x = x.reshape(length, HEADS, HEAD_DIM)
    b, c = b.reshape(length, GROUPS, STATE), c.reshape(length, GROUPS, STATE)
    dt = torch.log1p(torch.exp(dt + part("dt_bias")))
    dt = dt.clamp(model["dt_min"], model["dt_max"])
    d = part("D") if model["d_per_channel"] else part("D")[:, None]
    y = scan(x, dt, -torch.exp(part("A_log")), b, c, d).reshape(length, INNER)
    gated = (y * silu(z)).reshape(length, GROUPS, INNER // GROUPS)
    square = (gated * gated).mean(-1, keepdim=True)
    normed = (gated / torch.sqrt(square + NORM_EPS)).reshape(length, INNER)
    return (normed * part("norm.weight")) @ part("out_proj.weight").T


def rotate(x, positions):
    """Turns channels i and i + R/2 of the first R by position * base^(-2i/R)."""
    half = ROTARY_CHANNELS // 2
    rates = ROTARY_BASE ** (-2.0 * torch.arange(half, dtype=torch.float64) / ROTARY_CHANNELS)
    angle = (positions[:, None] * rates)[:, None, :]
    first, second, rest = x.split([half, half, x.shape[-1] - ROTARY_CHANNELS], dim=-1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return torch.cat(
        [first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1
    )


def attention(values, prefix, hidden, positions):
    part = lambda name: values[f"{prefix}.attention.{name}.weight"]
    length = hidden.shape[0]
    q = (hidden @ part("q_proj").T).reshape(length, QUERY_HEADS, ATTENTION_DIM)
    k = (hidden @ part("k_proj").T).reshape(length, KEY_HEADS, ATTENTION_DIM)
    v = (hidden @ part("v_proj").T).reshape(length, KEY_HEADS, ATTENTION_DIM)
    q, k = rotate(q, positions), rotate(k, positions)
    shared = torch.arange(QUERY_HEADS) // (QUERY_HEADS // KEY_HEADS)
    k, v = k[:, shared], v[:, shared]
    scores = torch.einsum("thp,shp->hts", q, k) / math.sqrt(ATTENTION_DIM)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = torch.softmax(scores.masked_fill(future, -math.inf), dim=-1)
    mixed = torch.einsum("hts,shp->thp", weights, v).reshape(length, -1)
    return mixed @ part("o_proj").T


def mlp(values, prefix, hidden, model):
    up = hidden @ values[f"{prefix}.mlp.up_proj.weight"].T
    if model["swiglu"]:
        gate, up = up.split(MLP_HIDDEN, dim=-1)
        inner = silu(gate) * up
    else:
        inner = torch.where(up > 0, up * up, torch.zeros_like(up))
    return inner @ values[f"{prefix}.mlp.down_proj.weight"].T


def sequence_logits(values, tokens, first_position, model):
    hidden = values["embedding.weight"][tokens]
    positions = first_position + torch.arange(len(tokens), dtype=torch.float64)
    for layer, kind in enumerate(PATTERN):
        prefix = f"layers.{layer}"
        normed = rms_norm(hidden, values[f"{prefix}.norm.weight"])
        if kind == "M":
            hidden = hidden + mixer(values, prefix, normed, model)
        elif kind == "*":
            hidden = hidden + attention(values, prefix, normed, positions)
        else:
            hidden = hidden + mlp(values, prefix, normed, model)
    return rms_norm(hidden, values["final_norm.weight"]) @ values["lm_head.weight"].T


def mean_loss(values, step, model):
    """Mean over the counted tokens of -log softmax(logits)[label]."""
    tokens, labels, starts, first_positions = batch(step)
    losses = []
    for number, (begin, end) in enumerate(zip(starts, starts[1:])):
        if begin == end:
            continue
        logits = sequence_logits(values, tokens[begin:end], first_positions[number], model)
        log_total = torch.logsumexp(logits, dim=-1)
        for t, label in enumerate(labels[begin:end]):
            if label != IGNORED:
                losses.append(log_total[t] - logits[t, label])
    return torch.stack(losses).mean()


# -------------------------------------------------------------------------------------- training


def decays(name):
    return not name.endswith((".bias", "norm.weight", ".dt_bias", ".A_log", ".D"))


def train(model):
    values = {name: value.requires_grad_() for name, value in start_values(model).items()}
    mean = {name: torch.zeros_like(value) for name, value in values.items()}
    square = {name: torch.zeros_like(value) for name, value in values.items()}
    record = {f"start.{name}": value.detach().clone() for name, value in values.items()}
    losses, norms = [], []
    for step in range(STEPS):
        loss = mean_loss(values, step, model)
        grads = dict(zip(values, torch.autograd.grad(loss, list(values.values()))))
        norm = math.sqrt(sum(float((grad * grad).sum()) for grad in grads.values()))
        losses.append(loss.item())
        norms.append(norm)
        if step == 0:
            record |= {f"grad.{name}": grad.clone() for name, grad in grads.items()}
        clip = min(1.0, CLIP_NORM / norm)
        with torch.no_grad():
            for name, value in values.items():
                grad = grads[name] * clip
                mean[name] = BETA1 * mean[name] + (1 - BETA1) * grad
                square[name] = BETA2 * square[name] + (1 - BETA2) * grad * grad
                unbiased_mean = mean[name] / (1 - BETA1 ** (step + 1))
                unbiased_square = square[name] / (1 - BETA2 ** (step + 1))
                if decays(name):
                    value.mul_(1 - LR * WEIGHT_DECAY)
                value.sub_(LR * unbiased_mean / (torch.sqrt(unbiased_square) + EPS))
    record |= {f"final.{name}": value.detach().clone() for name, value in values.items()}
    record["losses"] = torch.tensor(losses, dtype=torch.float64)
    record["grad_norms"] = torch.tensor(norms, dtype=torch.float64)
    return record


def everything():
    tensors = {}
    for name, model in MODELS.items():
        record = train(model)
        print(f"{name}: losses", " ".join(f"{loss:.6f}" for loss in record["losses"]))
        print(f"{name}: norms ", " ".join(f"{norm:.6f}" for norm in record["grad_norms"]))
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in record.items()}
    batches = [batch(step) for step in range(STEPS)]
    for index, name in enumerate(["tokens", "labels", "starts", "first_positions"]):
        tensors[name] = torch.tensor([one[index] for one in batches], dtype=torch.int64)
    return tensors


def metadata():
    model = dict(
        pattern=PATTERN, width=WIDTH, vocabulary=VOCABULARY, norm_eps=NORM_EPS, heads=HEADS,
        head_dim=HEAD_DIM, groups=GROUPS, state=STATE, taps=TAPS, query_heads=QUERY_HEADS,
        key_heads=KEY_HEADS, attention_dim=ATTENTION_DIM, rotary_channels=ROTARY_CHANNELS,
        rotary_base=ROTARY_BASE, mlp_hidden=MLP_HIDDEN,
    )  # fmt: skip
    adamw = dict(
        lr=LR, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM
    )
    return {"command": COMMAND, "model": json.dumps(model), "adamw": json.dumps(adamw)}


def check(tensors):
    """Exit status: 0 if the stored file holds what was computed."""
    with safe_open(FILE, framework="pt") as stored:
        if set(stored.keys()) != set(tensors):
            print("error: the file holds other tensors; make it again", file=sys.stderr)
            return 1
        worst = max(
            ((stored.get_tensor(name) - value).abs().max().item(), name)
            for name, value in tensors.items()
        )
    print(f"largest difference {worst[0]:.3g} in {worst[1]}")
    return 0 if worst[0] <= CHECK_TOLERANCE else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tensors = everything()
    if arguments.check:
        return check(tensors)
    save_file(tensors, FILE, metadata=metadata())
    print(f"wrote {FILE} ({FILE.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
