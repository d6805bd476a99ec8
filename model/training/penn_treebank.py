"""The Penn Treebank as Chainer's own loader fetches it: 10,000 words, `<unk>` for the others (Mikolov et al. 2010)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.compat import chainer
from model.corpus import CorpusError
from model.tokenizer import END, Tokenizer, TokenizerError

Ids = NDArray[np.int32]


def penn_treebank() -> tuple[Tokenizer, Ids, Ids, str]:
    """Tokenizer, ids to train and to validate on, and the text to test on, a sentence a line.

    Fetched once, then kept in Chainer's folder for data sets. Raises CorpusError where it cannot be fetched, or is not
    what it should be.
    """
    try:
        train, valid, test = chainer.datasets.get_ptb_words()
        ids = chainer.datasets.get_ptb_words_vocabulary()
        vocabulary = sorted(ids, key=ids.__getitem__)
        tokenizer = Tokenizer.from_vocabulary(vocabulary, "split")
    except (OSError, ValueError, KeyError, TokenizerError) as error:
        raise CorpusError(
            f"Chainer's loader cannot fetch the Penn Treebank ({' '.join(str(error).split())}): name the folder of its "
            "files ptb.train.txt and ptb.valid.txt by --data"
        ) from error
    words = np.array(vocabulary, dtype=object)[test]
    text = " ".join("\n" if word == END else word for word in words).replace(" \n ", "\n").rstrip()
    return tokenizer, train.astype(np.int32), valid.astype(np.int32), text
