"""A small detector of drawn shapes, trained here and exported with PaddleDetection's interface."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import paddle
import yaml

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SHAPES = ("circle", "square", "triangle")
NAMES = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
HEIGHT, WIDTH = 64, 96  # of a picture
ROWS, COLUMNS, CELL = 2, 3, 16  # of the grid that the network sees; pixels of a cell there
SIZE = [ROWS * CELL, COLUMNS * CELL]
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[tuple]]:
    """RGB uint8 [64, 96, 3] with `count` things, and (number of its name, box) of each."""
    image = rng.integers(0, 70, [HEIGHT, WIDTH, 3], dtype=np.uint8)
    things = []
    for cell in rng.choice(ROWS * COLUMNS, count, replace=False):
        radius = int(rng.integers(10, 14))
        x, y = (int(v) * 32 + 16 + int(rng.integers(-2, 3)) for v in (cell % 3, cell // 3))
        box = (x - radius, y - radius, x + radius, y + radius)
        name = int(rng.integers(len(NAMES)))
        color, shape = NAMES[name].split()
        if shape == "circle":
            cv2.circle(image, (x, y), radius, COLORS[color], -1)
        elif shape == "square":
            cv2.rectangle(image, box[:2], box[2:], COLORS[color], -1)
        else:
            corners = np.array([[x, box[1]], [box[0], box[3]], [box[2], box[3]]])
            cv2.fillPoly(image, [corners], COLORS[color])
        things.append((name, box))
    return image, things


class Shapes(paddle.nn.Layer):
    """What stands in each cell of a grid, and how far it reaches from the cell's centre."""

    def __init__(self):
        super().__init__()
        nn = paddle.nn
        self.layers = nn.Sequential(
            nn.Linear(3 * CELL**2, 128), nn.ReLU(), nn.Linear(128, len(NAMES) + 4)
        )

    def cells(self, image):
        """[B, 3, H, W] -> logits [B, cells, names] and distances [B, cells, 4] in pixels / CELL."""
        patches = paddle.nn.functional.unfold(image, CELL, CELL).transpose([0, 2, 1])
        out = self.layers(patches)
        return out[:, :, : len(NAMES)], out[:, :, len(NAMES) :]

    def forward(self, image, im_shape, scale_factor):
        """PaddleDetection's outputs: boxes [B * cells, 6] and their counts [B]."""
        logits, reach = self.cells(image)
        scores = paddle.nn.functional.sigmoid(logits)
        x, y = np.meshgrid(np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5)
        centre = np.stack([x, y, x, y], -1).reshape(1, -1, 4).astype("float32")
        away = paddle.to_tensor(np.array([-1, -1, 1, 1], np.float32))
        boxes = (paddle.to_tensor(centre) + reach * away) * CELL  # [B, cells, 4]
        scale = scale_factor.flip(1).tile([1, 2]).unsqueeze(1)  # [B, 1, 4]: x, y, x, y
        edges = im_shape.flip(1).tile([1, 2]).unsqueeze(1)
        boxes = paddle.minimum(boxes.clip(0), edges) / scale
        best = [scores.argmax(-1).astype("float32"), scores.max(-1)]
        rows = paddle.concat([value.unsqueeze(-1) for value in best] + [boxes], -1)
        counts = paddle.full_like(im_shape[:, 0], ROWS * COLUMNS).astype("int32")
        return rows.reshape([-1, 6]), counts


def _samples(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    pixels = np.empty([size, 3, *SIZE], np.float32)
    wanted = np.zeros([size, ROWS * COLUMNS, len(NAMES)], np.float32)
    reach = np.zeros([size, ROWS * COLUMNS, 4], np.float32)
    for row in range(size):
        image, things = draw(rng, int(rng.integers(1, 6)))
        small = cv2.resize(image, SIZE[::-1]).astype(np.float32) / 255
        pixels[row] = ((small - MEAN) / STD).transpose(2, 0, 1)
        for name, box in things:
            left, above, right, below = np.array(box) / 2 / CELL
            x, y = int((left + right) / 2), int((above + below) / 2)
            wanted[row, y * COLUMNS + x, name] = 1
            edges = [x + 0.5 - left, y + 0.5 - above, right - x - 0.5, below - y - 0.5]
            reach[row, y * COLUMNS + x] = edges
    return pixels, wanted, reach


def train(steps: int = 1200) -> Shapes:
    """A detector that is right about pictures that it has not seen; some seconds."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    net = Shapes()
    rate = paddle.optimizer.lr.CosineAnnealingDecay(2e-3, steps)
    optimizer = paddle.optimizer.Adam(rate, parameters=net.parameters())
    samples = _samples(rng, 4000)
    for _ in range(steps):
        drawn = rng.integers(0, 4000, 32)
        pixels, wanted, reach = (paddle.to_tensor(part[drawn]) for part in samples)
        logits, distances = net.cells(pixels)
        loss = paddle.nn.functional.binary_cross_entropy_with_logits(
            logits, wanted, reduction="sum"
        )
        there = wanted.sum(-1, keepdim=True)
        loss = (loss + 2 * ((distances - reach).abs() * there).sum()) / there.sum()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    net.eval()
    return net


def export(net: Shapes, folder: Path, **changes) -> Path:
    """The folder as `tools/export_model.py` of PaddleDetection writes it."""
    spec = paddle.static.InputSpec
    feeds = [
        spec([None, 3, *SIZE], "float32", "image"),
        spec([None, 2], "float32", "im_shape"),
        spec([None, 2], "float32", "scale_factor"),
    ]
    paddle.jit.save(net, str(folder / "model"), input_spec=feeds)
    content = {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "arch": "PPYOLOE",
        "Preprocess": [
            {"type": "Resize", "target_size": SIZE, "keep_ratio": False, "interp": 1},
            {"type": "NormalizeImage", "mean": MEAN, "std": STD, "is_scale": True},
            {"type": "Permute"},
        ],
        "label_list": NAMES,
        **changes,
    }
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder
