"""Data sets whose rows can be told apart after they were divided: the first pixel is the row's number."""

import numpy as np
import torch

from data.federation import load_client_data, load_public_pool, load_server_test, load_withheld
from protocol.settings import DataSettings, PublicSettings, RunSettings
from tests.data.on_disk import encoded, image_parquet


def image(number, shape=(3, 2)):
    """Return the PNG of a grey image that begins with a number below 256."""
    pixels = np.full(shape, 255 - number, dtype=np.uint8)
    pixels[0, 0] = number
    return encoded(pixels)


def numbered_parquet(folder, count, first=0, labels=None, name="images.parquet", **columns):
    """Write ``count`` images, the classes 0, 1 and 2 in turn if they are not given."""
    numbers = range(first, first + count)
    labels = [number % 3 for number in numbers] if labels is None else labels
    return image_parquet(folder, [image(number) for number in numbers], labels, name, **columns)


def run_settings(source, seed=0, public_size=20, public_source="", **data):
    """Return the settings of a run whose inputs are pixels from 0 to 1."""
    data = {"split": "iid", "server_test_size": 10, "normalisation": "none", **data}
    return RunSettings(
        seed=seed,
        data=DataSettings(source=str(source), **data),
        public=PublicSettings(source=str(public_source), size=public_size, subset_size=1),
    )


def numbers(inputs):
    """Return the numbers of images that are neither resized nor normalised."""
    return [round(float(number) * 255) for number in inputs[torch.arange(len(inputs))][:, 0, 0, 0]]


def clients_of(run, clients):
    return [load_client_data(run, client, clients) for client in range(clients)]


def sides(run, clients):
    """Return the numbers that each side of a run holds: pool, server's test, withheld, each client's two."""
    found = [numbers(load_public_pool(run).inputs)]
    test = load_server_test(run)
    found += [[] if test is None else numbers(test.inputs), numbers(load_withheld(run).inputs)]
    for client in clients_of(run, clients):
        found += [numbers(client.train.inputs), numbers(client.test.inputs)]
    return found
