"""The contract of the halves of a block: token mixers, and the feed-forward parts after them.

``mixer.py`` is the contract, ``rows.py`` what most mixers need: real positions of a padded batch,
the last inputs of each row, a cache without holes. The backbone ``stack`` puts mixers together.
"""
