"""DIGITS: 1,797 handwritten digits of 8x8 pixels that scikit-learn ships.

Its builder for tensorflow-datasets writes these very arrays. Unless it has been
prepared, they are used as they are: this takes no folder, no extra import, and
works where array_record cannot be installed.
"""

from __future__ import annotations

import numpy as np
from sklearn import datasets, model_selection

TEST = 360  # samples
_SEED = 0  # part of the data set's definition


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns images ``[N, 8, 8, 1]``, uint8 from 0 to 16, and labels ``[N]``.

  Of the splits ``train`` (1,437) and ``test`` (360, stratified).
  """
  bunch = datasets.load_digits()
  train, test, train_labels, test_labels = model_selection.train_test_split(
    bunch.images[..., None].astype(np.uint8),
    bunch.target.astype(np.int32),
    test_size=TEST,
    stratify=bunch.target,
    random_state=_SEED,
  )
  return {'train': (train, train_labels), 'test': (test, test_labels)}
