"""Order of samples: complete, without repeats, and the same on any number of processes."""

import functools
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rec.data.loader import EvaluationBatches, TrainingBatches, training_loader


def updates(length, total, processes, accumulation, epoch=0, first_update=0):
    """List of updates; each the set of samples all processes see in it."""
    per_process = total // processes // accumulation
    streams = []
    for rank in range(processes):
        batches = TrainingBatches(
            length, per_process, processes=processes, rank=rank, accumulation=accumulation, seed=7
        )
        batches.set_position(epoch, first_update)
        streams.append(list(batches))
    count = len(streams[0]) // accumulation
    return [
        sorted(i for stream in streams for batch in stream[u * accumulation : (u + 1) * accumulation] for _, i in batch)
        for u in range(count)
    ]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_every_update_sees_the_same_samples_on_any_number_of_processes(processes, accumulation):
    assert updates(103, 8, processes, accumulation, epoch=3) == updates(103, 8, 1, 1, epoch=3)


def test_a_run_resumed_in_the_middle_of_an_epoch_sees_the_rest_and_nothing_twice():
    whole = updates(103, 8, 1, 1, epoch=2)
    assert updates(103, 8, 2, 1, epoch=2, first_update=5) == whole[5:]


def test_an_epoch_has_no_repeats_and_epochs_differ():
    first, second = (functools.reduce(operator.iadd, updates(103, 8, 1, 1, epoch=epoch), []) for epoch in (0, 1))
    assert len(set(first)) == len(first) == 96
    assert first != second


def test_a_batch_larger_than_the_data_set_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"lower train\.batch_size to at most 5"):
        TrainingBatches(5, 8, processes=1, rank=0, accumulation=1, seed=0)
    with pytest.raises(ValueError, match=r"has 0 samples, fewer than one total batch of 8$"):
        TrainingBatches(0, 8, processes=1, rank=0, accumulation=1, seed=0)


@given(
    groups=st.lists(st.integers(0, 12), max_size=60),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 4),
)
def test_evaluation_visits_every_index_once_over_all_processes(groups, batch_size, processes):
    array = np.array(groups, dtype=np.int64)
    parts = [EvaluationBatches(array, batch_size, processes=processes, rank=rank) for rank in range(processes)]
    batches = [batch for part in parts for batch in part]
    assert sorted(i for batch in batches for i in batch) == list(range(len(groups)))
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_sentences_of_one_image_share_a_batch_where_they_fit():
    groups = np.array([0, 1, 0, 2, 1, 0])
    batches = list(EvaluationBatches(groups, 3))
    assert [set(groups[batch]) for batch in batches] == [{0}, {1, 2}]


class Plain:
    """A data set that knows nothing of epochs."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"index": index}


def test_a_data_set_that_knows_nothing_of_epochs_is_read_by_index():
    batches = TrainingBatches(8, 4, processes=1, rank=0, accumulation=1, seed=0)
    seen = functools.reduce(operator.iadd, (batch["index"].tolist() for batch in training_loader(Plain(), batches)), [])
    assert sorted(seen) == list(range(8))
