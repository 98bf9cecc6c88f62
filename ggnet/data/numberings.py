"""Whether the bare ids of an annotation file mean what its source says, judged by its pairs.

Files of the same form number verbs in different ways; read in the wrong one, "hold cup" becomes
"surf cup". Each way makes pairs that cannot be, and only the right one makes hardly any.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

MAX_IMPOSSIBLE = 0.1  # of a file's pairs; annotators err, but less


def check_numbering(
    path: Path,
    records: Iterable[ImageRecord],
    vocabulary: Vocabulary,
    source: str,
    possible: Mapping[str, np.ndarray],
) -> None:
    """Refuse a file whose pairs speak against `source`, or for another source as well.

    A file without pairs says nothing that could be misread, and passes.

    Args:
        records: the file's, read with `vocabulary`.
        possible: source -> (V, num_objects) bool: whether the verb id that `vocabulary` has at this
            index can go with the object, if the file is of that source.

    Raises:
        UserError: says how many pairs cannot be, and which source to use if it is known.
    """
    pairs = [(verb, record.labels[o]) for record in records for _, o, verb in record.pairs]
    if not pairs:
        return
    verbs, objects = np.array(pairs).T
    wrong = {name: ~table[verbs, objects] for name, table in possible.items()}
    fitting = [name for name, which in wrong.items() if which.mean() <= MAX_IMPOSSIBLE]
    if fitting == [source]:
        return
    if source in fitting:
        raise UserError(
            f"{path}: its {len(pairs)} pairs make sense by the numbering of each of "
            f"{', '.join(fitting)}; expected pairs that only one allows. Convert a file with more "
            "images"
        )
    first = int(np.argmax(wrong[source]))
    verb = vocabulary.verb_ids[verbs[first]]
    remedy = (
        f"It has the numbering of {' or '.join(fitting)}: convert it with that source"
        if fitting
        else "Its ids are of a numbering that is not known here; give them those of the source"
    )
    raise UserError(
        f"{path}: {wrong[source].sum()} of {len(pairs)} pairs cannot be by the ids of {source}, "
        f"the first: verb id {verb} ({vocabulary.verbs[verbs[first]]}) with "
        f"{vocabulary.objects[objects[first]]}. {remedy}"
    )
