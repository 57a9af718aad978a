# SPDX-License-Identifier: Apache-2.0
"""torch.compile takes the drop-ins into one graph, and torch.export into a program."""

import io

import baton
import pytest
import torch
import torch.nn.functional as F
from baton import _document_ops
from torch import nn

WIDTH, HEADS, HEAD_DIM, GROUPS, STATE, TAPS = 24, 4, 8, 2, 16, 4
INNER, KEYS = HEADS * HEAD_DIM, GROUPS * STATE
# What a compiler changes is the order of a few sums around the operators.
CLOSE = dict(rtol=1e-4, atol=1e-4)


class Mixer(nn.Module):
    """A Mamba-2 mixer of the drop-ins, fused or one by one, with the form for one token."""

    def __init__(self, fused):
        super().__init__()
        self.fused = fused
        self.in_proj = nn.Linear(WIDTH, 2 * INNER + 2 * KEYS + HEADS)
        self.weight = nn.Parameter(torch.randn(INNER + 2 * KEYS, TAPS))
        self.bias = nn.Parameter(torch.randn(INNER + 2 * KEYS))
        self.A_log = nn.Parameter(torch.rand(HEADS))
        self.D = nn.Parameter(torch.randn(HEADS))
        self.dt_bias = nn.Parameter(torch.randn(HEADS))
        self.norm = baton.RMSNormGated(INNER, group_size=INNER // GROUPS, norm_before_gate=False)
        self.out_proj = nn.Linear(INNER, WIDTH)

    def forward(self, hidden, seq_idx=None):
        wide, A = self.in_proj(hidden), -torch.exp(self.A_log)
        if self.fused:
            return baton.mamba_split_conv1d_scan_combined(
                wide, self.weight, self.bias, self.dt_bias, A, self.D, 64, seq_idx=seq_idx,
                rmsnorm_weight=self.norm.weight, rmsnorm_eps=self.norm.eps,
                outproj_weight=self.out_proj.weight, outproj_bias=self.out_proj.bias,
                headdim=HEAD_DIM, ngroups=GROUPS, norm_before_gate=False,
            )  # fmt: skip
        z, xbc, dt = wide.split([INNER, INNER + 2 * KEYS, HEADS], -1)
        xbc = baton.causal_conv1d_fn(
            xbc.transpose(1, 2), self.weight, self.bias, seq_idx, activation="silu"
        ).transpose(1, 2)
        x, B, C = xbc.split([INNER, KEYS, KEYS], -1)
        y = baton.mamba_chunk_scan_combined(
            x.unflatten(2, (HEADS, HEAD_DIM)), dt, A, B.unflatten(2, (GROUPS, STATE)),
            C.unflatten(2, (GROUPS, STATE)), 64, D=self.D, dt_bias=self.dt_bias,
            seq_idx=seq_idx, dt_softplus=True,
        )  # fmt: skip
        return self.out_proj(self.norm(y.flatten(2), z))

    def step(self, hidden, conv_state, state):
        wide = self.in_proj(hidden)
        z, xbc, dt = wide.split([INNER, INNER + 2 * KEYS, HEADS], -1)
        xbc = baton.causal_conv1d_update(xbc, conv_state, self.weight, self.bias, "silu")
        x, B, C = xbc.split([INNER, KEYS, KEYS], -1)
        y = baton.selective_state_update(
            state,
            x.unflatten(1, (HEADS, HEAD_DIM)),
            dt[..., None].expand(-1, -1, HEAD_DIM),
            (-torch.exp(self.A_log))[:, None, None].expand(-1, HEAD_DIM, STATE),
            B.unflatten(1, (GROUPS, STATE)),
            C.unflatten(1, (GROUPS, STATE)),
            self.D[:, None].expand(-1, HEAD_DIM),
            dt_bias=self.dt_bias[:, None].expand(-1, HEAD_DIM),
            dt_softplus=True,
        )
        return self.out_proj(self.norm(y.flatten(1), z))


class Model(nn.Module):
    def __init__(self, fused=False, layers=1, vocabulary=50):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.mixers = nn.ModuleList([Mixer(fused) for _ in range(layers)])

    def forward(self, tokens, seq_idx=None):
        hidden = self.embedding(tokens)
        for mixer in self.mixers:
            hidden = hidden + mixer(F.rms_norm(hidden, (WIDTH,)), seq_idx)
        return F.linear(hidden, self.embedding.weight)


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def documents(tokens):
    return (torch.arange(tokens.shape[1]) // 7).int().expand_as(tokens).contiguous()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_training_step_is_one_graph(device, fused, packed):
    model = Model(fused).to(device)
    tokens = torch.randint(50, (2, 40), device=device)
    seq_idx = documents(tokens).to(device) if packed else None
    judge = model(tokens, seq_idx)
    out = compiled(model)(tokens, seq_idx)
    torch.testing.assert_close(out, judge, **CLOSE)
    given = torch.randn_like(out)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(out, parameters, given)
    for gradient, expected in zip(ours, torch.autograd.grad(judge, parameters, given)):
        torch.testing.assert_close(gradient, expected, **CLOSE)


@pytest.mark.parametrize("packed", [False, True])
def test_one_graph_serves_other_sizes(device, packed):
    model = Model().to(device)
    run = compiled(model, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, length in ((2, 40), (3, 17), (5, 64)):
            tokens = torch.randint(50, (rows, length), device=device)
            seq_idx = documents(tokens).to(device) if packed else None
            torch.testing.assert_close(run(tokens, seq_idx), model(tokens, seq_idx), **CLOSE)


@torch.no_grad()
def test_decoding_step_is_one_graph(device):
    mixer = Mixer(False).to(device)
    step = compiled(mixer.step)
    conv_states = torch.zeros(2, 3, INNER + 2 * KEYS, TAPS, device=device)
    states = torch.zeros(2, 3, HEADS, HEAD_DIM, STATE, device=device)
    for _ in range(3):
        hidden = torch.randn(3, WIDTH, device=device)
        ours = step(hidden, conv_states[0], states[0])
        judge = mixer.step(hidden, conv_states[1], states[1])
        torch.testing.assert_close(ours, judge, **CLOSE)
    torch.testing.assert_close(states[0], states[1], **CLOSE)
    torch.testing.assert_close(conv_states[0], conv_states[1], **CLOSE)


@pytest.mark.parametrize("packed", [False, True])
def test_export(device, packed):
    model = Model().to(device).eval()
    tokens = torch.randint(50, (2, 40), device=device)
    arguments = (tokens, documents(tokens).to(device)) if packed else (tokens,)
    sizes = {0: torch.export.Dim("rows", max=64), 1: torch.export.Dim("length", max=4096)}
    program = torch.export.export(model, arguments, dynamic_shapes=(sizes,) * len(arguments))
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for shape in ((2, 40), (3, 21)):
        tokens = torch.randint(50, shape, device=device)
        arguments = (tokens, documents(tokens).to(device)) if packed else (tokens,)
        torch.testing.assert_close(loaded(*arguments), model(*arguments), **CLOSE)


def test_transformers_model_is_one_graph():
    transformers = pytest.importorskip("transformers")
    import baton.transformers as switch

    config = transformers.Mamba2Config(
        vocab_size=50, hidden_size=32, expand=2, num_hidden_layers=2, num_heads=8, head_dim=8,
        n_groups=2, state_size=16, chunk_size=16,
    )  # fmt: skip
    model = transformers.Mamba2ForCausalLM(config).train()
    tokens = torch.randint(50, (2, 30))
    switch.use()
    try:
        judge = model(tokens, use_cache=False).logits
        ours = compiled(model)(tokens, use_cache=False).logits
    finally:
        switch.restore()
    torch.testing.assert_close(ours, judge, **CLOSE)


def row_inputs():
    tokens = 2 * 9
    x, dt = torch.randn(tokens, HEADS, HEAD_DIM), torch.randn(tokens, HEADS)
    B, C = torch.randn(2, tokens, GROUPS, STATE).unbind()
    seq_idx = torch.tensor([[0] * 4 + [1] * 5, [3] * 9], dtype=torch.int32)
    return x, dt, -torch.rand(HEADS) - 0.1, B, C, seq_idx


@pytest.mark.parametrize("with_options", [False, True])
def test_opcheck_of_the_scan_over_documents(with_options):
    arguments = [
        t.requires_grad_() if t.is_floating_point() else t for t in row_inputs()
    ]
    if with_options:
        states = torch.randn(2, HEADS, HEAD_DIM, STATE, requires_grad=True)
        D, dt_bias = torch.randn(2, HEADS).unbind()
        arguments += [D.requires_grad_(), dt_bias.requires_grad_(), states, True, 0.1, 2.0]
    torch.library.opcheck(_document_ops.ssd, arguments)
    dy = torch.randn(arguments[0].shape)
    rest = arguments[6:] if with_options else [None, None, None, True, 0.0, None]
    backward = [dy, None, *arguments[:6], *rest]
    backward = [t.detach() if torch.is_tensor(t) else t for t in backward]
    torch.library.opcheck(_document_ops.ssd_backward, backward)


@pytest.mark.parametrize("with_bias", [False, True])
def test_opcheck_of_the_convolution_over_documents(with_bias):
    x = torch.randn(18, 6, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)
    bias = torch.randn(6, requires_grad=True) if with_bias else None
    seq_idx = row_inputs()[-1]
    torch.library.opcheck(_document_ops.causal_conv1d, (x, weight, bias, seq_idx, True))
    backward = [torch.randn(18, 6), x.detach(), weight.detach(), None, seq_idx, False]
    torch.library.opcheck(_document_ops.causal_conv1d_backward, backward)
