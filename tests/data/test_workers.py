"""Loader processes on a bad day: signals, little shared memory, few files, killed, stopped."""

import errno
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from PIL import Image

from ggnet.config import load_config
from ggnet.data import transport
from ggnet.data.annotations import ImageRecord
from ggnet.data.dataset import PREFETCH, HOILoader, make_loader, worker_errors
from ggnet.data.images import open_image
from ggnet.data.transport import Packed, tensors_of
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

VOCABULARY = Vocabulary("tiny", ("person", "dog"), (1, 2), ("pet",), (1,), ((0, 1),))
SIDE, COUNT = 256, 12


def loader(folder, **overrides):
    """Of twelve images, two a batch."""
    records = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        if not path.exists():
            Image.fromarray(np.full((SIDE, SIDE, 3), number, np.uint8)).save(path)
        boxes, labels = np.array([[0.0, 0, 99, 99], [50, 50, 150, 150]]), np.array([0, 1])
        pairs = np.array([[0, 1, 0]])
        records.append(ImageRecord(path.name, str(number), path, boxes, labels, pairs))
    values = {"data.input_size": [SIDE, SIDE], "data.workers": 1, "train.batch_size": 2}
    values |= overrides
    config = load_config(None, [f"{key}={value}" for key, value in values.items()])
    return make_loader(records, VOCABULARY, config, train=True)


def content(batches):
    return [(batch.images.clone(), batch.objects.clone()) for batch in batches]


def assert_same(mine, theirs):
    assert len(mine) == len(theirs) == COUNT // 2
    for (image, objects), (expected, expected_objects) in zip(mine, theirs, strict=True):
        assert torch.equal(image, expected)
        assert image.stride() == expected.stride()
        assert torch.equal(objects, expected_objects)


def test_workers_outlive_signals_to_all_processes(tmp_path):
    """Slurm, systemd and `timeout` signal the whole group; the trainer needs its batches still."""
    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    for number in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    assert len(list(batches)) == COUNT // 2 - 1


def test_signals_while_workers_are_born(tmp_path):
    """From the very beginning, before a worker has run a line of its own."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_workers import COUNT, loader
from ggnet.engine.signals import StopRequest
fork = os.fork
def signalled():
    pid = fork()
    if pid:
        os.system(f"kill -TERM {{pid}}")
    return pid
os.fork = signalled
with StopRequest():
    print(len(list(loader(Path({str(tmp_path)!r}), **{{"data.workers": 2}}))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == [str(COUNT // 2)], done.stderr


def test_the_parent_can_end_a_worker(tmp_path):
    """torch does so at last; a worker that nothing ends is waited for for ever."""
    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("posix_fallocate", OSError(errno.ENOSPC, "No space left on device"), "No space left on"),
        ("memfd_create", OSError(errno.EMFILE, "Too many open files"), "`ulimit -n 4096`"),
        ("memfd_create", OSError(errno.ENOSYS, "Function not implemented"), "not implemented\n"),
    ],
)
def test_without_memory_to_map_batches_come_through_a_pipe(
    tmp_path, monkeypatch, caplog, function, error, said
):
    original, calls = getattr(os, function), []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise error
        return original(*arguments)

    expected = content(loader(tmp_path, **{"data.workers": 0}))
    monkeypatch.setattr(os, function, fails)
    monkeypatch.setattr(HOILoader, "_told", set())
    with caplog.at_level(logging.WARNING, "ggnet"):
        assert_same(content(loader(tmp_path)), expected)
    assert caplog.text.count("images come from the loader processes more slowly") == 1
    assert said in caplog.text


def test_without_proc_batches_come_through_a_pipe(tmp_path, monkeypatch, caplog):
    expected = content(loader(tmp_path, **{"data.workers": 0}))
    monkeypatch.setattr(transport, "OPENED", "/nowhere/{}/{}")
    monkeypatch.setattr(HOILoader, "_told", set())
    with caplog.at_level(logging.WARNING, "ggnet"):
        assert_same(content(loader(tmp_path)), expected)
    assert "no memory to map: No such file or directory" in caplog.text


def count_batches(folder, first=""):
    """A script that does so, and `first` before."""
    return f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_workers import loader
{first}
print(len(list(loader(Path({str(folder)!r})))))
"""


