"""The feed of batches: the loader's order and errors, whether they are fetched ahead or not."""

import pytest
import torch

from rec.training.feed import Feed

CPU = torch.device("cpu")


def numbered(count, error=None):
    for number in range(count):
        yield {"image": torch.full((2,), number)}
    if error is not None:
        raise error


@pytest.mark.parametrize("early", [False, True])
def test_every_update_gets_the_next_batches(early):
    loader = numbered(7)
    feed, seen = Feed(loader, 2, CPU, early), []
    for update in range(3):
        assert feed.take() >= 0
        seen.append([batch["image"][0].item() for batch in feed.batches])
        feed.ahead()
        if update == 0:
            assert next(loader)["image"][0] == (4 if early else 2), (
                "what is fetched ahead is the next update's, no more"
            )
    assert seen == ([[0, 1], [2, 3], [5, 6]] if early else [[0, 1], [3, 4], [5, 6]])


def test_an_error_of_the_data_comes_at_the_update_it_belongs_to():
    feed = Feed(numbered(2, ValueError("a damaged image")), 1, CPU, early=True)
    for _ in range(2):  # the second update's batch is whole, though the third's is fetched, and fails, beside it
        feed.take()
        feed.ahead()
    with pytest.raises(ValueError, match="damaged"):
        feed.take()


def test_the_end_of_an_epoch_is_no_error_while_nobody_asks_for_more():
    feed = Feed(numbered(1), 1, CPU, early=True)
    feed.take()
    feed.ahead()
    assert feed.batches[0]["image"].tolist() == [0, 0]
