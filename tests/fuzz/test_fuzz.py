"""No file that a user may give does anything but work or end in a message.

FUZZ in the environment says how many broken files of each format; every one has a seed of its own,
so `FUZZ_SEED` and the number in a failure's report make it again.
"""

import faulthandler
import json
import os
import resource
import shutil
import signal
import traceback
from multiprocessing import get_context
from pathlib import Path
from random import Random

import pytest
import torch
from formats import FORMATS

import ggnet.data.formats.hico
import ggnet.eval.foreign
import ggnet.eval.hico_mat
from ggnet.errors import UserError

COUNT = int(os.environ.get("FUZZ", "30"))
SEED = os.environ.get("FUZZ_SEED", "0")
MEMORY = 2 << 30  # bytes beyond those at the start
SECONDS = 20  # of processor time for one file
LIMITED = (ggnet.data.formats.hico, ggnet.eval.foreign, ggnet.eval.hico_mat)


def broken(name, number, content):
    """The content of a format's broken file."""
    return FORMATS[name].mutate(content, Random(f"{SEED} {name} {number}"))


def look(name, numbers, path, content, results):
    """In a child: read broken files one after the other, and say what became of each."""
    torch.set_num_threads(1)
    faulthandler.disable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for module in LIMITED:  # as if in a child of this one, without the seconds that it takes
        module.call_limited = lambda function, *arguments: function(*arguments)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    with open(results, "a") as file:
        for number in numbers:
            path.write_bytes(broken(name, number, content))
            print(json.dumps([number, "began"]), file=file, flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            outcome = "fine"
            try:
                FORMATS[name].read(path)
            except UserError as error:
                outcome = complaint(error, name)
            except BaseException:
                outcome = traceback.format_exc()
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps([number, outcome]), file=file, flush=True)


def complaint(error, name):
    """ "refused", or what is wrong with the refusal."""
    cause = error
    while (cause := cause.__cause__ or cause.__context__) is not None:
        if isinstance(cause, MemoryError) and not FORMATS[name].child:
            return f"more than {MEMORY >> 30} GiB: {''.join(traceback.format_exception(error))}"
    text = str(error)
    return "refused" if text.strip() and len(text) < 20_000 else f"the message is {text[:300]!r}"


def outcomes(name, count, folder):
    """Number of a broken file -> what became of it; a child that dies is followed by another."""
    (folder / "good").mkdir()
    path = FORMATS[name].make(folder / "good")
    content = path.read_bytes()
    results, found, context = folder / "results", {}, get_context("fork")
    while len(found) < count:
        numbers = range(len(found), count)
        child = context.Process(target=look, args=(name, numbers, path, content, results))
        child.start()
        child.join(60 + 5 * len(numbers))
        child.kill()
        child.join()
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        before = len(found)
        found = dict(lines)
        if found and found[max(found)] == "began":
            found[max(found)] = f"the process ended with {child.exitcode}"
            if FORMATS[name].child:
                found[max(found)] = "refused"  # `call_limited` makes a message of it
            with open(results, "a") as file:
                print(json.dumps([max(found), found[max(found)]]), file=file)
        assert len(found) > before, "a child that did nothing"
    path.write_bytes(content)
    FORMATS[name].read(path)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files(name, tmp_path):
    count = max(COUNT // FORMATS[name].cost, 1)
    found = outcomes(name, count, tmp_path)
    bad = {number: text for number, text in found.items() if text not in ("fine", "refused")}
    if bad:
        keep = Path(os.environ.get("FUZZ_KEEP", tmp_path / "bad"))
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.txt").write_text("\n".join(f"== {n}\n{text}" for n, text in bad.items()))
    number = min(bad, default=0)
    assert not bad, f"{len(bad)} of {count}, the first, {number} with seed {SEED}: {bad[number]}"
    if count >= 30:
        assert "refused" in found.values()
    shutil.rmtree(tmp_path)
