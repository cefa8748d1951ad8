"""Small networks of many kinds with random weights, exported from torch at test time."""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional
VOCABULARY, WIDTH, HEADS, LENGTH = 24, 32, 4, 40


@dataclass(frozen=True, kw_only=True)
class Style:
    """What kind of Transformer block it is."""

    packed: bool = False
    fused: bool = False
    kv_heads: int = HEADS
    rotary: bool = False
    rms: bool = False
    gated: bool = False
    before: bool = True
    causal: bool = False
    positions: Literal["learned", "relative", "none"] = "learned"


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate(x, length):
    """Rotary embedding of (B, H, T, d), angles computed from the positions."""
    half = x.shape[-1] // 2
    frequency = 1.0 / 100 ** (torch.arange(0, half) / half)
    angle = torch.arange(length)[:, None] * frequency[None, :]
    angle = torch.cat([angle, angle], dim=-1)
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * angle.cos() + turned * angle.sin()


class Attention(nn.Module):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style, self.size = style, WIDTH // HEADS * 2
        q, kv = HEADS * self.size, style.kv_heads * self.size
        if style.packed:
            self.qkv = nn.Linear(WIDTH, q + 2 * kv)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, n) for n in (q, kv, kv))
        self.out = nn.Linear(q, WIDTH)
        if style.positions == "relative":
            self.bias = nn.Embedding(8, HEADS)

    def forward(self, x, memory=None):
        style, (B, T, _) = self.style, x.shape
        memory = x if memory is None else memory
        S = memory.shape[1]
        if style.packed:
            sizes = [HEADS * self.size] + [style.kv_heads * self.size] * 2
            q, k, v = self.qkv(x).split(sizes, dim=-1)
        else:
            q, k, v = self.q(x), self.k(memory), self.v(memory)
        q = q.view(B, T, HEADS, self.size).transpose(1, 2)
        k = k.view(B, S, style.kv_heads, self.size).transpose(1, 2)
        v = v.view(B, S, style.kv_heads, self.size).transpose(1, 2)
        if style.rotary:
            q, k = rotate(q, T), rotate(k, S)
        if style.kv_heads < HEADS:
            times = HEADS // style.kv_heads
            shape = (B, style.kv_heads, times, S, self.size)
            k = k[:, :, None].expand(shape).reshape(B, HEADS, S, self.size)
            v = v[:, :, None].expand(shape).reshape(B, HEADS, S, self.size)
        if style.fused:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=style.causal)
        else:
            scores = q @ k.transpose(-1, -2) / self.size**0.5
            if style.positions == "relative":
                distance = torch.arange(S)[None, :] - torch.arange(T)[:, None]
                scores = scores + self.bias(distance.clamp(-4, 3) + 4).permute(2, 0, 1)[None]
            if style.causal:
                future = torch.arange(S)[None, :] > torch.arange(T)[:, None]
                scores = scores.masked_fill(future, float("-inf"))
            y = scores.softmax(dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, HEADS * self.size))


class FeedForward(nn.Module):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self.gated = style.gated
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        if style.gated:
            self.gate = nn.Linear(WIDTH, 4 * WIDTH, bias=False)

    def forward(self, x):
        if self.gated:
            return self.down(functional.silu(self.gate(x)) * self.up(x))
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, style: Style, crossed: bool = False) -> None:
        super().__init__()
        norm = RMSNorm if style.rms else nn.LayerNorm
        self.before = style.before
        self.attention, self.feed = Attention(style), FeedForward(style)
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        if crossed:
            self.cross, self.norm3 = Attention(Style()), norm(WIDTH)

    def forward(self, x, memory=None):
        if not self.before:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.feed(x))
        x = x + self.attention(self.norm1(x))
        if memory is not None:
            x = x + self.cross(self.norm3(x), memory)
        return x + self.feed(self.norm2(x))


class Language(nn.Module):
    """Embeddings, two blocks, and a head of its own or tied to the embeddings."""

    def __init__(self, style: Style, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        if style.positions == "learned":
            self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(style) for _ in range(2))
        self.norm = RMSNorm(WIDTH) if style.rms else nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        if hasattr(self, "places"):
            x = x + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Translator(nn.Module):
    """T5-like: encoder, and decoder with attention to it."""

    def __init__(self) -> None:
        super().__init__()
        style = Style(rms=True, gated=True, positions="relative")
        causal = Style(rms=True, gated=True, positions="relative", causal=True)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder, self.decoder = Block(style), Block(causal, crossed=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, source, tokens):
        return self.head(self.decoder(self.embed(tokens), self.encoder(self.embed(source))))


