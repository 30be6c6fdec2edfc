"""Soft labels as bytes, by the names of our encodings."""

from protocol import encodings
from protocol.encodings import ENCODINGS


def encode_labels(labels, encoding):
    return encodings.encode_labels(labels, ENCODINGS[encoding])


def decode_labels(rows, classes, encoding):
    return encodings.decode_labels(rows, classes, ENCODINGS[encoding])


def parse_rows(data, count, classes, encoding):
    return encodings.parse_rows(data, count, classes, ENCODINGS[encoding])


def row_bytes(classes, encoding):
    return ENCODINGS[encoding].row_bytes(classes)


def worst_error(encoding, classes=10):
    return ENCODINGS[encoding].worst_error(classes)
