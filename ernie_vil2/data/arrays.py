"""Names for the arrays of this package, by what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pixels = NDArray[np.uint8]  # of an image, [H, W, 3] in RGB
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]
