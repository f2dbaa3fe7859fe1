"""How far a run has come, and what a checkpoint holds of it."""

from ernie_vil2.training.progress import Progress


def test_a_run_goes_on_where_its_checkpoint_was():
    progress = Progress()
    for _ in range(3):
        progress.advance(batches=2)
    assert progress.evaluated(0.25)
    resumed = Progress()
    resumed.load_state_dict(progress.state_dict())
    assert resumed == Progress(step=3, batch=6, best=0.25, evaluated_at=3, saved_at=3)


def test_a_checkpoint_of_old_knows_no_batch():
    progress = Progress()
    progress.load_state_dict({"step": 7, "best": None, "evaluated_at": None})
    assert progress.batch == 7


def test_only_a_better_score_is_the_best():
    progress = Progress()
    assert [progress.evaluated(score) for score in (0.2, 0.2, 0.1, 0.3)] == [
        True,
        False,
        False,
        True,
    ]
    assert progress.best == 0.3