class VisionBlock(nn.Module):
    """Projections packed as (B, N, 3, H, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 6 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.feed = FeedForward(Style())

    def forward(self, x):
        B, N, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(B, N, 3, HEADS, 2 * WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(B, N, 2 * WIDTH))
        return x + self.feed(self.norm2(x))


class Vision(nn.Module):
    """ViT: patches, a class token, blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.blocks, self.head = (
            nn.ModuleList(VisionBlock() for _ in range(2)),
            nn.Linear(WIDTH, 10),
        )

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class Library(nn.Module):
    """torch's own encoder layer, whose attention folds heads into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS)
        self.norm, self.feed = nn.LayerNorm(WIDTH), FeedForward(Style())

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.feed(x)


def conv(C: int, K: int, size: int = 3, stride: int = 1, group: int = 1) -> nn.Module:
    layers = nn.Conv2d(C, K, size, stride, size // 2, groups=group, bias=False), nn.BatchNorm2d(K)
    torch.nn.init.uniform_(layers[1].running_var, 0.5, 1.5)
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16), conv(16, 32, stride=2), conv(32, 32)
        self.skip, self.c, self.d = conv(16, 32, 1, 2), conv(32, 32), conv(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + self.skip(x)).relu()
        x = (self.d(self.c(x).relu()) + x).relu()
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.up, self.depth, self.down = conv(16, 64, 1), conv(64, 64, group=64), conv(64, 16, 1)
        self.squeeze, self.excite = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 64, 1)
        self.last, self.head = conv(16, 64, 1), nn.Linear(64, 10)

    def forward(self, x):
        x = functional.hardswish(self.stem(x))
        y = functional.relu6(self.depth(functional.relu6(self.up(x))))
        gate = self.excite(self.squeeze(functional.adaptive_avg_pool2d(y, 1)).relu())
        x = x + self.down(y * functional.hardsigmoid(gate))
        x = functional.adaptive_avg_pool2d(self.last(x).relu(), 1)
        return self.head(torch.flatten(x, 1))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.layers = nn.ModuleList(conv(16 + 16 * i, 16) for i in range(3))
        self.narrow, self.head = conv(64, 32, 1), nn.Linear(32 * 16, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], dim=1)
        x = functional.avg_pool2d(self.narrow(x).relu(), 4)
        return self.head(x.flatten(1))


TOKENS = ("tokens",)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: Language(Style(before=False)),
    "bert, fused": lambda: Language(Style(before=False, fused=True)),
    "gpt": lambda: Language(Style(packed=True, causal=True), tied=True),
    "gpt, fused": lambda: Language(Style(packed=True, causal=True, fused=True)),
    "llama": lambda: Language(
        Style(rotary=True, rms=True, gated=True, kv_heads=2, causal=True, positions="none")
    ),
    "llama, fused": lambda: Language(
        Style(rotary=True, rms=True, gated=True, kv_heads=2, fused=True, positions="none")
    ),
    "t5": Translator,
    "vit": Vision,
    "multihead": Library,
    "resnet": Residual,
    "mobilenet": Mobile,
    "densenet": Dense,
}


def example(name: str):
    """Inputs of a network, its input names, and which of their axes are dynamic."""
    if name in ("vit", "resnet", "mobilenet", "densenet"):
        return (torch.randn(2, 3, 16, 16),), ("image",), {"image": {0: "N"}}
    names = ("source", "tokens") if name == "t5" else ("tokens",)
    inputs = tuple(torch.randint(0, VOCABULARY, (2, 6 + i)) for i in range(len(names)))
    if name == "multihead":  # the legacy exporter fixes the length there
        return inputs, names, {"tokens": {1: "N"}}
    return inputs, names, {n: {0: "N", 1: f"T{i}"} for i, n in enumerate(names)}


def export(name: str, exporter: str, seed: int = 0) -> ir.Model:
    """The network as ONNX, by torch's legacy or dynamo exporter, or "optimised".

    That is what onnxruntime makes of the first: operators are fused.
    """
    if exporter == "optimised":
        return optimised(export(name, "legacy", seed))
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval()
    inputs, names, axes = example(name)
    buffer = io.BytesIO()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            torch.onnx.export(
                network, inputs, buffer, input_names=list(names), dynamic_axes=axes, dynamo=False,
                opset_version=17,
            )  # fmt: skip
            model = ir.from_proto(onnx.load_model_from_string(buffer.getvalue()))
        else:
            dims = {
                d: torch.export.Dim(d, min=2, max=LENGTH) for n in names for d in axes[n].values()
            }
            shapes = tuple({a: dims[d] for a, d in axes[n].items()} for n in names)
            program = torch.onnx.export(
                network,
                inputs,
                input_names=names,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
            model = ir.from_proto(program.model_proto)
    logging.disable(logging.NOTSET)
    return model


def optimised(model: ir.Model) -> ir.Model:
    """With the fused operators that onnxruntime runs on a CPU, as it writes them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return ir.from_proto(onnx.load(path))