PRCTL = "import ctypes; ctypes.CDLL(None).prctl"
SET_DUMPABLE, DROP_CAPABILITY, SYS_PTRACE = 4, 24, 19  # linux/prctl.h, linux/capability.h


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_processes_that_may_not_look_into_each_other_send_batches_through_a_pipe(tmp_path):
    """Each may still open its own files; the system's administrator may all."""
    drop = f"{PRCTL}({DROP_CAPABILITY}, {SYS_PTRACE}); import os, sys; os.execv(sys.executable, "
    script = count_batches(tmp_path, f"{PRCTL}({SET_DUMPABLE}, 0)")
    command = [sys.executable, "-c", f"{drop}[sys.executable, '-c', {script!r}])"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(COUNT // 2)], done.stderr
    assert done.stderr.count("there is no memory to map: Permission denied") == 1


def in_small_shared_memory(script, size):
    """Run Python where /dev/shm has `size`, as in a container; skips where one cannot."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c"]
    return subprocess.run([*command, script], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_a_container_with_little_shared_memory(tmp_path):
    """1 MB of /dev/shm holds no batch of 1.5 MB, and need not."""
    try:
        done = in_small_shared_memory(count_batches(tmp_path), "1m")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    assert done.stdout.split() == [str(COUNT // 2)], done.stderr
    assert not done.stderr


def test_a_batch_is_one_piece_of_shared_memory(tmp_path):
    """Each piece costs a file descriptor."""
    batches = list(loader(tmp_path))
    expected = list(loader(tmp_path, **{"data.workers": 0}))
    for batch, plain in zip(batches, expected, strict=True):
        tensors = tensors_of(batch)
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1
        assert tensors.keys() == tensors_of(plain).keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, getattr(plain, name)), name
            assert tensor.stride() == getattr(plain, name).stride(), name
        assert [m.file_name for m in batch.meta] == [m.file_name for m in plain.meta]


def test_a_batch_is_pinned_in_one_piece(tmp_path, monkeypatch):
    """Where there is a GPU the loader's thread pins what has arrived, before it is unpacked."""
    batch, pinned = next(iter(loader(tmp_path, **{"data.workers": 0}))), []

    def pin(memory):
        pinned.append(memory.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    got = Packed(batch).pin_memory()
    (memory,) = pinned
    for name, tensor in tensors_of(batch).items():
        assert torch.equal(getattr(got, name), tensor), name
        assert getattr(got, name).untyped_storage().data_ptr() == memory.data_ptr(), name
    assert got.meta == batch.meta


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_closed_once_they_have_been_opened(tmp_path, workers):
    """And not before: every batch has its content, however long its receiver takes."""
    expected = content(loader(tmp_path, **{"data.workers": 0}))
    gc.collect()
    before = batches_open("self")
    batches, got, held = loader(tmp_path, **{"data.workers": workers}), [], []
    for _ in range(2):  # the workers persist
        for batch in batches:
            time.sleep(0.1)
            got.append((batch.images, batch.objects))
            held.append(sum(batches_open(process.pid) for process in active_children()))
    assert max(held) <= (PREFETCH + 2 + 2) * workers  # one more is being made, and mapped
    assert_same(got[: COUNT // 2], expected)
    assert_same(got[COUNT // 2 :], expected)
    del got, batch
    assert batches_open("self") == before


def batches_open(process):
    links = os.scandir(f"/proc/{process}/fd")
    return sum("ggnet-batch" in os.readlink(link) for link in links if link.is_symlink())


def test_few_files(tmp_path, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    expected = content(loader(tmp_path, **{"data.workers": 0}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 40, hard))
    try:
        assert_same(content(loader(tmp_path)), expected)
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 2, hard))
        with pytest.raises(UserError, match="Too many open files. Set data.workers lower"):
            list(loader(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not ignored  # nothing on the screen beside the message


def test_a_killed_worker_is_an_error_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr("ggnet.data.dataset.LOOK_SECONDS", 1)
    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    with worker_errors(), pytest.raises(UserError, match="that loads images failed.*was killed"):
        kill(worker, batches)


def kill(worker, batches):
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()  # so that torch's own handler of the signal finds nothing
    list(batches)


def test_a_worker_that_dies_during_a_step(tmp_path):
    """torch raises from a signal's handler, in the midst of whatever is done then."""

    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    with pytest.raises(UserError, match="set data.workers lower"), worker_errors():
        step(worker)


def step(worker):
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(30)


def test_a_batch_that_cannot_be_sent_is_no_endless_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("ggnet.data.transport.Sender.__call__", lambda *_: lambda: "no pickle")
    with pytest.raises(UserError, match="a process that loads images failed"):
        list(loader(tmp_path))


def test_a_stopped_worker_is_named_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ggnet.data.dataset.WAIT_SECONDS", 0.5)
    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    assert len(list(batches)) == COUNT // 2 - 1
    assert f"loader process {worker.pid} was stopped; it goes on now" in caplog.text


@pytest.mark.parametrize("piped", [False, True])
def test_a_worker_stopped_while_it_hands_over_a_batch_goes_on(tmp_path, monkeypatch, caplog, piped):
    if piped:  # which holds a part of a batch
        monkeypatch.setattr(transport, "OPENED", "/nowhere/{}/{}")
    monkeypatch.setattr("ggnet.data.dataset.WAIT_SECONDS", 0.5)
    batches = iter(loader(tmp_path))
    next(batches)
    [worker] = active_children()
    time.sleep(1)  # until it has made all that it may make ahead
    os.kill(worker.pid, signal.SIGSTOP)
    assert len(list(batches)) == COUNT // 2 - 1
    assert f"loader process {worker.pid} was stopped; it goes on now" in caplog.text


def test_a_slow_disk_is_waited_for(tmp_path, monkeypatch, caplog):
    """It is said from time to time, not as often as the workers are looked at."""
    monkeypatch.setattr("ggnet.data.dataset.WAIT_SECONDS", 0.4)
    monkeypatch.setattr("ggnet.data.dataset.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("ggnet.data.dataset.open_image", slow_image)
    started = time.monotonic()
    assert len(list(loader(tmp_path))) == COUNT // 2
    told = caplog.text.count("the loader processes are still reading")
    assert 1 <= told <= (time.monotonic() - started) / 0.4


def slow_image(path):
    time.sleep(0.3)
    return open_image(path)
