import pytest

from tests.support.vlm import MAKERS, write_checkpoint


@pytest.fixture(scope="session", params=MAKERS)
def checkpoint(request, tmp_path_factory):
    """Return the folder of a small random checkpoint, one of each family."""
    if request.param == "smolvlm":  # its processor wants num2words, of which only videos' captions make use
        from transformers.models.smolvlm import processing_smolvlm

        processing_smolvlm.num2words = processing_smolvlm.num2words or str
    return write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
