"""Methods that share soft labels on public samples: SCARLET, and DS-FL, which is the same without a cache.

In each round a client gets one message and sends one reply:

- ``cache.py``: labels are reused for D rounds; server and clients derive in the same way which labels;
- ``server.py``: requests predictions where no label is fresh, merges them and sharpens them (``scarlet.py``,
  ``dsfl.py``);
- ``acknowledgements.py``: decides which labels a client lacks, as only these are sent;
- ``client.py``: distil on the labels of the last subset → train → predict → evaluate.
"""
