"""Pictures and texts of the first records in VisualDL, as the model will see them."""

from __future__ import annotations

from ernie_vil2 import distributed
from ernie_vil2.config.load import Config
from ernie_vil2.training.runlog import SilentLog
from ernie_vil2.training.stream import Stream


def draw(run_log: SilentLog, stream: Stream, config: Config) -> None:
    """Show the views of the first `Global.sample_views` records, on the main rank."""
    if not distributed.is_main():
        return  # without reading them
    views = stream.dataset.views
    for number, index in enumerate(stream.order().indices(0)[: config.Global.sample_views]):
        sample = stream.dataset[0, number, int(index)]
        for view in views.image_views:
            run_log.picture(f"views/{number}/{view}", sample[view].transpose(1, 2, 0))
        for view in views.text_views:
            run_log.text(f"views/{number}/{view}", views.tokenizer.decode(sample[view]))
