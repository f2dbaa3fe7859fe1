"""The two towers and their step in plain PyTorch: what `bench.py step` measures ours against.

Runs where torch is and paddle need not be. The parameters have our names, so that ours can be put
in; no code of ours computes anything here.
"""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.step_common import SMALL, Shape, timed
from torch import nn
from torch.nn import functional as F

DROPOUT = 0.1


def heads_of(x, heads):
    """[B, L, C] -> [B, H, L, C / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Branch(nn.Module):
    """A layer that only holds others, for the sake of names."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class ImageBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Branch(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.mlp = Branch(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))

    def forward(self, x):
        query, key, value = (
            heads_of(y, self.heads) for y in self.attn.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.attn.proj(mixed.transpose(1, 2).flatten(2))
        hidden = self.mlp.fc1(self.norm2(x))
        return x + self.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))


class ImageTower(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        width, patches = shape.width, (shape.image // shape.patch) ** 2
        conv = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        self.patch_embed = Branch(proj=conv)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width))
        self.ln_pre, self.norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.blocks = nn.Sequential(*[ImageBlock(width, shape.heads) for _ in range(shape.depth)])

    def forward(self, pixel_values):
        x = self.patch_embed.proj(pixel_values).flatten(2).transpose(1, 2)  # [B, N, C]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.norm(self.blocks(self.ln_pre(x))[:, 0])


class TextBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        projections = {f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        self.self_attn = Branch(**projections)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))

    def forward(self, x, mask):
        mixer, rate = self.self_attn, DROPOUT if self.training else 0.0
        projections = mixer.q_proj, mixer.k_proj, mixer.v_proj
        query, key, value = (heads_of(project(x), self.heads) for project in projections)
        mixed = F.scaled_dot_product_attention(query, key, value, mask, rate)
        mixed = mixer.out_proj(mixed.transpose(1, 2).flatten(2))
        x = self.norm1(x + F.dropout(mixed, rate))
        hidden = F.dropout(F.gelu(self.linear1(x)), 0.0)
        return self.norm2(x + F.dropout(self.linear2(hidden), rate))


class TextTower(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.width
        self.embeddings = Branch(
            word_embeddings=nn.Embedding(shape.vocabulary, width, padding_idx=0),
            position_embeddings=nn.Embedding(shape.positions, width),
            layer_norm=nn.LayerNorm(width, eps=1e-5),
        )
        layers = [TextBlock(width, shape.heads) for _ in range(shape.depth)]
        self.encoder = Branch(layers=nn.ModuleList(layers))
        self.pooler = Branch(dense=nn.Linear(width, width))

    def forward(self, input_ids):
        tables = self.embeddings
        places = torch.arange(input_ids.shape[1])
        x = tables.word_embeddings(input_ids) + tables.position_embeddings(places)
        x = F.dropout(tables.layer_norm(x), DROPOUT, self.training)
        mask = (input_ids == 0).float()[:, None, None] * -1e4  # [B, 1, 1, L]
        for layer in self.encoder.layers:
            x = layer(x, mask)
        return torch.tanh(self.pooler.dense(x[:, 0]))


class DualEncoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.image_tower = Branch(backbone=ImageTower(shape))
        self.text_tower = Branch(ernie=TextTower(shape))
        self.temperature = nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values, input_ids):
        """The loss, a scalar."""
        names = self.shape.image_views, self.shape.text_views
        towers = self.image_tower.backbone(pixel_values), self.text_tower.ernie(input_ids)
        embeds = {}
        for views, output in zip(names, towers):
            embeds.update(zip(views, F.normalize(output, dim=-1).chunk(len(views))))
        scale, own = self.temperature.exp(), torch.arange(self.shape.batch)
        loss = 0.0
        for a, b in self.shape.pairs:
            logits = scale * embeds[a] @ embeds[b].T
            loss = loss + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss


def _is_matrix(model, name):
    layer = model.get_submodule(name.rpartition(".")[0])
    return isinstance(layer, nn.Linear) and name.endswith("weight")  # paddle's are transposed


def run(shape: dict, folder: str, steps: int, check: bool) -> dict:
    """Times of a step; with `check`, first loss and gradients without dropout into FOLDER."""
    shape = Shape(**shape)
    model = DualEncoder(shape)
    weights = np.load(f"{folder}/weights.npz")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.from_numpy(weights[name])
            parameter.copy_(value.T if _is_matrix(model, name) else value)
    pixel_values, input_ids = map(torch.from_numpy, shape.batch_of_views())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=SMALL, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.001, fused=True
    )

    def step():
        loss = model(pixel_values, input_ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if check:
        model.eval()
        loss = model(pixel_values, input_ids)
        loss.backward()
        found = {
            name: (p.grad.T if _is_matrix(model, name) else p.grad).numpy()
            for name, p in model.named_parameters()
        }
        np.savez(f"{folder}/torch.npz", loss=loss.detach().numpy(), **found)
        optimizer.zero_grad()
        model.train()
    return {"times": timed(step, steps)}
