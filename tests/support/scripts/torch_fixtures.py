"""Files as PyTorch saves them, for tests/files/torch: `python torch_fixtures.py OUT`.

To be run where PyTorch is installed, beside this project and never in it; made with 2.15.0.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 2, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(3))
        self.input_resolution = 224
        self.resblocks = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3))

    def forward(self, x):
        return self.conv1(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Tower()
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.vocab_size = 49408
        self.sizes = [1, 2]

    def forward(self, x):
        return self.visual(x) * self.logit_scale.exp()


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    state = collections.OrderedDict(
        whole=base,
        transposed=base.t(),
        row=base[2],
        half=base.half(),
        bfloat=base.bfloat16(),
        double=base.double(),
        whole_numbers=torch.arange(5),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(4.5),
        mask=base > 0,
        parameter=nn.Parameter(base + 1),
    )
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}
    group = {"lr": np.float64(1e-3), "betas": (0.9, 0.98), "params": [0], "foreach": None}
    training = {
        **{"epoch": 3, "step": 7, "name": "x"},
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": moments, "param_groups": [group]},
    }
    torch.save(state, out / "zip.pt")
    torch.save(training, out / "training.pt")
    torch.save(training, out / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.manual_seed(0)
    model = Model().half()
    torch.jit.script(model).save(str(out / "script.pt"))
    numbers = {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    np.savez_compressed(out / "numbers.npz", **numbers)
    script = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(out / "script.npz", **script)


if __name__ == "__main__":
    main()
