"""The contracts: a part that keeps one can stand beside any other part.

A system is six parts in a row, and a text goes through them from top to bottom::

    text.py      Tokenizer        text -> ids
    codec.py     SpeechTokenizer  audio of a prompt -> codes
    layout.py    Layout           ids, codes -> positions  (table, row, target of each)
    backbone.py  Backbone         vectors -> hidden vectors, state
    head.py      Head             codes -> vectors, hidden vectors -> logits over codes
    codec.py     Decoder          codes -> audio

``session.py`` is the other side of a layout: the actions of one request, in order. Around a
system stand more kinds of parts, each with a file of its name in ``extensions/``: ``teacher`` and
``corpus`` bring training data, ``objective`` trains, ``metric`` judges, ``contender`` is measured
for speed, ``converter`` and ``release`` read files of other projects, ``command`` adds to
``wishbone``.

Parts that are slots of a configuration carry a nested dataclass ``Config``, the schema of the slot
(``part.py``). What parts share is here too: ``errors.py``, ``engines.py`` (names of engines),
``tags.py`` (``[laughter]`` in a text), ``sentences.py`` (cutting a text), ``atomic.py`` (writing
files). A plug-in needs nothing else of Wishbone but ``wishbone.core.registry.loader.hookimpl``, and
``wishbone.core.testing`` runs the suite of every contract on it.

Letters (B, T, D, Q, X, S) are defined in ``wishbone.core``. This package imports only itself,
PyTorch, NumPy and the standard library.
"""
