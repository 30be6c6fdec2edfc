"""Methods that share soft labels on public samples: SCARLET; DS-FL is its exchange without a cache.

A round is one message and one reply:

- ``cache.py``: labels are reused for D rounds; which ones, server and clients derive alike;
- ``server.py``: ask only for what is not fresh, merge the predictions, sharpen (``scarlet.py``, ``dsfl.py``);
- ``acknowledgements.py``: send each client only the labels it does not hold yet;
- ``client.py``: distil on the last subset's labels → train → predict → evaluate.
"""
