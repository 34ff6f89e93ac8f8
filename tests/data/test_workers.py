"""Loader workers: signals of a scheduler pass them over, killed ones are replaced, and none outlives its main process."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from rec.command_line import explained
from rec.data.loader import StreamedBatches, TrainingBatches, evaluation_loader, training_loader
from rec.data.workers import Loader, LostWorkerError
from rec.errors import InputError


class Numbers:
    """Samples that are their own index, from a data set that can stand still or die at one of them."""

    accepts_epoch = False

    def __init__(self, length=40, stop_at=None, die_at=None):
        self.length, self.stop_at, self.die_at = length, stop_at, die_at

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.stop_at:
            time.sleep(1000)
        time.sleep(0.001)
        return {"index": torch.tensor(index), "worker": torch.tensor(os.getpid())}


class Stream:
    """Endless numbers of an epoch, counted by each worker for itself."""

    shards = 4

    def __length_hint__(self):
        return 40

    def endless(self, epoch, skip):
        worker = torch.utils.data.get_worker_info().id
        while True:
            yield {"index": torch.tensor([epoch, worker, skip]), "worker": torch.tensor(os.getpid())}
            skip += 1

    def collate(self, samples):
        return torch.utils.data.default_collate(samples)


def training(told):
    batches = TrainingBatches(40, 2, processes=1, rank=0, accumulation=2, seed=0)
    batches.set_position(1, 2)
    return training_loader(Numbers(), batches, num_workers=2, on_lost_worker=told.append)


def evaluation(told):
    return evaluation_loader(Numbers(), 2, num_workers=2, on_lost_worker=told.append)


def streamed(told):
    batches = StreamedBatches(Stream(), 2, processes=1, accumulation=3, num_workers=4)
    batches.set_position(1, 1)  # in the middle of a round of the workers
    return batches.loader(on_lost_worker=told.append)


def workers():
    return multiprocessing.active_children()


@pytest.mark.parametrize("make", [training, evaluation, streamed])
def test_a_killed_worker_is_replaced_and_every_batch_comes_once_in_order(make):
    told = []
    expected = [batch["index"].tolist() for batch in make(told)]
    loader, seen, owners = make(told), [], set()
    for number, batch in enumerate(loader):
        seen.append(batch["index"].tolist())
        owners |= set(batch["worker"].tolist())
        if number == 5:
            os.kill(workers()[0].pid, signal.SIGKILL)
    assert seen == expected and len(expected) > 8
    assert [type(one) for one in told] == [LostWorkerError]
    assert "(Killed, signal 9), most often because memory ran out" in str(told[0]) and len(owners) > 2
    assert [batch["index"].tolist() for batch in loader] == expected, "another pass"
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "an update is not interrupted by the death of a worker"


def test_a_worker_that_was_killed_with_the_lock_of_all_is_replaced_too(monkeypatch):
    started = []
    monkeypatch.setattr(Loader, "_started", lambda self, own=Loader._started: started.append(own(self)) or started[-1])
    seen = []
    for number, batch in enumerate(training([])):
        seen.append(batch["index"].tolist())
        if number == 5:
            started[0]._workers_done_event._cond.acquire()  # as the worker in the middle of is_set()
            os.kill(workers()[0].pid, signal.SIGKILL)
    assert seen == [batch["index"].tolist() for batch in training([])] and len(started) == 3


def test_a_batch_that_kills_every_worker_is_an_error_that_says_so():
    loader = evaluation_loader(Numbers(die_at=20), 2, num_workers=2)
    seen = []
    with pytest.raises(LostWorkerError, match=r"loader worker \d+ ended unexpectedly \(Killed"):
        for batch in loader:
            seen.append(batch["index"].tolist())
    assert len(seen) <= 10 and seen == [[index, index + 1] for index in range(0, 2 * len(seen), 2)]


def test_an_error_of_the_data_set_is_its_own():
    class Bad(Numbers):
        def __getitem__(self, index):
            raise ConnectionResetError(f"sample {index}")

    with pytest.raises(ConnectionResetError, match="sample 0"):
        list(evaluation_loader(Bad(), 2, num_workers=1))


def test_an_error_of_somebody_elses_data_set_tells_what_it_is_and_where_it_was_raised():
    class Bad(Numbers):
        def __getitem__(self, index):
            return {}["bbox"]

    class Ours(Numbers):
        def __getitem__(self, index):
            raise InputError("row 7 has no box")

    with pytest.raises(KeyError) as caught:
        list(evaluation_loader(Bad(), 2, num_workers=1))
    assert str(explained(caught.value)).startswith(f"KeyError: 'bbox', in {__file__}:")
    with pytest.raises(InputError) as ours:
        list(evaluation_loader(Ours(), 2, num_workers=1))
    assert explained(ours.value) == "row 7 has no box"


def test_an_error_whose_class_cannot_be_sent_arrives_as_what_it_is_derived_from():
    class Broken(ValueError):
        """As one of a config file: no other process can import it."""

    class Bad(Numbers):
        def __getitem__(self, index):
            raise Broken(f"row {index}")

    with pytest.raises(ValueError, match=r"Broken: row 0"):
        list(evaluation_loader(Bad(), 2, num_workers=1))


def test_workers_pass_over_the_signals_of_others_and_obey_their_main_process():
    iterator = iter(evaluation_loader(Numbers(1000), 2, num_workers=2))
    next(iterator)
    sender = os.fork()
    if not sender:  # another process than the main one
        for worker in workers():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(worker.pid, number)
        os._exit(0)
    os.waitpid(sender, 0)
    for _ in range(200):
        next(iterator)
    assert len(workers()) == 2
    started = time.monotonic()
    for worker in workers():
        worker.terminate()
        worker.join(5)
    assert time.monotonic() - started < 5 and not workers()


def test_workers_that_stand_still_end_soon_after_their_main_process():
    reading, writing = os.pipe()
    main = os.fork()
    if not main:
        iterator = iter(evaluation_loader(Numbers(stop_at=4), 2, num_workers=2))
        next(iterator)
        os.write(writing, " ".join(str(worker.pid) for worker in workers()).encode())
        time.sleep(1000)
    found = [int(word) for word in os.read(reading, 100).split()]
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in found):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(found) == 2


LARGE = torch.arange(200_000, dtype=torch.float32).view(2, -1)


class Mixed(Numbers):
    """Batches of everything that may be in one."""

    def __init__(self):
        super().__init__(4)

    def collate(self, samples):
        rows = torch.stack([sample["index"] for sample in samples])
        return {
            "image": LARGE + rows[0], "index": rows, "words": ["one", None], "none": rows[:0], "number": rows[0],
            "part": LARGE[:, 3:5], "half": rows.bfloat16(), "flags": rows > 1, "boxes": {"nested": rows.float()}, "count": 2,
        }  # fmt: skip


def test_batches_arrive_from_workers_as_they_were_made():
    here, there = (list(evaluation_loader(Mixed(), 2, num_workers=number)) for number in (0, 2))
    assert len(here) == len(there) == 2
    for expected, batch in zip(here, there, strict=True):
        assert list(batch) == list(expected)
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert batch[name].dtype == value.dtype and batch[name].equal(value), name
            elif name != "boxes":
                assert batch[name] == value
        assert batch["boxes"]["nested"].equal(expected["boxes"]["nested"])
        batch["index"] += 1  # nobody else's memory
        shared = {name for name, value in batch.items() if isinstance(value, torch.Tensor) and value.is_shared()}
        assert shared == {"image", "half"}, "only what is large has a place of its own in shared memory"
